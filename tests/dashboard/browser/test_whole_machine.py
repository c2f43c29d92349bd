"""A real run drives a real page, and the page a real run: everything that a person does there, in one sitting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from nightschool import verify
from nightschool.ledger import Ledger
from nightschool.status import read_status
from nightschool.workspace import Layout
from tests import ports, tiny
from tests.dashboard.browser.conftest import Open
from tests.machine import whole
from tests.machine.whole import Machine

PATIENCE = 120_000
"""Milliseconds."""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    page = {"port": ports.kept()}
    return whole.workspace(tmp_path / "school", tiny.make_model(tmp_path / "base"), page=page)


@pytest.fixture
def machine(layout: Layout) -> Iterator[Machine]:
    running = Machine(layout)
    yield running
    running.kill_everything()


def states(layout: Layout) -> dict[str, str]:
    with Ledger.open(layout.ledger) as ledger:
        return {row.name: row.state for row in ledger.files.each()}


def step(layout: Layout) -> int:
    return read_status(layout).step


def add(page: Page, path: Path, passes: int) -> None:
    """Send a file, look at what the model would see of it, and put it into the queue."""
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_text("What the model would see of it")).to_be_visible(timeout=PATIENCE)
    page.get_by_label("Passes over it").fill(str(passes))
    page.get_by_role("button", name="Add to the queue").click()
    expect(page.get_by_role("link", name="See the file")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Close").click()


def agree(page: Page, action: str) -> str:
    """Read what is asked, say yes, and return it."""
    box = page.get_by_role("dialog")
    button = box.get_by_role("button", name=action, exact=True)
    expect(button).to_be_enabled(timeout=PATIENCE)
    text = box.inner_text()
    button.click()
    expect(box).to_be_hidden(timeout=PATIENCE)
    return text


def state_word(page: Page, word: str) -> None:
    expect(page.locator("#state-word")).to_have_text(word, timeout=PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_of_it_in_one_sitting(opened: Open, layout: Layout, machine: Machine, tmp_path: Path, shots: Path) -> None:
    wait: Callable[..., object] = machine.wait_for
    url = str(wait(lambda: read_status(layout).page))
    page = opened(url)
    expect(page.get_by_text("nightschool add").first).to_be_visible(timeout=PATIENCE)  # what to do first
    page.screenshot(path=shots / "whole-empty.png", full_page=True)

    # A file by the page: nothing is in the queue before it was looked at and agreed to.
    page.goto(f"{url}/queue")
    first = tiny.rows(tmp_path / "<b>first.jsonl", 16, seed=1)
    add(page, first, passes=200)
    wait(lambda: step(layout) >= 10)
    page.goto(url)
    wait(lambda: page.evaluate("performance.getEntriesByName('chart').length"), 0.2)
    expect(page.get_by_text("<b>first.jsonl").first).to_be_visible(timeout=PATIENCE)
    state_word(page, "Training")
    page.screenshot(path=shots / "whole-training.png", full_page=True)

    # Pause and resume.
    page.goto(f"{url}/queue")
    page.get_by_role("button", name="Pause …").click()
    agree(page, "Pause")
    wait(lambda: whole.state(layout) == "paused")
    state_word(page, "Paused")
    page.get_by_role("button", name="Resume").click()
    before = step(layout)
    wait(lambda: step(layout) > before)

    # A second file, and the first behind it.
    add(page, tiny.rows(tmp_path / "second.jsonl", 16, seed=2), passes=200)
    wait(lambda: states(layout)["second.jsonl"] == "ready")
    page.get_by_role("button", name="Skip …").click()
    assert "<b>first.jsonl" in agree(page, "Skip it")
    wait(lambda: states(layout) == {"<b>first.jsonl": "skipped", "second.jsonl": "training"})

    # A saved state, read whole, and the way back to it.
    page.goto(f"{url}/saved")
    page.get_by_label("Name").fill("by-hand")
    page.get_by_role("button", name="Take it").click()
    wait(lambda: (layout.snapshots / "by-hand").is_dir())
    expect(page.get_by_role("button", name="Go back to snapshot by-hand …")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Verify all now …").click()
    agree(page, "Verify all")
    expect(page.get_by_text(re.compile(r"^verified ")).first).to_be_visible(timeout=PATIENCE)
    with Ledger.open(layout.ledger) as ledger:
        saved = ledger.events.of_kind("snapshot")[-1].fields["step"]
    wait(lambda: step(layout) > saved + 3)
    page.get_by_role("button", name="Go back to snapshot by-hand …").click()
    told = agree(page, "Go back")
    assert "second.jsonl" in told
    wait(lambda: len(whole.events(layout, "cut")) == 1)
    wait(lambda: whole.state(layout) == "training" and step(layout) > saved)
    page.screenshot(path=shots / "whole-saved.png", full_page=True)

    # Forgetting the second file: its plan, once asked, and the run without it.
    page.goto(f"{url}/files")
    page.get_by_role("link", name="second.jsonl").click()
    expect(page.get_by_role("heading", name="second.jsonl")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Forget …").click()
    assert "second.jsonl" in agree(page, "Forget it")
    wait(lambda: states(layout).get("second.jsonl") == "forgotten")

    # What happened is in the log; then the machine is stopped, and the page says what it can no longer see.
    page.goto(f"{url}/health")
    page.get_by_label("Search in the log").fill("pause")
    expect(page.get_by_text(re.compile("paus", re.I)).first).to_be_visible(timeout=PATIENCE)
    page.goto(f"{url}/queue")
    page.get_by_role("button", name="Stop …").click()
    agree(page, "Stop it")
    assert machine.finish() == 0
    assert verify.report(layout).good
    assert read_status(layout).page is None
