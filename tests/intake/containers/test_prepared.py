"""From a dropped file of any container to prepared data: the same tokens whatever the rows came in."""

from __future__ import annotations

import pytest

from nightschool.intake import prepare, worker
from nightschool.intake.hashed import Hashed
from nightschool.intake.prepared import read_meta

from .files import PACKED, SHAPES, WRITERS, jsonl, parquet


@pytest.mark.parametrize("shape", ["messages", "text"])
def test_every_container_gives_the_same_tokens(place, shape, monkeypatch):
    monkeypatch.setattr(worker, "AHEAD", 1000)
    seen = {}
    for packed in PACKED:
        for kind, (name, container, write) in WRITERS.items():
            # What one file has learned, another with the same bytes need not; here each is prepared.
            name = f"{kind}-{name}{packed}"
            number = place.drop(name, PACKED[packed](write(SHAPES[shape])), again=True)
            assert place.work() == ["archived", "ready"], place.get(number).reason
            row = place.get(number)
            meta = read_meta(place.layout.prepared / (row.prepared or ""))
            assert meta["container"] == container + packed
            assert (row.rows_good, row.rows_bad) == (len(SHAPES[shape]), 0)
            seen[name] = row.data_digest
    assert len(set(seen.values())) == 1, seen
    assert not list(place.layout.tmp.iterdir())


def test_a_document_becomes_prepared_data(place):
    number = place.drop("notes.md", b"# A title\r\n\r\nAnd a text.\r\n")
    assert place.work() == ["archived", "ready"]
    row = place.get(number)
    same = place.drop("same.jsonl", jsonl([{"text": "# A title\n\nAnd a text.\n"}]))
    place.work()
    assert row.data_digest == place.get(same).data_digest
    event = place.ledger.events.of_kind("file-ready")[-1]
    assert "rows of " in event.text


def test_mapped_columns_reach_the_reader(place):
    data = b'dialog\n"[{""role"":""user"",""content"":""a""},{""role"":""assistant"",""content"":""b""}]"\n'
    number = place.drop("a.csv", data, columns={"messages": "dialog"})
    place.work()
    assert (place.get(number).state, place.get(number).shape) == ("ready", "messages")


def test_the_same_bytes_under_a_name_of_another_kind_are_read_again(place):
    data = b"text,n\na,1\nb,2\n"
    first = place.drop("a.txt", data)
    place.work()
    second = place.drop("a.csv", data, again=True)
    place.work()
    assert (place.get(first).rows_good, place.get(second).rows_good) == (1, 2)
    assert place.get(first).prepared != place.get(second).prepared


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl.gz", PACKED[".gz"](jsonl(SHAPES["text"]))[:-5], "its gzip data ends too early"),
        ("a.jsonl.zst", PACKED[".zst"](jsonl(SHAPES["text"]))[:-5], "its zstd data ends too early"),
        ("a.json", b'[{"text": "a"}', "its JSON ends too early, in row 1"),
        ("a.parquet", parquet(SHAPES["text"])[:-8], "cannot be read as Parquet"),
        ("a.pdf", b"%PDF-1.7", "it is a PDF document"),
        ("a.csv", b'text\n"never closed', "row that begins on line 2 is never closed"),
        ("a.csv", b"text,n\n", "a header line and no rows"),
        ("a.md", b" \n", "it holds no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_set_aside_with_the_reason(place, name, data, words):
    number = place.drop(name, data)
    assert place.work() == ["archived", "rejected"]
    assert words in (place.get(number).reason or "")
    assert (place.layout.rejected / name).read_bytes() == data
    assert words in (place.layout.rejected / f"{name}.why.txt").read_text()


@pytest.mark.parametrize("name", ["jsonl", "parquet"])
def test_an_archived_copy_that_was_changed_is_said_to_be_so_whatever_it_looks_like_now(place, monkeypatch, name):
    file, _, write = WRITERS[name]
    number = place.drop(file, write(SHAPES["text"]))
    one = place.worker()
    assert one.step() == "archived"
    archived = place.layout.root / place.get(number).archive
    archived.chmod(0o644)
    archived.write_bytes(archived.read_bytes()[:-3] + b"xyz")
    one.step()
    assert "was changed after it was archived" in (place.get(number).reason or "")
    # Control: without the check the bytes are blamed for what happened to them, or not at all.
    monkeypatch.setattr(Hashed, "finish", lambda self: prepare.hashlib.sha256(write(SHAPES["text"])).hexdigest())
    other = place.drop(f"other-{file}", write(SHAPES["text"]), again=True)
    assert one.step() == "archived"
    archived = place.layout.root / place.get(other).archive
    archived.chmod(0o644)
    archived.write_bytes(archived.read_bytes()[:-3] + b"xyz")
    one.step()
    assert "was changed" not in (place.get(other).reason or "")
