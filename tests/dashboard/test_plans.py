"""Rolling back and forgetting from the page: shown first, done only where it still is what was shown."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nightschool.dashboard import plans, shapes
from nightschool.ledger import Ledger, StepRow
from nightschool.record import read_generation
from nightschool.workspace import Layout
from tests.dashboard.asking import Asked, asking
from tests.snapshots import made


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Two files learned and half of a third, the fourth waiting; states at 10, 20 and 25, a snapshot at 25."""
    layout = made.workspace(tmp_path / "ws", steps=25)
    for step in (10, 20, 25):
        made.checkpoint(layout, step)
    made.snapshot(layout)
    with Ledger.open(layout.ledger) as ledger:
        for number in (1, 2):
            ledger.files.set_state(number, "learned")
    return layout


@pytest.fixture
def page(layout: Layout) -> Iterator[Asked]:
    with asking(layout) as asked:
        yield asked


def train(layout: Layout, first: int, last: int) -> None:
    """The steps from `first` to `last` are done, as the trainer records them."""
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        rows = [StepRow(step, (step - 1) // 10, 1.0, 1e-3, 1.0, 10, 10, 0.1) for step in range(first, last + 1)]
        ledger.steps.record(rows)


def agreed(ask: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    return {**ask, "digest": plan["digest"]}


def test_a_rollback_is_shown_agreed_to_and_done(page: Asked, layout: Layout) -> None:
    ask = {"to": "10", "later": "queue"}
    plan = page.post("/api/rollback/plan", ask)
    assert (plan["what"], plan["now"], plan["then"], plan["kept"]) == (
        "Rollback to checkpoint-10 (step 10)",
        25,
        10,
        10,
    )
    assert plan["undone"] == [
        {"name": "2.jsonl", "steps": 10, "of": 10}, {"name": "3.jsonl", "steps": 5, "of": 10},
    ]  # fmt: skip
    assert plan["undoable"]
    job = page.post("/api/rollback", agreed(ask, plan), 202)
    assert job["what"] == plan["what"]
    ended = page.ended(job)
    assert (ended["state"], ended["said"]) == ("done", "Done: the run stands at step 10. It can be undone.")
    assert [step for step, _ in layout.checkpoints()] == [10]
    # And it is taken back in the same way.
    ask = {"to": "undo"}
    plan = page.post("/api/rollback/plan", ask)
    assert (plan["now"], plan["then"]) == (10, 25)
    assert page.ended(page.post("/api/rollback", agreed(ask, plan), 202))["state"] == "done"
    assert 25 in [step for step, _ in layout.checkpoints()]


def test_what_cannot_be_gone_back_to_is_told(page: Asked, layout: Layout) -> None:
    assert "no saved state called 7" in page.post("/api/rollback/plan", {"to": "7"}, 422)
    assert "../x" in page.post("/api/rollback/plan", {"to": "../x"}, 422)
    assert "no rollback or forgetting" in page.post("/api/rollback/plan", {"to": "undo"}, 422)
    (layout.checkpoint(10) / "optimizer.pt").unlink()
    assert "cannot be gone back to" in page.post("/api/rollback/plan", {"to": "10"}, 422)
    page.post("/api/rollback/plan", {"to": "10", "later": "never"}, 422)
    page.post("/api/rollback/plan", {"to": ""}, 422)


def plan_of(shown: dict[str, Any]) -> str:
    """The digest, but for how many steps were undone when."""
    seen = plans.Shown.read(shown["digest"])
    return f"{seen.plan}.{seen.traces}"


def test_training_that_goes_on_meanwhile_is_no_change(page: Asked, layout: Layout) -> None:
    asks = [("/api/rollback", {"to": "10"}), ("/api/forget", {"files": [2]}), ("/api/forget", {"files": [4]}),
            ("/api/forget", {"files": [4], "purge": True}), ("/api/forget", {"files": [2], "purge": True})]  # fmt: skip
    before = [page.post(f"{path}/plan", ask) for path, ask in asks]
    train(layout, 26, 28)
    made.checkpoint(layout, 28)
    after = [page.post(f"{path}/plan", ask) for path, ask in asks]
    assert [plan_of(plan) for plan in after] == [plan_of(plan) for plan in before]
    assert len({plan_of(plan) for plan in after}) == len(asks)
    for old, new in zip(before, after, strict=True):
        plans.require_same(shapes.Plan(**new), old["digest"])
    assert after[0]["now"] == 28
    assert after[0] != before[0]


AN_HOUR = 3600
UNSEEN = {
    "at once": (0, 3, None),
    "within ten minutes": (500, 3, None),
    "after an hour": (AN_HOUR, 3, plans.HAS_GROWN),
    "after an hour in which nothing was trained": (AN_HOUR, 0, None),
    "after the clock was set back": (-AN_HOUR, 3, plans.HAS_GROWN),
}


@pytest.mark.parametrize(("seconds", "steps", "refused"), UNSEEN.values(), ids=UNSEEN)
@pytest.mark.parametrize("ask", [("/api/rollback", {"to": "10"}), ("/api/forget", {"files": [2]}),
                                 ("/api/forget", {"files": [2], "purge": True})])  # fmt: skip
def test_a_plan_left_open_undoes_no_more_than_ten_minutes_have_trained(
    page: Asked, layout: Layout, ask: tuple[str, dict[str, Any]], seconds: int, steps: int, refused: str | None
) -> None:
    path, what = ask
    plan = page.post(f"{path}/plan", what)
    seen = plans.Shown.read(plan["digest"])
    assert seen.steps == plan["now"] - plan["kept"] == 15
    if steps:
        train(layout, 26, 25 + steps)
    body = {**what, "digest": str(replace(seen, at=seen.at - seconds))}
    if refused:
        assert page.post(path, body, 409) == refused
        assert read_generation(layout) == 0
        body = agreed(what, page.post(f"{path}/plan", what))  # it is shown anew, and agreed to
    assert page.ended(page.post(path, body, 202))["state"] == "done"


def test_what_undoes_nothing_does_not_grow(page: Asked, layout: Layout) -> None:
    """A file that only waits is forgotten after hours, too, however far training has come."""
    plan = page.post("/api/forget/plan", {"files": [4]})
    seen = plans.Shown.read(plan["digest"])
    train(layout, 26, 28)
    made.checkpoint(layout, 28)
    body = {"files": [4], "digest": str(replace(seen, at=seen.at - AN_HOUR))}
    assert page.ended(page.post("/api/forget", body, 202))["state"] == "done"


def test_what_is_trained_while_a_job_waits_for_its_turn_counts_too(page: Asked, layout: Layout) -> None:
    plan = page.post("/api/rollback/plan", {"to": "10"})
    reached, go_on = threading.Event(), threading.Event()
    first = page.services.jobs.start("A long snapshot", lambda _: reached.set() or str(go_on.wait(30)))
    assert reached.wait(30)
    job = page.post("/api/rollback", agreed({"to": "10"}, plan), 202)
    with pytest.MonkeyPatch.context() as patched:
        now = time.time()
        patched.setattr(time, "time", lambda: now + AN_HOUR)
        train(layout, 26, 28)
        go_on.set()
        ended = page.ended(job)
    assert (ended["state"], ended["said"]) == ("failed", plans.HAS_GROWN)
    assert page.ended({"id": first.id})["state"] == "done"
    assert read_generation(layout) == 0


@pytest.mark.parametrize("digest", ["", "x", "a.b.c", "...", "a.-1.2.", "a.1.2" * 9, "\u0661.\u0661.\u0661"])
def test_a_digest_that_is_none_does_nothing(page: Asked, layout: Layout, digest: str) -> None:
    assert page.post("/api/rollback", {"to": "10", "digest": digest}, 409) == plans.HAS_CHANGED
    assert read_generation(layout) == 0


def begin_the_fourth(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        ledger.entries.append([(4, "d4", 10)], made.RECIPE, 10)
        ledger.files.begin(4)
    train(layout, 26, 33)


def remove_the_state(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.checkpoints.retire(10, "retention")
    shutil.rmtree(layout.checkpoint(10))


def go_elsewhere(layout: Layout) -> None:
    from nightschool.snapshots import acts

    acts.go_back(layout, "20", waiting=lambda _: None)


@pytest.mark.parametrize("change", [begin_the_fourth, remove_the_state, go_elsewhere])
def test_what_is_another_plan_by_now_is_not_done(page: Asked, layout: Layout, change: Any) -> None:
    ask = {"files": [2]}
    plan = page.post("/api/forget/plan", ask)
    assert (plan["start"], plan["then"]) == ("checkpoint-10", 10)
    change(layout)
    generation = read_generation(layout)
    assert page.post("/api/forget", agreed(ask, plan), 409) == plans.HAS_CHANGED
    assert page.services.jobs.all() == []
    assert read_generation(layout) == generation
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.files.get(2).state != "forgotten"
    # The control: what is shown now can be done.
    fresh = page.post("/api/forget/plan", ask)
    assert fresh["digest"] != plan["digest"]
    assert page.ended(page.post("/api/forget", agreed(ask, fresh), 202))["state"] == "done"


def test_agreeing_to_one_plan_does_not_do_another(page: Asked) -> None:
    plan = page.post("/api/rollback/plan", {"to": "20"})
    for other in ({"to": "10"}, {"to": "20", "later": "shelve"}):
        page.post("/api/rollback", agreed(other, plan), 409)
    page.post("/api/forget", {"files": [2], "digest": plan["digest"]}, 409)
    page.post("/api/rollback", {"to": "20"}, 422)
    kept = page.post("/api/forget/plan", {"files": [1]})
    page.post("/api/forget", agreed({"files": [1], "purge": True}, kept), 409)
    page.post("/api/forget", agreed({"files": [1, 2]}, kept), 409)


@pytest.mark.parametrize("checked", [True, False])
def test_a_change_after_the_last_look_is_found_when_the_machine_rests(
    page: Asked, layout: Layout, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """Between the answer and the cut the trainer saves, and may begin a file first. Without the look at rest, the
    control, it would be undone though nobody was shown that."""
    from nightschool.snapshots import cut

    if not checked:
        monkeypatch.setattr(plans, "still_agreed", lambda *_: None)
    real = cut.held

    def later(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(cut, "held", real)
        begin_the_fourth(layout)
        return real(*arguments, **more)

    monkeypatch.setattr(cut, "held", later)
    ask = {"to": "10", "later": "shelve"}
    plan = page.post("/api/rollback/plan", ask)
    ended = page.ended(page.post("/api/rollback", agreed(ask, plan), 202))
    with Ledger.open(layout.ledger) as ledger:
        state, hold = ledger.files.get(4).state, ledger.machine.get(cut.HOLD)
    if checked:
        assert (ended["state"], ended["said"], state) == ("failed", plans.HAS_CHANGED, "training")
    else:
        assert (ended["state"], state) == ("done", "set_aside")
    assert hold is None


def test_forgetting_what_only_waits_touches_nothing_else(page: Asked, layout: Layout) -> None:
    ask = {"files": [4]}
    plan = page.post("/api/forget/plan", ask)
    assert (plan["now"], plan["then"], plan["undone"], plan["redo"]) == (25, 25, [], 0)
    assert not plan["undoable"]
    ended = page.ended(page.post("/api/forget", agreed(ask, plan), 202))
    assert "had not been begun" in ended["said"]
    assert read_generation(layout) == 0
    assert "forgotten already" in page.post("/api/forget/plan", ask, 422)


def test_a_purge_lists_what_goes_for_good_and_removes_just_that(page: Asked, layout: Layout) -> None:
    ask = {"files": [2], "purge": True}
    plan = page.post("/api/forget/plan", ask)
    assert not plan["undoable"]
    listed = "\n".join(plan["purge"])
    assert "checkpoint-20" in listed
    assert "2026-11-22" in listed
    assert "2.jsonl" in listed
    assert "1.jsonl" not in listed
    # Another snapshot that has seen it, taken since it was shown: that too would go.
    made.snapshot(layout, "another", "named")
    assert page.post("/api/forget", agreed(ask, plan), 409) == plans.HAS_CHANGED
    plan = page.post("/api/forget/plan", ask)
    assert "another" in "\n".join(plan["purge"])
    ended = page.ended(page.post("/api/forget", agreed(ask, plan), 202))
    assert ended["state"] == "done", ended
    assert "Out of reach" in ended["said"]
    assert not (layout.archive / "2026-11-20" / "2.jsonl").exists()
    assert (layout.archive / "2026-11-20" / "1.jsonl").exists()
    assert list(layout.snapshots.iterdir()) == []


def test_a_job_that_finds_somebody_else_at_work_says_so(page: Asked, layout: Layout) -> None:
    from nightschool.snapshots.holding import way_back

    ask = {"to": "10"}
    plan = page.post("/api/rollback/plan", ask)
    with way_back(layout, "another rollback"):
        ended = page.ended(page.post("/api/rollback", agreed(ask, plan), 202))
    assert ended["state"] == "failed"
    assert "already at work" in ended["said"]


def test_what_is_waited_for_is_told(page: Asked, layout: Layout) -> None:
    from nightschool import durable

    ask = {"to": "10"}
    plan = page.post("/api/rollback/plan", ask)
    with durable.Lock(layout.trainer_lock, "the trainer"):
        job = page.post("/api/rollback", agreed(ask, plan), 202)
        while not page.get(f"/api/jobs/{job['id']}")["told"]:
            pass
    ended = page.ended(job)
    assert (ended["state"], ended["told"]) == ("done", ["Waiting until the trainer has saved and ended"])
