"""A whole machine beside another workspace that has the GPU, or waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nightschool import leases
from nightschool.ledger import Ledger
from nightschool.settings import load_settings
from nightschool.workspace import Layout
from tests.supervisor.fakes import TOML, Start, drop, events, log_text, state, states, wait_until, word_is

OTHER = (
    "import sys; from pathlib import Path; from nightschool.leases import Lease; "
    "Lease('big-one', Path('/other')).acquire(); print('held', flush=True); sys.stdin.read()"
)


def test_it_waits_for_the_gpu_has_it_and_lets_it_go(
    layout: Layout, tmp_path: Path, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    monkeypatch.setattr(leases, "AFTER_YOU_SECONDS", 1000.0)
    layout.settings_file.write_text(f'{TOML}[machine]\ngpu_lease = "big-one"\n')
    other = subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sign = leases.Waiting("big-one", Path("/other"))
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        background("leased:big-one", settings=load_settings(layout.settings_file))
        drop(layout, "a.jsonl")
        wait_until(word_is(layout, "waiting for GPU"))
        wait_until(lambda: states(layout) == {"ready": 1}, "files are taken in meanwhile")
        assert state(layout)["reason"] == f"the workspace /other (process {other.pid}) has it"
        wait_until(lambda: leases.somebody_waits("big-one", Path("/other")) == str(layout.root), "others see it wait")
        assert not events(layout, "trainer.started")

        other.kill()
        wait_until(lambda: states(layout) == {"learned": 1}, "the GPU was free")
        wait_until(lambda: leases.somebody_waits("big-one", Path("/other")) is None, "who has it waits no more")
        held = leases.holder("big-one")
        assert held == leases.Holder(events(layout, "trainer.started")[-1], str(layout.root))

        sign.acquire()
        wait_until(lambda: events(layout, "trainer.saved"), "it has nothing to train on")
        wait_until(lambda: leases.holder("big-one") is None)
        drop(layout, "b.jsonl")
        wait_until(lambda: "waited for it longer, and comes first" in log_text(layout))
        monkeypatch.setattr(leases, "AFTER_YOU_SECONDS", 1.0)
        wait_until(lambda: states(layout) == {"learned": 2}, "the other one did not come")
        with Ledger.open(layout.ledger) as ledger:
            assert ledger.events.of_kind("accident") == []
    finally:
        sign.release()
        other.kill()
        other.communicate()


def test_control_with_the_lease_off_nobody_is_waited_for(
    layout: Layout, tmp_path: Path, background: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(leases.FOLDER, str(tmp_path / "leases"))
    layout.settings_file.write_text(f'{TOML}[machine]\ngpu_lease = "off"\n')
    lease = leases.Lease("big-one", Path("/other"))
    lease.acquire()
    background(settings=load_settings(layout.settings_file))
    drop(layout, "a.jsonl")
    wait_until(lambda: states(layout) == {"learned": 1})
    assert leases.queue("big-one") == []
    lease.release()
