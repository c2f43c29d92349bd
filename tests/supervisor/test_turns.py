"""Workspaces that take turns on one GPU: supervisors as they are, with a made-up clock and made-up trainers.

All of them are in this process, where a lease excludes others as it does between processes; `test_leases.py` has those.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

from nightschool import leases
from nightschool.errors import BusyError, StorageError
from nightschool.leases import Holder, Lease
from nightschool.supervisor import turns
from nightschool.supervisor.turns import WORD, Turns

NAME = "GPU-1"
TICK = 0.5
START, LOAD, SAVE = 4.0, 10.0, 1.0
"""Seconds until a trainer takes the lease, until it trains, and from being asked to stop to its end."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    return tmp_path / "leases"


@dataclass
class Trainer:
    """What a trainer process is in the course of time."""

    place: Place
    lease: Lease | None
    began: float
    phase: str | None = None
    stop_at: float | None = None
    ended: bool = False

    def live(self, now: float) -> None:
        place, age = self.place, now - self.began
        if self.phase is None and age >= START:
            try:
                if self.lease is not None:
                    self.lease.acquire()
            except BusyError:
                place.refused += 1
                self.ended = True
                return
            self.phase = "loading"
        elif self.phase == "loading" and age >= START + LOAD:
            self.phase = "training" if place.left else "waiting"
        elif self.phase == "training":
            place.done += TICK
            if place.done >= place.left[0]:
                place.world.learned.append(place.name)
                place.left.pop(0)
                place.entry += 1
                place.done = 0.0
                self.phase = "training" if place.left else "waiting"
        elif self.phase == "waiting" and place.left:
            self.phase = "training"
        if self.stop_at is not None and now >= self.stop_at:
            self.die()

    def die(self) -> None:
        self.ended = True
        if self.lease is not None:
            self.lease.release()


@dataclass
class Place:
    """A workspace with its supervisor and its trainer."""

    world: World
    name: str
    left: list[float]
    lease: str | None = NAME
    trainer: Trainer | None = None
    entry: int = 0
    done: float = 0.0
    refused: int = 0
    startable: bool = True
    rest: tuple[str, str] | None = None
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.world.folder / self.name
        self.turns = Turns(self.lease, self.folder, self.world.clock)
        self.world.places.append(self)

    @property
    def on_gpu(self) -> bool:
        return self.trainer is not None and not self.trainer.ended and self.trainer.phase is not None

    def tick(self, now: float) -> None:
        if self.trainer is not None:
            if not self.trainer.ended:
                self.trainer.live(now)
            if self.trainer.ended:
                self.trainer = None
        phase = self.trainer.phase if self.trainer else None
        entry = self.entry if phase == "training" else None
        self.rest = self.turns.look(self.trainer is not None, phase, entry, bool(self.left))
        if self.trainer is not None:
            if self.rest is not None and self.trainer.stop_at is None:
                self.trainer.stop_at = now + SAVE
        elif self.rest is None and self.left and self.startable:
            lease = None if self.lease is None else Lease(self.lease, self.folder)
            self.trainer = Trainer(self, lease, now)


class World:
    """Places around one GPU. `law` is broken by `tick` where two are on it at once."""

    def __init__(self, folder: Path, seed: int | None = None) -> None:
        self.folder = folder
        self.now = 1000.0
        self.places: list[Place] = []
        self.learned: list[str] = []
        self.most = 0
        self.random = None if seed is None else random.Random(seed)

    def clock(self) -> float:
        return self.now

    def tick(self) -> None:
        self.now += TICK
        order = list(self.places)
        if self.random is not None:
            self.random.shuffle(order)
        for place in order:
            place.tick(self.now)
            self.most = max(self.most, sum(one.on_gpu for one in self.places))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.tick()

    def until(self, what: str, seconds: float = 1e5) -> float:
        """Tick until the place `what` is on the GPU; how long that took."""
        begin = self.now
        place = next(one for one in self.places if one.name == what)
        while not place.on_gpu:
            self.tick()
            assert self.now < begin + seconds, f"{what} waited in vain: {place.rest}"
        return self.now - begin


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_two_workspaces_take_turns_file_by_file(world: World) -> None:
    a, b = Place(world, "a", [100.0] * 5), Place(world, "b", [150.0] * 5)
    world.until("a")
    assert b.rest == (WORD, f"the workspace {a.folder} (process {os.getpid()}) has it")
    world.run(3000)
    assert "".join(world.learned) in ("ababababab", "abababababa"[:10])
    assert world.most == 1
    assert a.refused + b.refused == 0, "nobody starts a trainer that finds the GPU taken"


