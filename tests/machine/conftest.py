"""Machines that are gone when their test is over, however it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.machine.whole import Machine

Start = Callable[..., Machine]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `nightschool run` on a workspace, with further options."""
    started: list[Machine] = []

    def start(*arguments: object) -> Machine:
        started.append(Machine(*arguments))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for machine in started:
        machine.kill_everything()
