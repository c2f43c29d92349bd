from __future__ import annotations

import logging
from typing import Any

import pytest

from nightschool.dashboard import serving
from nightschool.workspace import Layout
from tests.cli.conftest import Run


def test_what_goes_wrong_in_a_page_of_its_own_is_in_the_log_that_the_page_names(
    here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(*_: Any, **__: Any) -> None:
        logging.getLogger("nightschool.page").warning("The page failed at GET /api/now.")

    monkeypatch.setattr(serving, "serve", serve)
    here("dashboard", "--port", "8765")
    assert "The page failed at GET /api/now." in layout.log_file.read_text()
