"""The four views over a real workspace and the real server: an act on the page is in the ledger afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from nightschool import forecast
from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.services import Services
from nightschool.ledger import Arrival, Ledger
from nightschool.pausing import ROW
from nightschool.workspace import Layout
from tests import tiny
from tests.dashboard.browser.rooms import HOSTILE
from tests.dashboard.browser.rooms_support import NARROW, WIDE, Visit, serving, visiting
from tests.snapshots import made

TOML = '[model]\nname = "{}"\n[machine]\nmin_free_gb = 0\n'
WAITING = ("a.jsonl", HOSTILE.replace("/", ""), "c.jsonl")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four files of which two are trained and saved, and three more that wait; a log with markup in it."""
    base = tiny.make_tokenizer(tmp_path / "base")
    for name in ("config.json", "model.safetensors"):
        (base / name).write_text("{}")
    found = made.workspace(tmp_path / "ws", toml=TOML.format(base), steps=20)
    made.checkpoint(found, 10)
    made.checkpoint(found, 20)
    with Ledger.open(found.ledger) as ledger:
        for name in WAITING:
            (found.inbox / name).write_text('{"text": "to be read"}\n')
            ledger.files.arrive([Arrival(name, str(found.inbox / name))])
    found.log_file.write_text("".join(f"2026-11-22 03:00:{n % 60:02}  line {n} <b>bold</b>\n" for n in range(450)))
    return found


@pytest.fixture(params=[WIDE, NARROW], ids=["desk", "phone"])
def visit(request: pytest.FixtureRequest, chromium: Browser, layout: Layout) -> Iterator[Visit]:
    expect.set_options(timeout=60_000)
    services = Services(layout)
    try:
        with (
            serving(guarded(services, ENDPOINTS, Rules(), None)) as address,
            visiting(chromium, address, request.param) as visit,
        ):
            yield visit
    finally:
        services.close()


def waiting(layout: Layout) -> list[str]:
    return [one.name for one in forecast.read_queue(layout, 50).files if one.state != "training"]


def names(page: Page) -> list[str]:
    return page.locator(".waiting .name").all_inner_texts()


def test_the_order_on_the_page_is_the_order_of_the_ledger(visit: Visit, layout: Layout) -> None:
    page = visit.go("/queue")
    expect(page.locator(".waiting .name")).to_have_text(waiting(layout))
    page.get_by_role("button", name="Change: c.jsonl").click()
    page.locator(".open").get_by_role("button", name="Earlier").click()
    expect(page.locator(".waiting .name").last).to_have_text(WAITING[1])
    page.locator(".open").get_by_role("button", name="First").click()
    expect(page.locator("#said")).to_contain_text("is the first of the queue now")
    expect(page.locator(".waiting .name")).to_have_text(waiting(layout))
    assert waiting(layout).index("c.jsonl") < waiting(layout).index("a.jsonl") < waiting(layout).index(WAITING[1])


def test_pauses_removes_and_puts_back(visit: Visit, layout: Layout) -> None:
    page = visit.go("/queue")
    page.get_by_role("button", name="Pause …").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.machine.get(ROW) == {"until": None}
    page.get_by_role("button", name="Change: a.jsonl").click()
    page.get_by_role("button", name="Remove from the queue").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove it").click()
    expect(page.locator("#said")).to_contain_text("Taken out of the queue: a.jsonl")


def test_a_file_is_sent_previewed_and_added(visit: Visit, layout: Layout, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "What? ", "completion": "This."}\n' * 30 + '{"prompt": 1}\n')
    page = visit.go("/queue")
    visit.may_move = True
    page.set_input_files("#picker", rows)
    expect(page.locator(".card .gist")).to_contain_text("30 good rows, 1 bad")
    expect(page.locator(".bad-rows li").first).to_contain_text("Line 31")
    expect(page.locator(".sequence mark").first).to_contain_text("This.")
    page.get_by_role("button", name="Add to the queue").click()
    expect(page.locator(".done")).to_contain_text("rows.jsonl")
    expect(page.locator(".waiting .name").last).to_have_text("rows.jsonl")
    assert waiting(layout)[-1] == "rows.jsonl"


def test_a_file_opens_and_a_waiting_one_is_forgotten(visit: Visit, layout: Layout) -> None:
    page = visit.go("/files")
    expect(page.locator("#files-rows tr")).to_have_count(7)
    page.get_by_role("link", name="1.jsonl", exact=True).click()
    expect(page.locator(".file")).to_contain_text("10 of 10")
    page.go_back()
    page.get_by_role("link", name="c.jsonl", exact=True).click()
    page.get_by_role("button", name="Forget …").click()
    expect(page.get_by_role("dialog")).to_contain_text("Nothing that was learned is undone.")
    page.get_by_role("dialog").get_by_role("button", name="Forget it").click()
    expect(page.locator(".file-state .tag")).to_have_text("forgotten")
    assert "c.jsonl" not in waiting(layout)


def test_goes_back_and_undoes_it(visit: Visit, layout: Layout) -> None:
    page = visit.go("/saved")
    expect(page.locator(".moment .name")).to_have_text(["Step 20", "Step 10"])
    page.get_by_role("button", name="Go back to checkpoint Step 10").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("10 steps undone")
    dialog.get_by_role("button", name="Go back").click()
    expect(page.locator("#said")).to_contain_text("Done: the run stands at step 10.")
    page.get_by_role("button", name="Undo the last change").click()
    page.get_by_role("dialog").get_by_role("button", name="Undo it").click()
    expect(page.locator("#said")).to_contain_text("Done: the run stands at step 20.")
    with Ledger.open(layout.ledger) as ledger:
        assert forecast.steps_done(ledger) == 20


def test_verifies_and_takes_a_snapshot(visit: Visit, layout: Layout) -> None:
    page = visit.go("/saved")
    page.get_by_role("button", name="Verify all now").click()
    page.get_by_role("dialog").get_by_role("button", name="Verify all").click()
    expect(page.locator("#said")).to_contain_text("all are whole")
    expect(page.locator(".moment").first).to_contain_text("verified just now")
    page.get_by_label("Name (optional)").fill("by-hand")
    page.get_by_role("button", name="Take it").click()
    expect(page.locator(".moment .name", has_text="by-hand")).to_be_visible()
    assert (layout.snapshots / "by-hand").is_dir()


def test_a_refused_name_stays_in_its_field_and_what_was_said_can_be_closed(visit: Visit) -> None:
    page = visit.go("/saved")
    name = page.get_by_label("Name (optional)")
    name.fill("two words")
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("#said")).to_contain_text("A snapshot cannot be called 'two words'")
    expect(name).to_have_value("two words")
    page.locator("#said").get_by_role("button", name="Close").click()
    expect(page.locator("#said")).to_be_empty()
    visit.forgive("422")


def test_health_and_the_log(visit: Visit, layout: Layout) -> None:
    page = visit.go("/health")
    expect(page.locator(".finding").first).to_be_visible()
    expect(page.locator(".amount").first).to_contain_text("free")
    expect(page.locator(".lines li")).to_have_count(200)
    expect(page.locator(".lines li").last).to_contain_text("line 449 <b>bold</b>")
    page.get_by_label("Search in the log").fill("line 12 ")
    expect(page.locator(".lines li")).to_have_count(1)
    page.locator("#settings-box summary").click()
    expect(page.locator("#settings")).to_contain_text("model.name")
