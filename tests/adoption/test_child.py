"""The child process that reads tensors: what it says, how it fails, and that the command as a whole works."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from nightschool import Workspace, durable
from nightschool.adoption import child
from nightschool.cli import main
from nightschool.errors import CheckpointError, NightschoolError, WorkspaceError
from nightschool.record import read_record
from nightschool.snapshots import states
from nightschool.status import read_status
from nightschool.workspace import Layout
from tests.training import rig, theirs


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "ws")
    layout.create()
    return layout


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let a shell script stand for Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(child.sys, "executable", str(path))


def test_what_it_says_is_passed_on_and_noise_is_not(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path, """echo '{"say": "one"}'; echo noise; echo 7; echo '{"done": {"a": 1}}'""")
    said: list[str] = []
    assert child.run(layout, {}, said.append) == {"a": 1}
    assert said == ["one"]
    assert not list(layout.tmp.iterdir())


def test_its_error_is_raised_as_what_it_was(layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, tmp_path, """echo '{"error": "It does not fit."}'; echo noise >&2; exit 6""")
    with pytest.raises(CheckpointError, match=r"^It does not fit\.$"):
        child.run(layout, {}, print)


@pytest.mark.parametrize("script", ["echo Killed >&2; exit 137", "exit 0"])
def test_an_end_without_a_word_is_no_success(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    pretend(monkeypatch, tmp_path, script)
    with pytest.raises(NightschoolError, match="Nothing was taken over"):
        child.run(layout, {}, print)


@pytest.mark.usefixtures("forked")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the real child."""
    run = theirs.make(tmp_path, rig.make_base(tmp_path / "base"), "lora")
    before = theirs.tree(run.folder)
    capsys.readouterr()
    assert main(["init", str(tmp_path / "ws"), "--from", str(run.folder)]) == 0
    said = capsys.readouterr().out
    assert theirs.tree(run.folder) == before
    layout = Workspace.open(tmp_path / "ws").layout
    assert read_status(layout).step == 5
    (origin,) = states.snapshots(layout.snapshots)
    assert (origin.name, origin.kind, origin.step) == ("origin", "origin", 5)
    assert durable.check(origin.folder) == []
    assert f"Made the workspace {layout.root}." in said
    assert "Learning rate: 0.0015" in said
    assert read_record(layout.checkpoint(5)).root["adopted"]["step"] == 5
    assert sorted(path.name for path in layout.root.iterdir() if path.name.startswith(".")) == [".nightschool"]
    assert not list(layout.tmp.iterdir())

    # What the child finds out is an error of its own kind here too, and nothing is left.
    spoilt = shutil.copytree(run.checkpoint, tmp_path / "spoilt" / run.checkpoint.name)
    weights = spoilt / "optimizer.pt"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["init", str(tmp_path / "no"), "--from", str(spoilt)]) == CheckpointError.exit_code
    assert "optimizer.pt is cut off" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_without_model_or_source_it_says_what_to_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "ws")]) == 2
    assert "--from" in capsys.readouterr().err


def test_the_source_is_no_place_for_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(WorkspaceError, match="only read"):
        Workspace.adopt(tmp_path / "out/ws", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
