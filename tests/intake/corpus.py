"""A corpus of small files: every container × every shape that it can hold, each also as .gz and .zst.

What must become of each is written down by hand. The tiny tokenizer has one token to a byte and five special ones, so a
sequence is written as the text that it stands for, with ⟦ ⟧ around what is learned; `by_hand` turns that into tokens.
What is wrong with files is in `corpus_bad`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests import tiny

from .containers import files
from .containers.files import PACKED, WRITERS, Row

TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant', 'tool') %}"
    "{{ raise_exception('it knows no ' + message.role) }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<call>' + call.function.name + (call.function.arguments | tojson) }}"
    "{% endfor %}"
    "{{ '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Knows tools and refuses roles that it does not know."""

# --- tokens by hand

_BYTES = [*range(33, 127), *range(161, 173), *range(174, 256), *range(33), *range(127, 161), 173]
"""The byte that each of the first 256 tokens stands for: those that can be printed come first."""
_TOKEN = {byte: token for token, byte in enumerate(_BYTES)}
_PIECES = re.compile(f"({'|'.join(map(re.escape, (*tiny.SPECIALS, '⟦', '⟧')))})")


def by_hand(marked: str) -> tuple[list[int], list[int]]:
    """(tokens, mask) of a sequence as it is written here."""
    ids: list[int] = []
    train: list[int] = []
    learned = 0
    for piece in _PIECES.split(marked):
        if piece in ("⟦", "⟧"):
            learned = int(piece == "⟦")
            continue
        found = [256 + tiny.SPECIALS.index(piece)] if piece in tiny.SPECIALS else [_TOKEN[b] for b in piece.encode()]
        ids += found
        train += [learned] * len(found)
    return ids, train


# --- a file, and what must become of it


@dataclass(frozen=True)
class Case:
    """A file and what must become of it.

    Attributes:
        name, data: the file.
        container, shape: what it is and what its rows are; None where that is not told.
        rows: (number of the row, sequence as `by_hand` reads it), in order.
        bad: (number of the row, reason), in the order of the numbers.
        problem: why the file as a whole is set aside; None where it is learned.
        counts: further counts that the prepared data names.
        settings: of `[data]`.
        columns: a mapping, ours to theirs.
    """

    name: str
    data: bytes
    container: str | None
    shape: str | None
    rows: tuple[tuple[int, str], ...] = ()
    bad: tuple[tuple[int, str], ...] = ()
    problem: str | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    settings: tuple[tuple[str, Any], ...] = ()
    columns: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


# --- shapes


@dataclass(frozen=True)
class Rows:
    """Rows of a shape, as what they are learned, and (tokens, learned tokens) of all together, counted by hand."""

    shape: str
    rows: list[Row]
    become: list[str]
    counted: tuple[int, int]
    repairs: dict[str, int] = field(default_factory=dict)


def _turn(role: str, content: Any, **more: Any) -> Row:
    return {"role": role, "content": content, **more}


def _said(who: str, value: str) -> Row:
    return {"from": who, "value": value}


def _part(text: str) -> Row:
    return {"type": "text", "text": text}


_ADD = {"type": "function", "function": {"name": "add", "description": "Adds"}}
_ADD_AS_TEXT = '[{"type": "function", "function": {"name": "add", "description": "Adds"}}]'
_CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
_CALLED = (
    f"<bos><|im_start|>tools\n{_ADD_AS_TEXT}<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    '⟦<call>add{"a": 1}<|im_end|>⟧\n<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n⟦2.<|im_end|>⟧\n'
)

