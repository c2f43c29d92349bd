"""What uses the GPU beside the machine takes its lease, and waits for it by the rules of those who train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nightschool import leases, trainingjobs, verify
from nightschool.checkup import rehearsing
from nightschool.errors import BusyError, CheckpointError
from nightschool.leases import Holder, Lease
from nightschool.settings import load_settings
from nightschool.training import adopting, claiming, rehearsal, replay
from nightschool.training.claiming import claim
from nightschool.workspace import Layout
from tests.supervisor.fakes import wait_until
from tests.training import rig

NAME = "big-one"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rig.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def layout(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    return rig.workspace(tmp_path / "ws", base, machine={"gpu_lease": NAME})


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a job keeps to the end of its process ends with the test."""
    kept: list[Lease] = []

    class Kept(Lease):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            kept.append(self)

    monkeypatch.setattr(claiming, "Lease", Kept)
    yield
    for lease in kept:
        lease.release()


@contextmanager
def elsewhere(workspace: Path, what: str = "Lease") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease, or waits for it, for a workspace."""
    code = (
        f"import sys; from pathlib import Path; from nightschool.leases import {what}\n"
        f"{what}({NAME!r}, Path({str(workspace)!r})).acquire(); print('there', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.kill()


def free() -> None:
    wait_until(lambda: leases.holder(NAME) is None)


def claimed(layout: Layout, then: Callable[[int], Any] = lambda _: None) -> tuple[list[str], int]:
    """Claim; what was said, and how often it slept. `then` is called with the number of each sleep."""
    said: list[str] = []
    now = 0.0
    slept = 0

    def sleep(seconds: float) -> None:
        nonlocal now, slept
        now += seconds
        slept += 1
        assert slept < 1000, "it waits for ever"
        then(slept)

    claim(layout, load_settings(layout.settings_file), said.append, clock=lambda: now, sleep=sleep)
    return said, slept


def mine(layout: Layout) -> Holder:
    return Holder(os.getpid(), str(layout.root))


def test_a_free_gpu_is_taken_at_once_and_nothing_is_said(layout: Layout) -> None:
    assert claimed(layout) == ([], 0)
    assert leases.holder(NAME) == mine(layout)


def test_who_has_it_is_said_once_and_waited_for(layout: Layout, tmp_path: Path) -> None:
    with elsewhere(tmp_path / "other") as process:

        def then(slept: int) -> None:
            assert [who.workspace for who in leases.queue(NAME)] == [str(layout.root)], "they are to know"
            if slept == 3:
                process.kill()
                free()

        said, slept = claimed(layout, then)
    assert slept == 3
    assert len(said) == 1
    assert f"in use by the workspace {tmp_path / 'other'} (process {process.pid})" in said[0]
    assert leases.holder(NAME) == mine(layout)
    assert leases.queue(NAME) == []


def test_who_waited_longer_comes_first_for_a_minute(layout: Layout, tmp_path: Path) -> None:
    with elsewhere(tmp_path / "other", "Waiting"):
        said, slept = claimed(layout)
    assert slept * claiming.POLL_SECONDS == leases.AFTER_YOU_SECONDS
    assert "waited for it longer" in said[0]


def test_the_machine_of_the_same_workspace_is_to_be_paused(layout: Layout) -> None:
    with elsewhere(layout.root) as process, pytest.raises(BusyError, match=f"process {process.pid}.*nightschool pause"):
        claimed(layout)
    assert leases.queue(NAME) == []


def test_who_asked_and_is_gone_is_not_worked_for(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a job that nobody sees would make others let the GPU go."""

    def then(slept: int) -> None:
        if slept == 2:
            monkeypatch.setattr(claiming.os, "getppid", lambda: 1)

    with elsewhere(tmp_path / "other"), pytest.raises(BusyError, match="is gone"):
        claimed(layout, then)
    assert leases.queue(NAME) == []


@pytest.mark.parametrize("lease", ["off", "auto"])
def test_on_a_cpu_nobody_waits(layout: Layout, base: Path, lease: str, tmp_path: Path) -> None:
    rig.configure(layout, base, machine={"gpu_lease": lease})
    with elsewhere(tmp_path / "other"):
        assert claimed(layout) == ([], 0)


def claims(monkeypatch: pytest.MonkeyPatch, module: Any, first: Any, attribute: str) -> list[str]:
    """The order of the claim and of what needs the device."""
    order: list[str] = []

    def then(*_: Any, **__: Any) -> Any:
        order.append("device")
        raise CheckpointError("so far")

    monkeypatch.setattr(module, "claim", lambda *_: order.append("claim"))
    monkeypatch.setattr(first, attribute, then)
    return order


def test_each_job_claims_before_it_touches_the_device(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.add(layout, "a", rig.sequences(40, 1))
    rig.run(layout)
    order = claims(monkeypatch, replay, replay, "make_accelerator")
    with pytest.raises(CheckpointError, match="so far"):
        replay.replay(layout)
    assert order == ["claim", "device"]
    order = claims(monkeypatch, rehearsal, rehearsal.device, "make_accelerator")
    with pytest.raises(CheckpointError, match="so far"):
        rehearsal.rehearse(layout)
    assert order == ["claim", "device"]
    order = claims(monkeypatch, adopting, adopting, "make_accelerator")
    monkeypatch.setattr(adopting, "find", lambda _: None)
    monkeypatch.setattr(adopting, "_read", lambda *_: adopting._Read({}))
    plan: dict[str, Any] = {"folder": str(tmp_path), "given": {}, "settings": {"model": {"name": _model(layout)}}}
    with pytest.raises(CheckpointError, match="so far"):
        adopting.adopt(layout, plan, lambda _: None)
    assert order == ["claim", "device"]


def _model(layout: Layout) -> str:
    return load_settings(layout.settings_file).model.name


def test_what_a_job_waits_for_is_shown_beside_what_the_command_prints(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes: the replay's wait is seen while it lasts, and its result comes after it."""
    rig.add(layout, "a", rig.sequences(40, 1))
    rig.run(layout)
    seen: list[str] = []
    with elsewhere(tmp_path / "other") as process:

        def say(text: str) -> None:
            seen.append(text)
            process.kill()

        found = trainingjobs.run(layout, "replay", say=say)
    assert found["equal"]
    assert len(seen) == 1
    with elsewhere(layout.root), pytest.raises(BusyError, match="nightschool pause"):
        verify.report(layout, replay=True)
    with elsewhere(layout.root):
        result, said = rehearsing.rehearse(layout)
    assert result is None
    assert "nightschool pause" in said
    capsys.readouterr()
    trainingjobs.to_stderr("a line")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "a line\n")


def test_what_a_job_prints_is_told_apart() -> None:
    assert trainingjobs.told_by(json.dumps({"say": "x"})) == {"say": "x"}
    assert trainingjobs.told_by("Loading weights: 3/4") == {}
    assert trainingjobs.told_by("[1]") == {}
    assert trainingjobs.kind_of(BusyError.exit_code) is BusyError
