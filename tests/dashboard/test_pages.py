"""The pages: what they hold at first, what may be kept by a browser, and what they say when there is trouble."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.guard import HEADERS
from nightschool.dashboard.pages import PAGES, PLOTLY, STATIC, data_block, plotly_file
from nightschool.dashboard.services import Services
from nightschool.ledger import Arrival, Ledger
from nightschool.workspace import Layout
from tests.dashboard.conftest import HERE, TOKEN, OpenPage
from tests.snapshots import made

BAD = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'


class Read(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.inside: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append(dict(attrs))
            self._script = True

    def handle_endtag(self, tag: str) -> None:
        self._script = self._script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._script:
            self.inside.append(data)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_there(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/nothing"])
def test_h4_nothing_runs_that_the_policy_forbids(open_page: OpenPage, path: str) -> None:
    """No inline script, style or handler, and nothing from elsewhere."""
    client = open_page(token=TOKEN)
    headers = {"Accept": "text/html", **({} if path == "/sign-in" else {"Authorization": f"Bearer {TOKEN}"})}
    found = Read(client.get(path, headers=headers).text)
    assert found.tags
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag not in ("style", "base", "iframe", "object", "embed")
        for name in ("src", "href", "action"):
            assert re.match(r"/(?!/)|#", attributes.get(name) or "/"), attributes
    assert all("src" in one or one.get("type") == "application/json" for one in found.scripts)
    assert "'self'" in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("path", PAGES)
def test_h4_a_name_with_a_script_in_it_stays_data(page: TestClient, layout: Layout, path: str) -> None:
    before = Read(page.get(path).text)
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival(BAD, "/dropped/bad")])
        ledger.machine.set("state", {"word": "failed", "reason": BAD, "since": "2026-11-22T03:00:00+00:00"})
    text = page.get(path).text
    assert BAD not in text
    assert first_of(text)["now"]["status"]["reason"] == BAD
    # The same tags as before, and so no further script.
    assert [tag for tag, _ in Read(text).tags] == [tag for tag, _ in before.tags]


def test_h4_a_data_block_cannot_be_left() -> None:
    for value in (BAD, "<!--<script>", "]]>", "\u2028", '"', "&lt;"):
        block = str(data_block({"name": value}))
        assert "<" not in block
        assert json.loads(block) == {"name": value}


def test_h4_control_plain_json_can_be_left() -> None:
    assert len(Read(f'<script type="application/json">{json.dumps(BAD)}</script>').scripts) == 2


def first_of(text: str) -> dict[str, Any]:
    """The data block of a page."""
    found = re.search(r'<script type="application/json" id="first">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("path", PAGES)
def test_every_page_holds_what_its_first_look_needs(page: TestClient, path: str) -> None:
    first = first_of(page.get(path).text)
    now = page.get("/api/now").json()
    assert {**first["now"], "at": now["at"]} == now
    assert first["problem"] is None


def test_the_overview_holds_the_curve_as_the_api_gives_it(page: TestClient) -> None:
    first = first_of(page.get("/").text)
    assert first["curve"] == page.get("/api/curve").json()
    assert first["marks"] == page.get("/api/marks").json()
    assert first["curve"]["step"][-1] == 40


def test_a_ledger_in_trouble_is_said_and_the_page_is_there(page: TestClient, layout: Layout) -> None:
    layout.ledger.rename(layout.ledger.with_suffix(".away"))
    answer = page.get("/")
    assert answer.status_code == 503
    assert "<main" in answer.text
    assert page.get("/api/now").status_code == 503
    layout.ledger.with_suffix(".away").rename(layout.ledger)
    assert page.get("/").status_code == 200


def test_a_path_that_is_not_there_is_said_to_people_and_to_programs(page: TestClient) -> None:
    assert "<main" in page.get("/nothing", headers={"Accept": "text/html,*/*"}).text
    assert page.get("/nothing").json()["kind"] == "not there"
    assert page.get("/api/nothing", headers={"Accept": "text/html"}).json()["kind"] == "not there"
    for path in ("/queue/", "/api/now/"):
        answer = page.get(path)
        assert (answer.status_code, answer.headers.get("Location")) == (404, None)


# --- files -------------------------------------------------------------------------------------------------------


def test_plotly_is_kept_for_ever_under_a_path_that_changes_with_it(page: TestClient) -> None:
    assert importlib.metadata.version("plotly") in PLOTLY
    answer = page.get(PLOTLY)
    assert answer.status_code == 200
    assert answer.content == plotly_file().read_bytes()
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"].startswith("text/javascript")


def test_plotly_is_what_the_package_gives() -> None:
    from plotly.offline import get_plotlyjs

    assert plotly_file().read_text(encoding="utf-8") == get_plotlyjs()


def test_the_pages_own_files_are_asked_for_each_time_and_sent_once(page: TestClient) -> None:
    first = page.get("/static/page.css")
    assert first.headers["Cache-Control"] == "no-cache"
    again = page.get("/static/page.css", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["Cache-Control"] == "no-cache"
    assert page.get("/static/page.css", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir() if path.is_file()))
def test_every_file_has_the_type_that_a_browser_insists_on(page: TestClient, name: str) -> None:
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    answer = page.get(f"/static/{name}")
    assert answer.headers["Content-Type"].partition(";")[0] == kinds[name.rpartition(".")[2]]


def test_a_workspace_whose_name_is_no_utf8_has_a_page_too(tmp_path: Path) -> None:
    found = made.workspace(tmp_path / os.fsdecode(b"caf\xe9"))
    services = Services(found)
    app = guarded(services, ENDPOINTS, Rules(), None)
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as page:
        for path in PAGES:
            assert "caf\\xe9" in page.get(path).text
        for path in ("/api/now", "/api/queue", "/api/files", "/api/saved", "/api/health", "/api/log"):
            assert page.get(path).status_code == 200
        assert page.get("/api/now").json()["status"]["workspace"].endswith("/caf\\xe9")
        found.ledger.rename(found.ledger.with_suffix(".away"))
        for path in ("/", "/api/now"):
            answer = page.get(path)
            assert (answer.status_code, "xe9" in answer.text) == (503, True)
    services.close()
