"""Set before torch is imported: one thread for each test process, and no network. And quick starts, where asked for."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests import forks

# How long an example takes says something about the computer, and nothing about the code.
settings.register_profile("nightschool", deadline=None)
settings.load_profile("nightschool")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# On a computer with a GPU, tests must not wait for somebody's training, nor that for them.
os.environ.setdefault("NIGHTSCHOOL_LEASES", str(Path(tempfile.gettempdir()) / f"nightschool-test-leases-{os.getpid()}"))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own processes that are started in a test are forked, not started cold: see `tests.forks`."""
    monkeypatch.setattr(subprocess, "Popen", forks.Popen)
