"""Who comes back to the stream is told what was missed: all of it once, or to ask again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from nightschool.dashboard import beats
from nightschool.dashboard.beats import ALL, MOST_EVENTS, MOST_STEPS, Message, Place
from nightschool.ledger import Ledger
from nightschool.workspace import Layout
from tests.dashboard.watched import Told, Watched, begun, more, newest, watching
from tests.ledger.support import step


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

    told = come_back(layout, Place(0, newest(layout), 40), meanwhile)
    assert [kind for kind, _ in told] == ["steps", "events", "changed", "now"]
    assert told[0][1]["step"] == [41, 42]
    assert [event["text"] for event in told[1][1]["events"]] == ["missed"]
    # Nobody knows whether these changed.
    assert told[2][1]["what"] == ["queue", "files", "saved"]


def test_a_page_that_was_just_made_is_told_nothing_twice(layout: Layout) -> None:
    told = come_back(layout, Place(0, newest(layout), 40), lambda ledger: None, away=False)
    assert [kind for kind, _ in told] == ["now"]
    told = come_back(layout, Place(0, newest(layout), 40), lambda ledger: ledger.steps.record([step(41)]), away=False)
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
    after = Place(0, newest(layout), 40)
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

    told = dict(come_back(layout, Place(0, newest(layout), 40), meanwhile))
    assert set(told) == {"changed", "now"}
    assert told["changed"]["what"] == list(ALL)


def test_what_is_written_between_the_look_and_the_catching_up_is_told_once(layout: Layout) -> None:
    """The steps of the catching up end where the look was; the next look tells what follows."""

    async def scene(watched: Watched) -> None:
        with Ledger.open(layout.ledger) as ledger:
            async with aclosing(watched.live.stream(None)) as first:
                await begun(first)
                ledger.steps.record([step(41)])
                async with aclosing(watched.live.stream(Place(0, newest(layout), 38), away=True)) as back:
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
