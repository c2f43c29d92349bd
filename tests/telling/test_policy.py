"""What is told and when: pure, with the clock passed in."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from nightschool.ledger import EventRow
from nightschool.telling import policy
from nightschool.telling.message import MOST_LINES, Draft
from nightschool.telling.policy import GAP, GATHER, PATIENCE, Memory

ALL = ("learned", "rejected", "morning", "trouble")


class Owner:
    """Gets what the policy sends, with the time; every round the memory goes through its form in the ledger."""

    def __init__(self, on: tuple[str, ...] = ALL) -> None:
        self.on = on
        self.now = 1_000_000.0
        self.memory = Memory(0)
        self.got: list[tuple[float, Draft]] = []
        self.state: tuple[str, str] = ("idle", "")
        self.copy_pending = True
        self.number = 0

    def event(self, kind: str, text: str = "", **fields: Any) -> None:
        self.number += 1
        policy.take(self.memory, EventRow(self.number, "", kind, text, fields), self.on, self.now)

    def learned(self, name: str) -> None:
        self.event("file-learned", f"Learned {name}.", name=name, step=1)

    def wait(self, seconds: float, every: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += every
            self.round()

    def round(self, ending: bool = False) -> None:
        policy.look(self.memory, *self.state, self.copy_pending, self.now)
        for draft in policy.compose(self.memory, self.on, self.now, ending=ending):
            self.got.append((self.now, draft))
        self.memory = Memory.from_row(json.loads(json.dumps(self.memory.to_row())))

    @property
    def kinds(self) -> list[str]:
        return [draft.kind for _, draft in self.got]


@pytest.fixture
def owner() -> Owner:
    return Owner()


def test_one_file_is_told_with_its_name(owner: Owner) -> None:
    owner.learned("chats.jsonl")
    owner.wait(60)
    ((_, draft),) = owner.got
    assert (draft.kind, draft.title, draft.fields) == (
        "learned", "learned chats.jsonl", {"count": 1, "files": ["chats.jsonl"]},
    )  # fmt: skip


def test_a_rejected_file_is_told_with_the_reason(owner: Owner) -> None:
    owner.event("file-rejected", "a.jsonl: line 3 is no JSON", file=1)
    owner.wait(60)
    ((_, draft),) = owner.got
    assert "a.jsonl: line 3 is no JSON" in draft.text


def test_many_at_once_are_one_message_and_the_next_comes_ten_minutes_later(owner: Owner) -> None:
    for number in range(1000):
        owner.learned(f"{number}.jsonl")
        owner.wait(1)
    owner.wait(2 * GAP)
    assert [draft.fields["count"] for _, draft in owner.got] == [15, 600, 385]
    times = [at for at, _ in owner.got]
    assert min(later - sooner for sooner, later in itertools.pairwise(times)) >= GAP
    assert len(owner.got[1][1].fields["files"]) == MOST_LINES
    assert f"and {600 - MOST_LINES} more" in owner.got[1][1].text


def test_control_without_the_gap_there_would_be_many(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "GAP", 0.0)
    for number in range(1000):
        owner.learned(f"{number}.jsonl")
        owner.wait(1)
    assert len(owner.got) > 50


def test_kinds_do_not_hold_each_other_up(owner: Owner) -> None:
    owner.learned("a")
    owner.event("file-rejected", "b: empty")
    owner.wait(GATHER + 1)
    assert sorted(owner.kinds) == ["learned", "rejected"]


def test_a_clock_that_was_set_back_holds_nothing_up(owner: Owner) -> None:
    owner.learned("a")
    owner.wait(60)
    owner.now -= 86_400
    owner.learned("b")
    owner.wait(60)
    assert len(owner.got) == 2


@pytest.mark.parametrize("kind", ALL[:2])
def test_what_is_not_asked_for_is_not_told(kind: str) -> None:
    owner = Owner(tuple(one for one in ALL if one != kind))
    owner.learned("a")
    owner.event("file-rejected", "b: empty")
    owner.wait(60)
    assert kind not in owner.kinds
    assert len(owner.kinds) == 1


def test_failed_is_told_once_and_then_that_all_is_well(owner: Owner) -> None:
    owner.state = ("failed", "the base model is gone")
    owner.wait(3 * GAP)
    assert [(d.kind, d.text) for _, d in owner.got] == [("trouble", "failed: the base model is gone")]
    for word in ("starting", "preparing", "paused", "outside hours", "stopped"):
        owner.state = (word, "")
        owner.wait(GAP)
    assert owner.kinds == ["trouble"]
    owner.state = ("training", "a")
    owner.wait(60)
    assert owner.kinds == ["trouble", "well"]
    owner.wait(GAP * 3)
    assert owner.kinds == ["trouble", "well"]


@pytest.mark.parametrize("word", policy.WAITS)
def test_waiting_is_told_when_it_takes_long(owner: Owner, word: str) -> None:
    owner.state = (word, "12 GB are missing")
    owner.wait(PATIENCE - 2)
    assert owner.got == []
    owner.wait(GATHER + 4)
    assert owner.kinds == ["trouble"]
    assert owner.got[0][1].text == f"{word}: 12 GB are missing"


def test_control_a_short_wait_is_no_trouble(owner: Owner) -> None:
    for _ in range(20):
        owner.state = ("waiting for GPU", "another workspace has it")
        owner.wait(PATIENCE / 2, 5)
        owner.state = ("training", "a")
        owner.wait(60, 5)
    assert owner.got == []


def test_a_long_turn_of_another_workspace_is_no_trouble_and_counts_for_no_later_one() -> None:
    memory = Memory(0)
    for now in range(0, 20_000, 60):
        policy.look(memory, "waiting for GPU", "the workspace /b has it", False, float(now), turn=True)
    assert memory.troubles == {}
    policy.look(memory, "waiting for GPU", "the GPU cannot be used", False, 20_000.0)
    assert memory.troubles == {}
    policy.look(memory, "waiting for GPU", "the GPU cannot be used", False, 20_000.0 + PATIENCE)
    assert list(memory.troubles) == ["waiting"], "a control: a GPU that fails is"


def test_a_trainer_that_starts_and_crashes_over_and_over_is_trouble(owner: Owner) -> None:
    for _ in range(15):
        owner.state = ("restarting", "the trainer ended")
        owner.wait(30)
        owner.state = ("starting", "")
        owner.wait(30)
    assert owner.kinds == ["trouble"]


def test_waiting_does_not_go_on_while_the_machine_rests(owner: Owner) -> None:
    owner.state = ("waiting for GPU", "")
    owner.wait(PATIENCE / 2)
    owner.state = ("outside hours", "")
    owner.wait(PATIENCE * 10, 10)
    owner.state = ("waiting for GPU", "")
    owner.wait(PATIENCE / 2)
    assert owner.got == []


def test_a_snapshot_that_failed_and_one_after_it(owner: Owner) -> None:
    owner.event("snapshot-failed", "The snapshot for 2026-05-01 could not be taken: no room")
    owner.wait(60)
    owner.event("snapshot", "", name="2026-05-01", step=5)
    owner.wait(GAP)
    assert owner.kinds == ["trouble", "well"]
    assert "2026-05-01 could not be taken" in owner.got[0][1].text


def test_the_second_place_is_well_again_when_nothing_is_pending(owner: Owner) -> None:
    owner.event("copy-failed", "the disk is not there")
    owner.wait(GAP * 2)
    assert owner.kinds == ["trouble"]
    assert owner.got[0][1].text == "The second place is not up to date: the disk is not there"
    owner.copy_pending = False
    owner.wait(60)
    assert owner.kinds == ["trouble", "well"]


def test_all_is_well_only_when_nothing_is_left(owner: Owner) -> None:
    owner.event("copy-failed", "away")
    owner.state = ("failed", "no model")
    owner.wait(60)
    owner.state = ("idle", "")
    owner.wait(GAP * 2)
    assert owner.kinds == ["trouble"]
    owner.copy_pending = False
    owner.wait(60)
    assert owner.kinds == ["trouble", "well"]


def test_what_was_over_before_it_was_told_is_not_told(owner: Owner) -> None:
    owner.state = ("failed", "")
    owner.wait(GATHER / 2)
    owner.state = ("training", "")
    owner.wait(GAP * 2)
    assert owner.got == []


def test_trouble_that_comes_and_goes_is_not_told_each_time(owner: Owner) -> None:
    for _ in range(60):
        owner.state = ("failed", "again")
        owner.wait(30)
        owner.state = ("training", "")
        owner.wait(30)
    assert len(owner.got) <= 60 * 60 / GAP + 1
    times = [at for at, _ in owner.got]
    assert min(later - sooner for sooner, later in itertools.pairwise(times)) >= GAP


def test_a_file_set_aside_is_trouble_and_a_forgetting_is_not(owner: Owner) -> None:
    owner.event("cut", "Forgetting b.jsonl.", step=3, generation=1, set_aside=[])
    owner.event("cut", "Setting a.jsonl aside: the loss is no number.", step=3, generation=1, set_aside=[4])
    owner.wait(60)
    ((_, draft),) = owner.got
    assert draft.text == "Setting a.jsonl aside: the loss is no number."
    assert (draft.title, draft.fields["open"]) == ("had trouble, and goes on", [])


@pytest.mark.parametrize("kind", policy.INCIDENTS)
def test_other_incidents(owner: Owner, kind: str) -> None:
    owner.event(kind, "checkpoint-5 is damaged")
    owner.wait(60)
    assert owner.kinds == ["trouble"]


def test_at_the_end_nothing_is_held_back(owner: Owner) -> None:
    owner.learned("a")
    owner.wait(GATHER + 1)
    owner.learned("b")
    owner.state = ("failed", "no model")
    owner.round(ending=True)
    assert owner.kinds == ["learned", "learned", "trouble"]


def test_a_machine_that_starts_and_fails_over_and_over_tells_it_once_in_ten_minutes(owner: Owner) -> None:
    for _ in range(100):
        owner.state = ("idle", "")
        owner.wait(3)
        owner.state = ("failed", "no model")
        owner.round(ending=True)
    assert len(owner.got) == 1


def test_names_cannot_act_on_who_reads_them(owner: Owner) -> None:
    owner.learned("a\nTrouble: \x1b[2Jnone" + "x" * 10_000)
    owner.wait(60)
    ((_, draft),) = owner.got
    assert draft.text.startswith("Learned: a\\nTrouble: \\x1b[2J")
    assert len(draft.text) < 400
    assert "\n" not in draft.text


def test_without_trouble_wanted_none_is_kept_for_later() -> None:
    owner = Owner(("learned",))
    owner.state = ("failed", "no model")
    owner.event("checkpoint-damaged", "gone")
    owner.wait(60)
    owner.state = ("idle", "")
    owner.wait(60)
    assert owner.got == []
    assert owner.memory.held == {}
