"""What the stream tells while the ledger, or the page itself, is in trouble, and afterwards."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from nightschool.dashboard import beats
from nightschool.dashboard.beats import Message, Place
from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.dashboard.watched import Watched, begun, kinds, more, newest, watching
from tests.ledger.support import step


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
            after = Place(0, newest(layout), 38)
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
