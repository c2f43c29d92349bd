"""Why rows of a file could not be used, summed up."""

from __future__ import annotations

from nightschool.intake.rows import BadRow

MOST_KINDS = 50
MOST_LINES = 5


class Reasons:
    """Counts bad rows by reason, in bounded memory."""

    def __init__(self) -> None:
        self.count = 0
        self._counts: dict[str, int] = {}
        self._lines: dict[str, list[int]] = {}
        self._details: dict[str, str] = {}

    def add(self, row: BadRow) -> None:
        """Take note of a bad row."""
        self.count += 1
        # Reasons are few by design; should a library's words ever get into one, the rest count as one kind.
        reason = row.reason if row.reason in self._counts or len(self._counts) < MOST_KINDS else "other reasons"
        self._counts[reason] = self._counts.get(reason, 0) + 1
        lines = self._lines.setdefault(reason, [])
        if len(lines) < MOST_LINES:
            lines.append(row.number)
            self._details.setdefault(reason, row.detail)

    def summary(self) -> str:
        """The reasons, the most frequent first, with the first lines they were found in."""
        parts = []
        for reason, count in sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:5]:
            lines = self._lines[reason]
            where = ("line " if count == 1 else "lines ") + ", ".join(map(str, lines))
            detail = f": {self._details[reason]}" if self._details.get(reason) else ""
            parts.append(f"{reason}{detail} ({where}{f' and {count - len(lines)} more' if count > len(lines) else ''})")
        return "; ".join(parts)
