"""Quick starts of the program's own processes: forked from one that has imported everything, instead of started cold.

Importing torch, transformers and PEFT takes most of a trainer's short life in a test. So each test process may have a
*nursery*: a process with one thread that has imported what trainer, intake worker and command line import, and done
nothing with it. On request it forks, and the fork becomes what a cold start would be: program, arguments, environment,
folder, open files, session and process group are those that were asked for, and the program runs from its beginning.

`Popen` is subprocess.Popen with that one difference. What it starts is a child of the process that asked, which
waits for it, signals it and kills it as ever. (A fork of a fork whose parent ends goes to the nearest subreaper above;
the one who asks is that for the moment.) A forked command line has a nursery of its own, in its own session, so that
the children of a supervisor are forked as well, and die and survive as they would otherwise.

Started cold all the same: what reads the environment at import and finds another there, and what is not this program.
What forks share, and cold starts do not, is the seed of Python's string hashes; and at their end Python does not take
itself apart. So some tests of whole machines start them cold, and compare.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import inspect
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COLD = subprocess.Popen
PYTHON = sys.executable
OURS = "nightschool"
FORKS = os.environ.get("NIGHTSCHOOL_TEST_DEVICE", "cpu") == "cpu"
"""On a GPU all is started cold: CUDA does not survive a fork, and nobody knows whether an import touches it."""
LEAVES = ("nightschool.training", "nightschool.intake", "nightschool.demo.base")
"""Programs that start none of this program's processes."""
MODULES = (
    "transformers.utils.logging", "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2",
    "nightschool.training.adopting", "nightschool.training.export", "nightschool.training.replay",
    "nightschool.training.trainer", "nightschool.intake.worker", "nightschool.cli.app", "nightschool.supervisor.run",
    "nightschool.verify", "accelerate", "peft", "trl.chat_template_utils",
)  # fmt: skip
AT_IMPORT = (
    "PYTHON", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "OMP_", "MKL_", "KMP_", "TORCH", "PYTORCH_", "CUDA", "LD_",
)  # fmt: skip
"""Variables that are read once, at the start or at an import, but for PYTHONUNBUFFERED, which a fork obeys."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""What the programs set themselves before they import."""
LONGEST = 1 << 20
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Job:
    """What a fork becomes; `open_as` are the numbers of the files that come with it."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    session: bool
    group: bool
    open_as: list[int]

    @property
    def leaf(self) -> bool:
        """Whether it starts no process of this program."""
        return self.arguments[:1] == ["-m"] and self.arguments[1] in LEAVES


class Nursery:
    """The one who asks holds this end."""

    def __init__(self, channel: socket.socket, pid: int, environment: Mapping[str, str]) -> None:
        self.channel = channel
        self.pid = pid
        self.environment = dict(environment)
        self._lock = threading.Lock()

    @classmethod
    def cold(cls) -> Nursery:
        """A new one; it takes as long as a cold start."""
        here, there = pair()
        # Arrow's allocator would begin a thread of its own at import.
        environment = {**os.environ, "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        with there:
            command = [PYTHON, "-P", __file__, str(there.fileno())]
            process = COLD(command, stdin=subprocess.DEVNULL, env=environment, pass_fds=(there.fileno(),))
        process.returncode = 0  # nobody waits for it: it ends when the channel does
        if here.recv(16) != b"ready":
            raise RuntimeError("the nursery has not come up; what it said is above")
        return cls(here, process.pid, environment)

    def can(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork with this environment would have imported everything as a cold start does."""

        def read(values: Mapping[str, str]) -> dict[str, str]:
            values = {**OFFLINE, **values, "PYTHONUNBUFFERED": ""}
            return {name: value for name, value in values.items() if name.startswith(AT_IMPORT)}

        return read(environment) == read(self.environment)

    def fork(self, job: Job, files: Sequence[int]) -> int:
        """The pid of a new child of this process."""
        prctl = ctypes.CDLL(None).prctl
        with self._lock:
            prctl(SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self.channel, [json.dumps(asdict(job)).encode()], list(files))
                pid = int(self.channel.recv(16) or 0)
            finally:
                prctl(SUBREAPER, 0, 0, 0, 0)
        if not pid:
            raise RuntimeError(f"{job.arguments} could not be forked")
        return pid

    def close(self) -> None:
        """End it."""
        self.channel.close()
        os.waitpid(self.pid, 0)


_nursery: Nursery | None = None


def nursery() -> Nursery:
    """The nursery of this process."""
    global _nursery
    if _nursery is None:
        _nursery = Nursery.cold()
    return _nursery


