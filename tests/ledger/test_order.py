"""Natural name order."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool.ledger.order import natural_key

NAMES = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize(
    "names",
    [
        ["file2", "file10"],
        ["file", "file0", "file1", "File2", "file10", "FILE11", "file100"],
        ["2026-9-30.jsonl", "2026-10-1.jsonl", "2026-10-02.jsonl"],
        ["v1.9", "v1.10", "v1.10.1", "v2"],
        ["1", "2", "10", "a"],
        ["x02", "x2", "x10"],
        ["données-2", "données-10"],
        ["Ä2", "ä10"],
        ["夜校2", "夜校10"],
        ["٢.jsonl", "١٠.jsonl"],
        ["a" + "9" * 200, "a1" + "0" * 200],
    ],
)
def test_names_in_natural_order(names: list[str]) -> None:
    assert sorted(reversed(names), key=natural_key) == names
    keys = [natural_key(name).encode() for name in names]
    assert sorted(keys) == keys  # SQLite compares UTF-8 bytes


def test_control_plain_text_order_is_another() -> None:
    assert sorted(["file2", "file10"]) == ["file10", "file2"]


def test_the_same_accent_written_in_two_ways_sorts_together() -> None:
    composed, apart = (unicodedata.normalize(form, "é2") for form in ("NFC", "NFD"))
    assert composed != apart
    assert set(sorted(["é10", apart, "é1", composed, "e9"], key=natural_key)[2:4]) == {composed, apart}
    assert set(sorted(["é10", apart, "é1", composed, "e9"])[2:4]) != {composed, apart}  # control


@given(
    before=NAMES.filter(lambda text: not text[-1:].isdecimal()),
    small=st.integers(0, 10**9),
    more=st.integers(1, 10**9),
    after=NAMES.filter(lambda text: not text[:1].isdecimal()),
    zeros=st.text("0", max_size=3),
)
def test_the_smaller_number_comes_first_wherever_it_stands(
    before: str, small: int, more: int, after: str, zeros: str
) -> None:
    assert natural_key(f"{before}{zeros}{small}{after}") < natural_key(f"{before}{small + more}{after}")


@given(NAMES, NAMES)
def test_different_names_never_tie(one: str, other: str) -> None:
    assert (natural_key(one) == natural_key(other)) == (one == other)
    assert (natural_key(one) < natural_key(other)) == (natural_key(one).encode() < natural_key(other).encode())
