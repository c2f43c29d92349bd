"""NAME.toml beside the data file NAME: taken with it, never lost, never another file's."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nightschool.errors import StorageError
from nightschool.intake import accept
from nightschool.ledger import Arrival

from .workspaces import TODAY, Killed, Workspace, dying, nested, take, take_all


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def drop_pair(place: Workspace, settings: bytes, name: str = "a.jsonl", data: bytes = b"x", **options: Any) -> int:
    path = place.layout.inbox / name
    path.with_name(path.name + ".toml").write_bytes(settings)
    return place.drop(name, data, **options)


def test_settings_beside_a_file_become_its_own_and_lie_beside_it_in_the_archive(place):
    settings = b'epochs = 3\n[columns]\nprompt = "ask"\n'
    number = drop_pair(place, settings)
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 3, "columns": {"prompt": "ask"}}
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x", f"archive/{TODAY}/a.jsonl.toml": settings}


def test_what_a_file_was_handed_over_with_counts_over_the_settings_beside_it(place):
    for ending, data in (("", b"x"), (".toml", b'epochs = 3\n[columns]\nprompt = "ask"\ntext = "t"\n')):
        (place.layout.incoming / f"one{ending}").write_bytes(data)
    given = {"epochs": 5, "columns": {"prompt": "q"}}
    (number,) = place.ledger.files.arrive([Arrival("a.jsonl", str(place.layout.incoming / "one"), options=given)])
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 5, "columns": {"prompt": "q", "text": "t"}}
    assert set(place.tree()) == {f"archive/{TODAY}/a.jsonl", f"archive/{TODAY}/a.jsonl.toml"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (b"epoch = 3", "did you mean `epochs`?"),
        (b"colums = {}", "did you mean `columns`?"),
        (b"learning_rate = 1", "known: columns, epochs"),
        (b"epochs = 0", "whole number from 1 on"),
        (b"epochs = true", "whole number from 1 on"),
        (b"epochs = ", "not valid TOML"),
        (b"columns = 3", "table of names"),
        (b"[columns]\npromt = 'ask'", 'did you mean "prompt"'),
        (b"[columns]\nprompt = 3", "must name a column"),
        (b"\xff\xfe", "not valid UTF-8"),
        (b"#" * 70_000, "longer than"),
    ],
)
def test_settings_that_are_of_no_use_set_both_files_aside_with_the_reason(place, settings, words):
    number = drop_pair(place, settings)
    assert take(place, number) == "rejected"
    assert words in (place.get(number).reason or "")
    tree = place.tree()
    assert words in tree.pop("rejected/a.jsonl.why.txt").decode()
    assert tree == {"rejected/a.jsonl": b"x", "rejected/a.jsonl.toml": settings}
    assert take(place, drop_pair(place, b"epochs = 2")) == "archived", "put right, it is taken"


def test_law_3_the_settings_of_a_duplicate_are_kept(place):
    take(place, place.drop("a.jsonl", b"x"))
    number = drop_pair(place, b"epochs = 2", "b.jsonl")
    assert take(place, number) == "duplicate"
    came = place.get(number).arrived_at[:10]
    assert place.tree() == {f"archive/{TODAY}/a.jsonl": b"x", f"archive/{came}/b.jsonl.toml": b"epochs = 2"}
    assert place.get(number).options == {"epochs": 2}


def test_e6_settings_of_another_file_never_come_to_lie_beside_one_that_has_none(place):
    take(place, place.drop("a.jsonl", b"x"))
    take(place, drop_pair(place, b"epochs = 2", "b.jsonl"))
    # As where a duplicate came on the day of these tests: its settings lie there by themselves.
    (place.layout.archive / TODAY / "b.jsonl.toml").write_bytes(b"epochs = 2")
    number = place.drop("b.jsonl", b"y")
    take(place, number)
    assert place.get(number).archive == f"archive/{TODAY}/b-{number}.jsonl"


def test_e3_settings_written_after_the_file_was_reported_settle_with_it_first(place):
    number = place.drop("a.jsonl", b"x")
    path = place.layout.inbox / "a.jsonl.toml"
    path.write_bytes(b"epochs = 2")
    late = datetime.fromisoformat(place.get(number).arrived_at).timestamp() + 0.01
    os.utime(path, (late, late))
    while time.time() <= late:
        time.sleep(0.001)
    assert take(place, number) == "later"
    assert place.rows() == []
    (number,) = place.look()
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 2}


def test_settings_changed_after_they_were_read_stay_in_the_inbox(place):
    number = drop_pair(place, b"epochs = 2")
    real = place.ledger.files.archived

    def changed(*arguments: Any) -> None:
        real(*arguments)
        (place.layout.inbox / "a.jsonl.toml").write_bytes(b"epochs = 3")

    place.ledger.files.archived = changed
    assert take(place, number) == "archived"
    assert place.get(number).options == {"epochs": 2}
    assert place.tree()["inbox/a.jsonl.toml"] == b"epochs = 3"
    assert place.tree()[f"archive/{TODAY}/a.jsonl.toml"] == b"epochs = 2"


def pairs(place: Workspace) -> None:
    """A file in a folder with its settings, the same bytes with others, one with bad settings, one handed over."""
    nested(place, "a/one.jsonl.toml", b"epochs = 2", arrive=False)
    nested(place, "a/one.jsonl", b"one")
    drop_pair(place, b"epochs = 3", "two.jsonl", b"one")
    drop_pair(place, b"bad", "three.jsonl", b"three")
    (place.layout.incoming / "handed").write_bytes(b"four")
    (place.layout.incoming / "handed.toml").write_bytes(b"epochs = 4")
    place.ledger.files.arrive([Arrival("c.jsonl", str(place.layout.incoming / "handed"))])


def test_law_3_a_crash_between_any_two_steps_loses_neither_files_nor_settings(tmp_path):
    calm = Workspace(tmp_path / "calm")
    pairs(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    expected, options = calm.picture(), [row.options for row in calm.rows()]
    assert options == [{"epochs": 2}, {"epochs": 3}, {}, {"epochs": 4}]
    everything = {b"one", b"three", b"four", b"epochs = 2", b"epochs = 3", b"bad", b"epochs = 4"}
    # Every point holds; one in five keeps the suite short.
    for point in range(0, counted.count, 5):
        place = Workspace(tmp_path / str(point))
        pairs(place)
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        assert everything <= set(place.tree().values()), (point, counted.names[point])
        place.restart()
        accept.recover(place.layout, place.ledger)
        place.look()
        take_all(place)
        assert place.picture() == expected, (point, counted.names[point])
        assert [row.options for row in place.rows()] == options
        assert not list(place.layout.incoming.rglob("*.*"))
        place.ledger.close()


def test_control_settings_that_are_copied_after_the_bytes_are_lost_to_a_crash(tmp_path, monkeypatch):
    """The broken variant: then a crash in between leaves a file that is taken without them."""
    real = accept._stage_settings

    def bytes_first(layout: Any, row: Any, beside: Path, staged: Path) -> Any:
        if not (place := staged.with_suffix("")).exists():
            accept._copy(layout, beside.with_suffix(""), place)
        return real(layout, row, beside, staged)

    monkeypatch.setattr(accept, "_stage_settings", bytes_first)
    lost = 0
    for point in range(25):
        place = Workspace(tmp_path / str(point))
        drop_pair(place, b"epochs = 2")
        with contextlib.suppress(Killed, StorageError), dying(place, point):
            take_all(place)
        place.restart()
        accept.recover(place.layout, place.ledger)
        place.look()
        with contextlib.suppress(StorageError):
            take_all(place)
        lost += [row.options for row in place.rows()][:1] != [{"epochs": 2}]
        place.ledger.close()
    assert lost
