from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nightschool.ledger import Ledger
from nightschool.settings import Settings, load_settings
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, Background, Machine, events, gone


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "ws")
    found.create()
    found.settings_file.write_text(TOML)
    Ledger.create(found.ledger).close()
    return found


@pytest.fixture
def settings(layout: Layout) -> Settings:
    return load_settings(layout.settings_file)


@pytest.fixture
def machine(layout: Layout) -> Iterator[Callable[..., Machine]]:
    started: list[Machine] = []

    def start(trainer: str = "good", intake: str = "good", until_idle: bool = False) -> Machine:
        started.append(Machine(layout, trainer, intake, until_idle))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        if one.process.stdout:
            one.process.stdout.close()
    for role in ("trainer", "intake"):
        for pid in events(layout, f"{role}.started"):
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def background(layout: Layout, settings: Settings) -> Iterator[Callable[..., Background]]:
    started: list[Background] = []

    def start(trainer: str = "good", intake: str = "good", settings: Settings = settings) -> Background:
        started.append(Background(layout, settings, trainer, intake))
        return started[-1]

    yield start
    for one in started:
        one.signals.stop = one.signals.at_once = True
        one.thread.join()
