"""The disk refuses: an fsync fails, there is no room, it is read-only. Plain words, and the old state stands.

Every operation meets every error at every point through the effects object. On top of that the same is done for real
where the machine allows it: with strace making the fsync calls of a process fail, and on small tmpfs mounts. Where it
does not allow it, the injected error takes the place of the real one; nothing is left out.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path

import pytest

from nightschool import durable
from nightschool.durable import effects
from nightschool.durable import lock as lock_module
from nightschool.errors import StorageError

from . import operations
from .faults import CHANGES, failing, failing_always, files_below
from .operations import OPERATIONS, finished, operate, prepare, the_old_state_stands

Act = Callable[[Path], None]


def fresh(tmp_path: Path) -> Path:
    root = tmp_path / "run"
    shutil.rmtree(root, ignore_errors=True)
    prepare(root)
    return root


def temporary_files(root: Path) -> list[str]:
    """Temporary files left anywhere; not staging folders, which are their maker's to drop."""
    return [name for name in files_below(root) if re.search(r"\.tmp-[0-9a-f]{8}$", name)]


# --- every operation, every error, at every point; injected -------------------------------------------------------


def meet_every_failure(tmp_path: Path, act: Act, operation: str, code: int) -> int:
    """Let the first, the second, … change of `act` fail; returns how many there are."""
    for at in range(100):
        root = fresh(tmp_path)
        disk = failing(at, code)
        told = None
        try:
            with durable.use(disk):
                act(root)
        except StorageError as error:
            told = error
        if told is None:
            assert len(disk.calls) <= at, f"change {at} failed and nobody was told: {disk.calls[at]}"
            return at
        assert told.errno == code
        assert errno.errorcode[code] in str(told)
        assert str(root) in str(told), "the message names what could not be done"
        the_old_state_stands(root, operation)
        assert temporary_files(root) == []
        if operation != "replace_file":  # its source may be in place already
            operate(root, operation)
            assert finished(root, operation), "the next attempt does not work"
    raise AssertionError("more changes than expected")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_c4_c5_c7_any_failing_change_is_told_and_harms_nothing(tmp_path: Path, operation: str, code: int) -> None:
    assert meet_every_failure(tmp_path, partial(operate, operation=operation), operation, code) >= 2


def meet_every_sync_failure(tmp_path: Path, act: Act) -> int:
    """Let each sync of `act` fail in turn: none may follow. Returns how many there are."""
    for at in range(50):
        root = fresh(tmp_path)
        disk = failing(at, errno.EIO, ("sync",))
        failed = False
        with durable.use(disk):
            try:
                act(root)
            except StorageError:
                failed = True
        syncs = sum(name == "sync" for name, _ in disk.calls)
        assert syncs <= at + 1, "something was synced after a sync had failed"
        if not failed:
            return at
    raise AssertionError("more syncs than expected")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_c4_nothing_is_synced_after_a_failed_sync(tmp_path: Path, operation: str) -> None:
    assert meet_every_sync_failure(tmp_path, partial(operate, operation=operation)) > 0


def careless_write(root: Path) -> None:
    """A control: tries a failed sync again, as many programs do, and then believes that all is well."""
    fd = effects.active().create(root / "careless")
    try:
        effects.active().sync(fd)
    except OSError:
        effects.active().sync(fd)
    effects.active().close(fd)


def test_c4_control_trying_again_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="after a sync had failed"):
        meet_every_sync_failure(tmp_path, careless_write)
    with pytest.raises((AssertionError, OSError)):
        meet_every_failure(tmp_path, careless_write, "sweep", errno.EIO)


# --- fsync fails for real: strace ---------------------------------------------------------------------------------


@cache
def strace_works() -> bool:
    """Whether strace is there and this machine lets it trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode == 0


def run_with_failing_sync(root: Path, operation: str, at: int, log: Path) -> tuple[int | None, list[str]]:
    """Carry out an operation with its sync number `at` (from 0) failing with EIO.

    Returns the errno of the StorageError, if there was one, and the paths that were synced, the failed one included.
    """
    if not strace_works():
        disk = failing(at, errno.EIO, ("sync",))
        try:
            with durable.use(disk):
                operate(root, operation)
        except StorageError as error:
            return error.errno, ["?"] * (at + 1)
        return None, []
    inject = ["-e", "trace=fsync,fdatasync", "-e", f"inject=fsync,fdatasync:error=EIO:when={at + 1}"]
    command = ["strace", "-f", "-qq", "-y", *inject, "-o", log, sys.executable, operations.__file__, root, operation]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    synced = re.findall(r"f(?:data)?sync\(\d+<([^>]*)>", log.read_text())
    assert log.read_text().count("INJECTED") <= 1
    return json.loads(done.stdout)["errno"], synced


@pytest.mark.parametrize("operation", ["write_file", "copy_file", "save", "remove_tree"])
def test_c4_eio_of_every_fsync_of_a_process(tmp_path: Path, operation: str) -> None:
    root, at = tmp_path / "run", 0
    while True:
        fresh(tmp_path)
        code, synced = run_with_failing_sync(root, operation, at, tmp_path / "trace.txt")
        if code is None:
            break
        assert code == errno.EIO
        assert len(synced) == at + 1, "the failed sync was the last"
        the_old_state_stands(root, operation)
        assert temporary_files(root) == []
        at += 1
    assert at >= 2
    assert finished(root, operation)


# --- a disk without room, a disk that is read-only: tmpfs ---------------------------------------------------------


class SmallDisk:
    """A file system of 1 MiB of its own at `root`; or, where mounting is not allowed, a folder and injected errors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root]
        may = os.geteuid() == 0 and shutil.which("mount") is not None
        self.real = may and subprocess.run(mount, capture_output=True).returncode == 0

    def fill(self) -> AbstractContextManager[None]:
        """No byte more fits, while the block runs."""
        return self._filled() if self.real else durable.use(failing_always(errno.ENOSPC, ("write", "mkdir")))

    @contextmanager
    def _filled(self) -> Iterator[None]:
        ballast = self.root / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        yield
        ballast.unlink()

    def read_only(self) -> AbstractContextManager[None]:
        """Nothing can be changed, while the block runs."""
        return self._mounted_read_only() if self.real else durable.use(failing_always(errno.EROFS, CHANGES))

    @contextmanager
    def _mounted_read_only(self) -> Iterator[None]:
        subprocess.run(["mount", "-o", "remount,ro", self.root], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", self.root], check=True)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", self.root], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk")
    prepare(small.root)
    yield small
    small.close()


