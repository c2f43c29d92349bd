"""Sending for real: the webhook and apprise, over servers good and bad; and no secret gets out."""

from __future__ import annotations

import base64
import io
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from nightschool.telling.message import Message
from nightschool.telling.targets import Apprise, SendError, Webhook, key_of, scrubbed, targets_of
from tests.telling.servers import dead_port, server, silent

MESSAGE = Message(
    "17", "trouble", "nightschool, ws: needs you", "failed: ü <b>", "2026-05-01T04:00:00+00:00", "/ws", "box"
)
PASSWORD = "hunter2secret"


def why(target: Webhook | Apprise) -> str:
    with pytest.raises(SendError) as caught:
        target.send(MESSAGE)
    return str(caught.value)


def test_the_webhook_gets_each_field_as_json() -> None:
    with server() as there:
        Webhook(there.url).send(MESSAGE)
    assert there.got == [
        {
            "id": "17", "kind": "trouble", "title": "nightschool, ws: needs you", "text": "failed: ü <b>",
            "at": "2026-05-01T04:00:00+00:00", "workspace": "/ws", "machine": "box", "fields": {},
        }
    ]  # fmt: skip
    assert there.headers[0]["Content-Type"] == "application/json"
    assert "Authorization" not in there.headers[0]


def test_a_login_in_the_address_is_sent_as_a_header() -> None:
    with server() as there:
        Webhook(f"http://me:{PASSWORD}%40@127.0.0.1:{there.port}/x?y=1").send(MESSAGE)
    assert there.headers[0]["Authorization"] == f"Basic {base64.b64encode(f'me:{PASSWORD}@'.encode()).decode()}"
    assert there.paths == ["/x?y=1"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(code: int) -> None:
    with server() as other, server(code, other.url) as there:
        told = why(Webhook(there.url))
        assert (other.got, len(there.got)) == ([], 1)
    assert f"answered {code}" in told
    assert "Redirects are not followed" in told
    assert str(other.port) not in told


@pytest.mark.parametrize("code", [400, 404, 500, 503, 599])
def test_an_answer_that_is_no_success_is_a_failure(code: int) -> None:
    with server(code) as there:
        assert f"The server answered {code}" in why(Webhook(there.url))


def test_a_dead_port_a_silent_server_and_no_address() -> None:
    assert "Connection refused" in why(Webhook(f"http://127.0.0.1:{dead_port()}/"))
    with silent() as port:
        assert why(Webhook(f"http://127.0.0.1:{port}/", seconds=0.2)) == "The server did not answer within 0.2 s."
    for url in ("ftp://x/y", "file:///etc/passwd", "x", "http://", "http://h:port/", f"http://[{PASSWORD}"):
        assert "no http:// or https:// address" in why(Webhook(url))


def test_what_answers_without_http_is_a_failure() -> None:
    with silent() as port:
        pass
    assert why(Webhook(f"http://127.0.0.1:{port}/\r\nX: {PASSWORD}"))


def test_apprise_sends_for_real() -> None:
    with server(200) as there:
        Apprise(f"json://127.0.0.1:{there.port}/hook", 1).send(MESSAGE)
    (got,) = there.got
    assert (got["title"], got["message"], got["type"]) == (MESSAGE.title, MESSAGE.text, "warning")


def test_apprise_starts_no_pool_that_could_keep_the_program_from_ending() -> None:
    before = set(threading.enumerate())  # other tests of this process may have left some
    with server(200) as there:
        Apprise(f"json://127.0.0.1:{there.port}/hook", 1).send(MESSAGE)
        came = set(threading.enumerate()) - before
    assert not [thread.name for thread in came if "ThreadPool" in thread.name]
    assert all(thread.daemon for thread in came)


def test_apprise_says_why_not() -> None:
    with server(500) as there:
        assert "500" in why(Apprise(f"json://127.0.0.1:{there.port}/", 1))
    assert "apprise could not send it" in why(Apprise(f"json://127.0.0.1:{dead_port()}/", 1))
    for url in (f"nosuch://{PASSWORD}@x", "json://", "", "plain words", "tgram://bad"):
        assert "does not know this kind" in why(Apprise(url, 1))


def test_without_apprise_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    assert "pip install 'nightschool[notify]'" in why(Apprise("json://x", 1))


def bad_targets(port: int) -> list[Webhook | Apprise]:
    return [
        Webhook(f"http://me:{PASSWORD}@127.0.0.1:{port}/{PASSWORD}?token={PASSWORD}", 0.2),
        Webhook(f"http://me:{PASSWORD}@no such host/", 0.2),
        Webhook(f"gopher://{PASSWORD}", 0.2),
        Webhook(f"http://127.0.0.1:{port}/\x00{PASSWORD}", 0.2),
        Apprise(f"json://me:{PASSWORD}@127.0.0.1:{port}/{PASSWORD}?+X={PASSWORD}", 2),
        Apprise(f"nosuch://{PASSWORD}", 2),
        Apprise(f"tgram://{PASSWORD}/12", 2),
        Apprise(PASSWORD, 2),
    ]


@pytest.fixture
def root_log() -> Iterator[io.StringIO]:
    """What any library logs where somebody listens to all of it."""
    text, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("code", [0, 302, 403, 500])
def test_no_secret_gets_out(code: int, root_log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    with server(code or 200, f"http://x/{PASSWORD}") as there:
        port = there.port if code else dead_port()
        for target in bad_targets(port):
            for text in (why(target), target.name, target.key, repr(SendError(target.name))):
                assert PASSWORD not in text
    out, err = capfd.readouterr()
    assert PASSWORD not in root_log.getvalue() + out + err


def test_control_the_plain_error_has_the_secret() -> None:
    """What the mask is there for."""
    import urllib.request

    with pytest.raises(Exception, match=PASSWORD):
        urllib.request.urlopen(f"http://me:{PASSWORD}@localhost/", timeout=1)


def test_scrubbing_takes_every_part_also_quoted_and_in_other_letters() -> None:
    url = "mailto://me:p%40ss@example.com?to=you"
    assert scrubbed(f"{url} P@SS p%40ss EXAMPLE.com", url) == "*** *** *** ***"
    assert scrubbed("a login as me failed", "x://me") == "a login as *** failed"
    assert scrubbed("the same again", "x://a") == "the same again"
    assert scrubbed("no answer from host", "http://me@host/x", ("host",)) == "no answer from host"


def test_names_tell_the_setting_and_the_service() -> None:
    assert Apprise(f"tgram://{PASSWORD}/1", 2).name == "notify.urls, number 2 (tgram://...)"
    assert Webhook(f"https://a:{PASSWORD}@hooks.example.com:8443/{PASSWORD}").name == (
        "notify.webhook (https://hooks.example.com:8443/...)"
    )


def test_each_target_is_there_once() -> None:
    class Both:
        urls = ["json://a", "json://b", "json://a"]  # noqa: RUF012
        webhook = "http://c"

    assert [target.name for target in targets_of(Both())] == [
        "notify.urls, number 1 (json://...)", "notify.urls, number 2 (json://...)", "notify.webhook (http://c/...)",
    ]  # fmt: skip
    assert len(key_of("x")) == 8
