"""Who is let in: section H of the failures, each with the control that shows that it is the guard that keeps out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from nightschool.addresses import is_loopback
from nightschool.dashboard.admission import Asked, Rules, refusal
from nightschool.dashboard.app import application
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.guard import HEADERS, local_path
from nightschool.dashboard.limits import Limits
from nightschool.dashboard.pages import Templates
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Done, Pause
from nightschool.dashboard.signing_in import FREE_TRIES, LONGEST_WAIT, Key, Tries
from tests.dashboard.conftest import HERE, TOKEN, OpenPage
from tests.dashboard.served import served

CROSS = {"Origin": "https://evil.example"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
done: list[str] = []


async def act(call: Call) -> Done:
    done.append(call.request.method)
    return Done(said="done")


async def fail(call: Call) -> Done:
    raise RuntimeError("something that nobody may read")


ENDPOINTS = (
    Endpoint("GET", "/api/look", "Look", act, Done),
    Endpoint("POST", "/api/act", "Act", act, Done, takes=Pause),
    Endpoint("POST", "/api/bare", "Act without a word", act, Done),
    Endpoint("DELETE", "/api/things/{id}", "Remove", act, Done),
    Endpoint("GET", "/api/fail", "Fail", fail, Done),
)


@pytest.fixture(autouse=True)
def nothing_done() -> Iterator[None]:
    done.clear()
    yield
    done.clear()


@pytest.fixture
def client(open_page: OpenPage) -> TestClient:
    return open_page(ENDPOINTS)


@pytest.fixture
def unguarded(services: Services) -> TestClient:
    """The same page without its guard: the control."""
    app = application(services, ENDPOINTS, Templates(services.layout.root), Limits())
    return TestClient(app, base_url=HERE, raise_server_exceptions=False)


FOREIGN = [
    "evil.example",
    "evil.example:8420",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "",
    "[::1",
    "10.0.0.5",
]


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/", "/api/look", "/static/page.css", "/api/live", "/nothing"])
def test_h1_a_foreign_host_is_refused(client: TestClient, host: str, path: str) -> None:
    answer = client.get(path, headers={"Host": host})
    assert (answer.status_code, answer.json()["kind"], done) == (403, "host", [])


def test_h1_control_without_the_guard_a_foreign_host_is_answered(unguarded: TestClient) -> None:
    assert unguarded.get("/api/look", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8421", "LOCALHOST", "[::1]:8420", "127.8.8.8"])
def test_h1_control_its_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/look", headers={"Host": host}).status_code == 200


def test_h1_two_hosts_or_none_are_refused() -> None:
    for hosts in ([], ["127.0.0.1", "evil.example"], ["127.0.0.1", "127.0.0.1"]):
        assert refusal(Rules(), Asked("GET", "/", {"host": hosts})) is not None


@given(st.text(max_size=40), st.sampled_from(["127.0.0.1", "::1", "localhost"]))
def test_h1_no_name_but_loopback_is_let_in_on_loopback(host: str, bound: str) -> None:
    if refusal(Rules(bound), Asked("GET", "/", {"host": [host]}, bound)) is None:
        name = host.strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0] or name
        assert is_loopback(name) or is_loopback(host.strip().lower())


@pytest.mark.parametrize(
    "host", ["night.example.org", "night.example.org:443", "other.example:9000", "NIGHT.example.org"]
)
def test_names_that_are_allowed(open_page: OpenPage, host: str) -> None:
    rules = Rules(hosts=("night.example.org", "other.example:9000"))
    client = open_page(ENDPOINTS, rules=rules)
    assert client.get("/api/look", headers={"Host": host}).status_code == 200
    assert client.get("/api/look", headers={"Host": "other.example"}).status_code == 403


def test_off_loopback_its_address_is_a_name_too() -> None:
    def let_in(bound: str, host: str, arrived_at: str) -> bool:
        return refusal(Rules(bound), Asked("GET", "/", {"host": [host]}, arrived_at)) is None

    assert let_in("0.0.0.0", "192.168.1.5:8420", "192.168.1.5")
    assert let_in("::", "192.168.1.5:8420", "::ffff:192.168.1.5")
    assert let_in("::", "[fd00::5]:8420", "fd00:0::5")
    assert let_in("desk.lan", "desk.lan:8420", "192.168.1.5")
    assert not let_in("0.0.0.0", "evil.example:8420", "192.168.1.5")
    assert not let_in("127.0.0.1", "192.168.1.5:8420", "192.168.1.5")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        CROSS,
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},  # another program's page on this machine
        {"Origin": "http://localhost:8420"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_h2_what_another_page_sends_is_refused(client: TestClient, method: str, headers: dict[str, str]) -> None:
    for path in ("/api/act", "/api/bare", "/api/things/1", "/"):
        answer = client.request(method, path, headers={"Content-Type": "application/json", **headers}, content=b"{}")
        assert (answer.status_code, answer.json()["kind"]) == (403, "origin")
    assert done == []


def test_h2_control_without_the_guard_it_is_done(unguarded: TestClient) -> None:
    assert unguarded.post("/api/act", headers=CROSS, json={}).status_code == 200
    assert unguarded.delete("/api/things/1", headers=CROSS).status_code == 200
    assert done == ["POST", "DELETE"]


@pytest.mark.parametrize("headers", [{}, {"Origin": HERE}, {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}])
def test_h2_control_its_own_page_and_programs_may(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/api/act", headers=headers, json={"seconds": 5}).status_code == 200
    assert client.post("/api/bare", headers=headers).status_code == 200
    assert client.delete("/api/things/1", headers=headers).status_code == 200
    assert done == ["POST", "POST", "DELETE"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "a, b"])
def test_h2_a_form_can_never_post(client: TestClient, kind: str) -> None:
    for path in ("/api/act", "/api/bare"):
        assert client.post(path, headers={"Content-Type": kind}, content=b"{}").status_code == 415
    assert done == []


def test_what_is_nested_too_deeply_is_refused(client: TestClient) -> None:
    text = b'{"seconds":' + b"[" * 60_000
    answer = client.post("/api/act", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["kind"], done) == (422, "request", [])


def test_h2_neither_can_a_body_without_a_type() -> None:
    asked = {"host": ["localhost"], "content-length": ["2"]}
    assert refusal(Rules(), Asked("POST", "/api/bare", asked)) is not None
    assert refusal(Rules(), Asked("POST", "/api/bare", asked | {"content-length": ["0"]})) is None
    assert refusal(Rules(), Asked("POST", "/api/bare", {"host": ["localhost"], "transfer-encoding": ["chunked"]}))


def test_another_page_cannot_read_either(client: TestClient) -> None:
    for headers in (CROSS, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}):
        for path in ("/api/look", "/api/live", "/static/page.css", "/"):
            assert client.get(path, headers=headers).status_code == 403


def test_a_link_on_another_page_leads_here_but_not_into_the_api(client: TestClient) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=followed).status_code == 200
    assert client.get("/api/look", headers=followed).status_code == 403
    assert client.get("/", headers=followed | {"Sec-Fetch-Dest": "iframe"}).status_code == 403


def test_every_answer_has_the_headers(open_page: OpenPage) -> None:
    client, locked = open_page(ENDPOINTS), open_page(ENDPOINTS, token=TOKEN)
    answers = [
        client.get("/"),
        client.get("/api/look"),
        client.get("/static/page.css"),
        client.get("/nothing"),
        client.get("/api/fail"),
        client.put("/api/look"),
        client.get("/", headers={"Host": "evil.example"}),
        client.get("/sign-in"),
        locked.get("/"),
        locked.get("/api/look"),
        locked.get("/sign-in"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 500, 405, 403, 303, 303, 401, 200]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert answer.headers["Cache-Control"] == ("no-cache" if "page.css" in str(answer.url) else "no-store")


def test_the_policy_lets_nothing_inline_and_nothing_from_elsewhere() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "connect-src", "style-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_mistake_of_ours_is_told_without_its_text(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "nightschool.page")
    for _ in range(5):
        answer = client.get("/api/fail")
        assert (answer.status_code, answer.json()["kind"]) == (500, "failed")
        assert "nobody" not in answer.text
    assert len(caplog.records) == 1  # once a minute, however often
    assert "something that nobody may read" in str(caplog.records[0].exc_info)


PATHS = [
    "/static/../app.py",
    "/static/%2e%2e/app.py",
    "/static/..%2fapp.py",
    "/static/%2e%2e%2fapp.py",
    "/static/..%5capp.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/page.css%00",
    "/api/things/..",
    "/api/things/%2e%2e",
    "/api/things/..%2f..%2f..%2fetc%2fpasswd",
    "/api/things/a.b",
    "/api/things/%00",
    "/api/../../../etc/passwd",
    "/../../etc/passwd",
    "http://127.0.0.1/static/../app.py",
]


@pytest.mark.parametrize("path", PATHS)
def test_h5_no_path_leads_out(services: Services, path: str) -> None:
    with served(services, ENDPOINTS) as page:
        for method in ("GET", "DELETE"):
            status, text = page.ask(path, method)
            assert status in (404, 405)
            assert b"root:" not in text
            assert b"import" not in text
    assert done == []


def test_h5_control_a_path_that_stays_inside_is_answered(services: Services) -> None:
    with served(services, ENDPOINTS) as page:
        assert page.ask("/static/page.css")[0] == 200
        assert page.ask("/api/things/a-1_B", "DELETE")[0] == 200


# --- the token ---------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(open_page: OpenPage) -> TestClient:
    return open_page(ENDPOINTS, token=TOKEN)


def sign_in(client: TestClient, token: str, onward: str = "/queue", **headers: str) -> Any:
    return client.post("/sign-in", data={"token": token, "next": onward}, headers=headers)


def test_without_the_token_nothing_is_shown(locked: TestClient) -> None:
    for path in ("/api/look", "/api/live", "/api/openapi.json", "/api/nothing"):
        assert locked.get(path).status_code == 401
    assert locked.post("/api/act", json={}).status_code == 401
    assert locked.post("/", json={}).status_code == 401
    assert locked.get("/saved").headers["Location"] == "/sign-in?next=/saved"
    assert locked.get("/static/page.css").status_code == 200
    assert done == []


def test_a_program_sends_it(locked: TestClient) -> None:
    assert locked.get("/api/look", headers=BEARER).status_code == 200
    for wrong in ("Bearer nonsense", f"Basic {TOKEN}", TOKEN, "Bearer "):
        assert locked.get("/api/look", headers={"Authorization": wrong}).status_code == 401


def test_a_person_gives_it_once(locked: TestClient) -> None:
    answer = sign_in(locked, TOKEN)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/queue")
    cookie = answer.headers["Set-Cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Lax", "Path=/"))
    assert TOKEN not in cookie
    assert locked.get("/api/look").status_code == 200  # the client keeps cookies
    assert locked.post("/api/act", json={}, headers=CROSS).status_code == 403


def test_behind_tls_the_cookie_stays_there(open_page: OpenPage) -> None:
    client = open_page(ENDPOINTS, token=TOKEN, rules=Rules(hosts=("night.example.org",)))
    there = {"Host": "night.example.org", "Origin": "https://night.example.org"}
    assert "; Secure" in sign_in(client, TOKEN, **there).headers["Set-Cookie"]
    assert "; Secure" not in sign_in(client, TOKEN).headers["Set-Cookie"]


def test_a_workspace_whose_name_is_no_utf8_has_a_cookie_too() -> None:
    key = Key(TOKEN, Path(os.fsdecode(b"/caf\xe9")))
    assert key.in_cookies(key.set_cookie(secure=False).partition(";")[0])


def test_a_cookie_of_another_token_or_workspace_is_none(locked: TestClient, services: Services) -> None:
    root = services.layout.root
    for key in (Key(TOKEN + "!", root), Key(TOKEN, root / "other")):
        header = key.set_cookie(secure=False).partition(";")[0]
        assert locked.get("/api/look", headers={"Cookie": header}).status_code == 401
    own = Key(TOKEN, root).set_cookie(secure=False).partition(";")[0]
    assert locked.get("/api/look", headers={"Cookie": f"a=b; {own}; c"}).status_code == 200


def test_a_wrong_one_is_told_on_the_page(locked: TestClient) -> None:
    answer = sign_in(locked, "wrong")
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "not the token" in answer.text


@pytest.mark.parametrize(
    "onward", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "/a?b"]
)
def test_signing_in_leads_nowhere_else(locked: TestClient, onward: str) -> None:
    assert local_path(onward) == "/"
    assert sign_in(locked, TOKEN, onward).headers["Location"] == "/"


def test_wrong_tokens_are_slowed_down_and_the_right_one_too(locked: TestClient) -> None:
    for _ in range(FREE_TRIES):
        assert sign_in(locked, "wrong").status_code == 401
    answer = sign_in(locked, TOKEN)
    assert answer.status_code == 429
    assert "Set-Cookie" not in answer.headers
    assert locked.get("/api/look", headers=BEARER).status_code == 429


def test_how_long_a_wrong_token_makes_wait() -> None:
    now = 0.0
    tries = Tries(lambda: now)
    waits = []
    for _ in range(FREE_TRIES + 8):
        tries.failed("a")
        waits.append(tries.wait("a"))
    assert waits == [0.0] * (FREE_TRIES - 1) + [1, 2, 4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]
    assert tries.wait("b") == 0.0
    now = LONGEST_WAIT
    assert tries.wait("a") == 0.0
    tries.worked("a")
    tries.failed("a")
    assert tries.wait("a") == 0.0


def test_many_addresses_are_not_kept_for_ever() -> None:
    tries = Tries(lambda: 0.0)
    for number in range(3000):
        tries.failed(str(number))
    assert len(tries._failed) == 1000
    assert tries.total == 3000


def test_an_oversized_form_is_refused(locked: TestClient) -> None:
    assert sign_in(locked, "x" * 100_000).status_code == 413


def test_a_form_of_many_fields_is_refused(locked: TestClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert locked.post("/sign-in", content="&a=b" * 100, headers=form).status_code == 422
