"""Set before torch is imported: one thread for each test process, and no network. And quick starts, where asked for.

What tests write goes into memory where there is enough of it: most of a short run would be waiting for a disk to say
that the bytes are on it. Tests that are about the disk, and whole machines, take `tests.disk`, which is on one.
"""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests import forks

# What a shell starts in the background ignores Ctrl-C, and hands that on to all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something about the computer, and nothing about the code.
settings.register_profile("nightschool", deadline=None)
settings.load_profile("nightschool")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# On a computer with a GPU, tests must not wait for somebody's training, nor that for them.
os.environ.setdefault("NIGHTSCHOOL_LEASES", str(Path(tempfile.gettempdir()) / f"nightschool-test-leases-{os.getpid()}"))


MEMORY = Path("/dev/shm")
ENOUGH = 6 * 2**30
"""Bytes; 0.7 GB was the most that was seen there, while all that passed was kept too."""
if MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ENOUGH:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_finish() -> None:
    """Tests and libraries stay until the end: have them passed over whenever memory is freed.

    Looking through them was a quarter of what tests of training took.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own processes that are started in a test are forked, not started cold: see `tests.forks`."""
    monkeypatch.setattr(subprocess, "Popen", forks.Popen)
