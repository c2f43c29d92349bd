"""`nightschool dashboard`, and what `nightschool run` says about the page. What is served: tests/dashboard."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from nightschool import durable
from nightschool.dashboard import serving
from nightschool.ledger import Ledger
from nightschool.settings import PageSettings
from nightschool.workspace import Layout
from tests.cli.conftest import Run

URL = "http://127.0.0.1:8420"


def served(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("page", {"url": URL, "pid": os.getpid()})


def test_it_serves_by_the_settings_and_says_where(here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def serve(layout: Layout, settings: PageSettings, say: Any) -> None:
        asked.append((layout.root, settings))
        say(f"The page is at {URL}.")

    monkeypatch.setattr(serving, "serve", serve)
    assert here("dashboard", "--port", "9000").out == f"The page is at {URL}.\n"
    assert asked == [(layout.root, PageSettings(port=9000))]


def test_where_it_is_served_already_it_only_says_so(here: Run, layout: Layout) -> None:
    served(layout)
    with durable.Lock(layout.page_lock, "the page"):
        found = here("dashboard")
        assert here("status", "--json").json["page"] == URL
    assert (found.code, found.out) == (0, f"The page is at {URL} already.\n")


def test_control_a_page_that_was_killed_is_not_there(here: Run, layout: Layout) -> None:
    served(layout)
    assert here("status", "--json").json["page"] is None


@pytest.mark.parametrize("command", ["run", "dashboard"])
def test_h3_another_address_without_a_token_is_refused(here: Run, layout: Layout, command: str) -> None:
    found = here(command, "--host", "0.0.0.0")
    assert found.code == 3
    assert "page.token is not set" in found.err
    assert not layout.log_file.exists() or "watches" not in layout.log_file.read_text()


def test_with_port_0_there_is_none(here: Run, layout: Layout) -> None:
    text = layout.settings_file.read_text()
    layout.settings_file.write_text(text.replace("# port = 8420", "port = 0"))
    found = here("dashboard")
    assert found.code == 3
    assert "Name a port" in found.err


def test_what_goes_wrong_in_a_page_of_its_own_is_in_the_log_that_the_page_names(
    here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*_: Any, **__: Any) -> None:
        logging.getLogger("nightschool.page").warning("The page failed at GET /api/now.")

    monkeypatch.setattr(serving, "serve", serve)
    here("dashboard", "--port", "8765")
    assert "The page failed at GET /api/now." in layout.log_file.read_text()
