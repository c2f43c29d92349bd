"""A row for every file: those the history needs, those a copy of the ledger knows, those that only lie there. Pure.

A file is matched to the bytes in the archive by what was prepared from them: the digest of the prepared data is in the
history, and the prepared folder names the SHA-256 it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from nightschool import curriculum
from nightschool.curriculum import Entry, Part
from nightschool.intake.containers import kind_named
from nightschool.intake.prepare import folder_name
from nightschool.ledger import NORMAL, FileRow
from nightschool.ledger.files import State as FileState
from nightschool.ledger.order import natural_key
from nightschool.queueing import state_of
from nightschool.rebuilding.evidence import Archived, Evidence, Prepared, Refused
from nightschool.rebuilding.history import History
from nightschool.words import escape
from nightschool.workspace import Layout

OUT = ("rejected", "duplicate", "set_aside", "forgotten")
"""States in which a file stays whatever else is found."""
WAITING = ("arrived", "archived", "ready")


@dataclass
class Rows:
    """The rows, and what is to be said of them.

    Attributes:
        rows: by id.
        queued: names of files that wait again though no copy of the ledger says so.
        held: (name, why) of files that are set aside because it cannot be told whether they were to be learned.
        unmatched: names or numbers of files of the history whose bytes could not be told.
        by_name: names of files that were matched by their name alone.
        dropped: ids of rows of the copy that stand for nothing any more.
        lost: what can be known from a ledger alone, and is lost.
    """

    rows: dict[int, FileRow] = field(default_factory=dict)
    queued: list[str] = field(default_factory=list)
    held: list[tuple[str, str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    by_name: list[str] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def rows_of(layout: Layout, evidence: Evidence, history: History) -> Rows:
    """Every file's row. `layout` only names paths; `evidence` is what lies there, `history` what was learned."""
    return _Maker(layout, evidence, history).make()


