"""A trainer that is asked for a checkpoint saves at its next step, answers when it is in place, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.snapshots import asking
from nightschool.training import recorder
from nightschool.training.trainer import Trainer
from tests.training import rig


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


def test_d5_asked_in_the_middle_of_a_file_it_saves_there_and_the_weights_stay_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "INTERVAL_SECONDS", 0.01)
    undisturbed = rig.workspace(tmp_path / "undisturbed", base, checkpoints={"save_steps": 1000})
    asked = rig.workspace(tmp_path / "asked", base, checkpoints={"save_steps": 1000})
    for layout in (undisturbed, asked):
        rig.add(layout, "a", rig.sequences(60, 1))
    rig.run(undisturbed)
    word, seen, answered_at = "", [], 0

    def on_step(trainer: Trainer) -> None:
        nonlocal word, answered_at
        if trainer.loop.done == 4:
            with Ledger.open(asked.ledger) as ledger:
                word = asking.ask(ledger)
            while trainer.recorder.asked != word:
                trainer.recorder.tell()
        if trainer.loop.done == 6:
            trainer.saver.wait()
        if word and trainer.progress.save_answered == word and not answered_at:
            answered_at = trainer.loop.done
            seen.extend(step for step, _ in asked.checkpoints())

    rig.run(asked, on_step=on_step)
    assert seen == [4]
    assert 4 < answered_at <= 7
    assert rig.outcome(asked) == rig.outcome(undisturbed)
    with Ledger.open(asked.ledger) as ledger:
        assert asking.answered(ledger.machine.get("trainer"), word)


def test_a_trainer_that_waits_answers_at_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "INTERVAL_SECONDS", 0.01)
    layout = rig.workspace(tmp_path / "ws", base)
    rig.add(layout, "a", rig.sequences(8, 1))
    with Ledger.open(layout.ledger) as ledger:
        word = ""

        def on_start(trainer: Trainer) -> None:
            real = trainer.stop.wait

            def wait(seconds: float) -> bool:
                nonlocal word
                word = word or asking.ask(ledger)
                if asking.answered(ledger.machine.get("trainer"), word):
                    trainer.stop.set("it has answered")
                return real(0.01)

            trainer.stop.wait = wait

        rig.run(layout, on_start=on_start, until_idle=False)
        assert [row.step for row in ledger.checkpoints.listing()] == [2]
