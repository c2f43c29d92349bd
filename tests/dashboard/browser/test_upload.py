"""Sending files from the page Queue: dropped or chosen, shown, then added or thrown away."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser.conftest import hold
from tests.dashboard.browser.rooms import HOSTILE, preview
from tests.dashboard.browser.rooms_fixtures import FORMS, Rooms

DROP = """([name, text]) => {
  const moved = new DataTransfer();
  moved.items.add(new File([text], name));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    if (kind === "drop") window.veiled = !document.querySelector(".veil").hidden;
    const event = new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: moved});
    document.querySelector("footer").dispatchEvent(event);
  }
}"""


def choose(rooms: Rooms, page: Page, *names: str) -> None:
    rooms.visits[0].may_move = True  # what is sent is shown above the queue
    page.set_input_files("#picker", [{"name": name, "mimeType": "text/plain", "buffer": b"x" * 1000} for name in names])


@pytest.mark.parametrize(("size", "colours"), FORMS)
def test_a_chosen_file_is_sent_shown_and_added(rooms: Rooms, size: Any, colours: Any) -> None:
    page = rooms.go("/queue", size, colours)
    choose(rooms, page, "letters & more.jsonl")
    card = page.locator(".card")
    expect(card.locator(".gist")).to_have_text("198 good rows, 2 bad, 81,230 tokens: 7 steps")
    expect(card).to_contain_text("JSON lines with chats")
    expect(card).to_contain_text("Mind: 2 rows have the same text.")
    assert card.locator(".note").count() == 1, "the warning of the upload and that of the preview are the same"
    assert "/api/uploads/u1/preview?rows=200" in " ".join("/" + one for one in rooms.world.looked)
    card.get_by_label("High").check()
    card.get_by_label("Passes over it").fill("3")
    card.get_by_label("Train it even if").check()
    card.get_by_role("button", name="Add to the queue").click()
    expect(card.locator(".done")).to_contain_text("letters & more.jsonl waits in the queue.")
    expect(card.get_by_role("link", name="See the file")).to_have_attribute("href", "/files#200")
    assert rooms.world.did("/api/uploads/u1/add") == [{"priority": "high", "epochs": 3, "again": True}]
    expect(page.locator(".waiting .name").last).to_have_text("letters & more.jsonl")


def test_what_is_not_said_is_left_to_the_settings(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    choose(rooms, page, "a.jsonl")
    page.get_by_role("button", name="Add to the queue").click()
    expect(page.locator(".done")).to_be_visible()
    assert rooms.world.did("/api/uploads/u1/add") == [{"priority": "normal", "epochs": None, "again": False}]


def test_the_preview_shows_lengths_bad_rows_and_what_is_learned_without_colour_alone(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    choose(rooms, page, "letters.jsonl")
    look = page.locator(".look")
    expect(look.locator(".histogram tbody tr")).to_have_count(7)
    widths = look.locator(".histogram-bar").evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().width)")
    assert max(widths) == widths[2]
    assert widths[6] < widths[0] < widths[1] < widths[3] < widths[2]
    expect(look.locator(".bad-rows li").first).to_contain_text("Line 17: it is no JSON: a comma is missing")
    learned = look.locator(".sequence mark")
    expect(learned.first).to_have_text("From the old pier, every hour until ten.<|end|>")
    lines = learned.first.evaluate("(one) => getComputedStyle(one).textDecorationLine")
    read = look.locator(".sequence span").first.evaluate("(one) => getComputedStyle(one).textDecorationLine")
    assert (lines, read) == ("underline", "none")
    expect(look.locator(".part-title").first).to_have_text("Row 1: 12 of 31 tokens learned")
    cut = look.locator(".sequence").nth(1)
    assert len(cut.inner_text()) < 800
    look.get_by_role("button", name="Show all of this row").click()
    assert len(cut.inner_text()) > 1100


def test_all_of_a_file_is_read_on_request(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    choose(rooms, page, "letters.jsonl")
    page.get_by_role("button", name="Read all of it").click()
    expect(page.locator(".gist")).to_be_visible()
    expect(page.get_by_role("button", name="Read all of it")).to_have_count(0)
    # Not the last that was asked for: the page may look at its queue at any time.
    previews = [one for one in rooms.world.looked if "/preview" in one]
    assert previews == ["api/uploads/u1/preview?rows=200", "api/uploads/u1/preview?rows=0"]


def test_h4_markup_in_a_sent_file_is_shown_and_not_obeyed(rooms: Rooms) -> None:
    rooms.world.preview = preview(
        problem=f"no row of {HOSTILE} could be read", warnings=[HOSTILE], sequences=0, examples=[]
    )
    page = rooms.go("/queue")
    choose(rooms, page, "<img src=x onerror=window.stolen=1>.jsonl")
    expect(page.locator(".card h3")).to_have_text("<img src=x onerror=window.stolen=1>.jsonl")
    expect(page.locator(".card .trouble")).to_contain_text(f"It would be rejected: no row of {HOSTILE}")
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_a_file_that_would_be_rejected_can_only_be_thrown_away(rooms: Rooms) -> None:
    rooms.world.preview = preview(problem="no row of it could be read", rows_good=0, sequences=0, examples=[])
    page = rooms.go("/queue")
    choose(rooms, page, "b.jsonl")
    expect(page.locator(".card .trouble")).to_contain_text("It would be rejected")
    expect(page.get_by_role("button", name="Add to the queue")).to_have_count(0)
    page.get_by_role("button", name="Throw away").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#said")).to_have_text("Thrown away.")
    assert rooms.world.asked[-1] == ("DELETE", "/api/uploads/u1", None)
    assert rooms.world.uploads == {}


def test_files_are_dropped_anywhere_on_the_page(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    expect(page.locator(".waiting > li")).to_have_count(6)
    rooms.visits[0].may_move = True
    page.evaluate(DROP, ["dropped.jsonl", "y" * 77])
    expect(page.locator(".card .gist")).to_be_visible()
    assert page.evaluate("window.veiled") is True, "it is said that files can be let go here"
    assert page.locator(".veil").is_hidden()
    assert rooms.world.uploads["u1"].bytes == 77


def test_several_files_are_sent_one_after_the_other_and_added_together(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    choose(rooms, page, "a.jsonl", "b.jsonl", "c.jsonl")
    page.get_by_role("button", name="Add all 3").click()
    expect(page.locator(".done")).to_have_count(3)
    assert [path for _, path, _ in rooms.world.asked if path.endswith("/add")] == [
        f"/api/uploads/u{n}/add" for n in (1, 2, 3)
    ]
    expect(page.locator(".add-all")).to_be_hidden()


def test_h8_a_cancelled_upload_is_cut_off_and_nothing_of_it_stays(rooms: Rooms, tmp_path: Path) -> None:
    rooms.world.slow = 1.0  # minutes for all of it: nobody is too late to cancel it
    page = rooms.go("/queue")
    for name in ("big.jsonl", "next.jsonl"):
        (tmp_path / name).write_bytes(b"x" * 20_000_000)
    page.set_input_files("#picker", [tmp_path / "big.jsonl", tmp_path / "next.jsonl"])
    rooms.visits[0].may_move = True
    first = page.locator(".card").first
    expect(first.locator(".sending")).to_contain_text(re.compile(r"of 20.MB"))
    assert first.locator("progress").get_attribute("max") == "20000000"
    page.locator(".card").nth(1).get_by_role("button", name="Cancel").click()
    first.get_by_role("button", name="Cancel").click()
    expect(page.locator(".card")).to_have_count(0)
    # The request itself has ended, not only what is seen of it.
    hold(lambda: rooms.world.cut_off == 1, page)
    assert rooms.world.uploads == {}


def test_an_upload_that_is_refused_says_why_and_can_be_tried_again(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    expect(page.locator(".waiting > li")).to_have_count(6)
    rooms.world.broken = "There is no room for it: 12 MB are free. Make room, and send it again."
    choose(rooms, page, "a.jsonl")
    expect(page.locator(".card [role=alert]")).to_contain_text("There is no room for it")
    rooms.world.broken = ""
    page.locator(".card").get_by_role("button", name="Try again").click()
    expect(page.locator(".card .gist")).to_be_visible()
    rooms.visits[0].forgive("422")


@pytest.mark.parametrize(
    ("sent", "seconds", "left"), [(0, 5, None), (500, 0.5, None), (500, 2, 2), (250, 2, 6), (1000, 2, 0)]
)
def test_the_time_left_goes_by_bytes(rooms: Rooms, sent: int, seconds: float, left: float | None) -> None:
    page = rooms.go("/queue")
    found = page.evaluate(
        "async ([a, b]) => (await import('/static/telling.js')).timeLeft(a, 1000, b)", [sent, seconds]
    )
    assert found == left