class _Maker:
    def __init__(self, layout: Layout, evidence: Evidence, history: History) -> None:
        self.evidence, self.history, self.incoming = evidence, history, layout.incoming
        self.inbox = str(layout.inbox)
        self.copy = evidence.copy
        self.found = Rows({row.id: row for row in self.copy.files} if self.copy else {})
        self.rows = self.found.rows
        self.free = {one.place: one for one in evidence.archived}
        # There may be a hundred thousand of each: looked up, not searched.
        self.digests: dict[str, list[Prepared]] = {}
        self.made_from: dict[str | None, list[Prepared]] = {}
        for one in evidence.prepared:
            self.digests.setdefault(one.data_digest, []).append(one)
            self.made_from.setdefault(one.sha256, []).append(one)
        self.by_sha: dict[str, list[Archived]] = {}
        self.called: dict[str, list[Archived]] = {}
        for one in sorted(evidence.archived, key=lambda one: one.order):
            self.by_sha.setdefault(one.sha256, []).append(one)
            self.called.setdefault(one.name, []).append(one)
        self.names = _names(evidence)
        self.next_batch = max((row.batch for row in self.rows.values()), default=0) + 1
        others = (file for one in evidence.states for entry in one.saved.record.entries for file in entry.file_ids)
        known = (one.id for one in evidence.refused)
        self.next_id = max([0, *self.rows, *evidence.taken, *others, *known]) + 1

    def make(self) -> Rows:
        """In this order: what is certain takes its bytes from the archive before what is not."""
        for row in self.rows.values():
            self.free.pop(row.archive or "", None)
        ends = self._learned()
        for row in list(self.rows.values()):
            if row.id not in ends:
                self._known(row)
        self._elsewhere(ends)
        for one in self.evidence.refused:
            self._refused(one)
        self._taken()
        self._unknown()
        self._handed()
        return self.found

    # What the history needs.

    def _learned(self) -> dict[int, int]:
        """Rows of the files that the run has learned or is learning; the step at which each ends."""
        ends = curriculum.ends(self.history.entries)
        parts: dict[int, tuple[Part, Entry]] = {}
        for entry in self.history.entries:
            parts.update({part.file_id: (part, entry) for part in entry.parts})
        for id, (part, entry) in sorted(
            parts.items(), key=lambda item: (item[1][0].data_digest not in self.digests, item[0])
        ):
            row = self.rows.get(id)
            state = state_of(row or _empty(id, self.inbox), ends[id], self.history.done)
            why = ends[id].why if state == "set_aside" else None
            if row is not None and row.data_digest not in (None, part.data_digest):
                # The copy gave this number to another file: what was learned counts.
                if row.archive is not None:
                    self._give_back(row.archive)
                row = None
            if row is not None and row.data_digest == part.data_digest:
                self.rows[id] = replace(row, state=state, reason=why)
            else:
                self.rows[id] = replace(self._matched(part, entry, row, state), reason=why)
        return {id: end.step for id, end in ends.items()}

    def _free_called(self, name: str) -> list[Archived]:
        return [one for one in self.called.get(name, []) if one.place in self.free]

    def _give_back(self, place: str) -> None:
        self.free.update({one.place: one for one in self.evidence.archived if one.place == place})

    def _matched(self, part: Part, entry: Entry, row: FileRow | None, state: FileState) -> FileRow:
        """The row of a file of which a history has only number, digest and length."""
        made = self.digests.get(part.data_digest, [])
        row = row or _empty(part.file_id, self.inbox)
        if "adopted" in entry.settings:
            text = "what this run was taken over with"
            row = replace(row, name=self.names.get(part.file_id, text), shape="adopted")
        elif row.archive is None:
            archived = self._archived_of(part, made)
            if archived is not None:
                row = _with(row, archived)
            elif made:
                row = replace(row, sha256=made[0].sha256, name=self.names.get(part.file_id, row.name))
                self.found.unmatched.append(
                    f"{row.name} (file {row.id}): its prepared data is there, its bytes are not"
                )
            else:
                row = self._by_name(part, entry, row)
        elif not made:
            # Known, archived, and prepared after the copy was made: intake prepares it again, and compares.
            row = replace(row, prepared=self._folder_to_be(row, entry))
        row = replace(row, state=state, data_digest=part.data_digest, sequences=part.sequences, reason=None)
        return _with_counts(row, made[0]) if made else row

    def _archived_of(self, part: Part, made: list[Prepared]) -> Archived | None:
        hashes = sorted({one.sha256 for one in made if one.sha256})
        fitting = [one for sha256 in hashes for one in self.by_sha.get(sha256, []) if one.place in self.free]
        # The same bytes may have been learned twice, under two names: then the name of the folder may tell.
        wanted = self.names.get(part.file_id)
        fitting.sort(key=lambda one: (one.name != wanted, not any(m.is_of(one.sha256, one.name) for m in made)))
        return self.free.pop(fitting[0].place) if fitting else None

    def _by_name(self, part: Part, entry: Entry, row: FileRow) -> FileRow:
        """A file whose prepared data is gone. Its name, if a checkpoint has it, may lead to its bytes.

        No proof, but it is made one: before it is trained on it is prepared again, and must give the same digest.
        """
        name = self.names.get(part.file_id)
        fitting = self._free_called(name or "")
        if len(fitting) != 1:
            row = replace(row, name=name or row.name)
            self.found.unmatched.append(f"{row.name} (file {row.id})")
            return row
        row = _with(row, self.free.pop(fitting[0].place))
        self.found.by_name.append(row.name)
        return replace(row, prepared=self._folder_to_be(row, entry))

    @staticmethod
    def _folder_to_be(row: FileRow, entry: Entry) -> str | None:
        data = entry.settings.get("data")
        return folder_name(row.sha256, data, kind_named(row.name)) if row.sha256 and data else None

    # What a copy of the ledger knows besides.

    def _known(self, row: FileRow) -> None:
        """A row of the copy that is not in the history."""
        copy = self.copy
        assert copy is not None
        if row.state in OUT:
            return
        if row.state not in WAITING:
            self._hold(row, "it was learned, and a rollback or forgetting took it out of the history")
        elif copy.generation < self.history.generation or self.history.after:
            self._hold(row, "whether it was forgotten by a change of the history that the ledger's copy does not know")
        elif row.state == "arrived" and row.source not in self.evidence.sources:
            taken = self._free_called(row.name)
            if taken:
                self._queue(_with(row, self.free.pop(taken[0].place)))
            elif row.id not in self.evidence.taken and row.id not in {one.id for one in self.evidence.refused}:
                self.found.dropped.append(row.id)
                del self.rows[row.id]

    def _elsewhere(self, ends: dict[int, int]) -> None:
        """Files of states that are no part of the history: they were learned once, and taken out of it."""
        others = [one.saved for one in self.evidence.states]
        for saved in others:
            for entry in curriculum.cut(saved.record.entries, saved.step):
                for part in entry.parts:
                    row = self.rows.get(part.file_id)
                    if part.file_id in ends or "adopted" in entry.settings or (row and row.state in OUT):
                        continue
                    if row is not None and row.data_digest not in (None, part.data_digest):
                        continue
                    why = f"it was learned in {saved.name}, which is no part of the history now"
                    if row is None and not self.digests.get(part.data_digest):
                        continue  # nothing leads from it to any bytes
                    self._hold(self._matched(part, entry, row, "set_aside"), why)

    # What only lies there.

    def _refused(self, one: Refused) -> None:
        row = self.rows.get(one.id)
        if row is not None and (row.state not in WAITING or escape(row.name) != one.name):
            return
        row = row or replace(_empty(one.id, self.inbox), name=one.name, arrived_at=one.arrived_at)
        self.rows[one.id] = replace(
            row, state="rejected", reason=one.reason, sha256=one.sha256, archive=one.place, prepared=None
        )

    def _taken(self) -> None:
        """Bytes that were on their way into the archive: only here where they had been handed over by `add`."""
        archived = {one.sha256 for one in self.evidence.archived}
        for id, sha256 in self.evidence.taken.items():
            if id not in self.rows and sha256 not in archived:
                name = f"added-{id}"
                row = replace(_empty(id, self.inbox), name=name, source=str(self.incoming / name), state="arrived")
                self.rows[id] = replace(row, sort_key=natural_key(name), batch=self._batch())
                self.found.queued.append(row.name)

    def _unknown(self) -> None:
        """Archived files that no row stands for: they wait again, unless they may have been taken out."""
        held = self.history.generation > 0 and (
            self.copy is None or self.copy.generation < self.history.generation or self.history.after
        )
        first = {row.sha256: row for row in reversed(self.rows.values()) if row.sha256 and row.state not in OUT}
        gone = {row.sha256 for row in self.rows.values() if row.sha256 and row.state in ("forgotten", "set_aside")}
        learned = {part.data_digest for entry in self.history.entries for part in entry.parts}
        day, batch = "", 0
        for one in sorted(self.free.values(), key=lambda one: one.order):
            if one.day != day:
                day, batch = one.day, self._batch()
            # One that was on its way into the archive still has its number there.
            id = next(
                (id for id, sha in self.evidence.taken.items() if sha == one.sha256 and id not in self.rows), None
            )
            row = replace(_with(_empty(id or self._id(), self.inbox), one), batch=batch)
            other = first.get(one.sha256)
            if other is not None:
                reason = f"it has the same bytes as {other.name} (file {other.id}); `nightschool add --again` trains it"
                self.rows[row.id] = replace(row, state="duplicate", duplicate_of=other.id, reason=reason)
            elif one.sha256 in gone:
                self._hold(row, "the same bytes were forgotten or set aside under another name")
            elif held:
                self._hold(row, "whether it waits, or was forgotten by a change of the history, is not known any more")
            elif self.found.unmatched and not self._is_new(one, learned):
                self._hold(row, "it may be one of the learned files whose bytes could not be told")
            else:
                self._queue(row)
                first[one.sha256] = row

    def _is_new(self, one: Archived, learned: set[str]) -> bool:
        """Whether it was prepared, and not for any file that was learned: then it is none of those."""
        made = [prepared for prepared in self.made_from.get(one.sha256, []) if prepared.is_of(one.sha256, one.name)]
        return bool(made) and not any(prepared.data_digest in learned for prepared in made)

    def _handed(self) -> None:
        """What `add` had handed over: its bytes are there, its name and its own settings were in the ledger."""
        known = {row.source for row in self.rows.values() if row.state == "arrived"}
        for path in self.evidence.handed:
            if str(path) in known:
                continue
            name = f"added-{path.name}"
            row = replace(_empty(self._id(), self.inbox), name=name, sort_key=natural_key(name), source=str(path))
            self.rows[row.id] = replace(row, state="arrived", batch=self._batch())
            self.found.queued.append(name)
            self.found.lost.append(f"the name of what was handed over as {path.name}, and what `add` was told with it")

    def _queue(self, row: FileRow) -> None:
        fitting = [one for one in self.made_from.get(row.sha256, []) if row.sha256 and one.is_of(row.sha256, row.name)]
        row = replace(row, state="archived")
        if len(fitting) == 1:
            row = replace(_with_counts(row, fitting[0]), state="ready", data_digest=fitting[0].data_digest)
        self.rows[row.id] = row
        self.found.queued.append(row.name)

    def _hold(self, row: FileRow, why: str) -> None:
        how = f"`nightschool add {row.archive}` has it learned" if row.archive else "its bytes are gone"
        reason = f"held back when the ledger was made again: {why}; {how}"
        self.rows[row.id] = replace(row, state="set_aside", reason=reason)
        self.found.held.append((row.name, why))

    def _id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def _batch(self) -> int:
        self.next_batch += 1
        return self.next_batch - 1


