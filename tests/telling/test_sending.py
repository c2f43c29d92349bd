"""The threads that send: nobody waits for them, and they try again."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from nightschool.telling import sending
from nightschool.telling.message import Message
from nightschool.telling.sending import Sender, wait_for
from nightschool.telling.targets import SendError
from tests.telling.servers import wait_until


def message(id: str) -> Message:
    return Message(id, "test", "t", "x", "", "", "")


class Fake:
    """Fails the first `failures` times; `gate` holds it up."""

    name = "the target"
    key = "k"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.got: list[str] = []
        self.tries = 0
        self.gate = threading.Event()
        self.gate.set()

    def send(self, message: Message) -> None:
        self.gate.wait()
        self.tries += 1
        if self.tries <= self.failures:
            raise SendError("It is not there.")
        self.got.append(message.id)


@pytest.fixture
def fake() -> Iterator[Fake]:
    found = Fake()
    yield found
    found.gate.set()


def test_messages_arrive_in_order_and_once(fake: Fake) -> None:
    sender = Sender(fake)
    for id in ("a", "b", "a", "c"):
        sender.offer(message(id))
    wait_for([sender], 60)
    assert fake.got == ["a", "b", "c"]
    assert sender.arrived() == ["a", "b", "c"]
    assert sender.arrived() == []
    sender.end()


def test_it_is_tried_again_and_said_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(sending.log, level, lambda text, *values: said.append(text % values))
    fake.failures = 5
    sender = Sender(fake, first=0.001, longest=0.002)
    sender.offer(message("a"))
    sender.offer(message("b"))
    wait_until(lambda: fake.got == ["a", "b"])
    wait_until(lambda: len(said) > 1)
    assert len(said) == 2
    assert "do not arrive. It is not there." in said[0]
    assert "arrive again" in said[1]
    sender.end()


def test_what_has_arrived_and_was_not_asked_for_yet_is_not_sent_again(fake: Fake) -> None:
    """Whoever offers does so in each round, until it knows."""
    sender = Sender(fake)
    sender.offer(message("a"))
    wait_for([sender], 60)
    sender.offer(message("a"))
    sender.offer(message("b"))
    wait_for([sender], 60)
    assert fake.got == ["a", "b"]
    assert sender.arrived() == ["a", "b"]
    sender.end()


def test_one_that_hangs_holds_nobody_up(fake: Fake) -> None:
    fake.gate.clear()
    hanging, good = Sender(fake), Sender(other := Fake())
    for sender in (hanging, good):
        sender.offer(message("a"))
        sender.offer(message("b"))
    wait_until(lambda: other.got == ["a", "b"])
    assert fake.got == []
    wait_for([hanging], 0.05)
    assert not hanging.done
    hanging.end()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("telling"))


def test_a_target_that_fails_is_not_waited_for_at_the_end(fake: Fake) -> None:
    fake.failures = 1
    sender = Sender(fake, first=1000.0)
    sender.offer(message("a"))
    wait_until(lambda: fake.tries)
    wait_until(lambda: sender.done)
    sender.end()


def test_what_is_given_up_is_not_sent(fake: Fake) -> None:
    fake.gate.clear()
    sender = Sender(fake)
    sender.offer(message("a"))
    sender.offer(message("b"))
    sender.forget("b")
    fake.gate.set()
    wait_for([sender], 60)
    assert fake.got == ["a"]
    sender.end()


def test_a_mistake_of_ours_does_not_end_the_thread(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Fake):
        def send(self, message: Message) -> None:
            if not self.tries:
                self.tries = 1
                raise ValueError("secret")
            super().send(message)

    broken = Broken()
    sender = Sender(broken, first=0.001)
    sender.offer(message("a"))
    wait_until(lambda: broken.got == ["a"])
    assert "secret" not in caplog.text
    sender.end()
