"""Moving files on: from one state to the next, and what is found out on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nightschool.ledger.database import encode
from nightschool.ledger.filerows import COLUMNS, STATES, FileRow, FileRows, State


class Moves(FileRows):
    """The part of `Files` that changes what is known of a file."""

    def archived(
        self, id: int, sha256: str, bytes: int, archive: str, options: Mapping[str, Any] | None = None
    ) -> None:
        """The bytes are kept, at `archive` relative to the workspace. `options`, if given, replace the file's."""
        self._move(id, "archived", ("arrived",), sha256=sha256, bytes=bytes, archive=archive, **_options(options))

    def duplicate(self, id: int, of: int, reason: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        """The bytes are those of the file `of`; this one is not trained."""
        values = {"duplicate_of": of, "reason": reason, **_options(options)}
        self._move(id, "duplicate", ("arrived", "archived"), **values)

    def arrived_again(self, id: int, source: str | os.PathLike[str]) -> None:
        """A duplicate is one no longer: it waits in its old place of the queue, with its bytes at `source`."""
        self._move(id, "arrived", ("duplicate",), source=os.fspath(source), duplicate_of=None, reason=None)

    def prepared_as(
        self,
        id: int,
        prepared: str,
        *,
        shape: str,
        rows_good: int,
        rows_bad: int,
        tokens: int,
        label_tokens: int,
        sequences: int,
        data_digest: str,
    ) -> None:
        """The tokens are in the folder `prepared`: an archived file is ready now. Later ones keep their state."""
        with self._database.transaction():
            state = self.get(id).state
            self._move(
                id,
                state if state in ("training", "skipped", "trained", "set_aside") else "ready",
                # Set aside by hand while its tokens were made: it stays so.
                ("archived", "ready", "training", "skipped", "trained", "set_aside"),
                prepared=prepared,
                shape=shape,
                rows_good=rows_good,
                rows_bad=rows_bad,
                tokens=tokens,
                label_tokens=label_tokens,
                sequences=sequences,
                data_digest=data_digest,
            )

    def prepared_otherwise(self, id: int, prepared: str, data_digest: str, sequences: int) -> None:
        """For cuts: a file has the tokens of an earlier time again, in a folder that may have to be made again."""
        self._database.write(
            "UPDATE files SET prepared = ?, data_digest = ?, sequences = ? WHERE id = ?",
            (prepared, data_digest, sequences, id),
        )

    def reject(self, id: int, reason: str, **counts: int | str | None) -> None:
        """The file cannot be used. `counts`: any of `shape, rows_good, rows_bad, sha256, bytes, archive`."""
        unknown = set(counts) - {"shape", "rows_good", "rows_bad", "sha256", "bytes", "archive"}
        if unknown:
            raise TypeError(f"reject() cannot record {', '.join(sorted(unknown))}")
        self._move(id, "rejected", ("arrived", "archived", "ready", "set_aside"), reason=reason, **counts)

    def begin(self, id: int) -> None:
        """The file has its entry now."""
        self._move(id, "training", ("ready", "skipped"))

    def trained(self, id: int) -> None:
        """The file's last step is done, but in no checkpoint yet."""
        self._move(id, "trained", ("training",))

    def learned(self, ids: Sequence[int]) -> None:
        """A checkpoint holds the last step of each of these files."""
        now = self._database.now()
        with self._database.transaction():
            for id in ids:
                if self.get(id).state != "learned":
                    self._move(id, "learned", ("training", "trained"), learned_at=now)

    def set_aside(self, id: int, reason: str) -> None:
        """The file is not trained any further, in whatever state it was."""
        self._move(id, "set_aside", STATES, reason=reason)

    def purged(self, id: int) -> None:
        """No bytes of a forgotten file are left: it has no place in the archive and no tokens any more."""
        self._move(id, "forgotten", ("forgotten",), archive=None, prepared=None)

    def restore(self, rows: Iterable[FileRow], dropped: Iterable[int] = ()) -> None:
        """Write whole rows under their own ids, over what is there, and remove others: for a ledger made again."""
        with self._database.transaction():
            self._database.write_many("DELETE FROM files WHERE id = ?", ((id,) for id in dropped))
            self._database.write_many(
                f"INSERT OR REPLACE INTO files ({COLUMNS}) VALUES ({', '.join('?' * (COLUMNS.count(',') + 1))})",
                ((*values[:9], encode(row.options), *values[10:]) for row in rows for values in [_values(row)]),
            )

    def set_state(self, id: int, state: State, reason: str | None = None) -> None:
        """Put a file into any state: for cuts, and for repairs from what a checkpoint says."""
        with self._database.transaction():
            before = self.get(id)
            learned_at = (before.learned_at or self._database.now()) if state == "learned" else None
            self._move(id, state, STATES, reason=reason, learned_at=learned_at)

    def set_option(self, id: int, key: str, value: Any) -> None:
        """Set one of a file's own settings; None removes it."""
        with self._database.transaction():
            options = encode({k: v for k, v in {**self.get(id).options, key: value}.items() if v is not None})
            self._database.write("UPDATE files SET options = ? WHERE id = ?", (options, id))

    def take_place(self, id: int, of: int) -> None:
        """Let a waiting file stand in the queue where the file `of` stood."""
        self._database.write(
            "UPDATE files SET (priority, batch, sort_key) = (SELECT priority, batch, sort_key FROM files WHERE id = ?) "
            "WHERE id = ?",
            (of, id),
        )


def _values(row: FileRow) -> tuple[Any, ...]:
    """The columns of a row, in their order, as they are in the object."""
    return tuple(getattr(row, name.strip()) for name in COLUMNS.split(","))


def _options(options: Mapping[str, Any] | None) -> dict[str, str]:
    return {} if options is None else {"options": encode(dict(options))}
