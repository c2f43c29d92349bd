"""Natural name order, as text that SQLite can sort byte by byte."""

from __future__ import annotations

import re
import unicodedata

_DIGITS = re.compile(r"\d+")


def natural_key(name: str) -> str:
    """A key that sorts as plain text in the natural order of names: `file2` before `file10`, whatever the case.

    Every run of digits (of any script) becomes its length in five digits followed by its value, so that longer
    numbers come later. The name itself ends the key: `file02` and `file2` have an order too, and it does not depend
    on who came first.
    """
    folded = unicodedata.normalize("NFC", name).casefold()
    return f"{_DIGITS.sub(_number, folded)}\x01{name}"


def _number(match: re.Match[str]) -> str:
    digits = "".join(str(unicodedata.decimal(digit)) for digit in match.group()).lstrip("0")
    return f"{len(digits):05d}{digits}"