SHAPES: dict[str, Rows] = {
    "messages": Rows(
        "messages",
        [
            {
                "messages": [
                    _turn("user", "Hi?"),
                    _turn("assistant", "Yes."),
                    _turn("user", 'a "b", c;\td'),
                    _turn("assistant", "Né\u2028\nx"),
                ]
            },
            {"messages": [_turn("system", "S"), _turn("user", "\u0085q"), _turn("assistant", " a ")]},
        ],
        [
            "<bos><|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n⟦Yes.<|im_end|>⟧\n"
            '<|im_start|>user\na "b", c;\td<|im_end|>\n<|im_start|>assistant\n⟦Né\u2028\nx<|im_end|>⟧\n',
            "<bos><|im_start|>system\nS<|im_end|>\n<|im_start|>user\n\u0085q<|im_end|>\n"
            "<|im_start|>assistant\n⟦ a <|im_end|>⟧\n",
        ],
        # A turn is four tokens, its role and its text; é has two bytes, U+0085 two and U+2028 three.
        (1 + 4 * 4 + 4 + 3 + 9 + 4 + 4 + 11 + 9 + 8 + 1 + 3 * 4 + 6 + 1 + 4 + 3 + 9 + 3, 5 + 9 + 4),
    ),
    "content in parts": Rows(
        "messages",
        [{"messages": [_turn("user", [_part("H"), _part("i?")]), _turn("assistant", [_part("Y, "), _part("o")])]}],
        ["<bos><|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n⟦Y, o<|im_end|>⟧\n"],
        (1 + 2 * 4 + 4 + 9 + 3 + 4, 5),
    ),
    "tools": Rows(
        "messages",
        [
            {
                "tools": [_ADD],
                "messages": [
                    _turn("user", "1+1?"),
                    _turn("assistant", "", tool_calls=[_CALL]),
                    _turn("tool", "2"),
                    _turn("assistant", "2."),
                ],
            }
        ],
        [_CALLED],
        (1 + 5 * 4 + 5 + 74 + 4 + 4 + 9 + 17 + 4 + 1 + 9 + 2, 18 + 3),
    ),
    "sharegpt": Rows(
        "sharegpt",
        [
            {"conversations": [_said("system", "S"), _said("human", "Q\nq"), _said("gpt", "A")]},
            {"conversations": [_said("user", "Hi"), _said("assistant", "Yo")]},
        ],
        [
            "<bos><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ\nq<|im_end|>\n"
            "<|im_start|>assistant\n⟦A<|im_end|>⟧\n",
            "<bos><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yo<|im_end|>⟧\n",
        ],
        (1 + 3 * 4 + 6 + 4 + 9 + 1 + 3 + 1 + 1 + 2 * 4 + 4 + 9 + 2 + 2, 2 + 3),
    ),
    "sharegpt with calls": Rows(
        "sharegpt",
        [
            {
                "conversations": [
                    _said("human", "1+1?"),
                    _said("function_call", '{"name": "add", "arguments": {"a": 1}}'),
                    _said("observation", "2"),
                    _said("gpt", "2."),
                ],
                "tools": _ADD_AS_TEXT,
            }
        ],
        [_CALLED],
        (1 + 5 * 4 + 5 + 74 + 4 + 4 + 9 + 17 + 4 + 1 + 9 + 2, 18 + 3),
        {"tool calls read from text": 1},
    ),
    "alpaca": Rows(
        "alpaca",
        [
            {"instruction": "Add", "input": "1; 2", "output": "3"},
            {"instruction": "No, why?", "input": "", "output": '"so"\n'},
        ],
        [
            "<bos><|im_start|>user\nAdd\n\n1; 2<|im_end|>\n<|im_start|>assistant\n⟦3<|im_end|>⟧\n",
            '<bos><|im_start|>user\nNo, why?<|im_end|>\n<|im_start|>assistant\n⟦"so"\n<|im_end|>⟧\n',
        ],
        (2 * (1 + 2 * 4 + 4 + 9) + 9 + 1 + 8 + 5, 2 + 6),
    ),
    "alpaca with history": Rows(
        "alpaca",
        [{"system": "S", "history": [["a", "b"], ["c", "d"]], "instruction": "e", "input": "", "output": "f"}],
        [
            "<bos><|im_start|>system\nS<|im_end|>\n"
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦d<|im_end|>⟧\n"
            "<|im_start|>user\ne<|im_end|>\n<|im_start|>assistant\n⟦f<|im_end|>⟧\n"
        ],
        (1 + 7 * 5 + 6 + 3 * (4 + 9), 3 * 2),
    ),
    "prompt+completion": Rows(
        "prompt+completion",
        [{"prompt": " ask\t", "completion": ' "tell" '}, {"prompt": "[INST] b", "completion": "ç"}],
        ['<bos> ask\t⟦ "tell" <eos>⟧', "<bos>[INST] b⟦ç<eos>⟧"],
        (1 + 5 + 8 + 1 + 1 + 8 + 2 + 1, 9 + 3),
    ),
    "prompt+completion of messages": Rows(
        "prompt+completion",
        [
            {
                "prompt": [_turn("user", "a"), _turn("assistant", "not this"), _turn("user", "b")],
                "completion": [_turn("assistant", "c")],
            }
        ],
        [
            "<bos><|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nnot this<|im_end|>\n"
            "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n⟦c<|im_end|>⟧\n"
        ],
        (1 + 4 * 4 + 2 * (4 + 9) + 1 + 8 + 1 + 1, 2),
    ),
    "question+answer": Rows(
        "question+answer",
        [{"question": "Q", "answer": "A"}, {"question": "Why, so?", "answer": "A\nB"}],
        [
            "<bos><|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n⟦A<|im_end|>⟧\n",
            "<bos><|im_start|>user\nWhy, so?<|im_end|>\n<|im_start|>assistant\n⟦A\nB<|im_end|>⟧\n",
        ],
        (2 * (1 + 2 * 4 + 4 + 9) + 1 + 1 + 8 + 3, 2 + 4),
    ),
    "text": Rows(
        "text",
        [{"text": "One, two; three\n\nfour\t"}, {"text": '  A "quoted" \u2028 word'}],
        ["<bos>⟦One, two; three\n\nfour\t<eos>⟧", '<bos>⟦  A "quoted" \u2028 word<eos>⟧'],
        (1 + 22 + 1 + 1 + 21 + 1, 23 + 22),
    ),
    "rows put right": Rows(
        "messages",
        [
            {
                "messages": [
                    _turn("assistant", "Hello"),
                    _turn("user", "a"),
                    _turn("user", "b"),
                    _turn("assistant", "c"),
                ]
            },
            {"messages": [_turn("human", "d"), _turn("gpt", "e")]},
        ],
        [
            "<bos><|im_start|>user\na\n\nb<|im_end|>\n<|im_start|>assistant\n⟦c<|im_end|>⟧\n",
            "<bos><|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n⟦e<|im_end|>⟧\n",
        ],
        (2 * (1 + 2 * 4 + 4 + 9) + 4 + 1 + 1 + 1, 2 + 2),
        {
            "leading assistant turns dropped": 1,
            "names of roles translated": 1,
            "neighbouring turns of one role merged": 1,
        },
    ),
    "mixed": Rows(
        "mixed",
        [{"text": "a"}, {"prompt": "b", "completion": "c"}, {"question": "d", "answer": "e"}],
        [
            "<bos>⟦a<eos>⟧",
            "<bos>b⟦c<eos>⟧",
            "<bos><|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n⟦e<|im_end|>⟧\n",
        ],
        (3 + 4 + 1 + 2 * 4 + 4 + 9 + 2, 2 + 2 + 2),
    ),
}

