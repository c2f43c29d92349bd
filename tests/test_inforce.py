"""Settings that change while the machine runs: what is taken, what is refused, and who is told."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nightschool import inforce
from nightschool.curriculum import full_length
from nightschool.errors import SettingsError, StorageError
from nightschool.ledger import Ledger
from nightschool.ledger.machine import SETTINGS_PROBLEM
from nightschool.settings import Settings
from nightschool.settings.changes import AT_START, LIVE, changes, each, needs_restart
from nightschool.supervisor.settings_file import SettingsFile, Taken
from nightschool.workspace import Layout

BASE = '[model]\nname = "none"\n'


class Place:
    """A workspace whose file is looked at."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.create()
        self.layout.settings_file.write_text(BASE)
        self.ledger = Ledger.create(self.layout.ledger)
        self.now = 0.0
        self.file = self.start()

    def start(self) -> SettingsFile:
        settings = inforce.parse(self.layout, self.layout.settings_file.read_bytes())
        return SettingsFile(self.layout, self.ledger, settings, lambda: self.now)

    def write(self, text: str) -> None:
        """As editors do: a new file in the place of the old one."""
        scratch = self.layout.root / "new.toml"
        scratch.write_text(text)
        scratch.replace(self.layout.settings_file)

    def look(self, seconds: float = 1.0) -> Taken | None:
        first = self.file.look()
        self.now += seconds
        return first or self.file.look()

    @property
    def force(self) -> Settings:
        return inforce.read(self.layout)

    @property
    def problem(self) -> str | None:
        return self.ledger.machine.get(SETTINGS_PROBLEM)

    def begin(self) -> None:
        self.ledger.entries.append([(1, "d", 4)], "{}", full_length(4, 2, 1))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "ws")


def test_what_the_machine_was_started_with_is_in_force(place: Place) -> None:
    assert place.layout.accepted_settings.read_text() == BASE
    assert place.look() is None


def test_a12_with_a_broken_file_nothing_is_started_and_nothing_is_in_force(place: Place) -> None:
    settings = place.force
    place.write("[model\n")
    with pytest.raises(SettingsError):
        SettingsFile(place.layout, place.ledger, settings, lambda: 0.0)
    assert place.layout.accepted_settings.read_text() == BASE


def test_a_change_is_taken_once_it_has_settled(place: Place) -> None:
    place.write(BASE + "[checkpoints]\nsave_steps = 7\n[training]\nlearning_rate = 0.5\n")
    assert place.look(0.5) is None
    place.write(BASE + "[checkpoints]\nsave_steps = 9\n[training]\nlearning_rate = 0.5\n")
    assert place.look(0.9) is None, "it was written to again"
    taken = place.look(0.2)
    assert taken is not None
    assert (taken.settings.checkpoints.save_steps, taken.restart) == (9, False)
    assert place.force == taken.settings
    assert [event.text for event in place.ledger.events.of_kind("settings")] == [
        "Settings changed: training.learning_rate 0.0001 → 0.5 (next file), checkpoints.save_steps 1250 → 9 (now)."
    ]
    assert place.look() is None, "once"


@pytest.mark.parametrize("reverted", [False, True])
def test_a_change_that_the_ledger_did_not_take_is_taken_later(
    place: Place, monkeypatch: pytest.MonkeyPatch, reverted: bool
) -> None:
    """Else the children went by the new settings, and the supervisor for ever by the old ones."""
    real, changed = place.ledger.events.add, BASE + "[machine]\nhours = '22:00-06:00'\n"

    def busy(*_: object, **__: object) -> int:
        raise StorageError("stayed locked", errno.EBUSY)

    monkeypatch.setattr(place.ledger.events, "add", busy)
    place.write(changed)
    for _ in range(2):
        with pytest.raises(StorageError):
            place.look()
    monkeypatch.setattr(place.ledger.events, "add", real)
    if reverted:
        place.write(BASE)
    taken = place.look()
    assert place.layout.accepted_settings.read_text() == (BASE if reverted else changed)
    if reverted:
        assert taken is None
    else:
        assert taken is not None
        assert taken.settings.machine.hours == "22:00-06:00"
    assert len(place.ledger.events.of_kind("settings")) == (not reverted)
    assert place.look() is None, "once"


@pytest.mark.parametrize(
    "text",
    ["[model\n", BASE + "[training]\nlearning_rat = 1\n", BASE + "[training]\nlearning_rate = -1\n", "", "\xff"],
    ids=["half", "unknown", "bad", "empty", "bytes"],
)
def test_a12_a_broken_file_keeps_the_old_settings_and_is_told_once(place: Place, text: str) -> None:
    place.layout.settings_file.write_bytes(text.encode("latin-1"))
    assert place.look() is None
    assert place.force.model.name == "none", "a child that is started now reads this"
    told = place.problem
    assert told is not None
    assert told.endswith("Nothing in the file is taken until that is put right: the old settings stay.")
    os.utime(place.layout.settings_file)
    assert place.look() is None
    assert len(place.ledger.events.of_kind("settings-refused")) == 1
    place.write(BASE)
    assert place.look() is None
    assert place.problem is None


def test_control_a_child_that_read_the_file_itself_would_die_of_it(place: Place) -> None:
    place.write("[model\n")
    place.look()
    with pytest.raises(SettingsError):
        inforce.parse(place.layout, place.layout.settings_file.read_bytes())


