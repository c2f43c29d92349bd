"""The part of the supervisor: over a real ledger, with restarts, and with targets that do not take anything."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightschool.errors import StorageError
from nightschool.ledger import Ledger, StepRow
from nightschool.settings import NotifySettings, parse_settings
from nightschool.settings.changes import Change, changes
from nightschool.telling import teller
from nightschool.telling.message import Message
from nightschool.telling.policy import GAP, GATHER
from nightschool.telling.sending import Sender, wait_for
from nightschool.telling.targets import SendError, Target
from nightschool.telling.teller import ROW, Teller
from nightschool.workspace import Layout
from tests.telling.servers import dead_port, server, silent

PASSWORD = "hunter2secret"
SETTINGS = NotifySettings(webhook=f"http://me:{PASSWORD}@127.0.0.1:1/")


class Away(Sender):
    """Never sends; what was offered is in `offered`."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.offered: list[Message] = []
        self.reached: list[str] = []

    def offer(self, message: Message) -> None:
        if message not in self.offered:
            self.offered.append(message)

    def arrived(self) -> list[str]:
        found, self.reached = self.reached, []
        return found


class World:
    """A workspace, its clock, and the teller of the machine that runs."""

    def __init__(self, layout: Layout, ledger: Ledger, settings: NotifySettings = SETTINGS) -> None:
        self.layout = layout
        self.ledger = ledger
        self.settings = settings
        self.at = datetime(2026, 5, 1, 12, tzinfo=UTC)
        self.state: tuple[str, str] = ("idle", "")
        self.senders: list[Any] = []
        self.start()

    def start(self, make: Callable[[Target], Sender] = Away) -> None:
        def made(target: Target) -> Sender:
            self.senders.append(make(target))
            return self.senders[-1]

        self.teller = Teller(
            self.layout, self.settings, self.ledger, lambda: self.at.timestamp(), lambda: self.at, made
        )
        self.wait(1)

    def wait(self, seconds: float, every: float = 1.0) -> None:
        end = self.at + timedelta(seconds=seconds)
        while self.at < end:
            self.at += timedelta(seconds=every)
            self.teller.tick(*self.state)

    def learned(self, name: str) -> None:
        self.ledger.events.add("file-learned", f"Learned {name}.", file=1, name=name, step=1)

    @property
    def told(self) -> list[str]:
        return [message.kind for message in self.senders[-1].offered]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    layout = Layout(tmp_path / "ws")
    layout.create()
    with Ledger.create(layout.ledger) as found:
        yield found


@pytest.fixture
def world(ledger: Ledger, tmp_path: Path) -> World:
    ledger.events.add("file-learned", "Learned long-ago.", name="long-ago")
    return World(Layout(tmp_path / "ws"), ledger)


def test_only_what_happens_from_the_start_on_is_told(world: World) -> None:
    world.learned("a.jsonl")
    world.wait(GATHER + 2)
    (message,) = world.senders[-1].offered
    assert (message.title, message.fields["files"]) == ("nightschool, ws: learned a.jsonl", ["a.jsonl"])
    assert message.workspace == str(world.layout.root)


def test_a_restart_neither_repeats_nor_loses(world: World) -> None:
    world.learned("a")
    world.wait(GATHER + 2)
    first = world.senders[-1].offered
    world.start()
    assert world.senders[-1].offered == first  # not arrived yet: the same message, under the same id
    world.senders[-1].reached = [first[0].id]
    world.wait(2)
    world.learned("b")
    world.wait(GATHER + 2)
    world.start()
    assert world.told == []
    world.learned("c")
    world.wait(GAP)
    ((_, b_and_c),) = [(0, message) for message in world.senders[-1].offered]
    assert b_and_c.fields["files"] == ["b", "c"]


