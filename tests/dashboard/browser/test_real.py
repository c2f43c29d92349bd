"""The overview over a real workspace, with all of its real answers and its real stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.services import Services
from nightschool.ledger import Ledger, StepRow
from nightschool.workspace import Layout
from tests.dashboard.browser.chart import drawn, trace, until
from tests.dashboard.browser.conftest import Open
from tests.dashboard.served import served
from tests.snapshots import made


def steps(first: int, last: int) -> list[StepRow]:
    """Steps of the workspace's four files of ten; the 17th had no number for a loss."""
    return [
        StepRow(step, (step - 1) // made.STEPS, math.nan if step == 17 else 3 - step / 40, 1e-4, 0.5, 100, 80, 0.25)
        for step in range(first, last + 1)
    ]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Three of four files were trained, and one of them is saved."""
    found = made.workspace(tmp_path / "workspace", steps=0)
    with Ledger.open(found.ledger) as ledger, ledger.transaction():
        for number in range(1, made.FILES + 1):
            ledger.entries.append([(number, f"d{number}", made.STEPS)], made.RECIPE, made.STEPS)
            ledger.files.begin(number)
        ledger.steps.record(steps(1, 30))
    made.checkpoint(found, 20)
    return found


@pytest.fixture
def address(layout: Layout) -> Iterator[str]:
    services = Services(layout)
    with served(services, ENDPOINTS) as page:
        yield f"http://127.0.0.1:{page.port}"
    services.close()


def test_a_real_workspace_is_shown_and_followed(address: str, layout: Layout, opened: Open) -> None:
    page = drawn(opened(address))
    expect(page.locator("#state-word")).to_have_text("Stopped")
    expect(page.locator("#f-steps")).to_have_text("30 steps")
    expect(page.locator("#f-safe")).to_have_text("step 20")
    assert trace(page, "loss")["x"] == list(range(1, 31))
    assert trace(page, "loss")["y"][16] is None
    assert trace(page, "bad")["x"] == [17]
    expect(page.get_by_role("button", name="Not a number 1")).to_be_visible()
    with Ledger.open(layout.ledger) as ledger:
        ledger.steps.record(steps(31, 34))
    until(page, "named('loss').x.at(-1) === 34")
    expect(page.locator("#f-steps")).to_have_text("34 steps")
    page.close()


def test_a_real_workspace_that_is_empty_says_what_to_do(tmp_path: Path, opened: Open) -> None:
    layout = Layout(tmp_path / "workspace")
    layout.create()
    layout.settings_file.write_text(made.TOML)
    Ledger.create(layout.ledger).close()
    services = Services(layout)
    with served(services, ENDPOINTS) as found:
        page = opened(f"http://127.0.0.1:{found.port}")
        expect(page.get_by_role("heading", name="Nothing to learn yet")).to_be_visible()
        page.close()
    services.close()
