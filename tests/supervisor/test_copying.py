"""A second place whose mount hangs: it is said, and neither the nights nor the end of a run wait for it.

What stands for the mount is a mark that is a FIFO: who opens it waits in the kernel until somebody writes to it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.errors import StorageError
from nightschool.ledger import Ledger
from nightschool.settings import SnapshotSettings
from nightschool.snapshots import due, second, states
from nightschool.supervisor import copying, night
from nightschool.supervisor.copying import Copying
from nightschool.workspace import Layout
from tests.snapshots import made
from tests.supervisor.fakes import wait_until
from tests.supervisor.test_night import NOON, Bed, noon

__all__ = ["noon"]


class Mount:
    """A folder that hangs until `answer`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.reached = threading.Event()
        """Somebody is about to open the mark."""
        os.mkfifo(folder / second.MARK)

    def answer(self) -> None:
        """Let go who waits, and be a good folder from now on."""
        with suppress(FileNotFoundError):
            fifo = self.folder / second.MARK
            fifo.rename(self.folder / "was")
            fd = os.open(self.folder / "was", os.O_RDWR)  # who waits for a writer has one
            time.sleep(0.2)
            os.close(fd)
            (self.folder / "was").unlink()


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mount]:
    found, real = Mount(tmp_path / "disk"), Path.read_text

    def read_text(self: Path, *arguments: Any, **options: Any) -> str:
        if self == found.folder / second.MARK:
            found.reached.set()
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    yield found
    found.answer()


@pytest.fixture
def bed(tmp_path: Path, mount: Mount) -> Iterator[Bed]:
    layout = made.workspace(tmp_path / "ws")
    made.checkpoint(layout, 30)
    with Ledger.open(layout.ledger) as ledger:
        found = Bed(layout, ledger, SnapshotSettings(copy_to=str(mount.folder)))
        found.tick()
        yield found


def take(bed: Bed, day: int) -> None:
    """The night of that day, without waiting for the copy."""
    bed.wall = datetime(2026, 11, day, 3, 0, tzinfo=UTC)
    bed.tick()
    work = bed.night._work
    assert work is not None
    assert work.thread is not None
    work.thread.join(60)
    bed.tick()


def test_the_nights_go_on_while_the_second_place_hangs_and_it_catches_up(
    bed: Bed, mount: Mount, caplog: pytest.LogCaptureFixture
) -> None:
    take(bed, 22)
    assert bed.night.busy, "the copy has begun"
    take(bed, 23)
    assert bed.names == ["2026-11-22", "2026-11-23"]
    assert "hang" not in caplog.text
    assert mount.reached.wait(60)  # from here on it reads and writes nothing
    for _ in range(3):
        bed.tick(copying.HANG_SECONDS)
    assert not bed.night.busy
    assert caplog.text.count("its mount seems to hang") == 1
    assert len(made.events(bed.layout, "copy-failed")) == 1
    take(bed, 24)
    assert second.wanted(bed.ledger)
    mount.answer()
    for _ in range(4):
        bed.settle()
        bed.tick(copying.LONGEST_DELAY)
    assert [one.name for one in states.snapshots(mount.folder / "snapshots")] == bed.names
    assert not second.wanted(bed.ledger)


