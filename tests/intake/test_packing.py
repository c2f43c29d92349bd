"""Packing: every token stays, with its own mask, in its own row; and what is written is read back."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightschool.errors import DataError
from nightschool.intake import packing
from nightschool.intake.packing import Packed, blocks, sequences
from nightschool.intake.prepared import DATA, META, PER_BATCH, PreparedReader, PreparedWriter, write_meta
from nightschool.intake.tokenise import Encoded

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def make(sizes: list[int], seed: int = 0) -> list[Encoded]:
    """Rows whose token ids say where they come from: row * 1000 + place."""
    chance = np.random.default_rng(seed)
    rows = []
    for index, size in enumerate(sizes):
        train = chance.integers(0, 2, size).astype(np.int8)
        train[0] = 0
        rows.append(Encoded(index + 1, "text", np.arange(size, dtype=np.int32) + index * 1000, train))
    return rows


def parts(found: list[Packed]) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """The parts of each row, in the order of their tokens."""
    result: dict[int, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for sequence in found:
        assert len(sequence.ids) == len(sequence.train) == sequence.lengths.sum()
        assert len(sequence.rows) == len(sequence.lengths)
        start = 0
        for size, row in zip(sequence.lengths.tolist(), sequence.rows.tolist(), strict=True):
            result[row].append((sequence.ids[start : start + size], sequence.train[start : start + size]))
            start += size
    return {row: sorted(pieces, key=lambda piece: int(piece[0][0])) for row, pieces in result.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=lengths, max_length=st.integers(8, 24), packed=st.booleans(), seed=st.integers(0, 9))
def test_a2_a11_no_token_is_lost_and_each_keeps_its_mask_and_row(sizes, max_length, packed, seed):
    rows = make(sizes, seed)
    found = sequences(rows, max_length, packed)
    assert all(len(sequence.ids) <= max_length for sequence in found)
    pieces = parts(found)
    assert sorted(pieces) == list(range(len(sizes)))
    for row in rows:
        mine = pieces[row.number - 1]
        assert np.concatenate([ids for ids, _ in mine]).tolist() == row.ids.tolist()
        expected = row.train.copy()
        starts = np.cumsum([0, *[len(ids) for ids, _ in mine]])[:-1]
        expected[starts] = 0  # nothing in the same sequence comes before a part's first token
        assert np.concatenate([train for _, train in mine]).tolist() == expected.tolist()
        assert len(mine) == -(-len(row.ids) // max_length)


def test_control_the_other_strategy_of_the_packer_loses_tokens():
    """`bfd` cuts off what overflows; the test above would see it."""
    import datasets
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"ids": [list(range(20))]})
    counts = {s: sum(map(len, pack_dataset(data, 8, strategy=s)["ids"])) for s in ("bfd", "bfd_split")}
    assert counts == {"bfd": 8, "bfd_split": 20}


def by_trl(rows: list[Encoded], size: int) -> list[tuple[list[int], list[int]]]:
    """(token ids, lengths of the parts) of each sequence, as trl's packer has them."""
    import datasets
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"ids": [row.ids.tolist() for row in rows]})
    packed = pack_dataset(data, size, strategy="bfd_split", map_kwargs={"batch_size": len(rows)})
    return list(zip(packed["ids"], packed["seq_lengths"], strict=True))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=80), size=st.integers(1, 24))
def test_sequences_are_those_that_the_packer_of_trl_makes(sizes, size):
    rows = make(sizes)
    found = [(one.ids.tolist(), one.lengths.tolist()) for one in sequences(rows, size, True)]
    assert found == by_trl(rows, size)


def test_control_packing_in_another_order_of_equal_pieces_is_not_that_of_trl(monkeypatch):
    rows = make([5, 5, 5, 3, 3])
    real = packing.bins

    def reversed_bins(lengths, size):
        last = len(lengths) - 1
        return [[last - piece for piece in one] for one in real(lengths[::-1], size)]

    monkeypatch.setattr(packing, "bins", reversed_bins)
    assert [one.ids.tolist() for one in sequences(rows, 8, True)] != [ids for ids, _ in by_trl(rows, 8)]


