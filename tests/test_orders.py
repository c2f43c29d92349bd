"""Commands at any step, in any order, with kills in between: every step of every file is done once, and none is lost.

A trainer without a model: what it "trains" is written down, its checkpoints are numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightschool import curriculum, ordering, queueing
from nightschool.curriculum import Entry, Part
from nightschool.ledger import HIGH, NOW, Arrival, FileRow, Ledger
from nightschool.ledger.files import REST
from nightschool.record import entries_of
from nightschool.settings import canonical
from nightschool.training import beginning
from nightschool.training.orders import Orders, settle

RECIPE = canonical({"data": {}, "train_batch_size": 1, "epochs": 1, "carry_optimizer": True})


def new(_layout: Any, _ledger: Ledger, _settings: Any, _root: Any, head: FileRow) -> beginning.Chosen | None:
    """What `beginning._new` does, without tokens: a file is as many sequences as its size says."""
    if head.state != "ready":
        return None
    part = Part(head.id, f"digest-{head.id}", int(head.sequences or 0))
    return beginning.Chosen([head], curriculum.whole([part], RECIPE))


class Fake:
    """A life of a trainer from step `done` on."""

    def __init__(self, ledger: Ledger, done: int) -> None:
        self.ledger, self.layout, self.settings, self.fixed, self.root = ledger, None, None, None, {}
        self.loop = SimpleNamespace(entries=entries_of(ledger), done=done, digests=lambda: "state")
        self.loop.next_place = lambda: curriculum.place(self.loop.entries, self.loop.done)
        self.recorder = SimpleNamespace(told={}, urgent=False, look=self.look)
        self.boundary: Any = None
        self.new_entry: Entry | None = None
        self.holdout = SimpleNamespace(after=lambda at, entry: None)
        self.saved = done
        self.orders = Orders(self)  # type: ignore[arg-type]
        for file, end in curriculum.ends(self.loop.entries).items():  # as `resume.repair`
            state = queueing.state_of(ledger.files.get(file), end, done)
            if ledger.files.get(file).state != "set_aside" or state == "training":
                ledger.files.set_state(file, state, end.why if state == "set_aside" else None)

    def look(self) -> None:
        self.recorder.told = self.ledger.machine.several((ordering.ORDERS,))
        head = self.ledger.files.next_to_train()
        self.recorder.urgent = head is not None and head.priority == NOW

    def save_now(self, why: str) -> None:
        self.saved = self.loop.done

    def step(self) -> bool:
        """Obey, and take a step; False where there is none."""
        self.look()
        self.orders.obey()
        place = self.loop.next_place()
        if place is None:
            begun = beginning.begin(None, self.ledger, None, {}, self.loop.entries, self.loop.done, None)  # type: ignore[arg-type]
            if begun is None:
                return False
            self.loop.entries[:], self.new_entry = begun
            place = self.loop.next_place()
        entry = self.loop.entries[place.index]
        self.loop.done += 1
        if place.local + 1 == entry.stop:
            settle(self.ledger, self.loop.entries, place.index)
            ready = [row.id for row in self.ledger.files.each("trained")]
            self.ledger.files.learned(ready)
        return True


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(beginning, "_new", new)
    monkeypatch.setattr(beginning, "_settings_now", lambda _layout: None)
    with Ledger.create(tmp_path / "ledger.db") as made:
        yield made


def drop(ledger: Ledger, name: str, steps: int, priority: int = 1) -> int:
    (id,) = ledger.files.arrive([Arrival(name, f"/dropped/{name}", priority)])
    ledger.files.archived(id, f"{id:064}", 1, f"archive/{name}")
    ledger.files.prepared_as(
        id, name, shape="text", rows_good=9, rows_bad=0, tokens=9, label_tokens=9, sequences=steps,
        data_digest=f"digest-{id}",
    )  # fmt: skip
    return id


def disturb(fake: Fake, chance: random.Random, number: int) -> None:
    """One command, by chance."""
    ledger, place = fake.ledger, fake.loop.next_place()
    waiting = [row.id for row in ledger.files.queue()]
    aside = [row for row in ledger.files.each("set_aside")]
    act = chance.choice(("drop", "now", "skip", "skip", "aside", "put back", "urgent", "remove", "move", "late"))
    if act == "drop":
        drop(ledger, f"{act}{number}", chance.randint(1, 6), chance.choice((HIGH, 1, 2)))
    elif act == "now":
        drop(ledger, f"{act}{number}", chance.randint(1, 4), NOW)
    elif act in ("skip", "aside") and place is not None:
        file = fake.loop.entries[place.index].file_ids[0]
        ordering.give(ledger, "skip", file, aside=act == "aside")
    elif act == "put back" and aside:
        queueing.put_back(ledger, [chance.choice(aside)])
    elif act == "urgent" and waiting:
        ledger.line.priority(chance.choice(waiting), NOW)
    elif act == "remove" and waiting and chance.random() < 0.3:
        queueing.remove(ledger, [ledger.files.get(chance.choice(waiting))])
    elif act == "move" and waiting:
        ledger.line.first(chance.choice(waiting))
    elif act == "late":
        ordering.give(ledger, "skip", 1)


def make_ready(ledger: Ledger) -> None:
    """What intake does with files that were put back."""
    for row in list(ledger.files.each("archived")):
        ledger.files.set_state(row.id, "ready")


@pytest.mark.parametrize("seed", range(12))
def test_any_commands_and_kills_train_every_step_once(ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(4):
        drop(ledger, f"file{number}", chance.randint(2, 9))
    fake = Fake(ledger, 0)
    for number in range(150):
        if chance.random() < 0.25:
            disturb(fake, chance, number)
        make_ready(ledger)
        before = curriculum.cut(fake.loop.entries, fake.loop.done)
        fake.step()
        assert curriculum.cut(fake.loop.entries, curriculum.total_steps(before)) == before, "the past stays"
        assert entries_of(ledger) == fake.loop.entries
        if chance.random() < 0.15:
            fake.saved = fake.loop.done
        if chance.random() < 0.1:
            done = fake.saved
            fake = Fake(ledger, done)
            fake.saved = done
    for row in list(ledger.files.each("set_aside")):
        queueing.put_back(ledger, [row])
    make_ready(ledger)
    while fake.step():
        make_ready(ledger)
    assert {row.state for row in ledger.files.each()} == {"learned"}
    trained: dict[int, list[int]] = {}
    for entry in fake.loop.entries:
        trained.setdefault(entry.file_ids[0], []).extend(range(entry.start, entry.stop))
    assert trained == {row.id: list(range(int(row.sequences or 0))) for row in ledger.files.each()}
    assert ledger.machine.get(ordering.ORDERS) is None, "every command was answered"
    assert not any(row.options.get(REST) for row in ledger.files.each())


def test_control_a_rest_that_is_not_noted_is_lost(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state alone does not tell: a kill brings the file back into training, and to its early end once more."""

    def forgetful(ledger: Ledger, ids: Any, recipe: str) -> None:
        for id in ids:
            ledger.files.set_state(id, "skipped")
        ledger.line.last(ids)

    monkeypatch.setattr(queueing, "skip", forgetful)
    first = drop(ledger, "a", 6)
    drop(ledger, "b", 2)
    fake = Fake(ledger, 0)
    for _ in range(3):
        fake.step()
    ordering.give(ledger, "skip", first)
    fake.step()
    fake = Fake(ledger, 1)
    while fake.step():
        pass
    assert ledger.files.get(first).state == "set_aside"


