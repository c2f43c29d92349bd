"""The token: what shows that someone has it, and how wrong ones are slowed down."""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KEPT_SECONDS = 30 * 86_400
FREE_TRIES = 5
LONGEST_WAIT = 60.0
MOST_ADDRESSES = 1000


class Key:
    """The token of a page. It is kept as a digest, and compared in a time that does not depend on what was sent.

    The cookie holds a value made from the token and not the token, so a browser's files do not give it away. It needs
    no memory here, and ends when the token is another one. Its name differs by workspace: browsers send the cookies of
    one port to all others.
    """

    def __init__(self, token: str, workspace: Path) -> None:
        self._token = _digest(token)
        # Also where the folder's name is no UTF-8.
        said = f"nightschool {workspace}".encode("utf-8", "surrogateescape")
        self._value = hmac.new(token.encode(), said, hashlib.sha256).hexdigest()
        self.cookie = f"nightschool-{_digest(str(workspace)).hex()[:12]}"

    def is_token(self, text: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(_digest(text), self._token)

    def in_cookies(self, header: str) -> bool:
        """Whether a Cookie header shows it."""
        for part in header.split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie and hmac.compare_digest(_digest(value), _digest(self._value)):
                return True
        return False

    def set_cookie(self, *, secure: bool) -> str:
        """The Set-Cookie header for someone who has shown the token."""
        # Lax, so that a link from a message leads in. What such a link may do is to show a page: see `admission`.
        return (
            f"{self.cookie}={self._value}; Max-Age={KEPT_SECONDS}; Path=/; HttpOnly; SameSite=Lax"
            f"{'; Secure' if secure else ''}"
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


@dataclass
class _Failed:
    times: int
    not_before: float


class Tries:
    """Wrong tokens by address: after a few of them each next try waits twice as long, up to a minute.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, _Failed] = OrderedDict()
        self.total = 0

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0: now."""
        found = self._failed.get(address)
        return 0.0 if found is None else max(0.0, found.not_before - self._clock())

    def failed(self, address: str) -> int:
        """A wrong token came; returns how many came from there."""
        self.total += 1
        found = self._failed.setdefault(address, _Failed(0, 0.0))
        self._failed.move_to_end(address)
        found.times += 1
        if found.times >= FREE_TRIES:
            found.not_before = self._clock() + min(LONGEST_WAIT, 2.0 ** min(found.times - FREE_TRIES, 10))
        while len(self._failed) > MOST_ADDRESSES:
            self._failed.popitem(last=False)
        return found.times

    def worked(self, address: str) -> None:
        """The right one came."""
        self._failed.pop(address, None)
