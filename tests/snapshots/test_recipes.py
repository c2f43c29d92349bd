"""The recipes of docs/backup.md, with the programs themselves; one that is not installed is said, not passed over."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from nightschool import basemodel, durable
from nightschool.restoring import restore
from nightschool.snapshots import states
from nightschool.snapshots.pruning import room_of
from nightschool.workspace import Layout
from tests.durable.faults import files_below
from tests.snapshots import made

DOCS = Path(__file__).parents[2] / "docs" / "backup.md"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (base / name).write_text(f"the {name}")
    root = {
        **made.ROOT, "base": basemodel.fingerprint(basemodel.model_files(base)),
        "tokenizer": basemodel.tokenizer_digest(base), "chat_template": None,
    }  # fmt: skip
    monkeypatch.setattr(made, "ROOT", root)
    found = made.workspace(tmp_path / "ws", toml=f'[model]\nname = "{base}"\n', steps=30)
    made.checkpoint(found, 20)
    made.snapshot(found, "2026-11-21")
    made.snapshot(found, "2026-11-22")
    return found


def run(command: Sequence[object], **environment: str) -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed: its recipe in docs/backup.md was not tested")
    env = {**os.environ, **environment}
    subprocess.run([str(word) for word in command], check=True, capture_output=True, env=env, timeout=120)


def comes_back(place: Path, layout: Layout, new: Path) -> None:
    """What is in `place` is what was in the workspace, and a workspace comes back from it."""
    for name in ("snapshots", "archive"):
        assert files_below(place / name) == files_below(layout.root / name)
    for one in states.snapshots(place / "snapshots"):
        assert durable.check(one.folder) == []
    shutil.rmtree(layout.root)
    done = restore(place, new, None)
    assert (done.name, done.step, done.lost) == ("2026-11-22", 20, [])


@pytest.mark.parametrize("command", [["cp", "-a"], ["rsync", "-aH"]])
def test_copied_with_its_links_it_takes_no_more_room(layout: Layout, tmp_path: Path, command: list[str]) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    run([*command, layout.snapshots, layout.archive, place])
    first, second = (place / "snapshots" / name / "checkpoint-20/optimizer.pt" for name in ("2026-11-21", "2026-11-22"))
    assert first.samefile(second)
    assert room_of(place / "snapshots").own < 1.5 * room_of(place / "snapshots" / "2026-11-22").own + 100_000
    comes_back(place, layout, tmp_path / "new")


def test_rclone_copies_what_is_needed(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "remote"
    for name in ("archive", "snapshots"):
        run(["rclone", "copy", "--immutable", layout.root / name, place / name], RCLONE_CONFIG=str(tmp_path / "conf"))
    comes_back(place, layout, tmp_path / "new")


def test_restic_keeps_and_gives_back(layout: Layout, tmp_path: Path) -> None:
    settings = {"RESTIC_REPOSITORY": str(tmp_path / "repo"), "RESTIC_PASSWORD": "night", "HOME": str(tmp_path)}
    run(["restic", "init"], **settings)
    run(["restic", "backup", layout.snapshots, layout.archive], **settings)
    run(["restic", "restore", "latest", "--target", tmp_path / "back"], **settings)
    comes_back(tmp_path / "back" / layout.root.relative_to("/"), layout, tmp_path / "new")


def test_the_recipes_are_those_of_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for command in ("rsync -aH", "rclone copy --immutable", "restic backup", "restic restore latest --target"):
        assert re.search(rf"^{command}", text, re.MULTILINE), command
