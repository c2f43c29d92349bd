"""Text and Markdown: one document is one row, and only one over the limit is cut, without losing anything."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from nightschool.intake.containers import document
from nightschool.intake.rows import BadRow

from .files import read, values


def cut(data: bytes, longest: int) -> list[tuple[int, str]]:
    rows = document.read(io.BufferedReader(io.BytesIO(data)), longest)  # type: ignore[arg-type]
    return [(number, value["text"]) for number, value in rows]


def test_a_document_is_one_row_as_it_stands_but_for_line_ends():
    assert read(b"\n  # T\r\n\r\na\rb \n\n", "a.md") == ("markdown", [(1, {"text": "\n  # T\n\na\nb \n\n"})])


def test_a_long_document_is_cut_at_paragraphs_then_lines_then_words():
    assert cut(b"one two\n\nthree four\n\nfive", 12) == [(1, "one two\n\n"), (3, "three four\n\n"), (5, "five")]
    assert cut(b"one\ntwo three\nfour", 14) == [(1, "one\ntwo three\n"), (3, "four")]
    assert cut(b"one two three four", 9) == [(1, "one two "), (1, "three "), (1, "four")]
    assert cut("éééé".encode(), 5) == [(1, "éé"), (1, "éé")]


@given(st.text(st.sampled_from("ab é\n\r\U0001f600"), max_size=80), st.integers(4, 40))
def test_splitting_loses_nothing(text, longest):
    pieces = cut(text.encode(), longest)
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    # Pieces of nothing but white space are no rows.
    assert "".join("".join(piece for _, piece in pieces).split()) == "".join(expected.split())
    assert all(len(piece.encode()) <= longest for _, piece in pieces)
    position = 0
    for number, piece in pieces:
        position = expected.index(piece, position)
        assert number == 1 + expected[:position].count("\n")
        position += len(piece)


def test_what_is_no_text_further_down_is_a_bad_row():
    good = b"x" * 70_000
    for tail, reason in ((b"\0", "holds zero bytes"), (b"\xff", "not valid UTF-8")):
        (bad,) = values(good + tail, "a.txt")
        assert isinstance(bad, BadRow)
        assert bad.reason == reason
