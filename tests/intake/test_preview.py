"""`preview` says what intake would do, and does nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightschool.intake import reading
from nightschool.intake.prepared import read_meta
from nightschool.intake.preview import Preview, preview
from nightschool.intake.reasons import Reasons
from nightschool.intake.tools import Tools
from tests import tiny

from .workspaces import TODAY, Workspace, lines

CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\nthere"}]},
    {"prompt": "2+2=", "completion": "4"},
    {"text": "Café"},
]


def look(path: Path, place: Workspace, **options: int | None) -> Preview:
    tools = Tools(place.settings)
    return preview(path, path.name, tools, tools.recipe(TODAY), batch=2, **options)  # type: ignore[arg-type]


def test_a11_it_counts_what_intake_counts_and_touches_nothing(place: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*CHATS * 60, {"odd": 1}) + b"{broken\n")
    place.settings = place.with_settings(holdout=0.1, packing=True, max_length=100)
    before = place.tree()
    found = look(path, place, epochs=3)
    assert place.tree() == before
    number = place.drop("rows.jsonl", path.read_bytes())
    place.work()
    row = place.get(number)
    meta = read_meta(place.layout.prepared / str(row.prepared))
    assert found.rows_held_out
    assert (found.container, found.shape) == (meta["container"], meta["shape"])
    same = ("rows_good", "rows_bad", "rows_held_out", "tokens", "label_tokens", "sequences", "rows_truncated")
    assert {key: getattr(found, key) for key in same} == {key: meta["counts"][key] for key in same}
    assert found.steps == 3 * -(-found.sequences // 2)
    assert [bad["line"] for bad in found.bad_rows] == [181, 182]
    assert found.problem is None
    assert sum(rows for _, _, rows in found.lengths) == found.rows_good


def test_a11_the_pieces_show_what_is_learned(place: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*CHATS))
    pieces = [part.pieces for sequence in look(path, place).examples for part in sequence]
    learned = ["".join(piece.text for piece in row if piece.learned) for row in pieces]
    assert learned == [f"Hello\nthere{tiny.IM_END}", f"4{tiny.EOS}"]
    assert pieces[0][0].text == f"{tiny.BOS}{tiny.IM_START}user\nHi{tiny.IM_END}\n{tiny.IM_START}assistant\n"
    assert "".join(piece.text for piece in pieces[1]) == f"{tiny.BOS}2+2=4{tiny.EOS}"


def test_what_is_kept_to_be_looked_at_is_bounded_in_tokens(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*({"text": "x" * 100} for _ in range(20))))
    tools = Tools(place.settings)
    monkeypatch.setattr(reading, "KEPT_TOKENS", 300)
    read = reading.Reading(tools, tools.recipe(TODAY), Reasons(), keep=1000)
    with path.open("rb") as file:
        assert len(list(read.sequences(file, path.name))) == 20
    assert 3 <= len(read.kept_rows) < 5


def test_it_stops_after_the_rows_asked_for_and_says_so(place: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(*CHATS * 10))
    found = look(path, place, most=5)
    assert (found.rows_good, found.complete) == (5, False)
    assert look(path, place, most=30).complete


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"{broken\n", "its one row cannot be used"),
        ("a.jsonl", b"\x1f\x8b\x08\x00broken", ""),
    ],
    ids=["image", "empty", "bad", "damaged"],
)
def test_a_file_that_would_be_rejected_is_shown_with_the_reason(
    name: str, data: bytes, reason: str, place: Workspace, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = look(path, place)
    assert found.problem is not None
    assert reason in found.problem
    assert found.steps == 0
    number = place.drop(name, data)
    place.work()
    assert place.get(number).reason == found.problem
    assert json.loads(json.dumps(found.to_dict()))["problem"] == found.problem
