"""One pass over a data file: from its bytes to rows of tokens and to sequences, with what was wrong on the way.

containers    bytes to rows            shapes      rows to what they mean
tokenise      to tokens and masks      here        the overflow rule, the hold-out, the counts
packing       to sequences
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from nightschool.intake import containers
from nightschool.intake.holdout import Holdout
from nightschool.intake.packing import Packed, blocks, sequences
from nightschool.intake.rows import PREVIEW, BadRow
from nightschool.intake.shapes import TEXT, RowError, Shape, check_columns, map_columns, recognise
from nightschool.intake.tokenise import Encoded, Tokeniser
from nightschool.settings import canonical

if TYPE_CHECKING:
    from nightschool.intake.tools import Tools

KEPT_TOKENS = 1 << 21
"""Behind so many tokens no further row is kept to be looked at."""


@dataclass
class Counts:
    """What a file held and what became of it."""

    good: int = 0
    truncated: int = 0
    split: int = 0
    tokens_cut: int = 0
    unlearned_sequences: int = 0
    held_out: int = 0
    container: str = ""
    shapes: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)

    @property
    def shape(self) -> str:
        """The shape of all rows, or `mixed`."""
        return next(iter(self.shapes)) if len(self.shapes) == 1 else "mixed"


class Unusable(Exception):
    """The file as a whole cannot be used, for this reason."""


class BadSink(Protocol):
    """Where bad rows go."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def add(self, row: BadRow, /) -> None:
        """Take note of one."""

    def summary(self) -> str:
        """The reasons, the most frequent first."""
        ...


def nothing() -> None:
    """Does nothing."""


class Reading:
    """Reads one data file under a recipe.

    Args:
        tools: tokenizer and template.
        recipe: all that decides which tokens the file becomes.
        bad: takes the bad rows.
        between: called now and then; what it raises ends the reading.
        keep: of so many rows that come first, meaning and tokens are kept, to be looked at; of fewer where they are
            long, so that memory is bounded.
        most: rows that are read, at most; all where it is None. `complete` tells whether that was all.

    After `sequences` has come to its end, `counts` and `held_out` (rows that are not trained on) are complete.

    Raises:
        DataError: the recipe was made with another tokenizer or template.
    """

    def __init__(
        self,
        tools: Tools,
        recipe: Mapping[str, Any],
        bad: BadSink,
        between: Callable[[], None] = nothing,
        keep: int = 0,
        most: int | None = None,
    ) -> None:
        self.counts = Counts()
        self.complete = True
        self.bad = bad
        self.kept_shapes: dict[int, Shape] = {}
        self.kept_rows: list[Encoded] = []
        self.lengths: Counter[int] = Counter()
        """Rows by the number of binary digits of their length in tokens, before anything is cut."""
        self._recipe = recipe
        self._columns: Mapping[str, str] = recipe.get("columns") or {}  # an older recipe has none
        check_columns(dict(self._columns))
        template = tools.template_for(dict(recipe))
        self._tokeniser = Tokeniser(tools.tokenizer, template, recipe["chat_template_kwargs"], recipe["date"])
        self._between = between
        self._keep = keep
        self._kept_tokens = 0
        self._most = most
        self._holdout = Holdout(recipe.get("holdout") or 0.0)
        self._sequences = 0

    @property
    def held_out(self) -> list[Encoded]:
        """Rows that are not trained on, in the order of the file."""
        return self._holdout.rows

    def rows(self, file: BinaryIO | io.RawIOBase, name: str, scratch: Path | None = None) -> Iterator[Encoded]:
        """The rows to train on, as tokens, cut to length where the overflow rule says so.

        Args:
            file: seekable.
            name: what it is called.
            scratch: a folder for what must be unpacked to be read.

        Raises:
            DataError: the file is none that can be read, or is damaged. Single bad rows go to `bad`.
        """
        opened = containers.open_rows(file, name, columns=self._columns, scratch=scratch)
        self.counts.container = opened.container
        encoded = self._tokeniser.encode(self._shapes(opened.rows))
        yield from self._holdout.rest(self._usable(encoded))
        self.counts.held_out = len(self.held_out)

    def sequences(self, file: BinaryIO | io.RawIOBase, name: str, scratch: Path | None = None) -> Iterator[Packed]:
        """The sequences that are trained on; see `rows`."""
        for block in blocks(self.rows(file, name, scratch)):
            for sequence in sequences(block, self._recipe["max_length"], self._recipe["packing"]):
                # A piece of a long chat may hold nothing that is learned; it would only cost time.
                if sequence.train.any():
                    self._sequences += 1
                    yield sequence
                else:
                    self.counts.unlearned_sequences += 1

    def check(self) -> None:
        """Judge the file as a whole, once all of it was read.

        Raises:
            Unusable: it holds no rows, too many bad ones, or none to learn from.
        """
        total = self.counts.good + self.bad.count
        most = self._recipe["max_bad_rows"]
        if total == 0:
            raise Unusable("it holds no rows: the file is empty, or only white space")
        if self.bad.count > most * total:
            raise Unusable(
                f"{'its one row' if total == 1 else f'{self.bad.count} of its {total} rows'} cannot be used, more than "
                f"data.max_bad_rows = {most:g} allows: {self.bad.summary()}"
            )
        if self._sequences == 0:
            which = "its one row cannot" if total == 1 else f"none of its {total} rows can"
            raise Unusable(f"{which} be used: {self.bad.summary()}")

    def _shapes(self, rows: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Shape | BadRow]]:
        """Check what the rows mean."""
        columns = self._columns
        for count, (number, value) in enumerate(rows):
            if count == self._most:
                self.complete = False
                return
            if count % 256 == 0:
                self._between()
            if isinstance(value, BadRow):
                yield number, value
                continue
            try:
                shape = recognise(map_columns(value, columns) if columns else value, columns)
            except RowError as error:
                yield number, BadRow(number, error.reason, error.detail, canonical(value)[:PREVIEW])
                continue
            if len(self.kept_shapes) < self._keep and self._kept_tokens < KEPT_TOKENS:
                self.kept_shapes[number] = shape
            yield number, shape

    def _usable(self, results: Iterator[Encoded | BadRow]) -> Iterator[Encoded]:
        """Let through what can be learned; count the rest."""
        counts, bad = self.counts, self.bad
        most, overflow = self._recipe["max_length"], self._recipe["overflow"]
        for result in results:
            if isinstance(result, BadRow):
                bad.add(result)
                continue
            self.lengths[len(result.ids).bit_length()] += 1
            if len(self.kept_rows) < self._keep and self._kept_tokens < KEPT_TOKENS:
                self.kept_rows.append(result)
                self._kept_tokens += len(result.ids)
            if len(result.ids) > most:
                if overflow == "split" or (overflow == "auto" and result.shape == TEXT):
                    counts.split += 1
                elif overflow == "reject":
                    detail = f"it has {len(result.ids)} tokens, data.max_length = {most}"
                    bad.add(BadRow(result.number, "longer than max_length", detail))
                    continue
                else:
                    cut = replace(result, ids=result.ids[:most].copy(), train=result.train[:most].copy())
                    if not cut.train.any():
                        detail = f"its first {most} tokens (data.max_length) hold nothing of what is to be learned"
                        bad.add(BadRow(result.number, "no tokens to learn", detail))
                        continue
                    counts.truncated += 1
                    counts.tokens_cut += len(result.ids) - most
                    result = cut
            counts.good += 1
            counts.shapes[result.shape] += 1
            counts.repairs.update(result.repairs)
            yield result
