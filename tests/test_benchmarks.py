"""Each benchmark in a tiny form: that it runs and says what it says. How fast anything is, is no matter here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import checkpoint, common, continuity, dashboard, intake, latency, overhead, packing, snapshots

CASE = overhead.Case("tiny", hidden=32, layers=1, length=32, cells=2, per_cell=2, steps=2)
TEXT = continuity.Plan(files=3, length=32, batch=4, seeds=1, hidden=32, passages=24)


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "quiet_libraries", lambda: None)


def _run(benchmark: Any, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    benchmark.main(["--quick", "--out", str(out), *options])
    assert "torch 2." in capsys.readouterr().out
    assert not list(out.glob("scratch-*"))
    (written,) = out.glob("*.json")
    return json.loads(written.read_text())


def test_overhead_compares_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "QUICK", overhead.Plan((CASE,), rounds=2, passages=12))
    (case,) = _run(overhead, tmp_path, capsys)["cases"]
    assert all(ratio["n"] == 2 and ratio["median"] > 0 for ratio in case["ratios"].values())
    assert 0 < case["label_tokens_per_step"] < 4 * 32


def test_overhead_refuses_to_compare_other_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = overhead._Contest._next

    def others(contest: overhead._Contest, trainer: Any) -> Any:
        return [*taken(contest, trainer)[:-1], []]

    monkeypatch.setattr(overhead._Contest, "_next", others)
    with pytest.raises(RuntimeError, match="other batches"):
        overhead.measure(overhead.Plan((CASE,), rounds=1, passages=12), tmp_path)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpoint_measures_whole_saves(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = checkpoint.Plan(0.001, rounds=2, quiet=1, length=16, hidden=32)
    monkeypatch.setattr(checkpoint, "QUICK", plan)
    result = _run(checkpoint, tmp_path, capsys, "--method", method)
    assert result["ratio"]["n"] == 2
    assert result["checkpoint_bytes"] == pytest.approx(1e6, rel=0.25)
    assert result["steps_beside"]["low"] >= 1


@pytest.mark.parametrize("lora", [False, True])
def test_a1_continuity_trains_every_file_where_resuming_trains_the_first(
    lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(continuity, "QUICK", replace(TEXT, base_steps=2))
    monkeypatch.setattr(continuity, "plot", lambda *_: None)
    recipes = _run(continuity, tmp_path, capsys, *(["--lora"] if lora else []))["recipes"]
    steps = recipes["nightschool"]["steps"]
    assert len(steps) == 3
    assert min(steps) > 5
    assert recipes["reset"]["steps"] == recipes["reset, linear"]["steps"] == steps
    # resume_from_checkpoint goes on only where a file is longer than all before it, and only by the difference.
    longest = [max(steps[: at + 1]) for at in range(3)]
    assert recipes["resume"]["steps"] == [longest[0], longest[1] - longest[0], longest[2] - longest[1]]


def test_continuity_notices_when_the_recipes_differ_in_more_than_the_boundary() -> None:
    runs = {name: continuity.Run([[2.0, 1.5]], [1.0]) for name in continuity.RECIPES}
    continuity._check_equal_start(runs)
    runs["reset"] = continuity.Run([[2.0, 1.6]], [1.0])
    with pytest.raises(RuntimeError, match=r"differ by 0\.1 nats"):
        continuity._check_equal_start(runs)


def test_continuity_draws_recipes_that_leave_files_out(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run, gap = continuity.Run([[3.0, 2.5], [2.4, 2.2]], [2.6, 2.3]), continuity.Run([[3.0, 2.5], []], [2.6, 2.6])
    runs = {name: gap if name == "resume" else run for name in continuity.RECIPES}
    result = {"files": 2, "recipes": {name: continuity._summary([one, one]) for name, one in runs.items()}}
    assert result["recipes"]["resume"]["loss_at_start"] == [2.75, None]
    path = tmp_path / "img" / "continuity.png"
    continuity.plot(result, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_rounds_that_others_disturbed_are_left_out_whatever_they_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"first": 0.0, "second": 50.0, "third": 0.0, "fourth": 0.0}
    used = 0.0
    monkeypatch.setattr(common, "_foreign_seconds", lambda: used)
    clock = iter(range(100))
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock) * 100.0)
    rounds: common.Rounds[str] = common.Rounds(3)
    for hand_in, (name, seconds) in zip(rounds, others.items(), strict=True):
        used += seconds
        hand_in(name)
    assert rounds.kept == ["first", "third", "fourth"]
    assert rounds.described() == {"rounds": 3, "rounds_done": 4, "others_cores": 0.0}


def test_on_a_machine_that_is_never_quiet_the_calmest_rounds_count_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = 0.0
    monkeypatch.setattr(common, "_foreign_seconds", lambda: used)
    clock = iter(range(100))
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock) * 100.0)
    rounds: common.Rounds[int] = common.Rounds(1)
    for number, hand_in in enumerate(rounds):
        used += (90.0, 40.0, 60.0)[number]
        hand_in(number)
    assert rounds.kept == [1]
    assert rounds.described() == {"rounds": 1, "rounds_done": 3, "others_cores": 0.4}
    assert "TOO MUCH" in common.told(rounds.described())


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    found = common.spread([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (found["low"], found["median"], found["high"]) == (2.0, 3.0, 4.0)
    assert common.shown(found, 1, 10) == "30.0 (20.0–40.0)"
    assert common.spread([5.0])["low"] == 5.0


def test_packing_compares_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packing, "QUICK", packing.Plan(rows=60, max_length=128, median=20, tokens=300, rounds=2))
    result = _run(packing, tmp_path, capsys)
    assert result["ratio"]["n"] == 2
    assert result["filled"]["packed"] > result["filled"]["padded"] > 0


def test_intake_makes_the_tokens_that_datasets_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = intake.Plan(
        rows=(120,), rounds=(1,), beside_rounds=1, beside_rows=15_000, steps=60, vocabulary=400, characters=20_000,
        hidden=32, layers=1, length=32,
    )  # fmt: skip
    monkeypatch.setattr(intake, "QUICK", plan)
    monkeypatch.setattr(intake, "SIDES", intake.SIDES[:2])  # each is a process that loads its libraries
    # Once is enough here, however busy the machine is.
    monkeypatch.setattr(common, "CALM", 100.0)
    result = _run(intake, tmp_path, capsys)
    assert [size["rows"] for size in result["speed"]] == [120]
    assert all(ratio["median"] > 0 for size in result["speed"] for ratio in size["ratios"].values())
    assert all(memory["median"] > 1e7 for memory in result["speed"][0]["memory"].values())
    assert result["beside"]["ratio"]["n"] == 1
    assert result["beside"]["intake_cores"]["median"] > 0


def test_intake_refuses_to_compare_other_masks() -> None:
    turn = intake._Turn(seconds=1.0, memory=1, rows=5, tokens=50, label_tokens=20, processor=1.0)
    found = {"intake": turn, "with masks": turn, "without masks": replace(turn, label_tokens=0)}
    intake.check_equal(found)
    with pytest.raises(RuntimeError, match="cannot be compared"):
        intake.check_equal({**found, "with masks": replace(turn, label_tokens=21)})


def test_snapshots_weigh_no_more_than_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(snapshots, "QUICK", snapshots.Plan(nights=2, gigabytes=0.003, steps=20, quiet=2, width=64))
    result = _run(snapshots, tmp_path, capsys)
    assert result["ratio"]["n"] == 2
    assert max(result["bytes_ratio"]["values"]) <= 1
    assert result["copy_bytes"]["low"] > 3e6


@pytest.mark.slow
def test_latency_waits_for_real_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = latency.Plan(files=1, rows=20, pauses=1, length=32, hidden=32, layers=1, large_hidden=32, large_layers=1)
    monkeypatch.setattr(latency, "QUICK", plan)
    result = _run(latency, tmp_path, capsys)
    assert result["drop"]["n"] == result["per_file"]["n"] == 1
    assert result["bytes"] > 10_000
    for found in result["pauses"].values():
        assert found["pause"]["n"] == 1
        assert found["save"]["n"] >= 1


@pytest.mark.slow
def test_dashboard_looks_at_a_chart_and_trains_beside_tabs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = dashboard.Plan(history=3000, files=5, charts=1, rounds=1, tabs=3, steps=20, hidden=32, layers=1, length=32)
    monkeypatch.setattr(dashboard, "QUICK", tiny)
    monkeypatch.setattr(common, "CALM", 100.0)  # also beside other tests
    only = () if any(map(shutil.which, dashboard.BROWSERS)) else ("--only", "tabs")
    result = _run(dashboard, tmp_path, capsys, *only)
    assert all(one["n"] == 1 and one["median"] > 0 for one in result["tabs"]["ratios"].values())
    if only:
        pytest.skip("NO CHROMIUM: THE CHART OF THE PAGE WAS NOT LOOKED AT.")
    assert all(
        0 < result["chart"][look]["curve"]["median"] < result["chart"][look]["chart"]["median"]
        for look in dashboard.LOOKS
    )
