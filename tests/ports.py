"""Ports of 127.0.0.1 that nobody else is given while the tests run."""

from __future__ import annotations

import socket

_kept: list[socket.socket] = []


def kept() -> int:
    """A port where nobody listens, and that is given to nobody who asks for any: it is bound to the end of the process.

    Who asks for this very one and reuses addresses, as servers do, can have it all the same.
    """
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", 0))
    _kept.append(one)
    return one.getsockname()[1]