def test_that_it_hangs_is_told_although_the_ledger_was_busy_when_it_was_found(
    bed: Bed, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(bed, 22)
    assert mount.reached.wait(60)  # from here on it reads and writes nothing
    real = bed.ledger.events.add

    def busy(*_: object, **__: object) -> int:
        raise StorageError("stayed locked", errno.EBUSY)

    def look() -> None:
        for _ in range(3):
            bed.tick(copying.HANG_SECONDS)

    monkeypatch.setattr(bed.ledger.events, "add", busy)
    with pytest.raises(StorageError):
        look()
    monkeypatch.setattr(bed.ledger.events, "add", real)
    look()
    assert not bed.night.busy
    assert len(made.events(bed.layout, "copy-failed")) == 1


def test_another_place_is_not_kept_waiting_by_the_one_that_hangs(bed: Bed, mount: Mount, tmp_path: Path) -> None:
    """Its owner was told that it hangs, and has named another: no need to start the machine anew."""
    good = tmp_path / "good"
    good.mkdir()
    take(bed, 22)
    stuck = bed.night.copying._work
    assert stuck is not None
    assert stuck.thread is not None
    assert mount.reached.wait(60)  # from here on it reads and writes nothing
    for _ in range(3):
        bed.tick(copying.HANG_SECONDS)
    bed.night.settings = bed.settings.model_copy(update={"copy_to": str(good)})
    bed.tick(night.LOOK_SECONDS)
    bed.settle()
    assert [one.name for one in states.snapshots(good / "snapshots")] == bed.names
    row = bed.ledger.machine.get(second.ROW)
    assert row["path"] == str(good)
    mount.answer()
    stuck.thread.join(60)
    assert not stuck.thread.is_alive()
    assert bed.ledger.machine.get(second.ROW) == row, "what hung says nothing of the place that came after it"
    assert states.snapshots(mount.folder / "snapshots") == []


def test_control_one_that_gets_on_is_waited_for(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take hours: as long as files, or bytes of one file, go there."""
    files, go_on = threading.Semaphore(0), threading.Event()

    def slow(*arguments: Any) -> Any:
        while not go_on.is_set():
            arguments[-1]()
            files.acquire()
        raise second.Stopped

    monkeypatch.setattr(second, "copy", slow)
    take(bed, 22)
    for _ in range(4):
        work = bed.night.copying._work
        assert work is not None
        before = work.files
        files.release()
        wait_until(lambda work=work, before=before: work.files > before)
        bed.tick(copying.HANG_SECONDS - 5)
        assert bed.night.busy
    bed.tick(copying.HANG_SECONDS)
    bed.tick(copying.HANG_SECONDS)
    assert not bed.night.busy, "and now it does not"
    go_on.set()
    files.release()


def test_the_bytes_of_one_large_file_count(tmp_path: Path) -> None:
    """The kernel counts them for the thread alone."""
    work, end, more, written = copying._Work(tmp_path), threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        work.native_id = threading.get_native_id()
        with (tmp_path / "large").open("wb", buffering=0) as file:
            written.set()
            while more.wait() and not end.is_set():
                more.clear()
                file.write(bytes(1000))
                written.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert written.wait(60)
    if not work.moved()[1]:
        pytest.skip("this kernel counts no bytes for a thread")
    first = work.moved()
    (tmp_path / "other").write_bytes(bytes(1000))
    assert work.moved() == first, "control: what others write is no progress of this one"
    written.clear()
    more.set()
    assert written.wait(60)
    assert work.moved() != first
    end.set()
    more.set()
    thread.join()


def test_a_snapshot_that_is_taken_during_a_copy_is_copied_too(bed: Bed, mount: Mount) -> None:
    """What was wanted anew while a copy was under way is not called done by it."""
    mount.answer()
    second.want(bed.ledger, str(mount.folder))

    def meanwhile() -> bool:
        second.want(bed.ledger, str(mount.folder))
        return False

    def copy(stopping: second.Stopping) -> None:
        second.copy(
            bed.layout, bed.ledger, mount.folder, copying.pruning.rules_of(bed.settings), date.today(), stopping
        )

    copy(meanwhile)
    assert second.wanted(bed.ledger)
    copy(lambda: False)
    assert not second.wanted(bed.ledger), "control: nothing came in between"


def resting(layout: Layout, mount: Mount) -> Layout:
    """A workspace with a snapshot due, and nothing else to do."""
    other = made.workspace(layout.root.parent / "other")
    other.settings_file.write_text(layout.settings_file.read_text() + f'[snapshots]\ncopy_to = "{mount.folder}"\n')
    with Ledger.open(other.ledger) as ledger:
        for row in list(ledger.files.each()):
            ledger.files.set_state(row.id, "learned")
        ledger.machine.set(night.DONE, due.to_row({NOON.date() - timedelta(days=9): "taken"}))
    made.checkpoint(other, 40)
    return other


@pytest.mark.usefixtures("noon")
def test_until_idle_ends_although_the_second_place_hangs(
    layout: Layout, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightschool.settings import load_settings
    from tests.supervisor.test_run import run

    monkeypatch.setattr(copying, "HANG_SECONDS", 1.0)
    monkeypatch.setattr(copying, "END_SECONDS", 1e6)  # nor is it waited for at the end: this would never return
    other = resting(layout, mount)
    assert run(other, load_settings(other.settings_file)) == 0
    assert "its mount seems to hang" in other.log_file.read_text()
    assert len(states.snapshots(other.snapshots)) == 1


@pytest.mark.usefixtures("noon")
def test_control_until_idle_waits_for_one_that_answers_late(layout: Layout, mount: Mount) -> None:
    from nightschool.settings import load_settings
    from tests.supervisor.test_run import run

    other = resting(layout, mount)
    real = Copying.look
    seen: list[bool] = []

    def look(self: Copying) -> None:
        real(self)
        if self.busy:
            seen.append(True)
            if len(seen) == 3:
                mount.answer()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Copying, "look", look)
        assert run(other, load_settings(other.settings_file)) == 0
    assert len(seen) >= 3
    assert "hang" not in other.log_file.read_text()
    assert (
        "The second place is not up to date" in other.log_file.read_text()
        or durable.check(mount.folder / "snapshots" / states.snapshots(other.snapshots)[0].name) == []
    )
