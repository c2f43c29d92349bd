"""Machines that are gone when their test is over, however it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.disk import tmp_path
from tests.machine.whole import Machine

__all__ = ["tmp_path"]

Start = Callable[..., Machine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `nightschool run` on a workspace, with further options, `cold` and `hold`."""
    started: list[Machine] = []

    def start(*arguments: Any, cold: bool = False, hold: int | None = None) -> Machine:
        started.append(Machine(*arguments, cold=cold, hold=hold))
        return started[-1]

    yield start
    for machine in started:
        machine.kill_everything()
