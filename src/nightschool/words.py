"""Text for people: names that cannot act on a terminal, and sizes."""

from __future__ import annotations

import re
import unicodedata

_USER_IN_ADDRESS = re.compile(r"://[^/@\s]+@")
_LINE_BREAKING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escape(text: object) -> str:
    r"""Return `text` with everything a terminal or a line reader could act on written out: newline becomes `\n`.

    Control and format characters (also the ones that reverse the reading direction), U+2028, U+2029 and bytes that
    are no UTF-8 are written as Python escapes. The result is one line of valid UTF-8.
    """
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(c if unicodedata.category(c) not in _LINE_BREAKING else _escaped(c) for c in plain)


def _escaped(character: str) -> str:
    # What os.fsdecode makes of bytes that are no UTF-8: show the byte.
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def without_passwords(text: str) -> str:
    """`text` with user and password taken out of the addresses in it: libraries quote them in their errors."""
    return _USER_IN_ADDRESS.sub("://***@", text)


def in_bytes(number: float) -> str:
    """A size for people: `512 B`, `1.5 MB`, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.0f} B" if unit == "B" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB" if number < 100 else f"{number:,.0f} TB"


def duration(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3 h 20 min`, `2 days 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"