def test_control_without_a_lease_both_are_on_the_gpu_at_once(world: World) -> None:
    places = Place(world, "a", [100.0] * 5, lease=None), Place(world, "b", [150.0] * 5, lease=None)
    world.run(1000)
    assert world.most == 2
    assert not any(place.rest for place in places)
    assert not (world.folder / "leases").exists()


def test_control_without_after_you_the_one_who_lets_it_go_takes_it_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "after_you", lambda since_released, other_had_it: False)
    Place(world, "a", [100.0] * 5)
    Place(world, "b", [150.0] * 5)
    world.run(600)
    assert "b" not in world.learned


def test_the_reasons_are_told_in_their_order(world: World) -> None:
    a, b = Place(world, "a", [100.0] * 5), Place(world, "b", [150.0])
    told: list[str] = []
    while "b" not in world.learned:
        world.tick()
        if a.rest and a.rest[1] not in told:
            told.append(a.rest[1])
    other = f"the workspace {b.folder}"
    assert told == [
        f"{other} comes first now: a file has ended here, after 2 min of training",
        f"{other} (process {os.getpid()}) waited for it longer, and comes first",
        f"{other} (process {os.getpid()}) has it",
    ]


def test_short_files_share_a_turn_and_a_long_one_is_not_cut(world: World) -> None:
    Place(world, "a", [5.0] * 40)
    Place(world, "b", [500.0] * 4)
    world.run(1200)
    blocks = [(name, len(list(group))) for name, group in groupby(world.learned)]
    assert blocks[0][0] == "a"
    assert blocks[0][1] >= leases.LEAST_SECONDS / 5
    assert all(count == 1 for name, count in blocks if name == "b")
    assert world.most == 1


def test_an_idle_trainer_lets_it_go_at_once(world: World) -> None:
    a, b = Place(world, "a", [20.0]), Place(world, "b", [])
    world.run(100)
    assert a.on_gpu
    assert not a.left
    world.run(1000)
    assert a.on_gpu, "while nobody waits it may stay"
    b.left.append(20.0)
    assert world.until("b") <= SAVE + START + 2 * turns.LOOK_SECONDS + 2 * TICK
    assert a.rest is None, "without work it waits for nothing"


def test_a_killed_holder_frees_it_at_once_for_the_other(world: World) -> None:
    a, b = Place(world, "a", [100.0] * 3), Place(world, "b", [100.0] * 3)
    world.until("a")
    world.run(30)
    assert a.trainer is not None
    a.trainer.die()
    assert world.until("b") <= START + turns.LOOK_SECONDS + 2 * TICK
    world.run(1)
    assert a.rest == (WORD, f"the workspace {b.folder} (process {os.getpid()}) has it")


def test_who_is_first_and_does_not_come_is_waited_for_a_minute(world: World) -> None:
    b = Place(world, "b", [100.0], startable=False)
    world.tick()
    a = Place(world, "a", [100.0])
    world.run(10)
    assert a.rest == (WORD, f"the workspace {b.folder} (process {os.getpid()}) waited for it longer, and comes first")
    waited = 10 + world.until("a")
    assert leases.AFTER_YOU_SECONDS <= waited <= leases.AFTER_YOU_SECONDS + START + 2


@pytest.mark.parametrize("seed", range(4))
def test_law_never_two_at_once_and_nobody_starves(world: World, seed: int) -> None:
    chance = random.Random(seed)
    world.random = chance
    names = "abc"
    for name in names:
        Place(world, name, [chance.choice((1.0, 10.0, 70.0, 200.0)) for _ in range(8)])
    kills = 0
    while any(place.left for place in world.places) and world.now < 30_000:
        world.tick()
        if chance.random() < 0.004:
            victim = chance.choice(world.places)
            if victim.trainer is not None and not victim.trainer.ended:
                victim.trainer.die()
                kills += 1
    assert world.most == 1
    assert kills
    assert sorted(world.learned) == sorted(names * 8), "everybody comes to the end"


def test_three_go_round(world: World) -> None:
    for name in "abc":
        Place(world, name, [100.0] * 4)
    while len(world.learned) < 12 and world.now < 5000:
        world.tick()
    assert "".join(world.learned) == "abc" * 4