def test_a_file_that_is_away_for_a_moment_changes_nothing(place: Place) -> None:
    place.layout.settings_file.unlink()
    assert place.look() is None
    assert "cannot be read" in str(place.problem)
    place.layout.settings_file.write_text(BASE + "[log]\nkeep = 2\n")
    taken = place.look()
    assert taken is not None
    assert (taken.settings.log.keep, place.problem) == (2, None)


def test_what_is_fixed_for_a_run_is_not_taken_and_the_way_is_named(place: Place) -> None:
    place.begin()
    place.write(BASE + "[lora]\nr = 8\n[log]\nkeep = 2\n")
    assert place.look() is None
    assert "lora.r 16 → 8 (new run): that is fixed for a run" in str(place.problem)
    assert "`nightschool init NEW --from OLD`" in str(place.problem)
    assert (place.force.lora_config()["r"], place.force.log.keep) == (16, 5)


def test_before_the_first_step_it_is_taken_and_the_trainer_starts_again(place: Place) -> None:
    place.write(BASE + "[lora]\nr = 8\n")
    taken = place.look()
    assert taken is not None
    assert taken.restart


def test_no_file_is_begun_between_the_look_at_whether_one_is_and_the_taking(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer begins in a transaction of the ledger, so it comes before both or after both."""
    real, order = inforce.accept, []

    def begin() -> None:
        with Ledger.open(place.layout.ledger) as ledger, ledger.transaction():
            order.append("begun")

    beginning = threading.Thread(target=begin)

    def accept(layout: Layout, data: bytes) -> None:
        beginning.start()
        beginning.join(0.5)
        real(layout, data)
        order.append("taken")

    monkeypatch.setattr(inforce, "accept", accept)
    place.write(BASE + "[lora]\nr = 8\n")
    assert place.look() is not None
    beginning.join(60)
    assert order == ["taken", "begun"]


def test_control_what_is_not_fixed_is_taken_without_holding_the_trainer_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inforce.accept

    def accept(layout: Layout, data: bytes) -> None:
        with Ledger.open(place.layout.ledger) as ledger:
            ledger.machine.set("another", "writes")
        real(layout, data)

    monkeypatch.setattr(inforce, "accept", accept)
    place.write(BASE + "[log]\nkeep = 2\n")
    assert place.look() is not None


def test_a_change_of_comments_alone_is_none(place: Place) -> None:
    place.write(BASE + "# later\n")
    assert place.look() is None
    assert place.layout.accepted_settings.read_text() == BASE + "# later\n"
    assert place.ledger.events.of_kind("settings") == []


def test_d1_a_disk_that_refuses_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(BASE + "[log]\nkeep = 2\n")

    def full(layout: Layout, data: bytes) -> None:
        raise StorageError("full", 28)

    with monkeypatch.context() as patch:
        patch.setattr(inforce, "accept", full)
        with pytest.raises(StorageError):
            place.look()
    taken = place.look()
    assert taken is not None
    assert taken.settings.log.keep == 2


def test_a_child_notices_what_is_accepted_and_nothing_else(place: Place) -> None:
    follower = inforce.Follower(place.layout)
    place.write(BASE + "[log]\nkeep = 2\n")
    assert follower.look() is None
    place.look()
    found = follower.look()
    assert found is not None
    assert found.log.keep == 2
    assert follower.look() is None


def test_relative_paths_mean_the_same_in_the_copy(place: Place) -> None:
    (place.layout.root / "base").mkdir()
    place.write('[model]\nname = "base"\n')
    place.look()
    assert place.force.model.name == str(place.layout.root / "base")


def differing(change: Callable[[dict], None]) -> list[str]:
    raw: dict = {"model": {"name": "none"}, "training": {}, "lora": {}}
    old = inforce.parse_settings(raw)
    change(raw)
    return [one.name for one in changes(old, inforce.parse_settings(raw))]


def test_changes_are_named(place: Place) -> None:
    assert differing(lambda raw: raw["training"].update(epochs=2, seed=1)) == ["training.seed", "training.epochs"]
    assert differing(lambda raw: raw["lora"].update(bias="all")) == ["lora.bias"]
    assert differing(lambda raw: None) == []
    old, new = (inforce.parse_settings({"model": {"name": "none"}, "lora": lora}) for lora in ({"bias": "all"}, {}))
    assert [(one.name, one.after) for one in changes(old, new)] == [("lora.bias", None)]


def test_every_class_is_right_for_what_happens(place: Place) -> None:
    kinds = {name: kind for name, kind, _ in each(place.force)}
    assert {kinds[f"training.{key}"] for key in LIVE} == {"entry"}
    assert {kinds[name] for name in AT_START} == {"operational"}, "and of no name that is not a setting"
    found = changes(place.force, inforce.parse_settings({"model": {"name": "none", "device": "cpu"}}))
    assert needs_restart(found)


def test_a12_a_file_that_could_not_be_read_is_taken_once_it_can(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is no part of what tells whether it was changed."""
    place.write(BASE + "[machine]\nhang_minutes = 5\n")
    with monkeypatch.context() as patch:

        def closed(_: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "read_bytes", closed)
        assert place.look() is None
    assert "Permission denied" in (place.problem or "")
    taken = place.look()
    assert taken is not None
    assert taken.settings.machine.hang_minutes == 5
    assert place.problem is None


def test_the_copy_in_force_is_as_private_as_the_file(place: Place) -> None:
    """The addresses of [notify] have passwords in them."""
    place.write(BASE + '[notify]\nwebhook = "https://user:password@example.com/"\n')
    place.layout.settings_file.chmod(0o600)
    assert place.look() is not None
    assert place.layout.accepted_settings.stat().st_mode & 0o777 == 0o600