# --- containers

DOCUMENT = '# A title\r\n\r\n  And é, "text".\rEnd\n'
DOCUMENT_BECOMES = '<bos>⟦# A title\n\n  And é, "text".\nEnd\n<eos>⟧'
DOCUMENTS = {"text": ".txt", "markdown": ".md"}
TABLES = ("csv", "semicolons", "tsv")

HOLDS = {
    **{kind: tuple(SHAPES) for kind in WRITERS if kind not in TABLES},
    # A table has every column in every row: an empty "completion" is one that is empty, and not one that is not there.
    **dict.fromkeys(TABLES, tuple(shape for shape in SHAPES if shape != "mixed")),
    **dict.fromkeys(DOCUMENTS, ("text",)),
}
"""The shapes that each kind of file can hold."""


def row_numbers(kind: str, rows: list[Row]) -> list[int]:
    """What a person finds the rows by: the line on which a row of a table begins, else its place or line from 1."""
    if kind not in TABLES:
        return list(range(1, len(rows) + 1))
    line, numbers = 2, []
    for row in rows:
        numbers.append(line)
        line += 1 + sum(cell.count("\n") for cell in row.values() if isinstance(cell, str))
    return numbers


def write(kind: str, rows: list[Row]) -> bytes:
    """Rows in a kind of container. What Parquet cannot hold as it is, is written as JSON text."""
    if kind == "parquet":
        import pyarrow as pa

        try:
            return files.parquet(rows)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            plain = [{k: v if isinstance(v, str | None) else json.dumps(v) for k, v in row.items()} for row in rows]
            return files.parquet(plain)
    return WRITERS[kind][2](rows)


def _file(kind: str, packed: str, name: str) -> tuple[str, str, Callable[[bytes], bytes]]:
    """(name, container, packer) of a file."""
    base, container = (f"rows{DOCUMENTS[kind]}", kind) if kind in DOCUMENTS else WRITERS[kind][:2]
    return f"{kind} {name}{base.removeprefix('rows')}{packed}", container + packed, PACKED[packed]


def good(kind: str, shape: str, packed: str) -> Case:
    """A file without a mistake in it."""
    name, container, pack = _file(kind, packed, shape)
    if kind in DOCUMENTS:
        return Case(name, pack(DOCUMENT.encode()), container, "text", ((1, DOCUMENT_BECOMES),))
    found = SHAPES[shape]
    numbers = row_numbers(kind, found.rows)
    rows = tuple(zip(numbers, found.become, strict=True))
    return Case(
        name, pack(write(kind, found.rows)), container, found.shape, rows, counts={"repairs": found.repairs}
    )  # fmt: skip


GOOD = {
    (kind, shape, packed): good(kind, shape, packed) for kind in HOLDS for shape in HOLDS[kind] for packed in PACKED
}


def table(cases: dict[tuple[str, str, str], Any]) -> str:
    """Which kinds of files hold which shapes: a digit says in how many packings."""
    kinds = list(dict.fromkeys(kind for kind, _, _ in cases))
    lines = [f"{'':<30}" + "".join(f"  {kind}" for kind in kinds)]
    for shape in SHAPES:
        counts = [sum((kind, shape, packed) in cases for packed in PACKED) for kind in kinds]
        cells = (f"{count or '-':>{len(kind) + 2}}" for kind, count in zip(kinds, counts, strict=True))
        lines.append(f"{shape:<30}" + "".join(cells))
    return "\n".join(lines)