def test_a_trainer_that_comes_too_late_is_ended_and_waits(world: World) -> None:
    mine = Turns(NAME, world.folder / "mine", world.clock)
    assert mine.look(False, None, None, True) is None
    other = Lease(NAME, world.folder / "other")
    other.acquire()
    world.now += 1
    has_it = (WORD, f"the workspace {world.folder / 'other'} (process {os.getpid()}) has it")
    assert mine.look(True, None, None, True) == has_it
    world.now += 1
    assert mine.look(False, None, None, True) == has_it
    other.release()
    world.now += 1
    assert mine.look(False, None, None, True) is None
    mine.end()
    assert leases.queue(NAME) == []


def test_who_must_let_it_go_must_until_the_trainer_has_ended(world: World) -> None:
    mine, other = Turns(NAME, world.folder / "mine", world.clock), leases.Waiting(NAME, world.folder / "other")
    lease = Lease(NAME, world.folder / "mine")
    lease.acquire()
    other.acquire()
    rests = []
    for entry in (3, 3, 4, 4, 5):
        world.now += leases.LEAST_SECONDS
        rests.append(mine.look(True, "training", entry, True))
    assert [rest is None for rest in rests] == [True, True, False, False, False]
    assert len(set(rests[2:])) == 1
    other.release()
    world.now += 1
    assert mine.look(True, "training", 5, True) == rests[2], "it has been asked to stop, and cannot be asked back"
    lease.release()
    world.now += 1
    assert mine.look(False, None, None, True) is None
    mine.end()


def test_a_lease_that_somebody_removed_is_taken_anew(world: World, folder: Path) -> None:
    a = Place(world, "a", [1000.0])
    world.until("a")
    world.run(30)
    assert a.rest is None
    (folder / f"{NAME}.lock").unlink()
    world.run(turns.LOST_SECONDS - 1)
    assert a.rest is None, "it may just have ended"
    world.run(2)
    assert a.rest == (WORD, "the trainer no longer holds the lease, and takes it anew")
    world.run(SAVE + START + LOAD + 2)
    assert leases.holder(NAME) is not None
    assert a.rest is None


def test_a_lease_without_a_word_of_who_has_it_is_no_lost_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev/shm is full, the holder cannot write who it is; the lock holds all the same."""
    real = leases.holder

    def nameless(name: str) -> Holder | None:
        found = real(name)
        return None if found is None else Holder(found.pid, None)

    monkeypatch.setattr(leases, "holder", nameless)
    place = Place(world, "a", [100.0, 100.0, 100.0])
    world.until("a")
    trainer = place.trainer
    world.run(80)
    assert place.trainer is trainer, "it was not ended for a lease that it has"
    Place(world, "b", [100.0])
    world.run(1000)
    assert sorted(world.learned) == ["a", "a", "a", "b"]
    assert world.most == 1


def test_without_work_no_sign_is_left_and_with_work_one(world: World) -> None:
    mine = Turns(NAME, world.folder / "mine", world.clock)
    for wants in (False, True, False, True):
        assert mine.look(False, None, None, wants) is None
        assert len(leases.queue(NAME)) == wants, "also within half a second"
    mine.end()
    assert leases.queue(NAME) == []


def test_it_looks_twice_a_second_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    ask = leases.holder
    monkeypatch.setattr(leases, "holder", lambda name: (looks.append(world.now), ask(name))[1])
    mine = Turns(NAME, world.folder / "mine", world.clock)
    for _ in range(100):
        world.now += 0.0625
        mine.look(False, None, None, True)
    assert len(looks) == 13
    mine.end()


def test_a_folder_that_cannot_be_used_is_for_the_trainer_to_tell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Turns(NAME, world.folder / "mine", world.clock)
    monkeypatch.setenv(leases.FOLDER, "/proc/none")
    assert mine.look(False, None, None, True) is None

    def refused(name: str) -> None:
        raise StorageError("no")

    monkeypatch.setattr(leases, "holder", refused)
    world.now += 1
    assert mine.look(False, None, None, True) is None
    mine.end()


def test_a_real_holder_that_is_killed_is_waited_for_no_more(world: World) -> None:
    script = (
        "import sys, time; from pathlib import Path; from nightschool.leases import Lease; "
        f"Lease({NAME!r}, Path('/other')).acquire(); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        mine = Turns(NAME, world.folder / "mine", world.clock)
        assert mine.look(False, None, None, True) == (WORD, f"the workspace /other (process {process.pid}) has it")
        process.send_signal(signal.SIGKILL)
        process.wait()
        world.now += turns.LOOK_SECONDS
        assert mine.look(False, None, None, True) is None
        mine.end()
    finally:
        process.kill()
        process.communicate()