def test_a_skipped_file_is_not_urgent_any_more(ledger: Ledger) -> None:
    first, other = drop(ledger, "a", 6, NOW), drop(ledger, "b", 2)
    fake = Fake(ledger, 0)
    fake.step()
    ordering.give(ledger, "skip", first)
    while fake.step():
        pass
    assert [(e.file_ids[0], e.steps) for e in fake.loop.entries] == [(first, 1), (other, 2), (first, 5)]


def test_a_file_that_is_skipped_before_its_first_step_waits_as_a_whole(ledger: Ledger) -> None:
    first, other = drop(ledger, "a", 3), drop(ledger, "b", 2)
    fake = Fake(ledger, 0)
    fake.step()
    fake = Fake(ledger, 0)  # killed before anything was saved
    ordering.give(ledger, "skip", first)
    fake.step()
    assert ledger.files.get(first).state == "ready"
    while fake.step():
        pass
    assert [(e.file_ids[0], e.start, e.stop) for e in fake.loop.entries] == [(other, 0, 2), (first, 0, 3)]


def test_an_unknown_command_is_answered_and_goes(ledger: Ledger) -> None:
    first = drop(ledger, "a", 3)
    fake = Fake(ledger, 0)
    fake.step()
    ordering.give(ledger, "dance", first)
    fake.step()
    assert ledger.machine.get(ordering.ORDERS) is None
    assert [event.text for event in ledger.events.of_kind("answered")] == [
        "This version does not know the command 'dance'."
    ]


def test_skip_needs_a_file_in_training(ledger: Ledger) -> None:
    with pytest.raises(ordering.DataError, match="No file is in training"):
        ordering.skip(ledger)
