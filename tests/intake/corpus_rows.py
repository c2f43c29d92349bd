"""Rows that can be read and not used, or not as they are: E17, E18, E19, E22, what is not supported, mapped columns.

As in `corpus_bad`, to whose cases these are added.
"""

from __future__ import annotations

import json
from typing import Any

from . import corpus
from .containers import files
from .containers.files import WRITERS, Row
from .corpus import TABLES
from .corpus_bad import ALL_MAY_BE_BAD, OK_BECOMES, add, none_usable

SHORT = (*ALL_MAY_BE_BAD, ("max_length", 12))

# --- E17, E18, E19 and shapes that are not supported: rows that can be read and not used


def _user(content: Any, **more: Any) -> Row:
    return {"role": "user", "content": content, **more}


def _answer(content: Any, **more: Any) -> Row:
    return {"role": "assistant", "content": content, **more}


def _chat(*messages: Any, **more: Any) -> Row:
    return {**more, "messages": list(messages)}


_MUST = "the content of a message must be a string: message"
_NO_ANSWER = 'no tokens to learn: no message has the role "assistant"; the roles are'
UNUSABLE: dict[str, tuple[Row, str]] = {
    "e17 no answer": (_chat(_user("a")), f"{_NO_ANSWER} user"),
    "e17 only a system": (_chat({"role": "system", "content": "a"}), f"{_NO_ANSWER} system"),
    "e17 an empty answer": (_chat(_user("a"), _answer("")), "no tokens to learn: every answer is empty"),
    "e17 no messages": ({"messages": []}, 'no tokens to learn: "messages" is empty'),
    "e17 empty text": ({"text": ""}, "no tokens to learn: the text is empty"),
    "e17 an empty completion": ({"prompt": "a", "completion": ""}, "no tokens to learn: the completion is empty"),
    "e17 an empty output": ({"instruction": "a", "input": "", "output": ""}, 'no tokens to learn: "output" is empty'),
    "e17 an empty question": (
        {"question": "", "answer": "a"},
        'there is nothing that is answered: "question" is empty',
    ),
    "e17 no answer in the completion": (
        {"prompt": [_user("a"), _answer("b")], "completion": [_user("c")]},
        f"{_NO_ANSWER} user",
    ),
    "e18 a role that the template does not know": (
        _chat(_user("a"), {"role": "narrator", "content": "n"}, _answer("b")),
        "the chat template refuses the chat: roles: user, narrator, assistant; it knows no narrator",
    ),
    "e18 no role": (_chat({"content": "a"}, _answer("b")), 'a message has no role: message 1 of "messages"'),
    "e18 a role that is a number": (
        _chat({"role": 1, "content": "a"}, _answer("b")),
        'a role must be a string: message 1 of "messages"',
    ),
    "e19 a number": (_chat(_user("a"), _answer(1)), f'{_MUST} 2 of "messages" has a number'),
    "e19 an object": (_chat(_user({"x": 1}), _answer("b")), f'{_MUST} 1 of "messages" has an object'),
    "e19 null": (_chat(_user("a"), _answer(None)), 'a message has no content: message 2 of "messages"'),
    "e19 a list of strings": (
        _chat(_user(["a"]), _answer("b")),
        'a message holds something else than text: message 1 of "messages"',
    ),
    "e19 no message": (_chat("hello"), 'a message must be an object: message 1 of "messages" is a string'),
    "e19 no list": ({"messages": _user("a")}, '"messages" must be a list of messages: it is an object'),
    "e19 text of a number": ({"text": 1}, '"text" must be a string: it is a number'),
    "e19 text of a list": ({"text": ["a"]}, '"text" must be a string: it is a list'),
    "e19 an output of a number": (
        {"instruction": "a", "input": "", "output": 3},
        '"output" must be a string: it is a number',
    ),
    "e19 a history of one": (
        {"instruction": "a", "history": [["a"]], "output": "b"},
        '"history" must be a list of [question, answer]: one of them is something else',
    ),
    "e19 calls that are none": (
        _chat(_user("a"), _answer("b", tool_calls="x")),
        '"tool_calls" must be a list of objects: message 2 of "messages"',
    ),
    "unsupported preferences": (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        'preference rows are not supported: it has "chosen" or "rejected"; keep the chosen answer as a chat, or map '
        'messages = "chosen"',
    ),
    "unsupported image": (
        _chat(_user([{"type": "image", "image": "x.png"}, {"type": "text", "text": "a"}]), _answer("b")),
        "images are not supported: message 1 of \"messages\" has a part of type 'image'",
    ),
    "unsupported images beside": (
        _chat(_user("a"), _answer("b"), images=["x.png"]),
        'images are not supported: it has "images"',
    ),
    "unsupported audio": (
        _chat(_user([{"type": "input_audio", "input_audio": {"data": "x"}}]), _answer("b")),
        "audio is not supported: message 1 of \"messages\" has a part of type 'input_audio'",
    ),
    "unsupported weight": (
        _chat(_user("a"), _answer("b", weight=0)),
        'leaving single messages out of the learning is not supported: message 2 of "messages"; put what comes before '
        'it into "prompt" and the rest into "completion"',
    ),
    "unsupported keys": (
        {"content": "a"},
        'the keys of the row are not known: name "content" "text", or map text = "content" in [inbox.columns]',
    ),
}
_TEXT_IN_TABLES = ("e19 text of a number", "e19 text of a list", "e19 an output of a number")
"""In a table every cell is text, so these are no mistakes there."""