@pytest.mark.parametrize("operation", ["write_file", "copy_file", "make_dirs"])
def test_c5_a_full_disk(disk: SmallDisk, operation: str) -> None:
    if operation == "copy_file":
        (disk.root / "a/b").mkdir(parents=True)
    if operation == "make_dirs":  # an empty folder costs a tmpfs nothing
        with durable.use(failing_always(errno.ENOSPC, ("mkdir",))):
            refused_for_lack_of_room(disk.root, operation)
    else:
        with disk.fill():
            refused_for_lack_of_room(disk.root, operation)
    operate(disk.root, operation)  # goes on by itself when there is room
    assert finished(disk.root, operation)


def refused_for_lack_of_room(root: Path, operation: str) -> None:
    with pytest.raises(StorageError, match=r"no room left.*free some space") as got:
        operate(root, operation)
    assert got.value.errno == errno.ENOSPC
    the_old_state_stands(root, operation)
    assert temporary_files(root) == []


def test_c5_a_disk_that_fills_up_ahead_of_the_manifest(disk: SmallDisk) -> None:
    folder = durable.staging(disk.root, "2")
    (folder / "model").write_bytes(b"weights")
    with disk.fill():
        with pytest.raises(StorageError, match="no room left"):
            durable.seal(folder)
        assert durable.check(folder) == ["MANIFEST.json is missing: it was never finished"]
        durable.remove_tree(folder)  # dropping the partial one needs no room
        assert not folder.exists()
        assert durable.check(disk.root / "checkpoint-1") == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_c7_a_read_only_disk(disk: SmallDisk, operation: str) -> None:
    with disk.read_only():
        with pytest.raises(StorageError, match="read-only") as got:
            operate(disk.root, operation)
        assert got.value.errno == errno.EROFS
        the_old_state_stands(disk.root, operation)


def test_c7_a_lock_on_a_read_only_disk(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk.root / "run.lock"
    path.touch()
    real_open = os.open

    def read_only_open(name: Path, flags: int, *args: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real_open(name, flags, *args)

    with disk.read_only(), pytest.MonkeyPatch.context() if not disk.real else nullcontext() as patch:
        if patch is not None:
            patch.setattr(lock_module.os, "open", read_only_open)
        with pytest.raises(StorageError, match="read-only"):
            durable.Lock(path, "a run").acquire()
        assert durable.holder(path) is None


def test_c8_two_file_systems(disk: SmallDisk, tmp_path: Path) -> None:
    """Linking becomes copying; a rename across is refused with the reason, and nothing moves."""
    other = tmp_path / "other"
    other.mkdir()
    far = failing_always(errno.EXDEV, ("link", "rename")) if not disk.real else durable.Effects()
    if disk.real:
        assert durable.link_or_copy(disk.root / "source", other / "copy") is False
        assert (other / "copy").read_text() == operations.SOURCE
    with durable.use(far), pytest.raises(StorageError, match="different file systems"):
        durable.publish(disk.root / "checkpoint-1", other / "checkpoint-1")
    assert durable.check(disk.root / "checkpoint-1") == []


# --- words --------------------------------------------------------------------------------------------------------


def test_every_errno_gives_a_sentence() -> None:
    for code in errno.errorcode:
        error = effects.explain("write", Path("/some/\x1b[31mfile"), OSError(code, os.strerror(code)))
        assert error.errno == code
        assert re.fullmatch(r"Cannot write '/some/\\x1b\[31mfile': .+\.", str(error))
        assert str(error).isprintable()


def test_an_error_without_a_number_gives_a_sentence_too() -> None:
    assert str(effects.explain("write", Path("a"), OSError("odd"))) == "Cannot write a: the system says: odd."


def test_the_cause_is_kept(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as got:
        durable.write_file(tmp_path / "nowhere/a", "x")
    assert isinstance(got.value.__cause__, FileNotFoundError)
