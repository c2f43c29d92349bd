"""The whole path, from a dropped file to prepared data, for any mixture of rows: what must hold whatever is dropped.

Accepted and bad rows are all that was dropped; the archive has the bytes that were dropped; the same file gives the
same tokens; splitting loses none. Good rows become what `corpus` makes of them by hand.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightschool import durable
from nightschool.intake import packing, reading, rejected, tokenise
from nightschool.intake.tokenise import Encoded

from . import corpus_bad, corpus_rows
from .containers import files
from .containers.files import PACKED, Row
from .corpus import by_hand
from .through import Intake, Outcome, quick

LENGTH = 16
"""Tokens per sequence where rows are split."""

_CHARACTERS = [*"aZ 09,;\t\n\"'\\{}[]:=é\u2028\x85😀", "\r\n"]
TEXTS = st.lists(st.sampled_from(_CHARACTERS), min_size=1, max_size=12).map("".join)
ROWS: dict[str, st.SearchStrategy[Row]] = {
    "text": st.fixed_dictionaries({"text": TEXTS}),
    "pair": st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}),
    "chat": st.builds(
        lambda asked, said: {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}],
        },
        TEXTS,
        TEXTS,
    ),
}
COLUMNS = {"text": ["text"], "pair": ["prompt", "completion"], "chat": ["messages"]}
EMPTY: dict[str, Row] = {
    "text": {"text": ""},
    "pair": {"prompt": "a", "completion": ""},
    "chat": {"messages": [{"role": "user", "content": "a"}]},
}
"""For each shape a row of which nothing would be learned."""


def become(row: Row) -> str:
    """What a good row is learned as, by hand."""
    if "text" in row:
        return f"<bos>⟦{row['text']}<eos>⟧"
    if "prompt" in row:
        return f"<bos>{row['prompt']}⟦{row['completion']}<eos>⟧"
    asked, said = (message["content"] for message in row["messages"])
    return f"<bos><|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n⟦{said}<|im_end|>⟧\n"


@dataclass
class Dropped:
    """A file, the good rows in it and the numbers of the bad ones."""

    name: str
    data: bytes
    good: dict[int, Row] = field(default_factory=dict)
    bad: list[int] = field(default_factory=list)


# --- files


_BETWEEN = [
    element
    for name, (element, _) in corpus_bad.ELEMENTS.items()
    if len(element) < 1000 and name not in ("e8 cut off", "e8 no comma behind it")
]
# The template used here takes any role.
_UNUSABLE = [row for name, (row, _) in corpus_rows.UNUSABLE.items() if "the template does not know" not in name]


@st.composite
def in_json(draw: st.DrawFn) -> Dropped:
    """Rows of all shapes and broken ones, in the ways to write JSON."""
    kind = draw(st.sampled_from(["jsonl", "array", "wrapped"]))
    bad = st.sampled_from(_BETWEEN) | st.sampled_from(_UNUSABLE)
    items = draw(
        st.lists(st.one_of(*ROWS.values()).map(lambda row: ("good", row)) | bad.map(lambda b: ("bad", b)), max_size=8)
    )
    # The first row tells a list of rows in an object from any other list.
    items = [("good", {"text": "first"}), *items]
    found = Dropped("a.jsonl" if kind == "jsonl" else "a.json", b"")
    elements = []
    ascii_only = draw(st.booleans())
    for number, (what, value) in enumerate(items, 1):
        elements.append(value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=ascii_only).encode())
        if what == "good":
            found.good[number] = cast(Row, value)
        else:
            found.bad.append(number)
    if kind == "jsonl":
        found.data = b"".join(element + b"\n" for element in elements)
    elif kind == "array":
        found.data = b"[" + b",\n".join(elements) + b"]"
    else:
        found.data = b'{"version": "1", "rows": [' + b" , ".join(elements) + b'], "notes": ["a"]}'
    return found


@st.composite
def in_a_table(draw: st.DrawFn) -> Dropped:
    """Rows of one shape and broken lines, numbered by the line on which they begin."""
    shape = draw(st.sampled_from(list(ROWS)))
    delimiter = draw(st.sampled_from([",", "\t"]))
    names = [*COLUMNS[shape], "n"]
    broken = [
        delimiter.join(["a"] * (len(names) + 2)).encode(), b"a", delimiter.join(["\0", "a"]).encode(),
        b"caf\xe9" + delimiter.encode() * (len(names) - 1),
    ]  # fmt: skip
    good = ROWS[shape].map(lambda row: ("good", row))
    items = draw(
        st.lists(good | st.just(("bad", EMPTY[shape])) | st.sampled_from(broken).map(lambda b: ("bad", b)), max_size=8)
    )
    found = Dropped("a.csv" if delimiter == "," else "a.tsv", delimiter.join(names).encode() + b"\n")
    for what, value in [("good", None), *items]:
        row = next(iter(_FIRST[shape])) if value is None else value
        number = found.data.count(b"\n") + 1
        if isinstance(row, bytes):
            found.data += row + b"\n"
        else:
            text = io.StringIO()
            cells = [row[name] if isinstance(row[name], str) else json.dumps(row[name]) for name in COLUMNS[shape]]
            csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow([*cells, "1"])
            found.data += text.getvalue().encode()
        if what == "good":
            found.good[number] = cast(Row, row)
        else:
            found.bad.append(number)
    return found


_FIRST: dict[str, list[Row]] = {
    "text": [{"text": "first"}],
    "pair": [{"prompt": "first", "completion": "b"}],
    "chat": [{"messages": [{"role": "user", "content": "first"}, {"role": "assistant", "content": "b"}]}],
}


@st.composite
def in_parquet(draw: st.DrawFn) -> Dropped:
    """Rows of one shape, and some of which nothing would be learned."""
    shape = draw(st.sampled_from(list(ROWS)))
    good = ROWS[shape].map(lambda row: ("good", row))
    items = [("good", _FIRST[shape][0]), *draw(st.lists(good | st.just(("bad", EMPTY[shape])), max_size=8))]
    found = Dropped("a.parquet", files.parquet([row for _, row in items]))
    for number, (what, row) in enumerate(items, 1):
        if what == "good":
            found.good[number] = row
        else:
            found.bad.append(number)
    return found


@st.composite
def dropped(draw: st.DrawFn) -> Dropped:
    """A file of any container, compressed or not."""
    found = draw(in_json() | in_a_table() | in_parquet())
    packed = draw(st.sampled_from(list(PACKED)))
    found.name += packed
    found.data = PACKED[packed](found.data)
    return found


# --- what must hold


@pytest.fixture(scope="module")
def intakes(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Intake]]:
    """Workspaces by their settings, each made once: files of many examples go through one."""
    made: dict[str, Intake] = {}
    root = tmp_path_factory.mktemp("properties")

    def get(**data: Any) -> Intake:
        key = repr(sorted(data.items()))
        if key not in made:
            made[key] = Intake(root / str(len(made)), model, max_bad_rows=1.0, **data)
        return made[key]

    with quick():
        yield get


count = iter(range(1 << 30))


def take(intake: Intake, file: Dropped) -> Outcome:
    """Put a file through intake under a name of its own. Nothing stays prepared: the next may have the same bytes."""
    outcome = intake.take(f"{next(count)}-{file.name}", file.data)
    for row in intake.place.ledger.files.each("ready"):
        intake.place.ledger.files.set_state(row.id, "learned")
    for folder in intake.place.layout.prepared.iterdir():
        durable.remove_tree(folder)
    return outcome


def check_rows(file: Dropped, outcome: Outcome) -> None:
    """Accepted and bad rows are all that was dropped, each what it is; the bytes are kept."""
    assert outcome.kept == file.data
    assert outcome.state == "ready", outcome.reason
    assert sorted(row["line"] for row in outcome.bad) == file.bad
    assert (outcome.rows_good, outcome.rows_bad) == (len(file.good), len(file.bad))
    wanted = [(*by_hand(become(row)), number) for number, row in file.good.items()]
    assert [(ids, train, rows[0] + 1) for ids, train, _, rows in outcome.sequences] == wanted


def again(intake: Intake, file: Dropped, first: Outcome) -> None:
    """The same file once more, by another process that finds nothing prepared, gives the same tokens."""
    intake.restart()
    assert take(intake, file).digest == first.digest


def check_split(file: Dropped, outcome: Outcome) -> None:
    """Every token of every row is there, in pieces of so many; but for pieces in which nothing would be learned."""
    pieces = []
    for number, row in file.good.items():
        ids, train = by_hand(become(row))
        for start in range(0, len(ids), LENGTH):
            part = [0, *train[start + 1 : start + LENGTH]]
            pieces.append((number, ids[start : start + LENGTH], part))
    learned = [piece for piece in pieces if any(piece[2])]
    assert [(rows[0] + 1, ids, train) for ids, train, _, rows in outcome.sequences] == learned
    assert outcome.meta["counts"]["unlearned_sequences"] == len(pieces) - len(learned)
    assert outcome.meta["counts"]["tokens_cut"] == 0


quickly = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@quickly
@given(file=dropped())
def test_law_3_accepted_and_bad_rows_are_all_that_was_dropped_and_the_archive_has_its_bytes(file, intakes):
    intake = intakes()
    outcome = take(intake, file)
    check_rows(file, outcome)
    seen = intake.preview(file.name, file.data)
    assert (seen.rows_good, seen.rows_bad, seen.bad_rows) == (outcome.rows_good, outcome.rows_bad, outcome.bad)
    assert (seen.tokens, seen.sequences) == (outcome.meta["counts"]["tokens"], len(outcome.sequences))


@settings(quickly, max_examples=25)
@given(file=dropped(), packed=st.booleans())
def test_law_1_the_same_file_twice_gives_the_same_tokens(file, packed, intakes):
    intake = intakes(packing=packed)
    with pytest.MonkeyPatch.context() as patch:
        first = take(intake, file)
        patch.setattr(tokenise, "BATCH_ROWS", 2)  # nothing depends on how rows are batched
        again(intake, file, first)


@settings(quickly, max_examples=40)
@given(file=dropped())
def test_splitting_loses_no_token(file, intakes):
    check_split(file, take(intakes(max_length=LENGTH, overflow="split"), file))


@settings(quickly, max_examples=25)
@given(lengths=st.lists(st.integers(1, 3 * LENGTH), min_size=1, max_size=12))
def test_packing_and_splitting_lose_no_token(lengths):
    check_packed(lengths, packing.sequences)


def check_packed(lengths: list[int], pack: Callable[..., Any]) -> None:
    rows = [
        Encoded(number, "text", np.arange(size, dtype=np.int32), np.ones(size, np.int8))
        for number, size in enumerate(lengths, 1)
    ]
    found: Counter[tuple[int, int]] = Counter()
    for sequence in pack(rows, LENGTH, True):
        assert len(sequence.ids) <= LENGTH
        assert sum(sequence.lengths) == len(sequence.ids)
        found.update(zip(np.repeat(sequence.rows, sequence.lengths).tolist(), sequence.ids.tolist(), strict=True))
    assert found == Counter((row, token) for row, size in enumerate(lengths) for token in range(size))


# --- controls

MIXTURE = Dropped(
    "a.jsonl",
    b'{"text": "first"}\n{"text": }\n{"text": "a text that is longer than a sequence"}\n',
    {1: {"text": "first"}, 3: {"text": "a text that is longer than a sequence"}},
    [2],
)


def test_control_a_bad_row_or_a_byte_that_is_lost_is_found(intakes, monkeypatch):
    intake = intakes()
    check_rows(MIXTURE, intake.take("tampered-with.jsonl", MIXTURE.data))
    number = intake.place.rows()[-1].id
    archived = intake.place.layout.root / str(intake.place.get(number).archive)
    archived.chmod(0o644)
    archived.write_bytes(MIXTURE.data.rstrip(b"\n"))
    with pytest.raises(AssertionError):
        check_rows(MIXTURE, intake.outcome(number))
    other = Dropped("a.jsonl", MIXTURE.data + b"\n", MIXTURE.good, MIXTURE.bad)
    monkeypatch.setattr(rejected.BadRows, "add", lambda self, row: None)
    with pytest.raises(AssertionError):
        check_rows(other, take(intake, other))


def test_control_tokens_that_depend_on_the_process_are_found(intakes, monkeypatch):
    intake = intakes(packing=True)
    first = take(intake, MIXTURE)
    again(intake, MIXTURE, first)
    monkeypatch.setattr(packing, "BLOCK_ROWS", 1)
    with pytest.raises(AssertionError):
        again(intake, MIXTURE, first)


def test_control_what_is_cut_off_is_found(intakes, monkeypatch):
    intake = intakes(max_length=LENGTH, overflow="split")
    check_split(MIXTURE, take(intake, MIXTURE))
    real = reading.sequences

    def shorter(block: Any, most: int, packed: bool) -> Any:
        return [sequence for sequence in real(block, most, packed) if len(sequence.ids) == most]

    monkeypatch.setattr(reading, "sequences", shorter)
    other = Dropped("a.jsonl", MIXTURE.data + b"\n", MIXTURE.good, MIXTURE.bad)
    with pytest.raises(AssertionError):
        check_split(other, take(intake, other))
    with pytest.raises(AssertionError):
        check_packed([20], lambda *arguments: packing.sequences(*arguments)[:1])