class Popen(COLD):  # type: ignore[type-arg]
    """subprocess.Popen, but this program's own processes are forked where that makes no difference."""

    def _execute_child(self, *args: Any, **more: Any) -> None:
        inherited = COLD._execute_child  # pyright: ignore[reportAttributeAccessIssue]
        asked = inspect.signature(inherited).bind(self, *args, **more).arguments
        job = job_of(asked)
        if job is None or not FORKS or not nursery().can(job.environment):
            inherited(self, *args, **more)
            return
        ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        files = [own if end == -1 else end for own, end in enumerate(ends)]
        self.pid = nursery().fork(job, [*files, *asked["pass_fds"]])
        self._child_created = True
        self._close_pipe_fds(  # pyright: ignore[reportAttributeAccessIssue]
            *(asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
        )


def job_of(asked: Mapping[str, Any]) -> Job | None:
    """What to fork for a call of Popen; None for what is to be started cold."""
    command = asked["args"]
    if asked["shell"] or asked["preexec_fn"] or not asked["close_fds"] or asked["process_group"] not in (-1, 0):
        return None
    if isinstance(command, str | bytes | os.PathLike) or command[0] != PYTHON or asked["executable"] is not None:
        return None
    arguments = [os.fsdecode(part) for part in command[1:]]
    if arguments[:1] == ["-P"]:
        del arguments[0]
    module = arguments[:1] == ["-m"] and arguments[1].split(".")[0] == OURS
    if not module and not arguments[0].endswith(".py"):
        return None
    environment = dict(os.environ if asked["env"] is None else asked["env"])
    return Job(
        arguments, environment, os.fspath(asked["cwd"] or Path.cwd()), bool(asked["start_new_session"]),
        asked["process_group"] == 0, [0, 1, 2, *asked["pass_fds"]],
    )  # fmt: skip


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel for whole messages, the second out of the way of the files that a fork gets."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (here, there):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
    return here, socket.socket(fileno=away(there.detach()))


def away(number: int) -> int:
    """The same open file under a number that no fork asks for."""
    copy = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 500)
    os.close(number)
    return copy


# From here on: in the nursery and its forks.


def serve(channel: socket.socket) -> Job:
    """Fork on request, until the one who asks is gone; returns in a fork, which has become what was asked for."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who work
    while True:
        message, files, _, _ = socket.recv_fds(channel, LONGEST, 64)
        if not message:
            os._exit(0)
        told, tell = map(away, os.pipe())
        between = os.fork()
        if between == 0:
            middle = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == middle:
                time.sleep(0.001)
            channel.close()
            os.close(told)
            signal.signal(signal.SIGINT, interrupt)
            job = Job(**json.loads(message))
            become(job, files)
            os.write(tell, str(os.getpid()).encode())
            os.close(tell)
            return job
        for number in (tell, *files):
            os.close(number)
        os.waitpid(between, 0)  # from now on the fork is the child of the one who asks
        channel.send(os.read(told, 16) or b"0")
        os.close(told)


def become(job: Job, files: list[int]) -> None:
    """Take on session, group, folder, environment and open files."""
    if job.session:
        os.setsid()
    elif job.group:
        os.setpgid(0, 0)
    kept = [away(number) for number in files]
    used = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2}  # noqa: PTH208 - names, no paths
    if taken := used & set(job.open_as):
        raise RuntimeError(f"the file descriptors {taken} are in use already")
    for number, wanted in zip(kept, job.open_as, strict=True):
        os.dup2(number, wanted)
        os.close(number)
    os.chdir(job.folder)
    os.environ.clear()
    os.environ.update(job.environment)
    sys.stdin, sys.stdout, sys.stderr = map(standard, range(3))


def standard(number: int) -> io.TextIOWrapper:
    """A standard stream as Python makes it at its start."""
    unbuffered = number and os.environ.get("PYTHONUNBUFFERED")
    file = open(number, "wb" if number else "rb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    first = (sys.__stdin__, sys.__stdout__, sys.__stderr__)[number]  # as the environment asked for at the start
    assert first is not None
    lines = not unbuffered and (number == 2 or os.isatty(number))
    return io.TextIOWrapper(file, first.encoding, first.errors, line_buffering=lines, write_through=bool(unbuffered))


def run(job: Job) -> None:
    """Run the program from its beginning, as `python -P` does."""
    first, *rest = job.arguments
    if first == "-m":
        name, *rest = rest
        sys.argv = [name, *rest]
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def ended(job: Job) -> int:
    """Run the program to its end; its exit code. All that Python does at the end but to take itself apart."""
    code: Any = 0
    try:
        run(job)
    except SystemExit as exit:
        code = exit.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def own_nursery() -> socket.socket | None:
    """Fork a nursery for this process, which has done nothing yet; the channel in the nursery, None in the process."""
    global _nursery
    here, there = pair()
    environment = dict(os.environ)
    pid = os.fork()
    if pid == 0:
        here.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(nothing)
        return there
    there.close()
    _nursery = Nursery(here, pid, environment)
    subprocess.Popen = Popen  # type: ignore[misc]
    return None


def main() -> None:
    """Be a nursery, and then what its forks are."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    os.environ.update(OFFLINE)
    for module in MODULES:
        importlib.import_module(module)
    threads = os.listdir("/proc/self/task")  # noqa: PTH208
    if len(threads) != 1:
        raise RuntimeError(f"the imports have begun {len(threads) - 1} threads, which no fork would have")
    gc.collect()
    gc.freeze()
    channel.send(b"ready")
    while True:
        job = serve(channel)
        mine = None if job.leaf else own_nursery()
        if mine is None:
            break
        channel = mine
    code = ended(job)
    if _nursery is not None:
        _nursery.close()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
