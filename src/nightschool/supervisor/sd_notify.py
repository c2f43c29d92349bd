"""What the service manager is told: ready, what it does, still alive, stopping. Nothing without systemd.

The protocol is one datagram of lines to the socket that `NOTIFY_SOCKET` names. Libraries for it are either unmaintained
or need a compiler, for these few lines.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping

EXTEND_SECONDS = 120.0
"""How much longer a stop may take, counted from each time it is said. More than any wait between two rounds."""
STOPPING_SECONDS = 10.0


class ServiceManager:
    """The other end of `NOTIFY_SOCKET`.

    Its variables are taken out of the environment, so that no child inherits them and speaks for this process.

    Args:
        environment: `os.environ`.
        clock: monotonic seconds.
    """

    def __init__(self, environment: MutableMapping[str, str], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._socket: socket.socket | None = None
        self._ready = False
        self._stopping = False
        self._status: str | None = None
        self._next = 0.0
        address = environment.pop("NOTIFY_SOCKET", "")
        limit = environment.pop("WATCHDOG_USEC", "")
        meant = environment.pop("WATCHDOG_PID", str(os.getpid()))
        seconds = int(limit) / 1e6 if limit.isascii() and limit.isdigit() and meant == str(os.getpid()) else 0.0
        self._every = seconds / 3 if seconds else None
        # "@" stands for the NUL of an abstract socket; other kinds of addresses are of virtual machines.
        if address.startswith(("/", "@")):
            self._address = b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # A manager that does not read must not hold up the work.
            self._socket.setblocking(False)

    def went_round(self, state: tuple[str, str] | None, stopping: bool) -> None:
        """Report one whole round of the loop. To be called by nothing else: the watchdog lives on it.

        Args:
            state: the state word and the reason.
            stopping: the run is coming to its end.
        """
        if self._socket is None:
            return
        lines: list[str] = []
        if not self._ready:
            lines.append("READY=1")
        status = ": ".join(part for part in state or () if part).replace("\n", " ")
        if status and status != self._status:
            lines.append(f"STATUS={status}")
        if stopping and not self._stopping:
            lines.append("STOPPING=1")
            self._next = 0.0
        if self._clock() >= self._next:
            if self._every is not None:
                lines.append("WATCHDOG=1")
            if stopping:
                lines.append(f"EXTEND_TIMEOUT_USEC={int(EXTEND_SECONDS * 1e6)}")
        if not lines or not self._send("\n".join(lines)):
            return
        self._ready = True
        self._stopping = stopping
        self._status = status or self._status
        if self._clock() >= self._next:
            pauses = [*([self._every] if self._every is not None else []), *([STOPPING_SECONDS] if stopping else [])]
            self._next = self._clock() + min(pauses, default=float("inf"))

    def _send(self, text: str) -> bool:
        assert self._socket is not None
        try:
            self._socket.sendto(text.encode(errors="backslashreplace"), self._address)
        except OSError:
            # Said again in the next round.
            return False
        return True
