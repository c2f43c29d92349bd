"""What the model would see of a data file: read as it would be, with nothing written and nothing taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import curriculum
from nightschool.errors import DataError
from nightschool.intake import cautions
from nightschool.intake.packing import Packed
from nightschool.intake.reading import Reading, Unusable, nothing
from nightschool.intake.reasons import Reasons
from nightschool.intake.rows import BadRow

if TYPE_CHECKING:
    from nightschool.intake.tools import Tools

BAD_ROWS = 100
"""Bad rows that are kept with their reasons; the rest are counted."""
EXAMPLES = 2
"""Sequences that are kept as they are."""
LOOKED_AT = 1000
"""Rows that are looked at for what may not be meant."""


@dataclass(frozen=True)
class Piece:
    """A run of tokens as text; `learned`: the loss is taken on them."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Part:
    """A row, or a piece of one, in a sequence; `row` is its number in the file."""

    row: int
    tokens: int
    learned: int
    pieces: list[Piece]


@dataclass(frozen=True)
class Preview:
    """What would become of a file.

    Attributes:
        container, shape: what it is and what its rows are; None where it is nothing that is read.
        complete: whether all of it was read.
        rows_good, rows_bad: rows; of the good ones `rows_held_out` are never trained on.
        rows_truncated, rows_split, tokens_cut: what the overflow rule did.
        tokens, label_tokens, sequences, steps: what is trained on; `label_tokens` are learned.
        repairs: rows by what was put right in them.
        lengths: [first, last, rows]: rows by their length in tokens, before anything is cut.
        bad_rows: {"line", "reason", "row"} of the first ones.
        warnings: what may not be meant, as sentences.
        problem: why the file would be rejected, or None.
        examples: the first sequences.
    """

    name: str
    container: str | None = None
    shape: str | None = None
    complete: bool = True
    rows_good: int = 0
    rows_bad: int = 0
    rows_held_out: int = 0
    rows_truncated: int = 0
    rows_split: int = 0
    tokens: int = 0
    tokens_cut: int = 0
    label_tokens: int = 0
    sequences: int = 0
    steps: int = 0
    repairs: dict[str, int] = field(default_factory=dict)
    lengths: list[tuple[int, int, int]] = field(default_factory=list)
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problem: str | None = None
    examples: list[list[Part]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


class _Bad(Reasons):
    """Counts bad rows and keeps the first."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def add(self, row: BadRow) -> None:
        super().add(row)
        if len(self.rows) < BAD_ROWS:
            self.rows.append({"line": row.number, "reason": str(row), "row": row.preview})


def preview(
    path: Path,
    name: str,
    tools: Tools,
    recipe: Mapping[str, Any],
    *,
    batch: int,
    epochs: int = 1,
    most: int | None = None,
    between: Callable[[int], None] | None = None,
) -> Preview:
    """Read a file as intake would.

    Args:
        path: where its bytes are.
        name: what it is called.
        tools: tokenizer and template.
        recipe: all that decides its tokens: `Tools.recipe`.
        batch, epochs: sequences per step, and passes over the file.
        most: rows that are looked at, at most.
        between: called now and then with the number of bytes read.

    Raises:
        DataError: the file cannot be opened. What is wrong with its contents is in the answer.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    with file:
        told = nothing if between is None else lambda: between(file.tell())
        bad = _Bad()
        reading = Reading(tools, recipe, bad, told, keep=LOOKED_AT, most=most)
        sums = Counter[str]()
        examples: list[list[Part]] = []
        problem = None
        try:
            for sequence in reading.sequences(file, name):
                sums.update(sequences=1, tokens=len(sequence.ids), label_tokens=int(sequence.train.sum()))
                if len(examples) < EXAMPLES:
                    examples.append(_parts(tools.tokenizer, sequence))
            reading.check()
        except (DataError, Unusable) as error:
            problem = str(error)
    counts = reading.counts
    warnings = cautions.warnings(
        tools.tokenizer, tools.template_for(dict(recipe)), reading.kept_shapes, reading.kept_rows,
        recipe["chat_template_kwargs"],
    )  # fmt: skip
    return Preview(
        name=name,
        container=counts.container or None,
        shape=counts.shape if counts.shapes else None,
        complete=reading.complete,
        rows_good=counts.good,
        rows_bad=bad.count,
        rows_held_out=counts.held_out,
        rows_truncated=counts.truncated,
        rows_split=counts.split,
        tokens=sums["tokens"],
        tokens_cut=counts.tokens_cut,
        label_tokens=sums["label_tokens"],
        sequences=sums["sequences"],
        steps=curriculum.full_length(sums["sequences"], batch, epochs),
        repairs=dict(sorted(counts.repairs.items())),
        lengths=[(1 << (size - 1), (1 << size) - 1, rows) for size, rows in sorted(reading.lengths.items())],
        bad_rows=bad.rows,
        warnings=warnings,
        problem=problem,
        examples=examples,
    )


def _parts(tokenizer: Any, sequence: Packed) -> list[Part]:
    found, start = [], 0
    for length, row in zip(sequence.lengths.tolist(), sequence.rows.tolist(), strict=True):
        ids, train = (values[start : start + length].tolist() for values in (sequence.ids, sequence.train))
        found.append(Part(row + 1, length, sum(train), _pieces(tokenizer, ids, train)))
        start += length
    return found


def _pieces(tokenizer: Any, ids: Sequence[int], train: Sequence[int]) -> list[Piece]:
    pieces, start = [], 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or train[at] != train[start]:
            pieces.append(Piece(tokenizer.decode(ids[start:at]), bool(train[start])))
            start = at
    return pieces