for kind in WRITERS:
    base, container = WRITERS[kind][:2]
    for name, (row, reason) in UNUSABLE.items():
        if kind in TABLES and name in _TEXT_IN_TABLES:
            continue
        line = 2 if kind in TABLES else 1
        title = f"{name}, {kind}{base.removeprefix('rows')}"
        bad = ((line, reason),)
        add(title, corpus.write(kind, [row]), container, None, bad=bad, problem=none_usable(reason, line))
add("e19 a number is text.csv", b"text\n1\n", "csv", "text", (2, "<bos>⟦1<eos>⟧"))
add("e19 content of no parts.jsonl", files.jsonl([_chat(_user([]), _answer("b"))]), "jsonl", "messages",
     (1, "<bos><|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n"))  # fmt: skip
add("e17 only white space is text.jsonl", files.jsonl([{"text": " "}]), "jsonl", "text", (1, "<bos>⟦ <eos>⟧"))

# --- E22: twelve tokens are allowed

_LONG_ROWS: list[Row] = [{"text": "abcdefghijklmnop"}, {"text": "ok"}, {"prompt": "ask", "completion": "0123456789"}]
_SPLIT = (1, "<bos>⟦abcdefghijk⟧"), (1, "l⟦mnop<eos>⟧"), (2, OK_BECOMES)
_CUT_PAIR = (3, "<bos>ask⟦01234567⟧")
_TOO_LONG = "longer than max_length: it has {} tokens, data.max_length = 12"
for kind in ("jsonl", "array", "parquet"):
    base, container = WRITERS[kind][:2]
    for overflow, rows, counts in (
        ("auto", (*_SPLIT, _CUT_PAIR), {"rows_split": 1, "rows_truncated": 1, "tokens_cut": 3}),
        ("split", (*_SPLIT, _CUT_PAIR, (3, "8⟦9<eos>⟧")), {"rows_split": 2, "rows_truncated": 0, "tokens_cut": 0}),
        (
            "truncate",
            ((1, "<bos>⟦abcdefghijk⟧"), (2, OK_BECOMES), _CUT_PAIR),
            {"rows_split": 0, "rows_truncated": 2, "tokens_cut": 9},
        ),
        ("reject", ((2, OK_BECOMES),), {"rows_split": 0, "rows_truncated": 0, "tokens_cut": 0}),
    ):
        bad = ((1, _TOO_LONG.format(18)), (3, _TOO_LONG.format(15))) if overflow == "reject" else ()
        shape = "text" if overflow == "reject" else "mixed"
        add(
            f"e22 {overflow}, {kind}{base.removeprefix('rows')}", corpus.write(kind, _LONG_ROWS), container, shape,
            *rows,
            bad=bad, counts=counts, settings=(*SHORT, ("overflow", overflow)),
        )  # fmt: skip
add(
    "e22 nothing is left to learn.jsonl", files.jsonl([{"prompt": "abcdefghijkl", "completion": "m"}]), "jsonl", None,
    bad=((1, "no tokens to learn: its first 12 tokens (data.max_length) hold nothing of what is to be learned"),),
    problem=none_usable(
        "no tokens to learn: its first 12 tokens (data.max_length) hold nothing of what is to be learned", 1
    ),
    settings=SHORT,
)  # fmt: skip
add(
    "e22 a piece with nothing to learn.jsonl", files.jsonl([{"prompt": "abcdefghijklm", "completion": "n"}]), "jsonl",
    "prompt+completion", (1, "lm⟦n<eos>⟧"), counts={"unlearned_sequences": 1, "rows_split": 1},
    settings=(*SHORT, ("overflow", "split")),
)  # fmt: skip

# --- mapped columns, and objects that could be taken for a frame around rows

add("columns with other names.csv", b"ask,reply\na,b\n", "csv", "prompt+completion", (2, "<bos>a⟦b<eos>⟧"),
     columns={"prompt": "ask", "completion": "reply"})  # fmt: skip
_MAPPED = [{"dialog": [{"speaker": "user", "said": "a"}, {"speaker": "assistant", "said": "b"}]}] * 2
_A_B = "<bos><|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>⟧\n"
for kind in ("jsonl", "wrapped", "parquet", "csv"):
    base, container = WRITERS[kind][:2]
    line = 2 if kind == "csv" else 1
    name = f"columns with other names, {kind}{base.removeprefix('rows')}"
    mapping = {"messages": "dialog", "role": "speaker", "content": "said"}
    rows = (line, _A_B), (line + 1, _A_B)
    add(name, corpus.write(kind, _MAPPED), container, "messages", *rows, columns=mapping)
add("one row with other lists in it.json", json.dumps({"input": "a", "output": "b", "docs": [{"x": 1}]}).encode(),
     "json", "question+answer", (1, _A_B))  # fmt: skip
add("one row with other lists in it.jsonl", json.dumps({"input": "a", "output": "b", "docs": [{"x": 1}]}).encode(),
     "jsonl", "question+answer", (1, _A_B))  # fmt: skip
