"""From an archived file to a prepared folder: rows, tokens, masks, sequences; or to `rejected/` with the reason.

The folder's name holds the file's hash and the recipe's: the same bytes under the same recipe are prepared once, and a
folder that is there and whole was finished before a crash.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from nightschool import basemodel, durable
from nightschool.errors import DataError
from nightschool.intake import rejected
from nightschool.intake.prepared import PreparedWriter, read_meta, write_meta
from nightschool.intake.recipe import RECIPE_VERSION
from nightschool.intake.rows import PREVIEW, BadRow, container_of
from nightschool.intake.shapes import TEXT, RowError, Shape, recognise
from nightschool.ledger.files import FileRow
from nightschool.ledger.ledger import Ledger
from nightschool.settings import Settings, canonical
from nightschool.words import escape
from nightschool.workspace import Layout

if TYPE_CHECKING:
    from nightschool.intake.template import Template
    from nightschool.intake.tokenise import Encoded

log = logging.getLogger(__name__)

Outcome = Literal["ready", "rejected"]


class Tools:
    """The tokenizer and the template of a run, loaded when the first file needs them."""

    def __init__(self, settings: Settings, cache_file: Path | None = None) -> None:
        from nightschool.intake import template, tokenise

        self.settings = settings
        model = settings.model
        folder = basemodel.resolve(model.name, model.revision)
        self.tokenizer_digest = basemodel.tokenizer_digest(folder, cache_file)
        self.tokenizer = tokenise.load_tokenizer(folder, model.trust_remote_code)
        file = Path(model.chat_template) if model.chat_template else None
        self._file = file
        self._templates: dict[str, Template] = {}
        self.template = template.choose(self.tokenizer, settings.data.loss_on, file)

    def recipe(self, day: str) -> dict[str, Any]:
        """All that decides which tokens a file becomes; `day` is that of its acceptance, YYYY-MM-DD."""
        return {
            "v": RECIPE_VERSION,
            **self.settings.data_recipe(),
            "tokenizer": self.tokenizer_digest,
            "chat_template": self.template.sha256,
            "date": day if self.template.dated else None,
        }

    def template_for(self, recipe: dict[str, Any]) -> Template:
        """The template that a recipe means.

        Raises:
            DataError: the recipe was made with another tokenizer or template than this one.
        """
        from nightschool.intake import template

        if recipe["tokenizer"] != self.tokenizer_digest:
            raise DataError("The tokenizer is not the one that this file was prepared with. Put the old files back.")
        chosen = self.template
        if recipe["loss_on"] != self.settings.data.loss_on:
            chosen = template.choose(self.tokenizer, recipe["loss_on"], self._file)
        if recipe["chat_template"] != chosen.sha256:
            raise DataError(
                "The chat template is not the one that this file was prepared with. Put the old one back "
                "(model.chat_template), or the libraries' old versions if the model's own files are unchanged."
            )
        return chosen


def recipe_text(recipe: dict[str, Any]) -> str:
    """The one spelling of a recipe."""
    return canonical(recipe)


def folder_name(sha256: str, recipe: dict[str, Any]) -> str:
    """Name of the prepared folder of a file under a recipe."""
    return f"{sha256[:16]}-{hashlib.sha256(recipe_text(recipe).encode()).hexdigest()[:16]}"


def day_of(row: FileRow) -> str:
    """The day a file was accepted, from its place in the archive: it stays the same whenever it is asked for."""
    parts = Path(row.archive or "").parts
    if len(parts) < 3:
        raise DataError(f"{row.name} is not in the archive.")
    return parts[1]


@dataclass
class Counts:
    """What a file held and what became of it."""

    good: int = 0
    truncated: int = 0
    split: int = 0
    tokens_cut: int = 0
    unlearned_sequences: int = 0
    shapes: Counter[str] = field(default_factory=Counter)

    @property
    def shape(self) -> str:
        """The shape of all rows, or `mixed`."""
        return next(iter(self.shapes)) if len(self.shapes) == 1 else "mixed"


class _Unusable(Exception):
    """The file as a whole cannot be used, for this reason."""


def _nothing() -> None:
    return None


def prepare(
    layout: Layout,
    ledger: Ledger,
    tools: Tools,
    row: FileRow,
    recipe: dict[str, Any] | None = None,
    between: Callable[[], None] = _nothing,
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
    recipe = recipe or tools.recipe(day_of(row))
    assert row.sha256 is not None  # every archived file has one
    name = folder_name(row.sha256, recipe)
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
        ledger.events.add("file_ready", text, file=row.id, **counts)
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
    counts = Counts()
    try:
        writer = PreparedWriter(staged)
        try:
            with writer:
                _fill(writer, layout, tools, row, recipe, bad, counts, between)
        except (_Unusable, DataError) as error:
            raise _Rejected(str(error), bad) from None
        write_meta(staged, _meta(row, recipe, counts, bad, writer))
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
        "shape": counts.shape,
        "shapes": dict(counts.shapes),
        "data_digest": writer.data_digest,
        "counts": {
            "rows_good": counts.good,
            "rows_bad": bad.count,
            "rows_truncated": counts.truncated,
            "rows_split": counts.split,
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
    tools: Tools,
    row: FileRow,
    recipe: dict[str, Any],
    bad: rejected.BadRows,
    counts: Counts,
    between: Callable[[], None],
) -> None:
    """Read the archived file to its end and write its sequences."""
    from nightschool.intake.packing import blocks, sequences
    from nightschool.intake.tokenise import Tokeniser

    template = tools.template_for(recipe)
    tokeniser = Tokeniser(tools.tokenizer, template, recipe["chat_template_kwargs"], recipe["date"])
    container = container_of(row.name)
    try:
        file = (layout.root / (row.archive or "")).open("rb")
    except FileNotFoundError:
        raise _Unusable(f"its archived copy {row.archive} is no longer there") from None
    with file:
        hashed = _Hashed(file)
        rows = _shapes(container(io.BufferedReader(hashed, 1 << 20)), between)
        encoded = _usable(tokeniser.encode(rows), recipe, bad, counts)
        for block in blocks(encoded):
            for sequence in sequences(block, recipe["max_length"], recipe["packing"]):
                # A piece of a long chat may hold nothing that is learned; it would only cost time.
                if sequence.train.any():
                    writer.write(sequence)
                else:
                    counts.unlearned_sequences += 1
            between()
        digest = hashed.finish()
    if digest != row.sha256:
        raise _Unusable(f"its archived copy {row.archive} was changed after it was archived")
    total = counts.good + bad.count
    if total == 0:
        raise _Unusable("it holds no rows: the file is empty, or only white space")
    if bad.count > recipe["max_bad_rows"] * total:
        raise _Unusable(
            f"{bad.count} of its {total} rows cannot be used, more than data.max_bad_rows = "
            f"{recipe['max_bad_rows']:g} allows: {bad.summary()}"
        )
    if writer.sequences == 0:
        raise _Unusable(f"none of its {total} rows can be used: {bad.summary()}")


def _shapes(rows: Iterator[tuple[int, Any]], between: Callable[[], None]) -> Iterator[tuple[int, Shape | BadRow]]:
    """Check what the rows mean."""
    for count, (number, value) in enumerate(rows):
        if count % 256 == 0:
            between()
        if isinstance(value, BadRow):
            yield number, value
            continue
        try:
            yield number, recognise(value)
        except RowError as error:
            yield number, BadRow(number, error.reason, error.detail, canonical(value)[:PREVIEW])


def _usable(
    results: Iterator[Encoded | BadRow], recipe: dict[str, Any], bad: rejected.BadRows, counts: Counts
) -> Iterator[Encoded]:
    """Let through what can be learned, cut to length where the overflow rule says so; count the rest."""
    from nightschool.intake.tokenise import Encoded

    most, overflow = recipe["max_length"], recipe["overflow"]
    for result in results:
        if isinstance(result, BadRow):
            bad.add(result)
            continue
        if len(result.ids) > most:
            if overflow == "split" or (overflow == "auto" and result.shape == TEXT):
                counts.split += 1
            else:
                cut = Encoded(result.number, result.shape, result.ids[:most].copy(), result.train[:most].copy())
                if not cut.train.any():
                    detail = f"its first {most} tokens (data.max_length) hold nothing of what is to be learned"
                    bad.add(BadRow(result.number, "no tokens to learn", detail))
                    continue
                counts.truncated += 1
                counts.tokens_cut += len(result.ids) - most
                result = cut
        counts.good += 1
        counts.shapes[result.shape] += 1
        yield result


def _in_words(name: str, meta: dict[str, Any]) -> str:
    counts = meta["counts"]
    parts = [
        f"{name} is ready: {counts['rows_good']} rows, {counts['tokens']} tokens "
        f"({counts['label_tokens']} of them learned) in {counts['sequences']} sequences"
    ]
    most = meta["recipe"]["max_length"]
    if counts["rows_truncated"]:
        parts.append(f"{counts['rows_truncated']} rows cut to {most} tokens ({counts['tokens_cut']} tokens lost)")
    if counts["rows_split"]:
        parts.append(f"{counts['rows_split']} rows longer than {most} tokens split")
    if counts["rows_bad"]:
        parts.append(f"{counts['rows_bad']} bad rows left out: {meta['bad']}")
    return "; ".join(parts)


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        return len(data)

    def finish(self) -> str:
        """Read what nobody asked for, and give the SHA-256 of everything."""
        while data := self._file.read(1 << 20):
            self._hash.update(data)
        return self._hash.hexdigest()