@pytest.mark.parametrize("lost", ["row", "cursor"])
def test_control_without_what_is_kept_a_restart_loses_or_repeats(world: World, lost: str) -> None:
    world.learned("a")
    world.wait(GATHER + 2)
    row = world.ledger.machine.get(ROW)
    if lost == "row":
        world.ledger.machine.delete(ROW)
    else:
        row["memory"]["cursor"], row["letters"] = 0, []
        world.ledger.machine.set(ROW, row)
    world.start()
    world.wait(GAP + GATHER)
    files = [message.fields["files"] for message in world.senders[-1].offered]
    assert files == ([] if lost == "row" else [["long-ago", "a"]])


def test_events_while_nothing_ran_are_told_after_the_start(world: World) -> None:
    world.ledger.events.add("file-rejected", "a: empty", file=1)
    world.start()
    world.wait(GATHER + 1)
    assert world.told == ["rejected"]


def test_the_end_tells_what_waits_and_failed_is_trouble(world: World) -> None:
    world.learned("a")
    world.teller.end("failed", "no base model")
    assert world.told == ["learned", "trouble"]


def test_a_stop_as_asked_tells_nothing(world: World) -> None:
    world.teller.end("stopped", "stopped as asked")
    assert world.told == []


def test_a_message_is_dropped_after_a_day_and_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nightschool")
    world.learned("a")
    world.wait(GATHER + 2)
    assert teller.waiting(world.ledger) == {world.senders[-1].target.key: 1}
    world.settings = NotifySettings(webhook=SETTINGS.webhook, on=["learned"])
    world.teller.apply(world.settings)
    world.wait(86_401, 600)
    world.wait(5)
    assert teller.waiting(world.ledger) == {}
    assert "A message of 2026-05-01T12:00:17+00:00 was dropped" in caplog.text
    assert PASSWORD not in caplog.text


def test_messages_that_wait_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teller, "MOST_WAITING", 3)
    for number in range(10):
        world.learned(str(number))
        world.wait(GAP + GATHER + 5, 5)
    assert sum(teller.waiting(world.ledger).values()) == 3


def test_one_target_that_got_it_does_not_get_it_again_for_another_that_did_not(world: World) -> None:
    world.settings = NotifySettings(webhook=SETTINGS.webhook, urls=["json://b"])
    world.start()
    apprise, hook = world.senders[-2:]
    world.learned("a")
    world.wait(GATHER + 2)
    hook.reached = [hook.offered[0].id]
    world.wait(2)
    assert teller.waiting(world.ledger) == {apprise.target.key: 1}
    world.start()
    assert [len(sender.offered) for sender in world.senders[-2:]] == [1, 0]


def test_without_targets_nothing_is_kept_and_later_targets_hear_no_old_news(world: World) -> None:
    world.learned("a")
    world.wait(5)
    world.teller.apply(NotifySettings())
    world.wait(5)
    assert world.ledger.machine.get(ROW) is None
    world.learned("b")
    world.wait(5)
    world.teller.apply(SETTINGS)
    world.wait(GAP)
    assert world.told == []
    world.learned("c")
    world.wait(GATHER + 1)
    assert world.senders[-1].offered[0].fields["files"] == ["c"]


def test_f_a_disk_that_takes_nothing_is_told_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("no room", 28)

    monkeypatch.setattr(world.ledger.machine, "set", full)
    monkeypatch.setattr(world.ledger.events, "since", full)
    world.state = ("waiting for disk", "no room")
    world.wait(GAP + GATHER + 5)
    assert world.told == ["trouble"]
    world.wait(GAP)
    assert world.told == ["trouble"]


def test_a_ledger_that_counts_events_anew_is_followed(world: World) -> None:
    row = world.ledger.machine.get(ROW)
    row["memory"]["cursor"] = 10_000
    world.ledger.machine.set(ROW, row)
    world.start()
    world.learned("a")
    world.wait(GATHER + 1)
    assert world.told == ["learned"]


def test_the_summary_comes_in_the_morning_with_figures_from_the_ledger(world: World) -> None:
    world.ledger.steps.record([StepRow(n, 0, 2.0, 1e-4, 1.0, 100, 50, 0.5) for n in range(1, 41)])
    world.learned("a")
    world.wait(20 * 3600, 60)
    (summary,) = [message for message in world.senders[-1].offered if message.kind == "morning"]
    assert summary.title == "nightschool, ws: 2026-05-02: 1 file learned"
    assert summary.fields["files"] == ["a"]
    assert summary.fields["date"] == "2026-05-02"
    world.start()
    world.wait(3600, 60)
    assert world.told.count("morning") == 1  # the one that has not arrived yet


