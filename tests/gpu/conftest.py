"""On a GPU only; where there is none, each test says that it was skipped."""

from __future__ import annotations

import pytest

from tests import device
from tests.machine.conftest import start, tmp_path

__all__ = ["start", "tmp_path"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if device.NAME == "cpu":
        for item in items:
            if item.path.parent.name == "gpu":
                item.add_marker(pytest.mark.skip(reason="needs a GPU: `make test-gpu` where there is one"))
