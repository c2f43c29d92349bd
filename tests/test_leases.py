"""The lease for a GPU: whose it is, for all users of the computer, and gone with its holder, however that ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable, gpus, leases
from nightschool.errors import BusyError, StorageError
from nightschool.leases import Lease, Waiting, after_you, card, gives_way, holder, name_of, queue, somebody_waits
from nightschool.settings import Settings, parse_settings

NAME = "GPU-1"
NOBODY = 65534
CHILD = """
import os, sys
from pathlib import Path
kind, name, workspace, user = sys.argv[1:]
from nightschool import leases
from nightschool.errors import NightschoolError
if user:
    os.umask(0o077)
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
try:
    held = (leases.Lease if kind == "lease" else leases.Waiting)(name, Path(workspace))
    held.acquire()
except NightschoolError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(error.exit_code)
print("held", flush=True)
for line in sys.stdin:
    print(leases.holder(name), leases.somebody_waits(name, Path(workspace)), sep="; ", flush=True)
held.release()
"""

RACER = """
import fcntl, os, sys, time
from pathlib import Path
name, workspace, witness, leased = sys.argv[1:]
from nightschool import leases
from nightschool.errors import BusyError
lease, sign = leases.Lease(name, Path(workspace)), leases.Waiting(name, Path(workspace))
# Opened before the lease, for at the end of a process the kernel closes files in their order.
fd = os.open(witness, os.O_RDWR | os.O_CREAT)
os.write(1, b"ready\\n")
sys.stdin.readline()
while True:
    sign.acquire()
    try:
        if leased == "True":
            lease.acquire()
    except BusyError:
        continue
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(1, b"two at once\\n")
        os._exit(1)
    leases.queue(name)
    time.sleep(0.002)
    os.write(1, b"turn\\n")
    fcntl.lockf(fd, fcntl.LOCK_UN)
    lease.release()
    sign.release()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for leases that other users can reach, which those of pytest are not."""
    root = Path(tempfile.mkdtemp(prefix="nightschool-test-"))
    root.chmod(0o777)
    monkeypatch.setenv(leases.FOLDER, str(root / "leases"))
    yield root
    shutil.rmtree(root)


@pytest.fixture
def start(shared: Path) -> Iterator[Start]:
    """Starts a process that holds a lease or a sign, waits for what it says first, and says it in `.said`."""
    started: list[subprocess.Popen[str]] = []

    def begin(kind: str, workspace: str, user: int | str = "") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, kind, NAME, workspace, str(user)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


def files(shared: Path) -> list[str]:
    return sorted(path.name for path in (shared / "leases").iterdir())


def test_one_has_it_and_the_other_is_told_who(shared: Path, start: Start) -> None:
    first = start("lease", "/home/ann/model")
    assert said(first) == "held"
    assert holder(NAME) == leases.Holder(first.pid, "/home/ann/model")
    with pytest.raises(BusyError, match=rf"workspace /home/ann/model \(process {first.pid}\).*{NAME}") as caught:
        Lease(NAME, shared / "b").acquire()
    assert (caught.value.exit_code, caught.value.pid) == (5, first.pid)
    second = start("lease", "/home/bob/model")
    assert said(second).startswith("BusyError The GPU is in use by the workspace /home/ann/model")
    assert second.wait() == 5
    note = json.loads((shared / f"leases/{NAME}.lock").read_text())
    assert (note["workspace"], note["pid"]) == ("/home/ann/model", first.pid), "people can read it too"


def test_control_another_lease_is_free(shared: Path, start: Start) -> None:
    assert said(start("lease", "/a")) == "held"
    other = Lease("GPU-2", shared / "b")
    other.acquire()
    assert other.still_held()
    assert holder("GPU-2") == leases.Holder(os.getpid(), str(shared / "b")), "one's own is told without opening it"
    assert other.still_held()
    other.release()
    assert holder("GPU-2") is None


def race(shared: Path, leased: bool, turns: int) -> list[str]:
    """What four processes say that want one lease without a pause, and of which one is killed at every tenth turn.

    Without a lease none is killed: the last one would be alone, and never meet another.
    """
    heard: list[str] = []
    racers: list[subprocess.Popen[str]] = []
    read, write = os.pipe()

    def start(number: int) -> None:
        command = [sys.executable, "-c", RACER, NAME, f"/{number}", str(shared / "witness"), str(leased)]
        racers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=write, text=True))

    try:
        for number in range(4):
            start(number)
        with os.fdopen(read) as told:
            assert [next(told) for _ in racers] == ["ready\n"] * 4
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write("\n")
                racer.stdin.flush()
            while len(heard) < turns and "two at once" not in heard:
                heard.append(next(told).strip())
                if leased and len(heard) % 10 == 0 and len(heard) <= 30:
                    racers[len(heard) // 10].kill()
    finally:
        os.close(write)
        for racer in racers:
            racer.kill()
            racer.communicate()
    return heard


def test_law_never_two_holders_whoever_is_killed(shared: Path) -> None:
    """The witness is a lock on another file, which none may find taken."""
    assert race(shared, True, 200) == ["turn"] * 200


def test_control_without_the_lease_the_witness_sees_two(shared: Path) -> None:
    assert "two at once" in race(shared, False, 10_000)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_holder_that_is_killed_leaves_it_free_at_once(shared: Path, start: Start, how: signal.Signals) -> None:
    first, sign = start("lease", "/a"), start("wait", "/c")
    assert (said(first), said(sign)) == ("held", "held")
    assert somebody_waits(NAME, Path("/a")) == "/c"
    for process in (first, sign):
        process.send_signal(how)
        process.wait()
    assert holder(NAME) is None
    mine = Lease(NAME, shared / "b")
    mine.acquire()
    assert len(files(shared)) == 2, "the sign was left"
    assert somebody_waits(NAME, Path("/a")) is None
    assert files(shared) == [f"{NAME}.lock"], "and is removed by whoever looks"
    assert mine.still_held()
    mine.release()


def test_who_waits_is_told_to_others_in_order_and_not_to_itself(shared: Path, start: Start) -> None:
    signs = [Waiting(NAME, Path(name)) for name in ("/c", "/a", "/b")]
    for sign in signs:
        sign.acquire()
    assert [who.workspace for who in queue(NAME)] == ["/c", "/a", "/b"]
    assert somebody_waits(NAME, Path("/c")) == "/a"
    assert somebody_waits(NAME, Path("/a")) == "/c"
    process = start("lease", "/a")
    assert said(process) == "held"
    assert ask(process) == f"the workspace /a (process {process.pid}); /c"
    signs[0].acquire()
    assert [who.workspace for who in queue(NAME)] == ["/c", "/a", "/b"], "asking again loses no place"
    signs[0].release()
    signs[0].acquire()
    assert [who.workspace for who in queue(NAME)] == ["/a", "/b", "/c"], "coming again does"
    for sign in signs:
        sign.release()
        sign.release()
    assert queue(NAME) == []
    assert files(shared) == [f"{NAME}.lock"]


def test_signs_for_other_leases_and_strange_files_do_not_count(shared: Path) -> None:
    other = Waiting("GPU-1.wait-0123456789abcdef", Path("/x"))
    other.acquire()
    nameless = durable.Lock(shared / f"leases/{NAME}.wait-{'0' * 16}", "someone")
    nameless.acquire()
    (shared / f"leases/{NAME}.wait-more").write_text("{}")
    (shared / f"leases/{NAME}.wait-{'1' * 16}").symlink_to("/etc/passwd")
    assert queue(NAME) == []
    assert nameless.still_held()
    nameless.release()
    other.release()


def test_a_sign_that_somebody_removed_is_put_up_again(shared: Path) -> None:
    sign = Waiting(NAME, Path("/a"))
    sign.acquire()
    next((shared / "leases").iterdir()).unlink()
    assert queue(NAME) == []
    sign.acquire()
    assert [who.workspace for who in queue(NAME)] == ["/a"]
    sign.release()


def test_a_sign_that_is_put_up_while_somebody_removes_it_stays(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = Waiting(NAME, Path("/a"))
    sign.acquire()
    with monkeypatch.context() as late:
        late.setattr(durable, "held", lambda path: None)  # what was so a moment ago
        assert queue(NAME) == []
    assert [who.workspace for who in queue(NAME)] == ["/a"]
    sign.release()


def test_a_note_that_is_not_the_holders_is_not_believed(shared: Path) -> None:
    """In the moment between taking a lock and writing, the file still tells of an earlier holder."""
    (shared / "leases").mkdir()
    path = shared / f"leases/{NAME}.lock"
    script = (
        "import fcntl, os, sys, time; fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); "
        "os.write(fd, sys.argv[2].encode()); fcntl.lockf(fd, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    for note in ('{"pid": 1, "workspace": "/old"}', "[" * 9000, '{"pid": 1', "7"):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", script, path, note], stdout=subprocess.PIPE, text=True)
        try:
            assert said(process) == "held"
            assert holder(NAME) == leases.Holder(process.pid, None)
            assert str(holder(NAME)) == f"process {process.pid}"
        finally:
            process.kill()
            process.communicate()


def test_everybody_can_use_it_whatever_the_umask(shared: Path) -> None:
    before = os.umask(0o077)
    try:
        lease, sign = Lease(NAME, Path("/a")), Waiting(NAME, Path("/a"))
        lease.acquire()
        sign.acquire()
        assert stat.S_IMODE((shared / "leases").stat().st_mode) == 0o1777
        assert {stat.S_IMODE(path.stat().st_mode) for path in (shared / "leases").iterdir()} == {0o666}
        sign.release()
        lease.release()
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
@pytest.mark.parametrize(("first", "second"), [(NOBODY, ""), ("", NOBODY), (NOBODY, NOBODY - 1)])
def test_two_users_take_turns(shared: Path, start: Start, first: int | str, second: int | str) -> None:
    one = start("lease", "/a", first)
    assert said(one) == "held"
    two = start("lease", "/b", second)
    assert said(two).startswith(f"BusyError The GPU is in use by the workspace /a (process {one.pid})")
    sign = start("wait", "/b", second)
    assert said(sign) == "held"
    assert ask(one) == f"the workspace /a (process {one.pid}); /b"
    for process in (one, sign):
        process.kill()
        process.wait()
    three = start("lease", "/b", second)
    assert said(three) == "held"
    assert ask(three) == f"the workspace /b (process {three.pid}); None"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
def test_control_a_file_that_the_umask_has_closed_cannot_be_used_by_another(shared: Path, start: Start) -> None:
    (shared / "leases").mkdir()
    (shared / f"leases/{NAME}.lock").touch(0o600)
    assert said(start("lease", "/b", NOBODY)).startswith("StorageError")


def test_an_existing_file_is_opened_without_creating(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fs.protected_regular Linux refuses O_CREAT on another user's file in a folder for everybody."""
    lease = Lease(NAME, Path("/a"))
    lease.acquire()
    lease.release()
    flags: list[int] = []
    opened = os.open

    def watched(path: Any, how: int, mode: int = 0o777, **more: Any) -> int:
        if str(path).endswith(".lock"):
            flags.append(how)
            if how & os.O_CREAT and not how & os.O_EXCL:
                raise PermissionError(13, "Permission denied", str(path))
        return opened(path, how, mode, **more)

    monkeypatch.setattr(os, "open", watched)
    lease.acquire()
    lease.release()
    assert flags
    assert all(how & os.O_NOFOLLOW for how in flags)


