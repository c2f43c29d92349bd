"""What is told as it happens: completely, once, to all who watch, and without being in anyone's way."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from typing import Any

import msgspec
import pytest

from nightschool.dashboard import beats, live
from nightschool.dashboard.beats import ALL, MOST_EVENTS, MOST_STEPS, Message, Place
from nightschool.dashboard.live import KEPT, Live, encode, pace
from nightschool.dashboard.reader import Reader
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Done, Job
from nightschool.errors import StorageError
from nightschool.ledger import Arrival, Ledger
from nightschool.record import write_generation
from nightschool.workspace import Layout
from tests.dashboard.served import head, served
from tests.ledger.support import impatient, step
from tests.snapshots import made

Told = tuple[str, Any]


class Watched:
    """A `Live` whose seconds pass when the test says so, and what was told."""

    def __init__(self, layout: Layout) -> None:
        self.reader = Reader(layout)
        self.waiting: asyncio.Queue[asyncio.Event] = asyncio.Queue()
        self.live = Live(layout, self.reader, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        assert seconds == live.pace(self.live.watching)
        passed = asyncio.Event()
        self.waiting.put_nowait(passed)
        await passed.wait()

    async def second(self) -> None:
        """Let a second pass, and the look after it be done."""
        (await self.waiting.get()).set()
        nothing = await self.waiting.get()
        self.waiting.put_nowait(nothing)

    async def passed(self) -> None:
        """Let a second pass after which nobody looks."""
        (await self.waiting.get()).set()
        await asyncio.sleep(0)

    async def looked(self) -> None:
        self.waiting.put_nowait(await self.waiting.get())


def parse(said: bytes) -> list[tuple[str, str, Any]]:
    """Id ("" where there is none), type and data of each message."""
    found = []
    for part in said.decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in part.splitlines())
        if "event" in lines:
            found.append((lines.get("id", ""), lines["event"], json.loads(lines["data"])))
    return found


async def more(stream: AsyncIterator[bytes]) -> list[tuple[str, str, Any]]:
    """What is told next."""
    return parse(await asyncio.wait_for(anext(stream), 60))


async def begun(stream: AsyncIterator[bytes]) -> list[tuple[str, str, Any]]:
    """What a stream tells first."""
    assert await anext(stream) == live.RETRY
    return await more(stream)


def watching(layout: Layout, scene: Callable[[Watched], Awaitable[None]]) -> None:
    """Play a scene in a loop of its own."""

    async def play() -> None:
        watched = Watched(layout)
        try:
            await asyncio.wait_for(scene(watched), 60)
        finally:
            watched.live.close()
            watched.reader.close()

    asyncio.run(play())


def _newest(layout: Layout) -> int:
    with Ledger.open(layout.ledger) as ledger:
        return ledger.events.newest()


def kinds(told: list[tuple[str, str, Any]]) -> list[str]:
    return [kind for _, kind, _ in told]


def test_who_begins_is_told_what_is_now(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            ((id, kind, now),) = await begun(stream)
            assert kind == "now"
            assert now["status"]["step"] == 40
            assert id == f"0.{now['event']}.40"

    watching(layout, scene)


def test_new_steps_events_and_changes_are_told_once(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        with Ledger.open(layout.ledger) as ledger:
            async with aclosing(watched.live.stream(None)) as stream:
                await begun(stream)
                ledger.steps.record([step(41, 2.5), step(42, float("nan"))])
                number = ledger.events.add("warning", "<script>alert(1)</script>", file="a.jsonl")
                ledger.files.arrive([Arrival("5.jsonl", "/dropped/5.jsonl")])
                await watched.second()
                told = await more(stream)
                assert kinds(told) == ["steps", "events", "changed", "now"]
                # Only the last has the id: who loses the stream among them is told all of them again.
                assert [id for id, _, _ in told] == ["", "", "", f"0.{number}.42"]
                (steps, events, changed) = (data for _, _, data in told[:3])
                assert (steps["step"], steps["loss"], steps["bad"], steps["span"]) == ([41, 42], [2.5, None], [0, 1], 1)
                assert [event["text"] for event in events["events"]] == ["<script>alert(1)</script>"]
                assert changed["what"] == ["queue", "files"]
                ledger.steps.record([step(43)])
                await watched.second()
                told = await more(stream)
                assert [data["step"] for _, kind, data in told if kind == "steps"] == [[43]]
                assert kinds(told) == ["steps", "now"]

    watching(layout, scene)


def test_steps_that_were_done_again_within_a_second_are_a_change_of_the_curve(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            await begun(stream)
            with Ledger.open(layout.ledger) as ledger:
                ledger.steps.delete_after(35)
                ledger.steps.record([step(number, 9.0) for number in range(36, 43)])
            await watched.second()
            told = await more(stream)
            assert [data["what"] for _, kind, data in told if kind == "changed"] == [["curve"]]
            assert kinds(told) == ["changed", "now"]

    watching(layout, scene)


def test_a_checkpoint_a_move_and_a_cut_are_changes(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            await begun(stream)

            async def changed() -> list[str]:
                await watched.second()
                return next(data["what"] for _, kind, data in await more(stream) if kind == "changed")

            with Ledger.open(layout.ledger) as ledger:
                one, two = ledger.files.arrive([Arrival("5.jsonl", "/d/5"), Arrival("6.jsonl", "/d/6")])
                assert await changed() == ["queue", "files"]
                ledger.line.before(two, one)
                assert await changed() == ["queue"]
                made.checkpoint(layout, 40)
                assert "saved" in await changed()
                made.snapshot(layout)
                assert "saved" in await changed()
                layout.verified.write_text("{}")
                assert await changed() == ["saved"]
                ledger.steps.delete_after(30)
                assert "curve" in await changed()
                write_generation(layout, 1)
                assert await changed() == list(ALL)

    watching(layout, scene)


def test_nothing_new_is_nothing_told_but_now_and_then(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            await begun(stream)
            for _ in range(int(live.QUIET_SECONDS)):
                await watched.second()
            told = await more(stream)
            assert kinds(told) == ["now"]
            assert watched.live._told == 1

    watching(layout, scene)


def test_h7_fifty_tabs_cost_one_look_a_second_and_none_costs_none(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        assert watched.live.looks == 0
        streams = [watched.live.stream(None) for _ in range(50)]
        for stream in streams:
            assert kinds(await begun(stream)) == ["now"]
        assert watched.live.looks == 1
        with Ledger.open(layout.ledger) as ledger:
            ledger.steps.record([step(41)])
        await watched.second()
        told = [await anext(stream) for stream in streams]
        assert watched.live.looks == 2
        # Encoded once: all were given the same bytes.
        assert len(set(told)) == 1
        for stream in streams:
            await stream.aclose()
        (await watched.waiting.get()).set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert (watched.live.looks, watched.live.watching, watched.live._looking) == (2, 0, None)
        # The next one is told what is true then, and not what was true when the last one left.
        with Ledger.open(layout.ledger) as ledger:
            ledger.steps.record([step(42)])
        async with aclosing(watched.live.stream(None)) as stream:
            assert (await begun(stream))[0][0].endswith(".42")

    watching(layout, scene)


def test_h7_who_does_not_read_is_not_waited_for_and_kept_nothing_for(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as slow, aclosing(watched.live.stream(None)) as quick:
            await begun(slow)
            await begun(quick)
            with Ledger.open(layout.ledger) as ledger:
                for number in range(KEPT + 10):
                    ledger.steps.record([step(41 + number)])
                    await watched.second()
                    assert kinds(await more(quick)) == ["steps", "now"]
            assert len(watched.live._kept) == KEPT
            told = await more(slow)
            assert kinds(told) == ["changed", "now"]
            assert told[0][2]["what"] == list(ALL)
            # From there on it is told everything again.
            with Ledger.open(layout.ledger) as ledger:
                ledger.steps.record([step(41 + KEPT + 10)])
            await watched.second()
            assert kinds(await more(slow)) == ["steps", "now"]

    watching(layout, scene)


def test_h7_a_little_behind_is_told_all_of_it(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as slow:
            await begun(slow)
            with Ledger.open(layout.ledger) as ledger:
                for number in range(5):
                    ledger.steps.record([step(41 + number)])
                    await watched.second()
            told = await more(slow)
            assert [data["step"][0] for _, kind, data in told if kind == "steps"] == [41, 42, 43, 44, 45]

    watching(layout, scene)


@pytest.mark.parametrize("tabs", [20])
def test_h7_clients_that_stop_reading_do_not_hold_up_a_commit(services: Services, tabs: int) -> None:
    with served(services) as page, ExitStack() as open_ones:
        for _ in range(tabs):
            client = open_ones.enter_context(page.connect(receive_buffer=4096))
            client.sendall(head("/api/live"))
            client.sendall(b"")  # and then never reads
        with Ledger.open(services.layout.ledger) as ledger:
            # Waits for a lock 0.3 s at most: a reader that held one would be found at once.
            impatient(ledger, 300)
            for number in range(200):
                ledger.steps.record([step(41 + number)])


def test_h7_control_a_reader_that_holds_its_lock_does(services: Services) -> None:
    holding = sqlite3.connect(services.layout.ledger)
    with Ledger.open(services.layout.ledger) as ledger:
        impatient(ledger, 300)
        rows = holding.execute("SELECT step FROM steps")
        rows.fetchone()
        with pytest.raises(StorageError):
            ledger.steps.record([step(41)])
    holding.close()


# --- coming back -------------------------------------------------------------------------------------------------


def come_back(layout: Layout, after: Place, meanwhile: Callable[[Ledger], object], *, away: bool = True) -> list[Told]:
    found: list[Told] = []

    async def scene(watched: Watched) -> None:
        with Ledger.open(layout.ledger) as ledger:
            meanwhile(ledger)
        async with aclosing(watched.live.stream(after, away=away)) as stream:
            found.extend((kind, data) for _, kind, data in await begun(stream))

    watching(layout, scene)
    return found


def test_who_comes_back_is_told_what_was_missed(layout: Layout) -> None:
    def meanwhile(ledger: Ledger) -> None:
        ledger.steps.record([step(41), step(42)])
        ledger.events.add("warning", "missed")

    told = come_back(layout, Place(0, _newest(layout), 40), meanwhile)
    assert [kind for kind, _ in told] == ["steps", "events", "changed", "now"]
    assert told[0][1]["step"] == [41, 42]
    assert [event["text"] for event in told[1][1]["events"]] == ["missed"]
    # Nobody knows whether these changed.
    assert told[2][1]["what"] == ["queue", "files", "saved"]


def test_a_page_that_was_just_made_is_told_nothing_twice(layout: Layout) -> None:
    told = come_back(layout, Place(0, _newest(layout), 40), lambda ledger: None, away=False)
    assert [kind for kind, _ in told] == ["now"]
    told = come_back(layout, Place(0, _newest(layout), 40), lambda ledger: ledger.steps.record([step(41)]), away=False)
    assert [kind for kind, _ in told] == ["steps", "changed", "now"]


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (Place(3, 0, 40), list(ALL)),  # before a cut, or of another ledger
        (Place(0, 10**9, 40), list(ALL)),  # events that are not there any more
        (Place(0, 0, 900), ["curve", "queue", "files", "saved"]),  # steps that are gone
        (Place(-1, 0, 0), list(ALL)),
    ],
)
def test_a_place_that_is_no_more_is_told_to_ask_again(layout: Layout, after: Place, what: list[str]) -> None:
    told = come_back(layout, after, lambda ledger: None)
    assert next(data["what"] for kind, data in told if kind == "changed") == what
    assert "steps" not in [kind for kind, _ in told]


@pytest.mark.parametrize("many", [MOST_STEPS, MOST_STEPS + 1])
def test_too_many_steps_are_asked_for(layout: Layout, many: int) -> None:
    after = Place(0, _newest(layout), 40)
    told = dict(come_back(layout, after, lambda ledger: ledger.steps.record([step(41 + n) for n in range(many)])))
    assert ("steps" in told) == (many <= MOST_STEPS)
    assert ("curve" in told["changed"]["what"]) == (many > MOST_STEPS)
    if many <= MOST_STEPS:
        assert len(told["steps"]["step"]) == MOST_STEPS


def test_too_many_events_are_asked_for(layout: Layout) -> None:
    def meanwhile(ledger: Ledger) -> None:
        with ledger.transaction():
            for _ in range(MOST_EVENTS + 1):
                ledger.events.add("warning", "again")

    told = dict(come_back(layout, Place(0, _newest(layout), 40), meanwhile))
    assert set(told) == {"changed", "now"}
    assert told["changed"]["what"] == list(ALL)


def test_what_is_written_between_the_look_and_the_catching_up_is_told_once(layout: Layout) -> None:
    """The steps of the catching up end where the look was; the next look tells what follows."""

    async def scene(watched: Watched) -> None:
        with Ledger.open(layout.ledger) as ledger:
            async with aclosing(watched.live.stream(None)) as first:
                await begun(first)
                ledger.steps.record([step(41)])
                async with aclosing(watched.live.stream(Place(0, _newest(layout), 38), away=True)) as back:
                    told = await begun(back)
                    assert told[0][2]["step"] == [39, 40]
                    await watched.second()
                    assert (await more(back))[0][2]["step"] == [41]

    watching(layout, scene)


def test_all_tabs_that_come_back_from_one_place_cost_one_look(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Place] = []
    real = beats.missed

    def counted(ledger: Ledger, history: Any, after: Place, *rest: Any, **named: Any) -> list[Message]:
        asked.append(after)
        return real(ledger, history, after, *rest, **named)

    monkeypatch.setattr(beats, "missed", counted)

    async def scene(watched: Watched) -> None:
        streams = [watched.live.stream(Place(0, 0, 30), away=True) for _ in range(20)]
        told = await asyncio.gather(*(begun(stream) for stream in streams))
        assert all(one == told[0] for one in told)
        for stream in streams:
            await stream.aclose()

    watching(layout, scene)
    assert asked == [Place(0, 0, 30)]


def test_a_place_as_text() -> None:
    assert Place.read(str(Place(1, 22, 333))) == Place(1, 22, 333)
    for text in ("", "1.2", "1.2.3.4", "a.1.2.3", "-1.2.3", "1.2.x", "9" * 30 + ".1.1", "1.2.3\n", "١.2.3"):
        assert Place.read(text) is None


# --- trouble, and the end ----------------------------------------------------------------------------------------


def test_a_ledger_in_trouble_is_said_once_and_what_follows_is_told(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            await begun(stream)
            hidden = layout.ledger.with_suffix(".away")
            layout.ledger.rename(hidden)
            for _ in range(3):
                await watched.second()
            told = await more(stream)
            assert kinds(told) == ["trouble"]
            assert told[0][2]["error"]
            hidden.rename(layout.ledger)
            with Ledger.open(layout.ledger) as ledger:
                ledger.steps.record([step(41)])
            await watched.second()
            assert kinds(await more(stream)) == ["steps", "now"]

    watching(layout, scene)


def test_who_comes_while_the_ledger_is_in_trouble_is_told_so_too(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        hidden = layout.ledger.with_suffix(".away")
        async with aclosing(watched.live.stream(None)) as first:
            await begun(first)
            layout.ledger.rename(hidden)
            await watched.second()
            assert kinds(await more(first)) == ["trouble"]
            async with aclosing(watched.live.stream(None)) as second:
                assert kinds(await begun(second)) == ["trouble"]
        await watched.passed()  # nobody watches now
        async with aclosing(watched.live.stream(None)) as again:
            assert kinds(await begun(again)) == ["trouble"]
            hidden.rename(layout.ledger)
            await watched.second()
            assert kinds(await more(again)) == ["now"]

    watching(layout, scene)


class Odd(msgspec.Struct):
    what: Any


def test_news_that_cannot_be_written_down_do_not_end_the_stream(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            await begun(stream)
            with monkeypatch.context() as broken:
                broken.setattr(beats, "told", lambda *_: [Message("now", Odd(what=object()))])
                await watched.second()
                assert kinds(await more(stream)) == ["trouble"]
            await watched.second()
            assert kinds(await more(stream)) == ["now"]

    watching(layout, scene)


def test_what_was_missed_is_asked_for_again_where_it_could_not_be_read(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, **__: Any) -> list[Message]:
        raise StorageError("The ledger is busy.")

    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as other:
            await begun(other)
            after = Place(0, _newest(layout), 38)
            with monkeypatch.context() as broken:
                broken.setattr(beats, "missed", busy)
                stream = watched.live.stream(after, away=True)
                told = await begun(stream)
                # Without an id, and at its end: a browser comes back and says the place that it knows.
                assert [(id, kind) for id, kind, _ in told] == [("", "trouble")]
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            await watched.second()
            async with aclosing(watched.live.stream(after, away=True)) as stream:
                told = await begun(stream)
                assert [data["step"] for _, kind, data in told if kind == "steps"] == [[39, 40]]

    watching(layout, scene)


def test_a_mistake_of_ours_does_not_end_the_stream(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(watched: Watched) -> None:
        async with aclosing(watched.live.stream(None)) as stream:
            await begun(stream)
            with monkeypatch.context() as broken:
                broken.setattr(beats, "look", lambda *_: 1 // 0)
                await watched.second()
                await watched.second()
                assert kinds(await more(stream)) == ["trouble"]
            await watched.second()
            assert kinds(await more(stream)) == ["now"]

    caplog.set_level("WARNING", "nightschool.page")
    watching(layout, scene)
    assert len(caplog.records) == 1


def test_a_job_is_told_from_any_thread(services: Services) -> None:
    async def scene() -> None:
        async with aclosing(services.live.stream(None)) as stream:
            await begun(stream)
            began = services.jobs.start("Something", lambda tell: tell("waits") or "It is done.")
            told: list[dict[str, Any]] = []
            while not told or told[-1]["state"] != "done":
                told += [data for _, kind, data in await more(stream) if kind == "job"]
            assert {job["id"] for job in told} == {began.id}
            assert told[-1]["said"] == "It is done."

    asyncio.run(scene())
    # Who is not there any more is not told, and that is no accident.
    services.live.tell("job", Job(id="1", what="", state="done", told=[], said=None))


def test_the_end_ends_all_streams(layout: Layout) -> None:
    async def scene(watched: Watched) -> None:
        streams = [watched.live.stream(None) for _ in range(3)]
        for stream in streams:
            await begun(stream)
        waiting = [asyncio.ensure_future(anext(stream, None)) for stream in streams]
        await asyncio.sleep(0)
        watched.live.close()
        assert await asyncio.gather(*waiting) == [None] * 3
        assert watched.live.watching == 0

    watching(layout, scene)


def test_data_is_one_line_whatever_is_in_it() -> None:
    said = encode([Message("done", Done(said="a\n\ndata: {}\r\u2028\x00"))], Place(1, 2, 3))
    assert said.count(b"\n") == 4
    assert msgspec.json.decode(said.split(b"data: ", 1)[1]) == {"said": "a\n\ndata: {}\r\u2028\x00"}


def test_h7_more_who_watch_are_told_more_seldom() -> None:
    assert [pace(number) for number in (0, 1, 20, 21, 50, 100)] == [1.0, 1.0, 1.0, 2.0, 3.0, 5.0]
