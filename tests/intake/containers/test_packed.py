"""Compressed files: several members, damage anywhere, bombs; and what the disk says is never taken for damage."""

from __future__ import annotations

import errno
import gzip
import io
import random
import tracemalloc

import pytest

from nightschool.errors import DataError
from nightschool.intake.containers import open_rows, streams

from .files import PACKED, jsonl, parquet, read, values, zst

ROWS = [{"text": f"row {i} {random.Random(i).random()}"} for i in range(300)]


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_members_one_after_the_other_are_one_file(packed):
    pack = PACKED[packed]
    assert values(pack(jsonl(ROWS[:100])) + pack(jsonl(ROWS[100:])), "a.jsonl") == ROWS


def test_a_zstd_file_may_begin_with_a_frame_to_be_skipped():
    assert values(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zst(jsonl(ROWS)), "a") == ROWS


def test_a_file_that_is_named_as_compressed_and_is_not_is_read_as_it_is():
    assert values(jsonl(ROWS), "a.jsonl.gz") == ROWS


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_a_file_that_is_cut_off_anywhere_is_refused_as_a_whole(packed):
    whole = PACKED[packed](jsonl(ROWS))
    for cut in (5, 12, 40, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        with pytest.raises(DataError, match="ends too early"):
            read(whole[:cut], "a.jsonl")
    with pytest.raises(DataError, match=r"ends too early|damaged"):
        read(whole + whole[:20], "a.jsonl")


def test_control_a_reader_that_stops_at_the_first_error_half_reads_the_file():
    import zlib

    whole = gzip.compress(jsonl(ROWS))
    half = zlib.decompressobj(31).decompress(whole[: len(whole) // 2])
    assert 0 < half.count(b"\n") < len(ROWS)


def test_damage_is_found_by_the_checksum():
    whole = gzip.compress(jsonl(ROWS), compresslevel=0)  # stored: any byte may change and still unpack
    for place in (100, len(whole) // 2, len(whole) - 6):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(DataError, match="gzip data is damaged"):
            read(bytes(damaged), "a.jsonl")
    with pytest.raises(DataError, match="damaged"):
        read(whole + b"something else", "a.jsonl")


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json", "a.txt"])
def test_e14_a_bomb_is_capped_and_takes_no_memory(packed, name, monkeypatch):
    monkeypatch.setattr(streams, "ALWAYS", 8 << 20)
    monkeypatch.setattr(streams, "GROWTH", 100)
    long = b"x" * 9_990
    filling = {"a.jsonl": b'{"":"' + long + b'"}\n', "a.csv": long + b",b\n", "a.json": b'{"":"' + long + b'"},'}
    bomb = PACKED[packed]((b"[" if name == "a.json" else b"") + filling.get(name, b"text\n" * 2000) * 2400)
    assert len(bomb) < 200_000
    tracemalloc.start()
    with pytest.raises(DataError, match="taken for one made to do harm"):
        for _ in open_rows(io.BytesIO(bomb), name).rows:
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


def test_e14_the_limits_are_far_from_real_data_and_catch_what_packs_best(monkeypatch):
    zeros = gzip.compress(b"\0" * (4 << 20), 9)
    assert streams.GROWTH * len(zeros) < 4 << 20
    # A long prompt in every row.
    same = jsonl([{"text": "x" * 4000 + str(random.Random(i).random())} for i in range(300)])
    assert len(same) < 0.5 * streams.GROWTH * len(gzip.compress(same))
    assert streams.most_unpacked(10) == streams.ALWAYS
    assert streams.most_unpacked(1 << 30) == streams.GROWTH << 30
    assert streams.most_unpacked(1 << 50) == streams.NEVER
    # Control: without a cap it is read to its end.
    monkeypatch.setattr(streams, "ALWAYS", 1 << 20)
    data = gzip.compress((b"{}" + b" " * 1021 + b"\n") * 4096, 9)
    monkeypatch.setattr(streams, "GROWTH", 1 << 40)
    assert len(values(data, "a.jsonl")) == 4096


def test_e14_a_parquet_file_that_repeats_one_value_is_capped(monkeypatch):
    data = parquet([{"text": "x" * 10_000}] * 3000)
    assert len(data) < 60_000
    assert len(values(data, "a.parquet")) == 3000
    monkeypatch.setattr(streams, "ALWAYS", 1 << 20)
    monkeypatch.setattr(streams, "GROWTH", 100)
    with pytest.raises(DataError, match="taken for one made to do harm"):
        read(data, "a.parquet")


@pytest.mark.parametrize("kind", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.jsonl"])
def test_an_error_of_the_disk_is_not_the_file_s(kind):
    data = parquet(ROWS) if kind == "a.parquet" else PACKED[kind.removeprefix("a.jsonl")](jsonl(ROWS))

    class Failing(io.BytesIO):
        left = 3

        def read(self, size: int | None = -1, /) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, "the disk is broken")
            return super().read(min(size or 100, 100))

    with pytest.raises(OSError, match="the disk is broken") as caught:
        list(open_rows(Failing(data), kind).rows)
    assert caught.value.errno == errno.EIO
