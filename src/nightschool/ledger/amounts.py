"""How much there is: sums over files that listings and estimates need, read in pages that hold no lock for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nightschool.ledger.database import PAGE, PAGE_LIMIT, Database, page_size

_NEEDS_ITS_DATA = (
    "(state NOT IN ('rejected', 'duplicate', 'set_aside', 'forgotten') OR id IN (SELECT file_id FROM entry_parts))"
)


class Waiting(NamedTuple):
    """Files that wait to be prepared, of one kind: how many, and their bytes where the size is known."""

    ending: str
    epochs: int | None
    files: int
    bytes: int


class Ready(NamedTuple):
    """Prepared files that wait, with one number of epochs of their own: what a pass over all of them takes.

    `sequences` are those of small files, which are gathered; `steps` those of the others, each for itself.
    """

    epochs: int | None
    tokens: int
    sequences: int
    steps: int


class Amounts:
    """Sums over the tables of files and entries. Nothing is written here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def samples(self, limit: int = PAGE) -> list[tuple[str, int, int, int]]:
        """(name, bytes, tokens, sequences) of up to `limit` of the newest files of each state past preparing."""
        found: list[tuple[str, int, int, int]] = []
        for state in ("learned", "trained", "training", "ready"):
            found += self._database.rows(
                "SELECT name, bytes, tokens, sequences FROM files INDEXED BY files_state "
                "WHERE state = ? AND sequences > 0 AND bytes > 0 ORDER BY id DESC LIMIT ?",
                (state, page_size(limit)),
            )
        return found

    def ready(self, rows: int, size: int) -> tuple[int, int]:
        """How many of the (first few thousand) ready files are small, with under `rows` rows and at most `size` bytes;
        and how many are not."""
        small, every = self._database.rows(
            "SELECT count(*) FILTER (WHERE rows_good < ? AND bytes <= ?), count(*) FROM "
            "(SELECT rows_good, bytes FROM files INDEXED BY files_state WHERE state = 'ready' LIMIT ?)",
            (rows, size, PAGE_LIMIT),
        )[0]
        return small, every - small

    def to_prepare(self, endings: Sequence[str]) -> list[Waiting]:
        """How much waits that is not prepared, by ending of the name and the files' own number of epochs.

        Args:
            endings: in lower case; the first that a name has counts. Other files are summed up as "". A few of them:
                each costs a look at every name.
        """
        kinds = [(ending, _is(n)) for n, ending in enumerate(endings)] + [("", _is_none(len(endings)))]
        sums = ", ".join(f"count(*) FILTER (WHERE {is_it}), total(bytes) FILTER (WHERE {is_it})" for _, is_it in kinds)
        patterns = {f"e{n}": f"%{_escaped(ending)}" for n, ending in enumerate(endings)}
        totals: dict[tuple[str, int | None], tuple[int, int]] = {}
        for state in ("arrived", "archived"):
            for after, last in self._slices(state):
                where = "FROM files INDEXED BY files_state WHERE state = :state AND id > :after AND id <= :last"
                values = {**patterns, "state": state, "after": after, "last": last}
                # Grouping takes longer than summing: only for the few that have settings of their own.
                rows = [
                    (None, *row) for row in self._database.rows(f"SELECT {sums} {where} AND options = '{{}}'", values)
                ]
                rows += self._database.rows(
                    f"SELECT json_extract(options, '$.epochs'), {sums} {where} AND options <> '{{}}' GROUP BY 1", values
                )
                for epochs, *found in rows:
                    for n, (ending, _) in enumerate(kinds):
                        files, size = totals.get((ending, epochs), (0, 0))
                        totals[ending, epochs] = (files + found[2 * n], size + int(found[2 * n + 1]))
        return [Waiting(ending, epochs, *counts) for (ending, epochs), counts in totals.items() if counts[0]]

    def ready_for(self, batch: int, gather: int) -> list[Ready]:
        """How much waits that is prepared, by the files' own number of epochs.

        Args:
            batch: sequences of a step.
            gather: files with fewer rows are small.
        """
        sums = (
            "total(tokens), total(sequences) FILTER (WHERE coalesce(rows_good, 0) < :gather), "
            "total((sequences + :batch - 1) / :batch) FILTER (WHERE coalesce(rows_good, 0) >= :gather)"
        )
        totals: dict[int | None, tuple[int, int, int]] = {}
        for after, last in self._slices("ready"):
            where = "FROM files INDEXED BY files_state WHERE state = 'ready' AND id > :after AND id <= :last"
            values = {"batch": batch, "gather": gather, "after": after, "last": last}
            rows = [(None, *row) for row in self._database.rows(f"SELECT {sums} {where} AND options = '{{}}'", values)]
            rows += self._database.rows(
                f"SELECT json_extract(options, '$.epochs'), {sums} {where} AND options <> '{{}}' GROUP BY 1", values
            )
            for epochs, *found in rows:
                before = totals.get(epochs, (0, 0, 0))
                totals[epochs] = (before[0] + int(found[0]), before[1] + int(found[1]), before[2] + int(found[2]))
        return [Ready(epochs, *counts) for epochs, counts in totals.items()]

    def _slices(self, state: str) -> Iterator[tuple[int, int]]:
        """Ranges (after, last] of ids that together hold all files of a state, few enough for a quick look at each."""
        after = 0
        while True:
            found = self._database.row(
                "SELECT id FROM files INDEXED BY files_state WHERE state = ? AND id > ? ORDER BY id LIMIT 1 OFFSET ?",
                (state, after, PAGE_LIMIT - 1),
            ) or self._database.row(
                "SELECT max(id) FROM files INDEXED BY files_state WHERE state = ? AND id > ?", (state, after)
            )
            if found is None or found[0] is None:
                return
            yield after, found[0]
            after = found[0]

    def prepared_names(self) -> set[str]:
        """The prepared folders that a file still needs: one that waits, is trained or was, or has an entry."""
        found: set[str] = set()
        after = 0
        while True:
            page = self._database.rows(
                f"SELECT id, prepared FROM files WHERE id > ? AND prepared IS NOT NULL AND {_NEEDS_ITS_DATA} "
                "ORDER BY id LIMIT ?",
                (after, PAGE_LIMIT),
            )
            found.update(name for _, name in page)
            if len(page) < PAGE_LIMIT:
                return found
            after = page[-1][0]

    def is_needed(self, prepared: str) -> bool:
        """Whether `prepared_names` would hold this one."""
        return bool(
            self._database.row(f"SELECT 1 FROM files WHERE prepared = ? AND {_NEEDS_ITS_DATA} LIMIT 1", (prepared,))
        )


def _is(number: int) -> str:
    """A condition: the name has this ending, and none of those before it. LIKE makes no difference of case."""
    return " AND ".join(
        [f"name LIKE :e{number} ESCAPE '!'", *(f"name NOT LIKE :e{n} ESCAPE '!'" for n in range(number))]
    )


def _is_none(count: int) -> str:
    return " AND ".join(f"name NOT LIKE :e{n} ESCAPE '!'" for n in range(count)) or "1"


def _escaped(text: str) -> str:
    return "".join(f"!{letter}" if letter in "!%_" else letter for letter in text)
