"""The disk is full, read-only, failing or gone; the file is damaged. Always a plain error, never half a change."""

from __future__ import annotations

import errno
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from nightschool.errors import NightschoolError, StorageError
from nightschool.ledger import Arrival, Ledger, StepRow

from .support import child, connection, in_namespace, output, step, strace


def cap(ledger: Ledger, more_pages: int) -> None:
    """Let the file grow by so many pages only: SQLite then says what it says on a full disk."""
    pages = connection(ledger).execute("PRAGMA page_count").fetchone()[0]
    connection(ledger).execute(f"PRAGMA max_page_count={pages + more_pages}")


def many(first: int) -> list[StepRow]:
    return [step(number) for number in range(first, first + 5000)]


def test_c6_disk_full_keeps_the_old_state_and_goes_on_when_there_is_room(ledger: Ledger) -> None:
    ledger.steps.record(many(0))
    cap(ledger, 5)
    with pytest.raises(StorageError, match=r"The disk is full.*Free some space") as caught:
        ledger.steps.record(many(5000))
    assert caught.value.errno == errno.ENOSPC
    assert str(ledger.path) in str(caught.value)
    last = ledger.steps.last()
    assert (ledger.steps.count(), last and last.step) == (5000, 4999)
    cap(ledger, 5000)
    ledger.steps.record(many(5000))
    assert (ledger.steps.count(), ledger.check()) == (10_000, [])


def test_c6_nothing_of_a_group_is_kept_even_if_the_error_is_swallowed(ledger: Ledger) -> None:
    def act() -> None:
        with ledger.transaction():
            ledger.machine.set("before", 1)
            with suppress(StorageError):
                ledger.steps.record(many(0))
            ledger.machine.set("after", 1)

    cap(ledger, 5)
    with pytest.raises(StorageError, match="nothing of it was kept: The disk is full") as caught:
        act()
    assert caught.value.errno == errno.ENOSPC
    assert ledger.machine.all() == {}
    assert ledger.steps.count() == 0


def test_control_c6_sqlite_alone_would_keep_what_comes_after(ledger: Ledger) -> None:
    cap(ledger, 5)
    raw = connection(ledger)
    raw.execute("BEGIN IMMEDIATE")
    with suppress(Exception):
        for number in range(5000):
            raw.execute("INSERT INTO machine VALUES (?, ?, '')", (str(number), '"' + "x" * 200 + '"'))
    assert not raw.in_transaction  # it gave the transaction up by itself ...
    raw.execute("INSERT INTO machine VALUES ('after', '1', '')")
    assert ledger.machine.all() == {"after": 1}  # ... and each statement from then on counts by itself


SQUEEZED = """
folder = Path(sys.argv[1])
with Ledger.create(folder / "ledger.db") as ledger:
    ledger.machine.set("done", 0)
    try:
        for number in range(1, 10000):
            with ledger.transaction():
                ledger.machine.set("done", number)
                ledger.events.add("fill", "x" * 3000)
    except NightschoolError as error:
        say(f"{number} {type(error).__name__} {error.errno}")
    events = ledger.events.since(0, 10000)
    say(f"{ledger.machine.get('done')} {len(events)} {ledger.check()}")
    (folder / "ballast").unlink()
    ledger.machine.set("done", "again")
    say(ledger.machine.get("done"))
"""


def test_c6_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    mounts = 'mount -t tmpfs -o size=1m tmpfs "$1"; head -c 200000 /dev/zero > "$1/ballast"'
    lines = output(child(SQUEEZED, tmp_path, through=in_namespace(mounts, tmp_path))).splitlines()
    number, kind, code = lines[0].split()
    assert (kind, code) == ("StorageError", str(errno.ENOSPC))
    assert lines[1:] == [f"{int(number) - 1} {int(number) - 1} []", "again"]


READ_ONLY = """
with Ledger.open(Path(sys.argv[1])) as ledger:
    say(ledger.machine.get("a"))
    try:
        ledger.machine.set("a", "changed")
    except NightschoolError as error:
        say(f"{type(error).__name__} {error.errno} {error}")
"""


def test_c7_a_read_only_file_system_can_be_read_and_says_so_when_written(ledger: Ledger, path: Path) -> None:
    ledger.machine.set("a", "kept")
    ledger.close()
    mounts = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"'
    lines = output(child(READ_ONLY, path, through=in_namespace(mounts, path.parent))).splitlines()
    assert lines[0] == "kept"
    assert lines[1].startswith(f"StorageError {errno.EROFS} {path} cannot be written")
    assert "Make it writable" in lines[1]