@pytest.mark.parametrize("what", ["link", "broken link", "folder", "leases is a link", "leases is a file"])
def test_what_somebody_put_in_its_place_is_not_followed(shared: Path, what: str) -> None:
    target = shared / "target"
    target.write_text("precious")
    path = shared / f"leases/{NAME}.lock"
    if what == "leases is a file":
        path.parent.write_text("precious")
    elif what == "leases is a link":
        (shared / "elsewhere").mkdir()
        path.parent.symlink_to("elsewhere")
    else:
        path.parent.mkdir()
        if what == "folder":
            path.mkdir()
        else:
            path.symlink_to(target if what == "link" else shared / "missing")
    with pytest.raises(StorageError, match="Remove it"):
        Lease(NAME, Path("/a")).acquire()
    assert target.read_text() == "precious"
    assert not (shared / "missing").exists()
    assert not list((shared / "elsewhere").glob("*"))


def test_a_folder_that_cannot_be_used_is_named_with_what_to_do(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(leases.FOLDER, "/proc/leases")
    with pytest.raises(StorageError, match=r'/proc/leases: .*NIGHTSCHOOL_LEASES.*gpu_lease = "off"'):
        Lease(NAME, Path("/a")).acquire()
    assert holder(NAME) is None
    assert queue(NAME) == []


def test_the_folder_is_the_same_for_services_and_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(leases.FOLDER, raising=False)
    monkeypatch.setattr(leases, "_IN_MEMORY", tmp_path / "nightschool")
    assert leases.folder() == tmp_path / "nightschool"
    monkeypatch.setattr(leases, "_IN_MEMORY", tmp_path / "missing/nightschool")
    assert leases.folder() == Path("/tmp/nightschool-leases")
    monkeypatch.setenv(leases.FOLDER, "/srv/leases")
    assert leases.folder() == Path("/srv/leases")


CARDS = ((0, "GPU-aa11"), (1, "GPU-ab22"), (2, "GPU-cc33"))


@pytest.mark.parametrize(
    ("number", "visible", "found"),
    [
        (0, None, "GPU-aa11"),
        (2, None, "GPU-cc33"),
        (3, None, None),
        (0, "", None),
        (0, "-1", None),
        (0, "2", "GPU-cc33"),
        (1, "2, 0", "GPU-aa11"),
        (1, "2", None),
        (1, "0,7,1", None),
        (0, "GPU-ab22", "GPU-ab22"),
        (0, "GPU-c", "GPU-cc33"),
        (0, "GPU-a", None),
        (1, "1,GPU-aa", "GPU-aa11"),
        (0, "MIG-GPU-aa11/1/0", "MIG-GPU-aa11_1_0"),
        (0, "NoDevFiles", None),
    ],
)
def test_the_gpu_is_found_as_cuda_finds_it(number: int, visible: str | None, found: str | None) -> None:
    assert card(number, visible, CARDS) == found


def test_without_a_gpu_there_is_none() -> None:
    for visible in (None, "", "0", "GPU-aa11", "MIG-1"):
        assert card(0, visible, ()) is None


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two GPUs; the list grows with each question to nvidia-smi."""
    asked: list[str] = []

    def query(what: str, columns: str) -> list[str]:
        asked.append(f"{what} {columns}")
        return ["0, GPU-aa11", "1, GPU-ab22", "no devices"]

    monkeypatch.setattr(gpus, "query", query)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    leases._cards.cache_clear()
    yield asked
    leases._cards.cache_clear()


def settings(device: str = "auto", lease: str = "auto") -> Settings:
    return parse_settings({"model": {"name": "m", "device": device}, "machine": {"gpu_lease": lease}})


def test_the_lease_has_the_name_of_the_gpu_and_nvidia_smi_is_asked_once(
    smi: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [name_of(settings(device)) for device in ("auto", "cuda", "cuda:1", "cuda:2")] == [
        "GPU-aa11", "GPU-aa11", "GPU-ab22", None,
    ]  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert name_of(settings()) == "GPU-ab22"
    assert smi == ["gpu index,uuid"]


def test_nobody_is_asked_on_a_cpu_without_leases_and_with_a_name(smi: list[str]) -> None:
    assert name_of(settings("cpu")) is None
    assert name_of(settings("cuda", "off")) is None
    assert name_of(settings("cpu", "big-one")) == "big-one"
    assert smi == []


def test_the_gpu_is_let_go_after_a_file_and_at_once_when_idle_if_somebody_waits() -> None:
    long, short = leases.LEAST_SECONDS, leases.LEAST_SECONDS - 1
    assert gives_way(True, True, False, long) == "a file has ended here, after 60 s of training"
    assert gives_way(True, False, True, 0) == "there is nothing to train on here"
    assert gives_way(True, False, False, 1e9) is None, "not in the middle of a file"
    assert gives_way(True, True, False, short) is None, "not for a moment's training"
    assert not any(gives_way(False, end, idle, long) for end in (True, False) for idle in (True, False))


def test_the_other_goes_first_until_it_had_its_turn_or_a_minute_has_passed() -> None:
    assert after_you(0, False)
    assert after_you(59, False)
    assert not after_you(60, False)
    assert not after_you(0, True)
