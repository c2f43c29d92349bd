"""All files of a workspace learned again, in the same order, by another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightschool import Workspace, durable
from nightschool.adoption import adopt
from nightschool.errors import BusyError, DataError, SettingsError
from nightschool.intake.worker import Worker
from nightschool.ledger import Ledger
from nightschool.record import entries_of, read_record
from nightschool.settings import load_settings
from nightschool.workspace import Layout
from tests import tiny
from tests.training import rig
from tests.training.theirs import tree

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 2, "learning_rate": 5e-3, "warmup_steps": 2},
    "data": {"max_length": 64, "holdout": 0}, "numerics": {"threads": 1}, "inbox": {"gather_rows": 0},
}  # fmt: skip
TODAY = "2026-11-22"


def work(layout: Layout, *, train: bool = True) -> None:
    """Take in, prepare and learn all that waits."""
    waiting = True
    while waiting:
        with Ledger.open(layout.ledger) as ledger:
            worker = Worker(layout, ledger, load_settings(layout.settings_file), today=lambda: TODAY)
            while worker.step():
                pass
            waiting = train and ledger.files.next_to_train() is not None
        if waiting:
            rig.run(layout)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Layout:
    """Learned: late, early, twice; waiting: two; and one each rejected, duplicate, forgotten and not taken yet."""
    root = tmp_path_factory.mktemp("old")
    room = Workspace.create(root / "ws", str(base), **SETTINGS)  # pyright: ignore[reportArgumentType]
    data = {name: tiny.rows(root / f"{name}.jsonl", 4, seed) for seed, name in enumerate(NAMES)}
    room.add(data["early"], priority="low")
    room.add(data["late"], priority="high", epochs=2)
    room.add(data["forgotten"])
    (root / "bad.jsonl").write_text("no json\n")
    room.add(root / "bad.jsonl")
    (root / "asked.csv").write_text("ask,answer\nwhy,because\nhow,so\n")
    (root / "asked.csv.toml").write_text('[columns]\nprompt = "ask"\ncompletion = "answer"\n')
    room.add(root / "asked.csv", name="asked.csv")
    work(room.layout)
    room.add(data["waits"], priority="low")
    room.add(data["first"], priority="high", epochs=3)
    room.add(data["early"], name="copy.jsonl")
    work(room.layout, train=False)
    room.add(data["unseen"])
    with room.ledger() as ledger:
        (number,) = [row.id for row in ledger.files.each() if row.name == "forgotten.jsonl"]
        ledger.files.set_state(number, "forgotten")
    return room.layout


NAMES = ("early", "late", "forgotten", "waits", "first", "unseen")
QUEUED = ["late.jsonl", "asked.csv", "early.jsonl", "first.jsonl", "waits.jsonl"]


def queued(layout: Layout) -> list[tuple[str, dict[str, Any], str]]:
    with Ledger.open(layout.ledger) as ledger:
        return [(row.name, row.options, row.state) for row in ledger.files.queue()]


def test_every_file_waits_in_the_order_in_which_it_was_learned(old: Layout, tmp_path: Path) -> None:
    with Ledger.open(old.ledger) as ledger:
        learned = [ledger.called(entry.file_ids) for entry in entries_of(ledger)]
    assert learned == ["late.jsonl", "forgotten.jsonl", "asked.csv", "early.jsonl"]
    before, said = tree(old.root), list[str]()
    layout = adopt(tmp_path / "new", old.root, None, {}, said.append).layout
    assert tree(old.root) == before
    found = queued(layout)
    assert [name for name, _, _ in found] == QUEUED
    assert {state for _, _, state in found} == {"archived"}
    options = {name: given for name, given, _ in found}
    assert (options["late.jsonl"], options["first.jsonl"], options["early.jsonl"]) == ({"epochs": 2}, {"epochs": 3}, {})
    assert options["asked.csv"] == {"columns": {"prompt": "ask", "completion": "answer"}}
    text = "\n".join(said)
    for words in ("1 file, rejected", "1 file, the same bytes", "1 file, forgotten", "1 file, not archived yet"):
        assert f"Not queued: {words}" in text
    with Ledger.open(old.ledger) as ledger, Ledger.open(layout.ledger) as mine:
        theirs = {row.name: row for row in ledger.files.each() if row.state not in ("duplicate",)}
        for row in mine.files.each():
            assert (row.sha256, row.archive, row.bytes) == tuple(
                getattr(theirs[row.name], key) for key in ("sha256", "archive", "bytes")
            )
            place = layout.root / str(row.archive)
            assert place.read_bytes() == (old.root / str(row.archive)).read_bytes()
            # A copy, not a second name of the same bytes.
            assert place.stat().st_nlink == 1
            assert place.stat().st_ino != (old.root / str(row.archive)).stat().st_ino
    settings, theirs_too = load_settings(layout.settings_file), load_settings(old.settings_file)
    assert settings == theirs_too
    assert list(layout.tmp.iterdir()) == []


def test_it_becomes_the_run_that_had_the_files_in_that_order(old: Layout, base: Path, tmp_path: Path) -> None:
    layout = Workspace.adopt(tmp_path / "again", old.root).layout
    work(layout)
    fresh = Workspace.create(tmp_path / "fresh", str(base), **SETTINGS)  # pyright: ignore[reportArgumentType]
    with Ledger.open(layout.ledger) as ledger:
        rows = list(ledger.files.each())
    for row in rows:
        place = layout.root / str(row.archive)
        fresh.add(place, name=row.name, epochs=row.options.get("epochs"), columns=row.options.get("columns"))
    work(fresh.layout)
    assert rig.outcome(layout) == rig.outcome(fresh.layout)
    step, _ = rig.final(layout)
    assert read_record(layout.checkpoint(step)).root["adopted"] is None
    # Control: without the forgotten file it is another run than the old one.
    assert rig.outcome(layout).lineage != rig.outcome(old).lineage


def test_another_base_and_another_method(old: Layout, tmp_path: Path) -> None:
    other = rig.make_base(tmp_path / "gpt2", "gpt2")
    made = Workspace.adopt(tmp_path / "new", old.root, str(other), training={"method": "full"})
    settings = made.settings
    assert (settings.model.name, settings.training.method) == (str(other), "full")
    assert (settings.training.learning_rate, settings.data.max_length) == (5e-3, 64)
    with pytest.raises(SettingsError):
        Workspace.adopt(tmp_path / "wrong", old.root, None, training={"learning_rat": 1.0})
    assert not (tmp_path / "wrong").exists()


def test_a_run_that_came_with_warm_moments_is_begun_anew_with_a_warm_up(tmp_path: Path, base: Path) -> None:
    warm = {**SETTINGS, "training": {"lr_scheduler_type": "constant", "warmup_steps": 0}}
    room = Workspace.create(tmp_path / "ws", str(base), **warm)
    assert Workspace.adopt(tmp_path / "as-it-was", room.root).settings.training.warmup_steps == 0
    with room.ledger() as ledger:
        ledger.machine.set("root", {"adopted": {"weights": "w", "optimizer": "o", "step": 3}})
        ledger.files.taken_over("(taken over from out/checkpoint-3)", "d", 3)
    said: list[str] = []
    training = Workspace.adopt(tmp_path / "new", room.root, say=said.append).settings.training
    assert (training.lr_scheduler_type, training.warmup_steps) == ("constant_with_warmup", 100)
    assert "- Not queued: 1 file, without data: what that run itself had taken over." in said
    kept = Workspace.adopt(tmp_path / "own", room.root, training={"warmup_steps": 0}).settings.training
    assert (kept.lr_scheduler_type, kept.warmup_steps) == ("constant", 0)


def test_an_archive_that_was_changed_is_not_learned_from(old: Layout, tmp_path: Path) -> None:
    with Ledger.open(old.ledger) as ledger:
        place = next(old.root / str(row.archive) for row in ledger.files.each() if row.name == "late.jsonl")
    content = place.read_bytes()
    try:
        place.write_bytes(content.replace(b"e", b"E", 1))
        with pytest.raises(DataError, match="not what was archived"):
            adopt(tmp_path / "new", old.root, None, {})
        place.unlink()
        with pytest.raises(DataError, match="missing"):
            adopt(tmp_path / "new", old.root, None, {})
    finally:
        place.write_bytes(content)
    assert not (tmp_path / "new").exists()
    assert [name for name, _, _ in queued(adopt(tmp_path / "new", old.root, None, {}).layout)] == QUEUED


def test_b9_a_workspace_that_is_at_work_is_left_alone(old: Layout, tmp_path: Path) -> None:
    with durable.Lock(old.supervisor_lock, "a test"), pytest.raises(BusyError, match="Stop it first"):
        adopt(tmp_path / "new", old.root, None, {})
    assert not (tmp_path / "new").exists()


def test_two_inits_of_one_folder(old: Layout, tmp_path: Path) -> None:
    """The second finds the first at work, and does not take its half-made parts away."""
    root = tmp_path / "new"

    def say(text: str) -> None:
        if text.startswith("Copying"):
            with pytest.raises(BusyError, match="Another"):
                adopt(root, old.root, None, {})

    adopt(root, old.root, None, {}, say)
    assert len(queued(Layout(root))) == len(QUEUED)
