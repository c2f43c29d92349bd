from __future__ import annotations

import json

import pytest

from nightschool.supervisor.signals import StopSignals
from nightschool.view import watching
from nightschool.workspace import Layout
from tests.view.making import view


def test_json_is_one_line_for_each_change() -> None:
    lines = watching.JsonLines()
    first = lines(view().status, 0.0)
    assert first is not None
    assert "\n" not in first
    assert json.loads(first)["state"] == "training"
    assert lines(view().status, 1.0) is None
    assert json.loads(lines(view({"step": 12_346}).status, 2.0) or "")["step"] == 12_346


def test_people_get_a_line_when_it_does_something_else_and_now_and_then() -> None:
    lines = watching.PlainLines()
    assert "training: monday.jsonl, step 12,345, loss 1.5321, 30 waiting, 12 learned" in (lines(view().status, 0) or "")
    assert lines(view({"step": 12_346}).status, 1.0) is None
    assert "paused" in (lines(view({"state": "paused"}).status, 2.0) or "")
    assert lines(view({"state": "paused", "step": 1}).status, 2.0 + watching.FIGURES_SECONDS) is not None
    assert lines(view({"state": "paused", "step": 1}).status, 9e9) is None, "nothing has changed"


def test_it_waits_kindly_where_no_machine_runs_and_ends_when_asked(
    layout: Layout,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signals, rounds = StopSignals(), []

    def sleep(_: float) -> None:
        rounds.append(1)
        signals.stop = len(rounds) == 3

    monkeypatch.setattr(watching.time, "sleep", sleep)
    watching.watch(layout, True, signals)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["state"] == "stopped"
    assert len(rounds) == 3
