"""`restore`: everything is looked at first, and the new workspace is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightschool import basemodel, curriculum, durable, restoring, verify
from nightschool.errors import BusyError, CheckpointError, ModelError, SettingsError, StorageError, WorkspaceError
from nightschool.ledger import Arrival, Ledger
from nightschool.record import entries_of, read_generation
from nightschool.restoring import Restored, restore
from nightschool.settings import load_settings
from nightschool.snapshots import second
from nightschool.snapshots.holding import held, way_back
from nightschool.snapshots.retention import Rules
from nightschool.workspace import Layout
from tests.durable.faults import failing, files_below, killed_at
from tests.snapshots import made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(f"the {name}")
    return folder


@pytest.fixture
def layout(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """At step 25 of file 3; file 4 waits, file 5 has arrived only."""
    root = {
        **made.ROOT, "base": basemodel.fingerprint(basemodel.model_files(base)),
        "tokenizer": basemodel.tokenizer_digest(base), "chat_template": None,
    }  # fmt: skip
    monkeypatch.setattr(made, "ROOT", root)
    found = made.workspace(
        tmp_path / "ws", toml=f'# mine\n[model]\nname = "{base}"  # the base\n\n[training]\nseed = 42\n', steps=30
    )
    with Ledger.open(found.ledger) as ledger:
        ledger.machine.set("paused", True)
        ledger.files.learned([1, 2])
        ledger.files.arrive([Arrival("5.jsonl", "/dropped/5.jsonl")])
    made.checkpoint(found, 25)
    made.snapshot(found)
    return found


def states(layout: Layout) -> dict[str, str]:
    with Ledger.open(layout.ledger) as ledger:
        return {row.name: row.state for row in ledger.files.each()}


def test_a_workspace_comes_back_from_a_snapshot(layout: Layout, tmp_path: Path, base: Path) -> None:
    before = files_below(layout.snapshots)
    done = restore(layout.snapshots / "2026-11-22", tmp_path / "new", None)
    new = Layout(tmp_path / "new")
    assert (done.step, done.name, done.files) == (25, "2026-11-22", 4)
    assert durable.check(new.checkpoint(25)) == []
    assert files_below(new.archive) == files_below(layout.archive)
    assert new.settings_file.read_text() == layout.settings_file.read_text()
    for name in ("adapter_model.safetensors", *made.TOKENIZER):
        assert (new.current_model / name).read_bytes() == (layout.snapshots / "2026-11-22" / name).read_bytes()
    # The waiting file waits on; what had only arrived has its bytes nowhere.
    expected = {"1.jsonl": "learned", "2.jsonl": "learned", "3.jsonl": "training", "4.jsonl": "ready"}
    assert states(new) == {**expected, "5.jsonl": "set_aside"}
    assert done.lost == ["5.jsonl"]
    with Ledger.open(new.ledger) as ledger:
        assert ledger.machine.get("paused") is None
        assert (
            ledger.files.get(5).reason == "its bytes were not archived yet when the snapshot was taken: drop it again"
        )
        newest = ledger.checkpoints.newest()
        assert newest is not None
        assert newest.step == 25
        assert ledger.events.of_kind("restored")
    assert read_generation(new) == 0
    new.require()
    assert [problem for problem in verify.report(new, deep=True).problems if "no row" not in problem] == []
    assert not [path for path in new.root.rglob("*") if os.access(path, os.W_OK) is False]
    assert files_below(layout.snapshots) == before


def test_the_base_may_be_elsewhere_and_is_known_by_its_content(layout: Layout, tmp_path: Path, base: Path) -> None:
    elsewhere = base.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="say where with --model"):
        restore(layout.snapshots / "2026-11-22", tmp_path / "new", None)
    restore(layout.snapshots / "2026-11-22", tmp_path / "new", str(elsewhere))
    new = Layout(tmp_path / "new")
    assert load_settings(new.settings_file).model.name == str(elsewhere)
    text = new.settings_file.read_text()
    assert text.startswith("# mine\n[model]\n")
    assert "seed = 42" in text


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_another_base_is_refused(layout: Layout, tmp_path: Path, base: Path, name: str) -> None:
    (base / name).write_text("another")
    with pytest.raises(ModelError, match="is not the one that this run stands on"):
        restore(layout.snapshots / "2026-11-22", tmp_path / "new", str(base))
    assert not (tmp_path / "new").exists()


def test_from_a_second_place_the_newest_is_taken_and_later_files_come_along(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    made.checkpoint(layout, 29)
    made.snapshot(layout, "fair", "named")
    later = layout.archive / "2026-11-23" / "later.jsonl"
    later.parent.mkdir()
    later.write_text("later")
    (later.parent / "later.jsonl.toml").write_text("epochs = 2")
    with Ledger.open(layout.ledger) as ledger:
        second.copy(layout, ledger, place, Rules(14, 8, 12), made.DAY)
    shutil.rmtree(layout.root)
    done = restore(place, tmp_path / "new", None)
    assert (done.name, done.step) == ("fair", 29)
    assert done.unknown == ["archive/2026-11-23/later.jsonl", "archive/2026-11-23/later.jsonl.toml"]
    assert (tmp_path / "new/archive/2026-11-23/later.jsonl").read_text() == "later"
    # The copy of the ledger does not take the old second place along for its own.
    with Ledger.open(done.layout.ledger) as ledger, pytest.raises(StorageError, match="another workspace"):
        second.copy(done.layout, ledger, place, Rules(14, 8, 12), made.DAY)


def test_without_the_archive_what_waits_is_set_aside_and_the_history_ends_in_time(
    layout: Layout, tmp_path: Path
) -> None:
    lone = shutil.copytree(layout.snapshots / "2026-11-22", tmp_path / "usb" / "2026-11-22")
    done = restore(lone, tmp_path / "new", None)
    assert done.files == 0
    assert "There is no archive" in done.notes[0]
    assert set(done.lost) == {"3.jsonl", "4.jsonl", "5.jsonl"}
    assert states(done.layout) == {
        "1.jsonl": "learned", "2.jsonl": "learned", "3.jsonl": "set_aside", "4.jsonl": "set_aside",
        "5.jsonl": "set_aside",
    }  # fmt: skip
    with Ledger.open(done.layout.ledger) as ledger:
        assert curriculum.total_steps(entries_of(ledger)) == 25
    assert [problem for problem in verify.report(done.layout).problems if "no row" not in problem] == []


def test_one_missing_file_in_the_middle_lets_the_others_wait(layout: Layout, tmp_path: Path) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.entries.append([(4, "d4", 10)], made.RECIPE, 10)
        ledger.files.begin(4)
    made.checkpoint(layout, 28)
    made.snapshot(layout, "later", "named")
    (layout.archive / "2026-11-20" / "3.jsonl").write_text("something else")
    done = restore(layout.snapshots / "later", tmp_path / "new", None)
    assert done.lost == ["3.jsonl", "5.jsonl"]
    found = states(done.layout)
    assert (found["3.jsonl"], found["4.jsonl"]) == ("set_aside", "archived")
    with Ledger.open(done.layout.ledger) as ledger:
        assert curriculum.total_steps(entries_of(ledger)) == 28


def test_a_damaged_snapshot_is_refused_before_anything_is_made(layout: Layout, tmp_path: Path) -> None:
    path = layout.snapshots / "2026-11-22" / "checkpoint-25" / "optimizer.pt"
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"is damaged: .*optimizer\.pt.*Nothing was made"):
        restore(layout.snapshots / "2026-11-22", tmp_path / "new", None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda new: (new.mkdir(), (new / "x").write_text("x")), WorkspaceError),
        (lambda new: new.write_text("x"), WorkspaceError),
        (lambda new: (new.mkdir(), (new / "nightschool.toml").write_text("x")), WorkspaceError),
    ],
)
def test_a_target_that_is_taken_is_refused(
    layout: Layout, tmp_path: Path, prepare: Callable[[Path], Any], kind: type[Exception]
) -> None:
    prepare(tmp_path / "new")
    with pytest.raises(kind):
        restore(layout.snapshots / "2026-11-22", tmp_path / "new", None)


def test_what_is_no_snapshot_is_named(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no snapshot, and holds none"):
        restore(layout.archive, tmp_path / "new", None)
    with pytest.raises(CheckpointError, match="is not there"):
        restore(tmp_path / "unmounted", tmp_path / "new", None)
    with pytest.raises(CheckpointError, match="is no whole snapshot"):
        restore(layout.checkpoint(25), tmp_path / "new", None)


def test_an_empty_folder_is_fine(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert restore(layout.snapshots, tmp_path / "new", None).step == 25


def test_a_full_disk_is_known_beforehand(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(StorageError, match="are needed"):
        restore(layout.snapshots, tmp_path / "new", None)


def test_the_runs_own_chat_template_comes_along(layout: Layout, tmp_path: Path, monkeypatch: Any) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}")
    digest = durable.hash_file(template).sha256
    layout.settings_file.write_text(
        layout.settings_file.read_text().replace("\n\n[", f'\nchat_template = "{template}"\n\n[')
    )
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("root", {**made.ROOT, "chat_template": digest})
    made.checkpoint(layout, 26)
    durable.remove_tree(layout.checkpoint(25))
    made.snapshot(layout, "with", "named")
    template.unlink()
    done = restore(layout.snapshots / "with", tmp_path / "new", None)
    named = str(load_settings(done.layout.settings_file).model.chat_template)
    assert named == str(tmp_path / "new" / "chat_template.source")
    assert Path(named).read_text() == "{{ messages }}"


@pytest.mark.parametrize(
    "text",
    ['[model]\nname = "a"\n', '[data]\nmax_length=9\n[ model ]\n  name="a" # why\ndtype = "auto"\n[log]\nkeep = 2\n'],
)
def test_only_the_base_changes_in_the_settings(text: str) -> None:
    new = restoring.replaced(text, "name", 'b "c"')
    assert new != text
    assert new.replace('name = "b \\"c\\""', "") == text.replace('name = "a"', "").replace('  name="a" # why', "")


@pytest.mark.parametrize("text", ['model = {name = "a"}\n', '[model]\nname = """a\n"""\n', 'model.name = "a"\n'])
def test_settings_that_are_written_in_another_way_are_left_to_people(text: str) -> None:
    with pytest.raises(SettingsError, match="cannot be changed from here"):
        restoring.replaced(text, "name", "b")


# --- accidents --------------------------------------------------------------------------------------------------


def test_g7_who_removes_snapshots_waits_for_a_restore(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightschool import Workspace

    tried: list[str] = []

    def told(text: str) -> None:
        with pytest.raises(BusyError):
            Workspace(layout).prune()
        tried.append(text)

    restore(layout.snapshots / "2026-11-22", tmp_path / "new", None, told)
    assert len(tried) == 2
    monkeypatch.setattr(restoring, "PATIENCE", 0.1)
    with way_back(layout, "retention"), pytest.raises(BusyError):
        restore(layout.snapshots / "2026-11-22", tmp_path / "newer", None)


def test_control_g7_without_the_lock_retention_takes_what_is_being_read(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(restoring, "reading", lambda _: nullcontext())

    def told(text: str) -> None:
        if text.startswith("Bringing"):
            with held(layout.way_back_lock, "retention"):
                durable.remove_tree(layout.snapshots / "2026-11-22")

    with pytest.raises(StorageError):
        restore(layout.snapshots / "2026-11-22", tmp_path / "new", None, told)
    assert not (tmp_path / "new").exists()


def test_sigkill_at_every_change_leaves_no_workspace_or_a_whole_one(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a kill loses nothing that was written, and time is dear
    new, before, point = Layout(tmp_path / "new"), files_below(layout.snapshots), 0

    def act() -> Restored:
        return restore(layout.snapshots / "2026-11-22", new.root, None)

    while killed_at(point, act):
        if new.root.exists():
            new.require()
            assert durable.check(new.checkpoint(25)) == []
            shutil.rmtree(new.root)
        assert len(list(tmp_path.glob(".tmp-restore-new-*"))) <= 1  # what the life before left is gone
        point += 1
    assert point > 60
    assert list(tmp_path.glob(".tmp-restore-*")) == []
    assert files_below(layout.snapshots) == before


def test_control_a_restore_in_place_is_caught(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = Layout(tmp_path / "new")
    real = durable.staging

    def staging(parent: Path, label: str) -> Path:
        if not label.startswith("restore-"):
            return real(parent, label)
        new.root.mkdir()
        return new.root

    monkeypatch.setattr(durable, "staging", staging)
    killed_at(40, lambda: restore(layout.snapshots / "2026-11-22", new.root, None))
    with pytest.raises(WorkspaceError):
        new.require()


def test_a_disk_that_fills_up_leaves_nothing(layout: Layout, tmp_path: Path) -> None:
    for at in range(0, 40, 8):
        with pytest.raises(StorageError), durable.use(failing(at, errno.ENOSPC, ("create", "write", "mkdir"))):
            restore(layout.snapshots / "2026-11-22", tmp_path / "new", None)
        assert not (tmp_path / "new").exists()
        assert list(tmp_path.glob(".tmp-*")) == []
