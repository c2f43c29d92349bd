"""Commands at a step boundary keep law 1: the weights are those of a run that was given the same history at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightschool import inforce, ordering, queueing
from nightschool.curriculum import Entry, normalised
from nightschool.ledger import NOW, EntryRow, Ledger
from nightschool.ledger.files import REST
from nightschool.record import entries_of, read_record
from nightschool.settings import canonical
from nightschool.snapshots import acts
from nightschool.training.trainer import Trainer
from nightschool.workspace import Layout
from tests.training import rig

SIZES = {"a": 22, "b": 9, "c": 10, "u": 7}
"""Sequences of each file; four make a step: 6, 3, 3 and 2 steps."""
A, B, C, U = 1, 2, 3, 4

Make = Callable[..., Layout]
OnStep = Callable[[Trainer], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"), dropout=0.1)


@pytest.fixture
def make(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def get(names: str = "abc", **changes: dict[str, Any]) -> Layout:
        changes = {"checkpoints": {"save_steps": 4}, **changes}
        layout = rig.workspace(tmp_path_factory.mktemp("run") / "ws", base, **changes)
        for name in names:
            rig.add(layout, name, rig.sequences(SIZES[name], ord(name)), held=rig.sequences(2, 7 + ord(name)))
        return layout

    return get


@pytest.fixture
def given(make: Make) -> Callable[..., rig.Outcome]:
    """What the run comes to that has a history from the start, without any command, save in between, or restart."""

    def get(like: Layout, **changes: dict[str, Any]) -> rig.Outcome:
        with Ledger.open(like.ledger) as ledger:
            entries, names = normalised(entries_of(ledger)), [row.name for row in ledger.files.each()]
        layout = make(names, **{"checkpoints": {"save_steps": 100}, **changes})
        with Ledger.open(layout.ledger) as ledger:
            ledger.entries.replace_all(
                [EntryRow(0, e.parts, e.recipe, e.length, e.start, e.stop, "2026-11-25") for e in entries]
            )
            for entry in entries:
                for file in entry.file_ids:
                    ledger.files.set_state(file, "training")
        rig.run(layout)
        return rig.outcome(layout)

    return get


def at(*steps: int, act: Callable[[Ledger], object]) -> OnStep:
    """Act after these steps, and let the trainer see it before the next."""

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done in steps:
            act(trainer.ledger)
            trainer.recorder.look()

    return on_step


def skip(file: int, aside: bool = False) -> Callable[[Ledger], object]:
    return lambda ledger: ordering.give(ledger, "skip", file, aside=aside)


def urgent(file: int) -> Callable[[Ledger], object]:
    return lambda ledger: ledger.line.priority(file, NOW)


def ranges(layout: Layout) -> list[tuple[int, int, int]]:
    with Ledger.open(layout.ledger) as ledger:
        return [(entry.file_ids[0], entry.start, entry.stop) for entry in entries_of(ledger)]


def answers(layout: Layout) -> list[str]:
    return rig.events(layout, "answered")


def all_learned(layout: Layout) -> bool:
    return set(rig.states(layout).values()) == {"learned"}


def test_a_skipped_file_goes_to_the_back_and_law_1_holds(make: Make, given: Callable[..., rig.Outcome]) -> None:
    layout = make()
    rig.run(layout, on_step=at(3, act=skip(A)))
    assert ranges(layout) == [(A, 0, 3), (B, 0, 3), (C, 0, 3), (A, 3, 6)]
    assert all_learned(layout)
    assert 3 in [step for step, _ in layout.checkpoints()] or rig.outcome(layout).step == 12
    assert answers(layout) == ["a goes to the back of the queue with 3 of its 6 steps."]
    assert rig.outcome(layout) == given(layout)
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get(ordering.ORDERS) is None
        assert ledger.files.get(A).options == {}
        held = ledger.holdouts.of_files(A, C)
        assert [held[id].position for id in (A, B, C)] == [0, 1, 2], "measured once, around all of it"
        assert all(row.loss_before is not None and row.loss_after is not None for row in held.values())
        assert all(row.carried for row in ledger.boundaries.each())
        assert [row.position for row in ledger.boundaries.each()] == [1, 2, 3]


def test_control_without_the_command_the_weights_are_others(make: Make, given: Callable[..., rig.Outcome]) -> None:
    plain, skipped = make(), make()
    rig.run(plain)
    rig.run(skipped, on_step=at(3, act=skip(A)))
    assert rig.outcome(plain).weights != rig.outcome(skipped).weights
    assert given(plain) == rig.outcome(plain), "the comparison itself is sound"


@pytest.mark.parametrize("kill", [3, 4, 7, 11])
def test_b1_a_kill_around_a_skip_loses_nothing(make: Make, given: Callable[..., rig.Outcome], kill: int) -> None:
    """Killed right after it was asked for, after it was obeyed, in what came next, and in the rest."""
    layout = make()
    asked = at(3, act=skip(A))

    def on_step(trainer: Trainer) -> None:
        asked(trainer)
        if trainer.loop.done == kill:
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=on_step)
    rig.run(layout)
    assert all_learned(layout)
    assert rig.outcome(layout) == given(layout)
    found = ranges(layout)
    if kill > 3:
        assert found == [(A, 0, 3), (B, 0, 3), (C, 0, 3), (A, 3, 6)]
    else:  # obeyed at the next start, before its first step: from the base model
        assert found == [(B, 0, 3), (C, 0, 3), (A, 0, 6)]


def test_a_command_given_while_nothing_runs_is_obeyed_before_the_next_step(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    layout = make()
    rig.run(layout, on_step=rig.stop_at(2))
    with Ledger.open(layout.ledger) as ledger:
        assert ordering.skip(ledger).startswith("a goes to the back of the queue at the next step")
    rig.run(layout)
    assert ranges(layout) == [(A, 0, 2), (B, 0, 3), (C, 0, 3), (A, 2, 6)]
    assert rig.outcome(layout) == given(layout)


def test_a_command_that_comes_late_hits_no_other_file(make: Make) -> None:
    layout = make()
    rig.run(layout, on_step=at(6, act=skip(A)))
    assert ranges(layout) == [(A, 0, 6), (B, 0, 3), (C, 0, 3)]
    assert answers(layout) == ["a is not in training any more, so it was not skipped."]


def test_the_only_file_simply_goes_on(make: Make) -> None:
    layout = make("a")
    rig.run(layout, on_step=at(3, act=skip(A)))
    assert ranges(layout) == [(A, 0, 6)]
    assert answers(layout) == ["a goes on, because nothing else waits."]


def test_a_file_is_shelved_and_what_is_left_of_it_is_learned_later(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    layout = make("ab")
    rig.run(layout, on_step=at(2, act=skip(A, aside=True)))
    assert ranges(layout) == [(A, 0, 2), (B, 0, 3)]
    assert rig.states(layout) == {"a": "set_aside", "b": "learned"}
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.files.get(A).reason == "shelved after 2 of its 6 steps"
        assert ledger.holdouts.of_files(A, A)[A].loss_after is not None
        queueing.put_back(ledger, [ledger.files.get(A)])
    rig.run(layout)
    assert ranges(layout) == [(A, 0, 2), (B, 0, 3), (A, 2, 6)]
    assert all_learned(layout)
    assert rig.outcome(layout) == given(layout)


def test_a_shelved_file_that_is_put_back_at_once_is_one_range_again(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    layout = make("a")
    rig.run(layout, on_step=at(2, act=skip(A, aside=True)))
    with Ledger.open(layout.ledger) as ledger:
        queueing.put_back(ledger, [ledger.files.get(A)])
    rig.run(layout)
    assert ranges(layout) == [(A, 0, 6)]
    plain = make("a")
    rig.run(plain)
    assert rig.outcome(layout) == rig.outcome(plain) == given(layout)


def test_small_files_that_were_begun_together_stay_together(make: Make, given: Callable[..., rig.Outcome]) -> None:
    gather = {"inbox": {"gather_rows": 2}}
    layout = make("bcu", **gather)
    big = rig.add(layout, "big", rig.sequences(8, 3), rows=9)
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("intake", {"gather_rows": 2})
    rig.run(layout, on_step=at(2, act=skip(1)))
    assert ranges(layout) == [(1, 0, 2), (big, 0, 2), (1, 2, 7)]
    assert all_learned(layout)


def test_a_file_that_is_learned_at_once_interrupts_what_is_in_training(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    layout = make("abcu")
    saved: list[int] = []

    def on_step(trainer: Trainer) -> None:
        at(3, act=urgent(U))(trainer)
        if trainer.loop.done == 4:
            trainer.saver.wait()
            saved.extend(step for step, _ in layout.checkpoints())

    rig.run(layout, on_step=on_step)
    assert ranges(layout) == [(A, 0, 3), (U, 0, 2), (A, 3, 6), (B, 0, 3), (C, 0, 3)]
    assert saved == [3], "the state that is gone back to if it has to be set aside"
    assert rig.events(layout, "interrupted") == [
        "a is interrupted after 3 of its 6 steps for u, and goes on afterwards."
    ]
    assert all_learned(layout)
    assert rig.outcome(layout) == given(layout)


def test_several_urgent_files_come_one_after_the_other(make: Make, given: Callable[..., rig.Outcome]) -> None:
    layout = make("abcu")

    def on_step(trainer: Trainer) -> None:
        at(2, act=urgent(U))(trainer)
        at(3, act=urgent(C))(trainer)  # while the first is in training

    rig.run(layout, on_step=on_step)
    assert ranges(layout) == [(A, 0, 2), (U, 0, 2), (C, 0, 3), (A, 2, 6), (B, 0, 3)]
    assert rig.outcome(layout) == given(layout)


def test_the_moments_are_reset_once_for_a_file_that_is_interrupted(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    per_file = {"training": {"carry_optimizer": False}}
    layout = make("abu", **per_file)
    resets: list[int] = []

    def on_start(trainer: Trainer) -> None:
        real = trainer.loop.resets

        def counted(place: Any) -> bool:
            if real(place):
                resets.append(trainer.loop.done)
            return real(place)

        trainer.loop.resets = counted  # type: ignore[method-assign]

    rig.run(layout, on_start=on_start, on_step=at(3, act=urgent(3)))
    assert ranges(layout) == [(1, 0, 3), (3, 0, 2), (1, 3, 6), (2, 0, 3)]
    assert resets == [0, 3, 8], "not at step 5, where the rest of the first file goes on"
    assert rig.outcome(layout) == given(layout, **per_file)


@pytest.mark.parametrize("kill", [4, 6])
def test_b1_a_kill_around_an_interruption_loses_neither_file(
    make: Make, given: Callable[..., rig.Outcome], kill: int
) -> None:
    layout = make("abu")
    asked = at(3, act=urgent(3))

    def on_step(trainer: Trainer) -> None:
        asked(trainer)
        if trainer.loop.done == kill:
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=on_step)
    rig.run(layout)
    assert all_learned(layout)
    assert sorted(ranges(layout)) == sorted(set(ranges(layout)))
    assert rig.outcome(layout) == given(layout)


def test_what_is_trained_again_after_a_rollback_follows_unchanged(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    layout = make("abc")
    rig.run(layout)
    acts.go_back(layout, "4", waiting=lambda _: None)
    rig.add(layout, "u", rig.sequences(SIZES["u"], ord("u")))
    rig.run(layout, on_step=at(5, act=urgent(U)))
    assert ranges(layout) == [(A, 0, 5), (U, 0, 2), (A, 5, 6), (B, 0, 3), (C, 0, 3)]
    assert rig.outcome(layout) == given(layout)


def test_a_rollback_over_a_split_file_and_back_again(make: Make, given: Callable[..., rig.Outcome]) -> None:
    """To the middle of the file in between: by the queue the rest waits again, and undone all is as it was."""
    layout = make("abu", checkpoints={"save_steps": 1, "save_total_limit": 50})
    rig.run(layout, on_step=at(3, act=urgent(3)))
    before, whole = ranges(layout), rig.outcome(layout)
    acts.go_back(layout, "4", later="queue", waiting=lambda _: None)
    assert ranges(layout) == [(1, 0, 3), (3, 0, 2)]
    assert rig.states(layout) == {"a": "skipped", "b": "ready", "u": "training"}
    acts.go_back(layout, "undo", waiting=lambda _: None)
    assert ranges(layout) == before
    rig.run(layout)
    assert rig.outcome(layout) == whole
    acts.go_back(layout, "4", later="queue", waiting=lambda _: None)
    rig.run(layout)
    assert all_learned(layout)
    assert ranges(layout) == [(1, 0, 3), (3, 0, 2), (1, 3, 6), (2, 0, 3)]
    acts.go_back(layout, "4", later="shelve", waiting=lambda _: None)
    assert rig.states(layout) == {"a": "set_aside", "b": "set_aside", "u": "set_aside"}
    with Ledger.open(layout.ledger) as ledger:
        assert REST not in ledger.files.get(1).options
        assert ledger.files.get(1).reason == "shelved by a rollback to step 4, after 3 of its 6 steps"


def test_forgetting_the_file_in_between_gives_the_run_without_it(make: Make) -> None:
    layout, plain = make("abu", checkpoints={"save_steps": 1}), make("ab")
    rig.run(layout, on_step=at(3, act=urgent(3)))
    rig.run(plain)
    acts.forget_files(layout, ["u"], waiting=lambda _: None)
    assert ranges(layout) == [(1, 0, 6), (2, 0, 3)]
    rig.run(layout)
    assert rig.outcome(layout) == rig.outcome(plain)


def test_forgetting_a_file_whose_rest_waits(make: Make) -> None:
    layout, plain = make("ab", checkpoints={"save_steps": 1}), make("b")

    def on_step(trainer: Trainer) -> None:
        at(3, act=skip(A))(trainer)
        rig.stop_at(5)(trainer)

    rig.run(layout, on_step=on_step)
    assert rig.states(layout) == {"a": "skipped", "b": "training"}
    acts.forget_files(layout, ["a"], waiting=lambda _: None)
    rig.run(layout)
    rig.run(plain)
    assert rig.states(layout) == {"a": "forgotten", "b": "learned"}
    assert rig.outcome(layout) == rig.outcome(plain)


def test_retention_keeps_a_state_from_before_the_file_that_was_interrupted(make: Make) -> None:
    layout = make("cabu", checkpoints={"save_steps": 1, "save_total_limit": 2})
    rig.run(layout, on_step=at(4, act=urgent(4)), until_idle=True)
    kept: list[int] = []

    other = make("cabu", checkpoints={"save_steps": 1, "save_total_limit": 2})

    def on_step(trainer: Trainer) -> None:
        at(5, act=urgent(4))(trainer)
        if trainer.loop.done == 8:
            trainer.saver.wait()
            kept.extend(step for step, _ in other.checkpoints())

    rig.run(other, on_step=on_step)
    assert kept[0] == 3, "a began after step 3"
    record = read_record(other.checkpoint(other.checkpoints()[-1][0]))
    assert [(e.file_ids[0], e.start, e.stop) for e in record.entries] == ranges(other)


def test_the_past_cannot_be_rewritten(make: Make) -> None:
    from nightschool.training import future

    layout = make("ab")
    rig.run(layout)
    with Ledger.open(layout.ledger) as ledger:
        entries: list[Entry] = entries_of(ledger)
        with pytest.raises(ValueError, match="the first 5 steps of a run cannot be rewritten"):
            future.rewrite(ledger, entries, entries[::-1], 5)
        assert entries_of(ledger) == entries


def change(**values: Any) -> Callable[[Ledger], object]:
    return lambda ledger: ordering.give(ledger, "settings", A, values=values)


def test_a12_settings_that_change_in_the_middle_of_a_file_keep_law_1(
    make: Make, given: Callable[..., rig.Outcome]
) -> None:
    layout, plain = make("ab"), make("ab")
    rig.run(layout, on_step=at(3, act=change(learning_rate=1e-3, weight_decay=0.5)))
    assert ranges(layout) == [(A, 0, 3), (A, 3, 6), (B, 0, 3)]
    assert rig.outcome(layout) == given(layout)
    rates = [rate for _, _, rate in rig.outcome(layout).curve]
    assert rates[3:7] == [1e-3, 1e-3, 1e-3, 5e-3], "the next file goes by what the settings say"
    rig.run(plain)
    assert rig.outcome(plain).weights != rig.outcome(layout).weights, "control: it makes a difference"
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.holdouts.of_files(A, A)[A].loss_after is not None


def test_what_a_step_trains_on_cannot_change_in_the_middle_of_a_file(make: Make) -> None:
    from nightschool import curriculum

    layout = make("a")
    rig.run(layout)
    with Ledger.open(layout.ledger) as ledger:
        (entry,) = entries_of(ledger)
    for key, value in (("train_batch_size", 2), ("epochs", 2), ("data", {})):
        other = canonical({**entry.settings, key: value})
        with pytest.raises(ValueError, match="for files that have not begun"):
            curriculum.with_recipe([entry], 3, other)
    assert curriculum.with_recipe([entry], 3, entry.recipe) == [entry]


def test_settings_that_were_accepted_count_for_the_next_file_and_for_saving(make: Make) -> None:
    """In the very process that trains, as the settings file would be taken by the machine."""
    layout = make("ab", checkpoints={"save_steps": 100})

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 3:
            text = layout.settings_file.read_text().replace("save_steps = 100", "save_steps = 4")
            inforce.accept(layout, text.replace("learning_rate = 0.005", "learning_rate = 0.002").encode())

    rig.run(layout, on_step=on_step)
    rates = [rate for _, _, rate in rig.outcome(layout).curve]
    assert rates[3:7] == [5e-3, 5e-3, 5e-3, 2e-3]
    with Ledger.open(layout.ledger) as ledger:
        assert 4 in [row.step for row in ledger.checkpoints.listing()]


@pytest.mark.parametrize("steps", [6, 7])
def test_b1_a_command_for_a_file_that_a_kill_took_back_waits_until_it_comes_again(
    make: Make, given: Callable[..., rig.Outcome], steps: int
) -> None:
    """The file that ends the process each time is the one that a person skips, and the state is from before it."""
    layout = make()

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == steps + 1:
            trainer.saver.wait()
            skip(B)(trainer.ledger)
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=on_step)
    assert layout.checkpoints()[-1][0] == 4, "in the file before"
    rig.run(layout)
    assert ranges(layout) == [(A, 0, 6), (C, 0, 3), (B, 0, 3)]
    assert answers(layout) == ["b goes to the back of the queue with 3 of its 3 steps."]
    assert rig.outcome(layout) == given(layout)


def test_a_command_for_a_file_ahead_is_answered_when_that_is_gone(make: Make) -> None:
    layout = make()

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 7:
            skip(B)(trainer.ledger)
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=on_step)
    acts.forget_files(layout, ["b"], waiting=lambda _: None)
    rig.run(layout)
    assert answers(layout) == ["b is not in training any more, so it was not skipped."]


def test_files_that_were_begun_together_are_taken_out_together_however_many_are_named(make: Make) -> None:
    gather = {"inbox": {"gather_rows": 2}}
    layout = make("bc", **gather)
    rig.add(layout, "big", rig.sequences(8, 3), rows=9)
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("intake", {"gather_rows": 2})

    def on_step(trainer: Trainer) -> None:
        at(2, act=skip(1))(trainer)
        if trainer.loop.done == 4:
            trainer.stop.set("the test")

    rig.run(layout, on_step=on_step)
    with Ledger.open(layout.ledger) as ledger:
        rows = [ledger.files.get(id) for id in (1, 2)]
        assert [row.state for row in rows] == ["skipped", "skipped"]
        assert queueing.remove(ledger, rows).startswith("Taken out of the queue: b, c.")
        assert [ledger.files.get(id).state for id in (1, 2)] == ["set_aside", "set_aside"]


def test_a_range_that_was_interrupted_before_an_update_was_applied_is_repeated_as_it_was(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was no fault when it was done first is none when it is done again after a kill."""
    import math

    from nightschool.training import loss

    layout = make("au", checkpoints={"save_steps": 100})
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_state(2, "archived")
    real = loss.sum_loss

    def on_start(trainer: Trainer) -> None:
        def spoiled(*arguments: Any) -> Any:
            return real(*arguments) * (math.nan if trainer.loop.done < 2 else 1.0)

        monkeypatch.setattr(loss, "sum_loss", spoiled)

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 2:
            trainer.ledger.files.set_state(2, "ready")
            urgent(2)(trainer.ledger)
            trainer.recorder.look()
        if trainer.loop.done == 3:
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(layout, on_start=on_start, on_step=on_step)
    assert ranges(layout) == [(1, 0, 2), (2, 0, 2), (1, 2, 6)]
    assert not layout.checkpoints()
    rig.run(layout, on_start=on_start)
    assert all_learned(layout)


def test_b1_settings_given_to_the_rest_of_a_file_outlive_a_second_skip_after_a_kill(make: Make) -> None:
    layout = make("ab", checkpoints={"save_steps": 2})

    def on_step(trainer: Trainer) -> None:
        if trainer.loop.done == 3:
            trainer.saver.wait()
            trainer.saver.save = lambda *_: 0.0  # pyright: ignore # nothing more reaches the disk
            change(learning_rate=1e-4)(trainer.ledger)
            skip(A)(trainer.ledger)
            trainer.recorder.look()
        if trainer.loop.done == 4:
            raise rig.Killed

    with pytest.raises(rig.Killed):
        rig.run(layout, on_step=on_step)
    assert ranges(layout) == [(A, 0, 3), (B, 0, 3)]
    assert layout.checkpoints()[-1][0] == 2
    with Ledger.open(layout.ledger) as ledger:
        skip(A)(ledger)
    rig.run(layout)
    assert ranges(layout) == [(A, 0, 2), (B, 0, 3), (A, 2, 6)]
    with Ledger.open(layout.ledger) as ledger:
        assert [entry.settings["learning_rate"] for entry in entries_of(ledger)] == [5e-3, 5e-3, 1e-4]
