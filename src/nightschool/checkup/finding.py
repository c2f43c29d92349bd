"""What every check of the doctor gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, the verdict, what was found, and what to do about it."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""
