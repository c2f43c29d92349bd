"""From an archived file to a prepared folder: rows, tokens, masks, sequences; or to `rejected/` with the reason.

The folder's name holds the file's hash and the recipe's: the same bytes under the same recipe are prepared once, and a
folder that is there and whole was finished before a crash.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightschool import durable
from nightschool.errors import DataError
from nightschool.intake import containers, rejected
from nightschool.intake.hashed import Hashed
from nightschool.intake.packing import plain
from nightschool.intake.prepared import HOLDOUT, PreparedWriter, read_meta, write_meta
from nightschool.intake.reading import Counts, Reading, Unusable, nothing
from nightschool.ledger.files import FileRow
from nightschool.ledger.ledger import Ledger
from nightschool.settings import canonical
from nightschool.words import escape
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.intake.tokenise import Encoded
    from nightschool.intake.tools import Tools

log = logging.getLogger(__name__)

Outcome = Literal["ready", "rejected"]


def folder_name(sha256: str, recipe: dict[str, Any], named: str | None) -> str:
    """Name of the prepared folder of a file under a recipe.

    Args:
        sha256: of the file.
        recipe: how it is prepared.
        named: the kind that its name says: the same bytes under another name may be read in another way.
    """
    how = canonical(recipe) + ("" if named == "jsonl" else f" {named}")
    return f"{sha256[:16]}-{hashlib.sha256(how.encode()).hexdigest()[:16]}"


def day_of(row: FileRow) -> str:
    """The day a file was accepted, from its place in the archive: it stays the same whenever it is asked for."""
    parts = Path(row.archive or "").parts
    if len(parts) < 3:
        raise DataError(f"{row.name} is not in the archive.")
    return parts[1]


def prepare(
    layout: Layout,
    ledger: Ledger,
    tools: Tools,
    row: FileRow,
    recipe: dict[str, Any] | None = None,
    between: Callable[[], None] = nothing,
) -> Outcome:
    """Prepare an `archived` file, or one again whose prepared folder is gone.

    Args:
        layout: the workspace.
        ledger: its ledger.
        tools: tokenizer and template.
        row: the file; where it is past `archived` its data must come out as before.
        recipe: the recipe frozen with the file's entry; by default today's settings.
        between: called now and then; what it raises ends the work and leaves nothing behind.

    Raises:
        StorageError: the disk refuses; the same call can be made again.
        DataError: a file that is past `archived` cannot be prepared as it was.
    """
    again = row.state not in ("archived", "ready")
    recipe = recipe or tools.recipe(day_of(row), row.options)
    assert row.sha256 is not None  # every archived file has one
    name = folder_name(row.sha256, recipe, containers.kind_named(row.name))
    final = layout.prepared / name
    if final.exists() and durable.check(final):
        log.warning("the prepared data of %s is damaged, and is made again", escape(row.name))
        durable.remove_tree(final)
    if not final.exists():
        try:
            _write(layout, tools, row, recipe, final, between)
        except _Rejected as refused:
            if again:
                raise DataError(f"{row.name} was prepared before, but now: {refused.reason}") from None
            log.warning("%s was rejected: %s", escape(row.name), escape(refused.reason))
            with refused.bad:
                rejected.reject(layout, ledger, row, refused.reason, refused.bad)
            return "rejected"
    meta = read_meta(final)
    if again and meta["data_digest"] != row.data_digest:
        raise DataError(
            f"{row.name} was prepared again and gives other tokens than when its training began. Libraries changed: "
            "go back to the versions the training began with."
        )
    counts = meta["counts"]
    keys = ("rows_good", "rows_bad", "tokens", "label_tokens", "sequences")
    text = _in_words(row.name, meta)
    with ledger.transaction():
        ledger.files.prepared_as(
            row.id, name, shape=meta["shape"], data_digest=meta["data_digest"], **{key: counts[key] for key in keys}
        )
        ledger.events.add("file-ready", text, file=row.id, container=meta.get("container"), **counts)
    log.info("%s", escape(text))
    return "ready"


class _Rejected(Exception):
    """A file is refused, with what is known of its bad rows."""

    def __init__(self, reason: str, bad: rejected.BadRows) -> None:
        super().__init__(reason)
        self.reason = reason
        self.bad = bad


def _write(
    layout: Layout,
    tools: Tools,
    row: FileRow,
    recipe: dict[str, Any],
    final: Path,
    between: Callable[[], None],
) -> None:
    """Write, seal and publish the prepared folder. Raises _Rejected with the bad rows still open."""
    layout.prepared.mkdir(parents=True, exist_ok=True)
    staged = durable.staging(layout.prepared, final.name)
    bad = rejected.BadRows(layout, row.id)
    try:
        writer = PreparedWriter(staged)
        try:
            with writer:
                reading = Reading(tools, recipe, bad, between)
                _fill(writer, layout, row, reading, between)
        except (Unusable, DataError) as error:
            raise _Rejected(str(error), bad) from None
        if reading.held_out:
            _write_held_out(staged, reading.held_out, recipe["max_length"])
        write_meta(staged, _meta(row, recipe, reading.counts, bad, writer))
        durable.seal(staged)
        # Before the folder: once that is there, nobody looks at the rows again.
        rejected.keep_bad_rows(layout, row, bad)
        durable.publish(staged, final)
        bad.__exit__(None, None, None)
    except BaseException as error:
        with suppress(Exception):
            durable.remove_tree(staged)
        if not isinstance(error, _Rejected):
            bad.__exit__(None, None, None)
        raise


def _meta(
    row: FileRow, recipe: dict[str, Any], counts: Counts, bad: rejected.BadRows, writer: PreparedWriter
) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "sha256": row.sha256,
        "container": counts.container,
        "shape": counts.shape,
        "shapes": dict(counts.shapes),
        "data_digest": writer.data_digest,
        "counts": {
            "rows_good": counts.good,
            "rows_bad": bad.count,
            "rows_held_out": counts.held_out,
            "rows_truncated": counts.truncated,
            "rows_split": counts.split,
            "repairs": dict(sorted(counts.repairs.items())),
            "tokens": writer.tokens,
            "tokens_cut": counts.tokens_cut,
            "label_tokens": writer.label_tokens,
            "sequences": writer.sequences,
            "unlearned_sequences": counts.unlearned_sequences,
        },
        "bad": bad.summary(),
    }


def _fill(
    writer: PreparedWriter,
    layout: Layout,
    row: FileRow,
    reading: Reading,
    between: Callable[[], None],
) -> None:
    """Read the archived file to its end and write its sequences."""
    try:
        file = (layout.root / (row.archive or "")).open("rb")
    except FileNotFoundError:
        raise Unusable(f"its archived copy {row.archive} is no longer there") from None
    with file:
        hashed = Hashed(file)
        try:
            for number, sequence in enumerate(reading.sequences(hashed, row.name, layout.tmp)):
                writer.write(sequence)
                if number % 64 == 0:
                    between()
        except DataError:
            # What is wrong with bytes that are not those of the user is nothing that the user has to mend.
            _check_digest(hashed, row)
            raise
        _check_digest(hashed, row)
    reading.check()


def _check_digest(hashed: Hashed, row: FileRow) -> None:
    if hashed.finish() != row.sha256:
        raise Unusable(f"its archived copy {row.archive} was changed after it was archived")


def _write_held_out(folder: Path, rows: Iterable[Encoded], longest: int) -> None:
    """One sequence to a row, cut to what the model takes."""
    with PreparedWriter(folder, HOLDOUT) as writer:
        for row in rows:
            for sequence in plain([row], longest):
                writer.write(sequence)
                break


def _in_words(name: str, meta: dict[str, Any]) -> str:
    counts = meta["counts"]
    parts = [
        f"{name} is ready: {counts['rows_good']:,} rows of {meta.get('container') or 'data'}, {counts['tokens']:,} "
        f"tokens ({counts['label_tokens']:,} of them learned) in {counts['sequences']:,} sequences"
    ]
    most = meta["recipe"]["max_length"]
    if counts["rows_truncated"]:
        parts.append(f"{counts['rows_truncated']:,} rows cut to {most} tokens ({counts['tokens_cut']:,} tokens lost)")
    if counts["rows_split"]:
        parts.append(f"{counts['rows_split']:,} rows longer than {most} tokens split")
    for repair, rows in counts.get("repairs", {}).items():
        parts.append(f"{repair} in {rows} rows")
    if counts.get("rows_held_out"):
        parts.append(f"{counts['rows_held_out']} rows held out of training, to measure on")
    if counts["rows_bad"]:
        parts.append(f"{counts['rows_bad']} bad rows left out: {meta['bad']}")
    return "; ".join(parts)
