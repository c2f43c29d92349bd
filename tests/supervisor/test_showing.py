"""The page's process: kept, given its address, and of no weight for the machine. What it serves: tests/dashboard."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from nightschool.errors import SettingsError
from nightschool.settings import PageSettings, Settings, load_settings
from nightschool.supervisor import run as supervisor
from nightschool.supervisor import showing
from nightschool.supervisor.run import default_commands
from nightschool.supervisor.showing import Showing
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, child_command, commands, events, gone, log_text, wait_until

TOKEN = "a token of many letters"


def run(
    layout: Layout, settings: Settings, behaviour: str = "good", host: str | None = None, trainer: str = "after:page"
) -> int:
    """A run that is not over before the page is there."""
    (layout.inbox / "a.jsonl").write_text('{"text": "a"}\n')
    children = replace(commands(layout, trainer), page=child_command(layout, "page", behaviour))
    return supervisor.run(layout, settings, True, commands=children, tick_seconds=0.02, page=(host, None))


def test_it_runs_while_the_machine_does_and_goes_after_the_trainer(layout: Layout, settings: Settings) -> None:
    assert run(layout, settings) == 0
    assert events(layout, "page.saved") == events(layout, "page.started") != []
    ends = {role: (layout.root / f"{role}.saved").stat().st_mtime_ns for role in ("trainer", "page")}
    assert ends["page"] > ends["trainer"]


def test_with_port_0_there_is_none(layout: Layout) -> None:
    layout.settings_file.write_text(TOML + "[page]\nport = 0\n")
    assert run(layout, load_settings(layout.settings_file), trainer="good") == 0
    assert not events(layout, "page.started")


def test_the_real_one_is_what_a_machine_starts(layout: Layout) -> None:
    assert list(default_commands(layout).page)[-3:] == ["nightschool.dashboard", "--workspace", str(layout.root)]


@pytest.mark.parametrize("behaviour", ["exit:1", "exit:3", "exit:6"])
def test_one_that_cannot_run_keeps_nothing_from_being_learned(
    layout: Layout, settings: Settings, behaviour: str
) -> None:
    assert run(layout, settings, behaviour) == 0
    assert log_text(layout).count("The page ended with exit code") <= 1  # none where the run was over before


def test_the_trouble_of_one_that_cannot_run_is_told_once(layout: Layout) -> None:
    kept = Kept(layout, PageSettings(), behaviour="exit:6")
    for number in (1, 2):
        wait_until(lambda: kept.tend() is not None)
        wait_until(lambda number=number: len(events(layout, "page.started")) == number and kept.tend() is None)
        kept.now += 100.0
    assert kept.said == [
        "The page ended with exit code 6: last words of page. It is started again by itself; training goes on."
    ]


def test_a_lock_that_cannot_be_looked_at_keeps_nothing_from_being_learned(layout: Layout, settings: Settings) -> None:
    layout.page_lock.symlink_to(layout.page_lock.name)
    assert run(layout, settings, trainer="good") == 0
    assert log_text(layout).count("The page could not be started:") == 1


def test_one_that_does_not_stop_is_killed_after_its_time_and_the_run_ends(
    layout: Layout, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "GRACE", 0.2)
    assert run(layout, settings, "deaf") == 0
    assert "The page did not end within 0 seconds and was killed." in log_text(layout)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_h3_another_address_without_a_token_is_refused_before_anything_begins(
    layout: Layout, settings: Settings, host: str
) -> None:
    with pytest.raises(SettingsError, match=r"page\.token is not set"):
        run(layout, settings, host=host)
    assert not events(layout, "intake.started")
    layout.settings_file.write_text(TOML + f'[page]\nhost = "{host}"\n')
    with pytest.raises(SettingsError, match=r"nightschool\.toml.*page\.token is not set"):
        load_settings(layout.settings_file)


def test_h3_names_by_which_others_come_need_a_token_too() -> None:
    with pytest.raises(ValueError, match=r"page\.token is not set"):
        PageSettings(allowed_hosts=["night.example.org"])
    assert PageSettings(allowed_hosts=["night.example.org"], token=TOKEN).allowed_hosts
    with pytest.raises(ValueError, match="without https"):
        PageSettings(allowed_hosts=["https://night.example.org"], token=TOKEN)


def test_h3_control_with_a_token_it_begins(layout: Layout) -> None:
    layout.settings_file.write_text(TOML + f'[page]\ntoken = "{TOKEN}"\n')
    assert run(layout, load_settings(layout.settings_file), host="0.0.0.0") == 0
    assert events(layout, "page.started")


def test_h3_a_token_is_not_a_short_word_and_is_shown_nowhere() -> None:
    with pytest.raises(ValueError, match="too short"):
        PageSettings(token="secret")
    for token in (f" {TOKEN}", f"{TOKEN}\n", "pässwörter sind so eine Sache"):
        with pytest.raises(ValueError, match="cannot be sent") as refused:
            PageSettings(token=token)
        assert token not in refused.value.errors()[0]["msg"]  # type: ignore[attr-defined]
    with pytest.raises(SettingsError) as caught:
        PageSettings().at("0.0.0.0")
    assert TOKEN not in str(caught.value)


class Kept:
    """A Showing over a stand-in, with a clock of its own."""

    def __init__(
        self, layout: Layout, settings: PageSettings, host: str | None = None, port: int | None = None,
        behaviour: str = "good",
    ) -> None:  # fmt: skip
        self.now = 0.0
        self.said: list[str] = []
        command = child_command(layout, "page", behaviour)
        self.showing = Showing(layout, command, settings, self.said.append, lambda: self.now, host, port)

    def tend(self, wanted: bool = True) -> int | None:
        self.showing.tend(wanted)
        return self.showing.child.pid

    def until(self, alive: bool, wanted: bool = True) -> int | None:
        wait_until(lambda: (self.tend(wanted) is not None) == alive)
        return self.tend(wanted)

    def end(self) -> None:
        self.showing.child.kill()
        self.until(alive=False, wanted=False)


def test_other_settings_start_it_again(layout: Layout) -> None:
    kept = Kept(layout, PageSettings())
    first = kept.until(alive=True)
    kept.showing.apply(PageSettings())
    assert kept.tend() == first
    wait_until(lambda: events(layout, "page.started"))
    kept.showing.apply(PageSettings(port=9000))
    wait_until(lambda: kept.tend() not in (None, first))
    assert first is not None
    assert gone(first)
    kept.showing.apply(PageSettings(port=0))
    assert kept.until(alive=False) is None
    assert not kept.said
    kept.end()


def test_the_command_line_counts_over_the_settings(layout: Layout) -> None:
    kept = Kept(layout, PageSettings(port=0), "localhost", 9001)
    assert kept.showing.child.command[-4:] == ["--host", "localhost", "--port", "9001"]
    assert kept.until(alive=True)
    kept.end()


def test_h3_a_token_that_is_taken_out_ends_a_page_that_others_could_reach(layout: Layout) -> None:
    kept = Kept(layout, PageSettings(token=TOKEN), "0.0.0.0")
    kept.until(alive=True)
    wait_until(lambda: events(layout, "page.started"))
    kept.showing.apply(PageSettings())
    assert kept.until(alive=False) is None
    assert "There is no page any more" in kept.said[0]
    assert "page.token" in kept.said[0]
    kept.showing.apply(PageSettings(token=TOKEN))
    assert kept.until(alive=True)
    kept.end()


def test_one_that_is_killed_comes_back(layout: Layout) -> None:
    kept = Kept(layout, PageSettings())
    first = kept.until(alive=True)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: kept.tend() is None)
    assert "The page was ended by SIGKILL" in kept.said[0]
    kept.now += 5.0
    assert kept.until(alive=True) != first
    kept.end()


def test_without_a_command_there_is_none(layout: Layout, tmp_path: Path) -> None:
    showing = Showing(layout, (), PageSettings(), print, lambda: 0.0)
    showing.tend(True)
    assert not showing.child.alive
