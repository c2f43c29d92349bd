"""Taking a file in that is interrupted between any two steps, and duplicates of what is refused later."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.intake import accept, rejected
from nightschool.ledger import Arrival

from .workspaces import Killed, Workspace, dying, take, take_all


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def fill(place: Workspace) -> None:
    """A plain file, the same bytes again, the same name with other bytes, and one handed over."""
    place.drop("a.jsonl", b"one")
    place.drop("b.jsonl", b"one")
    (place.layout.inbox / "low").mkdir(exist_ok=True)
    (place.layout.inbox / "low" / "a.jsonl").write_bytes(b"two")
    (place.layout.incoming / "handed").write_bytes(b"three")
    place.ledger.files.arrive(
        [
            Arrival("a.jsonl", str(place.layout.inbox / "low" / "a.jsonl"), 2),
            Arrival("c.jsonl", str(place.layout.incoming / "handed")),
        ]
    )


def test_law_3_a_crash_between_any_two_steps_ends_in_the_same_result(tmp_path):
    calm = Workspace(tmp_path / "calm")
    fill(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    expected = calm.picture()
    assert set(expected["files"].values()) == {b"one", b"two", b"three"}
    assert counted.count > 60
    for point in range(counted.count):
        place = Workspace(tmp_path / str(point))
        fill(place)
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        # At the moment of the crash, every byte is somewhere.
        assert {b"one", b"two", b"three"} <= set(place.tree().values()), point
        place.restart()
        accept.recover(place.layout, place.ledger)
        place.look()
        take_all(place)
        assert place.picture() == expected, (point, counted.names[point])
        assert not list(place.layout.incoming.rglob("*.*"))
        place.ledger.close()


def test_law_3_two_crashes_in_a_row_end_in_the_same_result(tmp_path):
    calm = Workspace(tmp_path / "calm")
    fill(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    expected = calm.picture()
    for first in range(0, counted.count, 11):
        for second in range(0, 30, 5):
            place = Workspace(tmp_path / f"{first}-{second}")
            fill(place)
            with contextlib.suppress(Killed), dying(place, first):
                take_all(place)
            place.restart()
            with contextlib.suppress(Killed), dying(place, second):
                accept.recover(place.layout, place.ledger)
                place.look()
                take_all(place)
            place.restart()
            accept.recover(place.layout, place.ledger)
            place.look()
            take_all(place)
            assert place.picture() == expected, (first, second)
            place.ledger.close()


def test_control_clearing_the_inbox_before_the_bytes_are_kept_loses_them(tmp_path, monkeypatch):
    """The broken variant: the file goes first. Some crash point then leaves the bytes nowhere."""
    real = accept._copy

    def careless(layout: Any, source: Path, staged: Path) -> Any:
        data = source.read_bytes()
        durable.remove_file(source)
        source.write_bytes(data)
        return real(layout, source, staged)

    monkeypatch.setattr(accept, "_copy", careless)
    lost = 0
    for point in range(12):
        place = Workspace(tmp_path / str(point))
        place.drop("a.jsonl", b"one")
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        lost += b"one" not in place.tree().values()
        place.ledger.close()
    assert lost


def test_control_without_recovery_some_crash_ends_differently(tmp_path):
    different = 0
    calm = Workspace(tmp_path / "calm")
    fill(calm)
    with dying(calm, 10_000) as counted:
        take_all(calm)
    for point in range(0, counted.count, 5):
        place = Workspace(tmp_path / str(point))
        fill(place)
        with contextlib.suppress(Killed), dying(place, point):
            take_all(place)
        place.restart()
        place.look()
        take_all(place)
        different += place.picture() != calm.picture()
        place.ledger.close()
    assert different


# --- duplicates of what is refused later


def twins(place: Workspace) -> list[int]:
    """A file and two more with its bytes, all taken."""
    numbers = [place.drop(name, b"same") for name in ("a.odd", "b.jsonl", "c.jsonl")]
    take_all(place)
    assert [place.get(n).state for n in numbers] == ["archived", "duplicate", "duplicate"]
    return numbers


def refuse_and_go_on(place: Workspace) -> None:
    if place.get(1).state == "archived":
        rejected.reject(place.layout, place.ledger, place.get(1), "its name")
    take_all(place)


def test_e5_when_a_file_is_rejected_the_next_with_its_bytes_takes_its_place(place):
    first, second, third = twins(place)
    refuse_and_go_on(place)
    assert [place.get(n).state for n in (first, second, third)] == ["rejected", "archived", "duplicate"]
    assert place.get(third).duplicate_of == second
    assert (place.layout.root / (place.get(second).archive or "")).read_bytes() == b"same"
    assert place.tree("rejected")["rejected/a.odd"] == b"same"
    assert not place.tree(".nightschool/incoming", "inbox")


def test_law_3_what_is_mended_in_the_folder_of_rejected_files_stays_out_of_the_archive(place):
    """People open a rejected file where it lies, and many editors write into the file that is there."""
    first, second, _ = twins(place)
    rejected.reject(place.layout, place.ledger, place.get(first), "wrong")
    take(place, second)
    with (place.layout.root / str(place.get(first).archive)).open("ab") as file:
        file.write(b"mended")
    kept = place.layout.root / str(place.get(second).archive)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == place.get(second).sha256


def test_e5_bytes_that_changed_in_the_archive_are_not_what_the_duplicate_had(place):
    first, second, _ = twins(place)
    (place.layout.root / (place.get(first).archive or "")).write_bytes(b"other")
    refuse_and_go_on(place)
    assert place.get(second).state == "duplicate"


def test_law_3_a_crash_while_duplicates_are_put_back_ends_in_the_same_result(tmp_path):
    calm = Workspace(tmp_path / "calm")
    twins(calm)
    with dying(calm, 10_000) as counted:
        refuse_and_go_on(calm)
    for point in range(counted.count):
        place = Workspace(tmp_path / str(point))
        twins(place)
        with contextlib.suppress(Killed), dying(place, point):
            refuse_and_go_on(place)
        place.restart()
        accept.recover(place.layout, place.ledger)
        refuse_and_go_on(place)
        assert place.picture() == calm.picture(), (point, counted.names[point])
        place.ledger.close()