FAILING = """
with Ledger.open(Path(sys.argv[1])) as ledger:
    try:
        ledger.machine.set("a", "new")
    except NightschoolError as error:
        say(f"{type(error).__name__} {error.errno}")
"""


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        ("fdatasync", "EIO", errno.EIO),
        ("pwrite64", "EIO", errno.EIO),
        ("ftruncate", "EIO", errno.EIO),
        ("pwrite64", "ENOSPC", errno.ENOSPC),
        ("fdatasync", "ENOSPC", errno.EIO),
    ],
)
def test_c4_every_call_of_a_commit_may_fail(ledger: Ledger, path: Path, call: str, error: str, expected: int) -> None:
    ledger.machine.set("a", "old")
    ledger.close()
    failed = 0
    for when in range(1, 30):
        copy = path.parent / str(when) / "ledger.db"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        inject = strace("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}", "-o", "/dev/null")
        said = output(child(FAILING, copy, through=inject))
        with Ledger.open(copy) as after:
            assert after.check() == []
            if said:
                failed += 1
                assert said == f"StorageError {expected}\n"
                assert after.machine.get("a") == "old"
            else:
                assert after.machine.get("a") == "new"
        if not said:
            break
    assert failed or call == "ftruncate"


def test_c10_a_ledger_deleted_while_in_use_is_noticed(ledger: Ledger) -> None:
    ledger.path.unlink()
    with pytest.raises(StorageError, match="moved or deleted while") as caught:
        ledger.machine.set("a", 1)
    assert caught.value.errno == errno.ENOENT
    assert not ledger.path.exists()


def damaged_copy(ledger: Ledger, seed: int) -> Path:
    """A copy with a few runs of bytes overwritten, or cut short; never only in unused space."""
    chance = random.Random(seed)
    content = bytearray(ledger.path.read_bytes())
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(content))
        content[start : start + 40] = chance.randbytes(len(content[start : start + 40]))
    if seed % 5 == 0:
        del content[chance.randrange(len(content)) :]
    copy = ledger.path.with_name(f"damaged-{seed}.db")
    copy.write_bytes(content)
    return copy


def use_everything(ledger: Ledger) -> None:
    list(ledger.files.each())
    ledger.files.counts()
    ledger.files.queue()
    ledger.files.next_to_take()
    ledger.entries.all()
    list(ledger.steps.losses())
    ledger.steps.buckets(64)
    ledger.checkpoints.listing()
    ledger.boundaries.listing()
    ledger.events.since(0)
    ledger.machine.all()
    ledger.files.arrive([Arrival("a", "/a")])
    ledger.steps.record([step(5000)])
    ledger.steps.delete_after(200)
    ledger.events.add("a", "b")
    ledger.machine.set("a", 2)


def fill(ledger: Ledger) -> None:
    ledger.files.arrive(
        [Arrival(f"{number}.jsonl", f"/inbox/{number}", options={"epochs": 2}) for number in range(300)]
    )
    ledger.steps.record([step(number) for number in range(1000)])
    for number in range(50):
        ledger.entries.append([(number, "digest", 5)], '{"v":1}', 10)
        ledger.events.add("began", f"file {number}", number=number)
        ledger.checkpoints.publish(number, 0, "lineage", "path", 1, 2)
        ledger.boundaries.before(number, number, "digest")
    ledger.machine.set("a", {"b": 1})


def test_c9_a_damaged_ledger_is_a_plain_error_whatever_is_damaged(ledger: Ledger) -> None:
    fill(ledger)
    said = set()
    for seed in range(60):
        copy = damaged_copy(ledger, seed)
        try:
            with Ledger.open(copy) as hurt:
                use_everything(hurt)
        except StorageError as error:
            said.add("restore" in str(error).lower() and "backup" in str(error) and str(copy) in str(error))
    assert said == {True}


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be taken for one" * 20, b"\0" * 8192])
def test_c9_what_is_no_database_is_said_at_once(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"backup"):
        Ledger.open(path)
    assert path.read_bytes() == content


def test_c9_check_finds_damage_that_no_query_met(ledger: Ledger) -> None:
    fill(ledger)
    assert ledger.check() == []
    root = connection(ledger).execute("SELECT rootpage FROM sqlite_master WHERE name = 'files_queue'").fetchone()[0]
    content = bytearray(ledger.path.read_bytes())
    content[(root - 1) * 4096 + 8 : root * 4096] = b"\xff" * 4088
    copy = ledger.path.with_name("damaged.db")
    copy.write_bytes(content)
    with Ledger.open(copy) as hurt:
        assert len(list(hurt.files.each())) == 300
        with suppress(NightschoolError):
            assert hurt.check() != []


def test_c7_a_folder_in_place_of_the_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="is a folder") as caught:
        Ledger.open(path)
    assert caught.value.errno == errno.EISDIR