def _names(evidence: Evidence) -> dict[int, str]:
    """What checkpoints call the file that their last step was on, by its number."""
    found: dict[int, str] = {}
    for one in evidence.states:
        record = one.saved.record
        place = curriculum.place(record.entries, max(0, record.step - 1))
        if place is None or not record.file:
            continue
        first, *others = record.entries[place.index].file_ids
        more = f" and {len(others):,} more" if others else ""
        if record.file.endswith(more):
            found[first] = record.file.removesuffix(more)
    return found


def _empty(id: int, inbox: str) -> FileRow:
    """A row for a file of which nothing is known but its number."""
    name = f"file-{id}-name-lost"
    return FileRow(
        id=id, name=name, sha256=None, bytes=None, priority=NORMAL, batch=0, sort_key=natural_key(name),
        source=f"{inbox}/{name}", archive=None, options={}, state="archived", reason=None, shape=None, rows_good=None,
        rows_bad=None, tokens=None, label_tokens=None, sequences=None, prepared=None, data_digest=None,
        duplicate_of=None, arrived_at="", learned_at=None,
    )  # fmt: skip


def _with(row: FileRow, one: Archived) -> FileRow:
    return replace(
        row, name=one.name, sha256=one.sha256, bytes=one.bytes, archive=one.place, sort_key=natural_key(one.name),
        options={**one.options, **row.options}, arrived_at=row.arrived_at or f"{one.day}T00:00:00.000+00:00",
    )  # fmt: skip


def _with_counts(row: FileRow, made: Prepared) -> FileRow:
    counts: dict[str, Any] = made.meta.get("counts") or {}
    keys = ("rows_good", "rows_bad", "tokens", "label_tokens", "sequences")
    found = {key: counts[key] for key in keys if isinstance(counts.get(key), int)}
    return replace(row, prepared=made.folder, shape=made.meta.get("shape") or row.shape, **found)