def test_tokens_are_summed_over_portions(ledger: Ledger) -> None:
    ledger.steps.record([StepRow(n, 0, 2.0, 1e-4, 1.0, n, 50, 0.5) for n in range(1, 41)])
    assert ledger.steps.tokens(10, 35, portion=7) == sum(range(11, 36))
    assert ledger.steps.tokens(35, 10) == 0


def test_a_mistake_of_ours_is_said_once_and_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(teller.policy, "look", lambda *_: 1 / 0)
    world.wait(10)
    assert caplog.text.count("mistake in nightschool") == 1


def test_no_secret_is_in_the_ledger(world: World) -> None:
    world.learned("a")
    world.wait(GATHER + 2)
    assert PASSWORD not in str(world.ledger.machine.all())
    assert PASSWORD.encode() not in world.layout.ledger.read_bytes()


def test_for_real_one_good_one_dead_and_one_that_hangs(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The good one gets all; the ticks and the end come back, and the others keep what they have not got."""
    caplog.set_level(logging.INFO, "nightschool")
    with server() as good, silent() as port:
        world.settings = NotifySettings(
            webhook=good.url, urls=[f"json://127.0.0.1:{dead_port()}/{PASSWORD}", f"json://127.0.0.1:{port}/?rto=600"]
        )
        world.start(Sender)
        world.learned("a")
        world.wait(GATHER + 2)
        wait_for([world.senders[-1]], 60)
        world.teller.end("stopped", "", at_once=True)
        assert [got["kind"] for got in good.got] == ["learned"]
        assert set(teller.waiting(world.ledger)) == {sender.target.key for sender in world.senders[-3:-1]}
        assert PASSWORD not in caplog.text


def test_a_trial_says_for_each_and_does_not_wait_for_one_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For the one that hangs all of the time is over; the other has as much as it needs to come to its end.
    clock = iter((0.0, 0.2, -60.0))
    monkeypatch.setattr(teller, "time", SimpleNamespace(monotonic=clock.__next__))

    class Hangs:
        name, key = "x", "y"

        def send(self, message: Message) -> None:
            forever.acquire()

    class Fails(Hangs):
        def send(self, message: Message) -> None:
            raise SendError("No.")

    import threading

    forever = threading.Lock()
    forever.acquire()
    assert teller.trial([Hangs(), Fails()], teller.sample(world.layout), 0.2) == [
        "It did not come to an end within 0.2 s.", "No.",
    ]  # fmt: skip
    forever.release()


def test_a_change_of_addresses_is_told_without_them() -> None:
    old, new = (
        parse_settings({"model": {"name": "x"}, "notify": {"urls": [f"json://{word}"], "webhook": f"http://{word}"}})
        for word in ("oldsecret", "newsecret")
    )
    text = ", ".join(str(change) for change in changes(old, new))
    assert "notify.urls (set, not shown) → (set, not shown)" in text
    assert "secret" not in text
    assert "data.max_length 2048 → 99" in str(Change("data.max_length", "entry", 2048, 99))  # the others are shown


def test_a_run_that_ends_right_after_the_ledger_was_busy_writes_down_what_has_not_arrived(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.ledger.machine.set

    def busy(*_: object, **__: object) -> None:
        raise StorageError("stayed locked", errno.EBUSY)

    monkeypatch.setattr(world.ledger.machine, "set", busy)
    world.learned("a.jsonl")
    world.wait(2)
    monkeypatch.setattr(world.ledger.machine, "set", real)
    monkeypatch.setattr(teller, "END_SECONDS", 0.0)
    world.teller.end("stopped", "as asked")
    assert [letter["message"]["kind"] for letter in world.ledger.machine.get(ROW)["letters"]] == ["learned"]
