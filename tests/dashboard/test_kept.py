"""What takes a while is made once for all who ask, and kept for some seconds."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nightschool.dashboard.kept import Kept, kept


def test_it_is_made_again_when_it_is_old_or_for_another_key() -> None:
    now, made = 0.0, []

    def make() -> int:
        made.append(now)
        return len(made)

    async def ask() -> list[int]:
        nonlocal now
        one = Kept[int](5.0, clock=lambda: now)
        found = [await one.get(make), await one.get(make)]
        now = 4.9
        found.append(await one.get(make))
        found.append(await one.get(make, key="other"))
        now = 9.9
        found.append(await one.get(make, key="other"))
        return found

    assert asyncio.run(ask()) == [1, 1, 1, 2, 3]


def test_h6_however_many_ask_one_thread_makes_it() -> None:
    made = []

    async def ask() -> list[int]:
        go = threading.Event()

        def make() -> int:
            made.append(1)
            assert go.wait(60)
            return len(made)

        one = Kept[int](5.0)
        asking = [asyncio.create_task(one.get(make)) for _ in range(50)]
        await asyncio.sleep(0)
        asking[0].cancel()
        go.set()
        return [await each for each in asking[1:]]

    assert asyncio.run(ask()) == [1] * 49


def test_what_does_not_answer_is_not_waited_for_and_occupies_one_thread() -> None:
    made = []

    async def ask() -> int:
        go = threading.Event()

        def make() -> int:
            made.append(1)
            assert go.wait(60)
            return len(made)

        one = Kept[int](5.0)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await one.get(make, patience=0.01)
        go.set()
        return await one.get(make)

    assert asyncio.run(ask()) == 1


def test_a_failure_is_told_and_not_kept() -> None:
    def fail() -> int:
        raise OSError("gone")

    async def ask() -> int:
        one = Kept[int](5.0)
        with pytest.raises(OSError, match="gone"):
            await one.get(fail)
        return await one.get(lambda: 7)

    assert asyncio.run(ask()) == 7


def test_what_is_kept_belongs_to_its_owner() -> None:
    class Owner:
        pass

    one, other = Owner(), Owner()
    assert kept(one, "a", 1.0) is kept(one, "a", 1.0)
    assert kept(one, "a", 1.0) is not kept(one, "b", 1.0)
    assert kept(one, "a", 1.0) is not kept(other, "a", 1.0)
