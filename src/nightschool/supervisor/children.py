"""A child process on a lifeline: started, asked to stop, killed after a grace time, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightschool.logs import last_lines

OUTPUT_BYTES = 16_000_000


@dataclass(frozen=True)
class Commands:
    """What the children are; tests put small programs here. `--lifeline FD` is added to each."""

    trainer: Sequence[str]
    intake: Sequence[str]
    tracker: Sequence[str] = ()
    page: Sequence[str] = ()


class Child:
    """One child process at a time, started again as often as needed.

    The child gets `--lifeline FD`, the read end of a pipe whose write end only this process holds: when this process
    is gone, however it went, the child reads end-of-file and ends by itself. Its output goes to a file. It runs in a
    process group of its own, so that Ctrl-C reaches only the supervisor, and a kill takes its helpers along.

    Args:
        name: for messages.
        command: program and arguments.
        output: file that stdout and stderr are appended to.
        grace: seconds between SIGTERM and SIGKILL.
        clock: monotonic seconds.
        cwd: folder it runs in.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        output: Path,
        grace: float,
        clock: Callable[[], float],
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.output = output
        self.grace = grace
        self.clock = clock
        self.cwd = cwd
        self.asked = False
        self.killed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._write_end = -1
        self._kill_at: float | None = None
        self._output_start = 0

    @property
    def alive(self) -> bool:
        """Whether it was started and its end has not been collected."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Its process id while it is alive."""
        return self._process.pid if self._process is not None else None

    def start(self) -> int:
        """Start it and return its pid.

        Raises:
            OSError: the system cannot start a process or write the output file.
        """
        assert self._process is None, f"{self.name} runs already"
        # Both ends are close-on-exec; `pass_fds` opens the read end for this child alone, and no child ever gets a
        # write end: a second holder would keep the first child alive after the supervisor is gone.
        read_end, write_end = os.pipe()
        try:
            with self.output.open("ab") as output:
                self._output_start = output.tell()
                self._process = subprocess.Popen(
                    [*self.command, "--lifeline", str(read_end)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.cwd,
                    pass_fds=(read_end,),
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    process_group=0,
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self._write_end = write_end
        self.asked = self.killed = False
        self._kill_at = None
        return self._process.pid

    def ask_to_stop(self) -> None:
        """Send SIGTERM, once; `poll` kills when the grace time is over."""
        if self._process is None or self.asked:
            return
        self.asked = True
        self._kill_at = self.clock() + self.grace
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to it and to the processes it started."""
        if self._process is None:
            return
        self.killed = True
        self._send(signal.SIGKILL)
        self._kill_group()

    def _send(self, number: int) -> None:
        # Not Popen.send_signal: it collects a child that has ended, and only `poll` may do that.
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """The return code, once, when it has ended; None while it runs or when it was not started."""
        if self._process is None:
            return None
        # Look without collecting: until the end is collected, nobody else can get its number as pid or group.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            if self._kill_at is not None and self.clock() >= self._kill_at:
                self.kill()
            self._bound_output()
            return None
        # Whatever it started must not go on holding the GPU.
        self._kill_group()
        code = self._process.wait()
        os.close(self._write_end)
        self._write_end = -1
        self._process = None
        return code

    def last_output(self, count: int = 20) -> list[str]:
        """The last lines it wrote since it was started last."""
        lines = last_lines(self.output, count, self._output_start, 1 << 16)
        # Of a progress bar that was drawn over itself, only what one would see on a terminal.
        seen = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
        return [line for line in seen if line.strip()]

    def _bound_output(self) -> None:
        # Libraries that warn at every step would fill the disk in weeks. The child appends, so the file can be cut.
        with contextlib.suppress(OSError):
            if self.output.stat().st_size > OUTPUT_BYTES:
                os.truncate(self.output, 0)
                self._output_start = 0


class Tended:
    """A child that is kept running for as long as it is wanted.

    What its end means, and when it may be started, is for those who derive from this.
    """

    child: Child
    _hung: str | None = None

    def tend(self, wanted: bool) -> None:
        """Collect its end, start it where it is wanted and may be started, ask it to stop where it is not."""
        code = self.child.poll()
        if code is not None:
            self._ended(code)
        if self.child.alive:
            if not wanted:
                self.child.ask_to_stop()
        elif wanted and self._may_start():
            self._start()

    def end(self, why: str) -> None:
        """Kill a child that hangs; `why` is told instead of the signal."""
        self._hung = why
        self.child.kill()

    def _may_start(self) -> bool:
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError

    def _ended(self, code: int) -> None:
        raise NotImplementedError
