"""Randomness is a hash of (seed, step, cell); numerics are recorded, and their changes said in words."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from nightschool.errors import SettingsError
from nightschool.settings import NumericsSettings
from nightschool.training import determinism
from tests.training.conftest import make_settings


def draws() -> tuple[list[float], float]:
    return torch.rand(4).tolist(), random.random()


def test_b3_a_cells_randomness_does_not_depend_on_what_came_before() -> None:
    determinism.seed_cell(42, 7, 1)
    first = draws()
    torch.rand(100)
    random.random()
    determinism.seed_cell(42, 7, 2)
    other = draws()
    determinism.seed_cell(42, 7, 1)
    assert draws() == first
    assert other != first


def test_seeding_is_what_torch_itself_does() -> None:
    determinism.seed_cell(42, 7, 1)
    ours = torch.rand(4)
    torch.manual_seed(determinism.hashed_seed(42, "cell", 7, 1))
    assert torch.equal(torch.rand(4), ours)


def test_every_step_cell_and_seed_has_its_own_stream() -> None:
    seeds = {determinism.hashed_seed(s, "cell", n, c) for s in range(3) for n in range(1000) for c in range(8)}
    assert len(seeds) == 3 * 1000 * 8
    # Not to be mistaken for each other: "1/12" and "11/2".
    assert determinism.hashed_seed(1, 12) != determinism.hashed_seed(11, 2)
    assert all(0 <= s < 2**63 for s in seeds)


def test_seeds_are_the_same_in_every_process() -> None:
    """A run goes on in another process: Python's own hash() would differ there. The value is fixed for good."""
    assert determinism.hashed_seed(42, "cell", 1, 0) == 5616110852722950187


def test_configure_pins_threads_and_kernels() -> None:
    code = """
import os, torch
from nightschool.settings import NumericsSettings
from nightschool.training import determinism
determinism.configure(NumericsSettings(threads=0))
print(torch.get_num_threads() == max(1, len(os.sched_getaffinity(0)) - 1),
      torch.are_deterministic_algorithms_enabled(), os.environ["CUBLAS_WORKSPACE_CONFIG"],
      torch.utils.deterministic.fill_uninitialized_memory)
determinism.configure(NumericsSettings(threads=1, deterministic=False))
print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["True True :4096:8 False", "1 False"]


def test_an_operation_without_a_deterministic_kernel_names_the_setting() -> None:
    error = RuntimeError(
        "cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_deterministic..."
    )
    found = determinism.advice(error)
    assert isinstance(found, SettingsError)
    assert "cumsum_cuda_kernel" in str(found)
    assert "numerics.deterministic = false" in str(found)
    assert determinism.advice(RuntimeError("shape mismatch")) is None
    assert determinism.advice(ValueError("deterministic")) is None


def test_f4_numerics_are_plain_json_and_complete(build: Callable) -> None:
    built = build()
    found = determinism.numerics(built, make_settings(built.folder), packed=True, cell=2)
    assert json.loads(json.dumps(found)) == found
    assert found["cell"] == 2
    assert found["processes"] == 1
    assert found["attention"] == "sdpa"
    assert found["device"] == "cpu"
    assert {"torch", "transformers", "peft", "accelerate", "threads", "deterministic", "optimizer"} <= found.keys()


def test_f4_changes_are_said_in_words() -> None:
    old = {"threads": 3, "torch": "2.13.0", "deterministic": True, "python": "3.11.2", "packed": True, "driver": None}
    assert determinism.changes(old, dict(old)) == []
    new = {**old, "threads": 7, "torch": "2.14.0", "deterministic": False, "python": "3.12.0", "new_key": 1}
    assert determinism.changes(old, new) == [
        "the number of threads: 3 before, 7 now",
        "deterministic kernels: on before, off now",
        "new_key: none before, 1 now",
        "torch: 2.13.0 before, 2.14.0 now",
    ]


@pytest.mark.parametrize("threads", [0, 2])
def test_thread_setting_is_accepted(threads: int) -> None:
    assert NumericsSettings(threads=threads).threads == threads
