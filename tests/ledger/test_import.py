"""`nightschool status` opens the ledger: importing it must cost next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

PROBE = """
import json, sys
before = set(sys.modules)
import nightschool.ledger
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported() -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_ledger_imports_the_standard_library_its_own_room_and_what_words_need() -> None:
    found = imported()
    foreign = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names | {"nightschool"}}
    assert foreign == set()
    ours = {name for name in found if name.startswith("nightschool.") and not name.startswith("nightschool.ledger")}
    assert ours == {"nightschool.errors", "nightschool.words"}


def test_the_ledger_imports_nothing_of_the_standard_library_that_is_slow() -> None:
    slow = {"asyncio", "email", "http", "logging", "multiprocessing", "decimal", "fractions", "subprocess", "tempfile"}
    assert not slow & imported()
