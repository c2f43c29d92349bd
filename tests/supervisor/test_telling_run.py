"""A whole run that tells its owner, and one whose targets are dead or hang."""

from __future__ import annotations

import pytest

from nightschool.ledger import Ledger
from nightschool.settings import Settings, load_settings
from nightschool.supervisor import run as supervisor
from nightschool.telling import teller
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, commands, log_text
from tests.telling.servers import dead_port, server, silent

PASSWORD = "hunter2secret"


def run(layout: Layout, text: str, trainer: str = "good") -> int:
    layout.settings_file.write_text(f"{TOML}[notify]\n{text}\n")
    settings: Settings = load_settings(layout.settings_file)
    (layout.inbox / "a.jsonl").write_text('{"text": "a"}\n')
    return supervisor.run(layout, settings, True, None, commands=commands(layout, trainer), tick_seconds=0.02)


def test_a_run_that_fails_is_told_before_it_ends(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "END_SECONDS", 60.0)  # a busy computer may need more than the few of the program
    with server() as there:
        code = run(layout, f'webhook = "{there.url}"', "exit:11")
    assert code == 11
    (got,) = [message for message in there.got if message["kind"] == "trouble"]
    assert got["text"].startswith("failed: ")
    assert got["workspace"] == str(layout.root)


def test_control_a_run_that_goes_well_is_no_trouble(layout: Layout) -> None:
    with server() as there:
        assert run(layout, f'webhook = "{there.url}"') == 0
    assert [message for message in there.got if message["kind"] == "trouble"] == []


@pytest.mark.parametrize("kind", ["dead", "hangs"])
def test_targets_that_take_nothing_do_not_stop_the_work(
    layout: Layout, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that fails is waited for until it has; one that hangs, for no longer than this.
    monkeypatch.setattr(teller, "END_SECONDS", 1.0 if kind == "hangs" else 60.0)
    with silent() as port, Ledger.open(layout.ledger) as ledger:
        number = port if kind == "hangs" else dead_port()
        code = run(layout, f'urls = ["json://me:{PASSWORD}@127.0.0.1:{number}/{PASSWORD}?rto=600"]', "exit:11")
        assert code == 11
        assert sum(teller.waiting(ledger).values()) == 1
        assert PASSWORD not in str(ledger.events.since()) + str(ledger.machine.all()) + log_text(layout)
        # The one that hangs has not even failed yet.
        assert ("do not arrive" in log_text(layout)) == (kind == "dead")
