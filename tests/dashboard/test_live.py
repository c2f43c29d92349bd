"""What is told as it happens: completely, once, to all who watch, and without being in anyone's way."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from typing import Any

import msgspec
import pytest

from nightschool.dashboard import live
from nightschool.dashboard.beats import ALL, Message, Place
from nightschool.dashboard.live import KEPT, encode, pace
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Done, Job
from nightschool.errors import StorageError
from nightschool.ledger import Arrival, Ledger
from nightschool.record import write_generation
from nightschool.workspace import Layout
from tests.dashboard.served import head, served
from tests.dashboard.watched import Watched, begun, kinds, more, watching
from tests.ledger.support import impatient, step
from tests.snapshots import made


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
            # Waits for a lock for some seconds at most: a reader that held one would be found. One that reads just then
            # may rest in the middle of it, where the computer is busy.
            impatient(ledger, 10_000)
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
    services.live.tell("job", Job(id="1", what="", state="done", told=[], said=None, can_give_up=False))


def test_who_comes_while_a_job_goes_on_is_told_of_it(services: Services) -> None:
    """A page that is loaded anew; and one that joins others, at a moment at which nothing new is looked at."""
    reached, go_on = threading.Event(), threading.Event()

    def act(told: Callable[[str], None]) -> str:
        told("It waits.")
        reached.set()
        assert go_on.wait(30)
        return "Done."

    async def scene() -> None:
        async with aclosing(services.live.stream(None)) as first, aclosing(services.live.stream(None)) as second:
            for stream in (first, second):
                (job,) = [data for _, kind, data in await begun(stream) if kind == "job"]
                assert (job["id"], job["state"], job["told"]) == (began.id, "running", ["It waits."])
            go_on.set()
            for stream in (first, second):
                while (told := await more(stream))[-1][1] != "job":
                    pass
                assert told[-1][2]["state"] == "done"
            # The control: one that has ended is no news for who comes now.
            async with aclosing(services.live.stream(None)) as third:
                assert "job" not in kinds(await begun(third))

    began = services.jobs.start("Something", act)
    assert reached.wait(30)
    asyncio.run(scene())


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
