"""A workspace with some history, and its page: in this process, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.services import Services
from nightschool.dashboard.signing_in import Key
from nightschool.workspace import Layout
from tests.snapshots import made

HERE = "http://127.0.0.1:8420"
TOKEN = "a-token-of-some-length"
OpenPage = Callable[..., TestClient]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four files of ten steps each, all trained, and a checkpoint after the second."""
    found = made.workspace(tmp_path / "workspace")
    made.checkpoint(found, 20)
    return found


@pytest.fixture
def services(layout: Layout) -> Iterator[Services]:
    found = Services(layout)
    yield found
    found.close()


@pytest.fixture
def open_page(services: Services) -> Iterator[OpenPage]:
    """Opens the page as a program on this machine does; with `token` one is needed."""
    with ExitStack() as opened:

        def opening(endpoints: Any = ENDPOINTS, *, token: str | None = None, rules: Rules | None = None) -> TestClient:
            key = Key(token, services.layout.root) if token else None
            app = guarded(services, endpoints, rules or Rules(), key)
            client = TestClient(app, base_url=HERE, raise_server_exceptions=False, follow_redirects=False)
            return opened.enter_context(client)

        yield opening


@pytest.fixture
def page(open_page: OpenPage) -> TestClient:
    return open_page()
