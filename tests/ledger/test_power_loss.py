"""Power cuts: a commit is recorded call by call, and every state a disk may legally be left in is opened.

What was synced is there; of what was not, any part may be there, half a page included. A new file is there for certain
only when its folder was synced.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger

from .support import child, output, step, strace

COMMIT = """
ledger = Ledger.open(Path(sys.argv[1]))
if sys.argv[2] != "FULL":
    ledger._database._connection.execute("PRAGMA synchronous=" + sys.argv[2])
with ledger.transaction():
    ledger.machine.set("a", "new")
    ledger.steps.record([StepRow(step, 0, 1.0, 1e-4, 1.0, 1, 1, 0.1) for step in range(100, 200)])
say("committed")
"""
CALL = re.compile(r'(?:\d+ +)?(\w+)\(\d+<([^>]*)>(?:, "((?:\\x..)*)")?(.*)\) += ')


@dataclass
class Disk:
    """One file: what is certain, and what was done since the last sync."""

    certain: bytes
    named: bool
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def states(self) -> Iterator[bytes | None]:
        """Every content the file may have after a power cut; None where it may not be there at all."""
        if not self.named:
            yield None
        done = self.pending
        chosen = [done[:count] for count in range(len(done) + 1)]
        chosen += [[one] for one in done] + [done[:at] + done[at + 1 :] for at in range(len(done))]
        chosen += [[*done[:at], torn(one)] for at, one in enumerate(done)]
        for ones in chosen:
            yield apply(self.certain, ones)


def torn(one: tuple[int, bytes | None]) -> tuple[int, bytes | None]:
    offset, data = one
    return (offset, data[: len(data) // 2]) if data else one


def apply(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    for offset, data in changes:
        if data is None:
            content = content[:offset].ljust(offset, b"\0")
        else:
            content = content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]
    return content


def crash_states(path: Path, log: Path) -> Iterator[tuple[bytes | None, bytes | None, bool]]:
    """Database, journal, and whether the commit had returned, for every power cut during the recorded calls."""
    journal = path.with_name(path.name + "-journal")
    disks = {str(path): Disk(path.read_bytes(), named=True), str(journal): Disk(b"", named=False)}
    returned, seen = False, set()
    for line in ["", *log.read_text().splitlines()]:
        found = CALL.match(line)
        if found:
            call, name, data, rest = found.groups()
            if call == "write":
                returned = returned or bytes.fromhex(data.replace("\\x", "")) == b"committed"
            elif call == "pwrite64":
                content = bytes.fromhex(data.replace("\\x", ""))
                disks[name].pending.append((int(rest.rsplit(", ", 1)[1]), content))
            elif call == "ftruncate":
                disks[name].pending.append((int(rest.rsplit(", ", 1)[1]), None))
            elif name in disks:
                disks[name].certain, disks[name].pending = apply(disks[name].certain, disks[name].pending), []
            elif name == str(path.parent):
                disks[str(journal)].named = True
        for database, log_state in product(*(disk.states() for disk in disks.values())):
            key = hashlib.sha256(repr((database, log_state, returned)).encode()).digest()
            if key not in seen:
                seen.add(key)
                yield database, log_state, returned
    assert returned, "the calls of the commit were not recorded"


def verdicts(tmp_path: Path, path: Path, synchronous: str) -> Iterator[bool]:
    """For every crash state, whether nothing is lost, mixed or damaged in it."""
    with Ledger.create(path) as ledger:
        ledger.machine.set("a", "old")
        ledger.steps.record([step(number) for number in range(150)])
    path.with_name("ledger.db-journal").unlink()
    original, log = tmp_path / "original.db", tmp_path / "calls"
    shutil.copy(path, original)
    calls = "trace=pwrite64,fdatasync,fsync,ftruncate,write"
    output(child(COMMIT, path, synchronous, through=strace("-y", "-xx", "-s", "100000", "-e", calls, "-o", str(log))))
    log.write_text(re.sub(r"<([^>]*)>", lambda name: f"<{unescape(name[1])}>", log.read_text()))
    shutil.copy(original, path)
    for database, journal, returned in crash_states(path, log):
        folder = tmp_path / "state"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in (("ledger.db", database), ("ledger.db-journal", journal)):
            if content is not None:
                (folder / name).write_bytes(content)
        yield is_whole(folder / "ledger.db", returned)


def unescape(text: str) -> str:
    return re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), text)


def is_whole(path: Path, returned: bool) -> bool:
    try:
        with Ledger.open(path) as ledger:
            found = (ledger.machine.get("a"), ledger.steps.count())
            whole = ledger.check() == [] and found in {("old", 150), ("new", 200)}
            return whole and (found[0] == "new" or not returned)
    except NightschoolError:
        return False


def test_c1_every_power_cut_leaves_the_old_or_the_new(tmp_path: Path, path: Path) -> None:
    found = list(verdicts(tmp_path, path, "FULL"))
    assert len(found) > 50
    assert all(found)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_control_c1_with_fewer_syncs_some_power_cut_does_damage(tmp_path: Path, path: Path, synchronous: str) -> None:
    assert not all(verdicts(tmp_path, path, synchronous))