def test_packing_fills_sequences():
    rows = make([10] * 100)
    assert len(sequences(rows, 50, True)) == 20
    assert len(sequences(rows, 50, False)) == 100


def test_b11_blocks_are_bounded_in_rows_and_tokens(monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_ROWS", 5)
    monkeypatch.setattr(packing, "BLOCK_TOKENS", 20)
    sizes = [1] * 12 + [30] + [9, 9, 9, 1]
    assert [[len(r.ids) for r in block] for block in blocks(iter(make(sizes)))] == [
        [1] * 5,
        [1] * 5,
        [1, 1, 30],
        [9, 9, 9],
        [1],
    ]


def write(folder: Path, found: list[Packed]) -> PreparedWriter:
    folder.mkdir(exist_ok=True)
    with PreparedWriter(folder) as writer:
        for sequence in found:
            writer.write(sequence)
    write_meta(folder, {"data_digest": writer.data_digest})
    return writer


@pytest.mark.parametrize("count", [0, 1, PER_BATCH - 1, PER_BATCH, PER_BATCH + 1, 3 * PER_BATCH + 5])
def test_what_is_written_is_read_back_in_any_order(tmp_path, count):
    found = sequences(make([7 + i % 5 for i in range(count)]), 30, False) if count else []
    writer = write(tmp_path / "p", found)
    with PreparedReader(tmp_path / "p", keep_batches=1) as reader:
        assert len(reader) == count == writer.sequences
        order = np.random.default_rng(1).permutation(count)
        for index in order.tolist():
            ids, train, sizes, rows = reader.sequence(index)
            assert (ids.dtype, train.dtype, sizes.dtype, rows.dtype) == (np.int32, np.int8, np.int32, np.int32)
            assert ids.tolist() == found[index].ids.tolist()
            assert train.tolist() == found[index].train.tolist()
            assert sizes.tolist() == found[index].lengths.tolist()
            assert rows.tolist() == found[index].rows.tolist()
        assert reader.digest() == writer.data_digest == reader.meta["data_digest"]
        assert writer.tokens == sum(len(s.ids) for s in found)
        assert writer.label_tokens == sum(int(s.train.sum()) for s in found)
        for wrong in (-1, count):
            with pytest.raises(IndexError):
                reader.sequence(wrong)


def test_the_digest_is_that_of_the_documented_bytes(tmp_path):
    import hashlib
    import struct

    ids, train = np.array([5, 6, 7], np.int32), np.array([0, 1, 0], np.int8)
    writer = write(tmp_path / "p", [Packed(ids, train, np.array([2, 1], np.int32), np.array([0, 4], np.int32))])
    expected = struct.pack("<II3i3b2i", 3, 2, 5, 6, 7, 0, 1, 0, 2, 1)
    assert writer.data_digest == hashlib.sha256(expected).hexdigest()


def test_the_digest_changes_with_a_token_a_label_or_a_boundary(tmp_path):
    base = Packed(np.array([5, 6, 7], np.int32), np.array([0, 1, 0], np.int8), np.array([2, 1]), np.array([0, 1]))
    variants = [
        base,
        Packed(np.array([5, 6, 8], np.int32), base.train, base.lengths, base.rows),
        Packed(base.ids, np.array([0, 0, 0], np.int8), base.lengths, base.rows),
        Packed(base.ids, base.train, np.array([1, 2]), base.rows),
    ]
    digests = [write(tmp_path / str(i), [v]).data_digest for i, v in enumerate(variants)]
    assert len(set(digests)) == len(variants)


def test_damaged_prepared_data_is_a_clear_error(tmp_path):
    write(tmp_path / "p", sequences(make([9] * 10), 30, False))
    data = (tmp_path / "p" / DATA).read_bytes()
    (tmp_path / "p" / DATA).write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"is damaged.*will be prepared again"):
        PreparedReader(tmp_path / "p")
    (tmp_path / "p" / META).write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        PreparedReader(tmp_path / "p")
    (tmp_path / "p" / META).write_text('{"format": 99}')
    with pytest.raises(DataError, match=r"format 99.*newer nightschool"):
        PreparedReader(tmp_path / "p")
