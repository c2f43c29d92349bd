"""The page Files: searching, filtering, opening a file, and forgetting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed
from playwright.sync_api import Page, Route, expect

from tests.dashboard.browser.conftest import hold
from tests.dashboard.browser.rooms import HOSTILE, World
from tests.dashboard.browser.rooms_fixtures import FORMS, Rooms
from tests.dashboard.browser.rooms_support import NARROW


def names(page: Page) -> list[str]:
    return page.locator("#files-rows .name").all_inner_texts()


@pytest.mark.parametrize(("size", "colours"), FORMS)
def test_lists_what_was_dropped_newest_first(rooms: Rooms, size: Any, colours: Any) -> None:
    page = rooms.go("/files", size, colours)
    expect(page.locator("#files-rows tr")).to_have_count(50)
    first = page.locator("#files-rows tr").nth(2)
    expect(first).to_contain_text("learned")
    expect(first).to_contain_text("2,330")
    expect(first).to_contain_text("2.31 → 1.87")
    expect(page.locator("#states button")).to_have_text(
        ["All 122", "waits 1", "in training 1", "learned 117", "same as another 1", "rejected 1", "set aside 1"]
    )


def test_more_come_by_scrolling_or_by_the_button(rooms: Rooms) -> None:
    page = rooms.go("/files")
    expect(page.locator("#files-rows tr")).to_have_count(50)
    rooms.visits[0].may_move = True  # what comes pushes the button down
    page.evaluate("document.getElementById('files-more').scrollIntoView()")
    expect(page.locator("#files-rows tr").nth(99)).to_be_attached()
    page.keyboard.press("End")
    expect(page.locator("#files-rows tr")).to_have_count(122)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    assert len(set(page.locator("#files-rows a").evaluate_all("(all) => all.map((one) => one.hash)"))) == 122


def test_more_come_also_where_the_end_never_left_the_sight(rooms: Rooms) -> None:
    """It is in sight before there are rows, and again before the browser has looked: no change that it could tell."""
    page = rooms.go("/files?search=nothing-like-that")
    expect(page.locator("#files-empty")).to_contain_text("No file is like that.")
    rooms.visits[0].may_move = True
    page.evaluate(
        """() => new MutationObserver(() => document.getElementById("files-more").scrollIntoView())
          .observe(document.getElementById("files-rows"), { childList: true })"""
    )
    page.get_by_role("button", name="Show all files").click()
    expect(page.locator("#files-rows tr")).to_have_count(122)


def test_what_was_scrolled_to_stays_when_the_list_was_being_asked_for_anew(rooms: Rooms) -> None:
    page = rooms.go("/files")
    expect(page.locator("#files-rows tr")).to_have_count(50)
    rooms.visits[0].may_move = True
    page.evaluate(
        """() => { const rows = document.getElementById("files-rows"); window.least = [];
          new MutationObserver(() => window.least.push(rows.children.length)).observe(rows, { childList: true }); }"""
    )
    held: list[Route] = []
    page.route(
        lambda url: "/api/files?" in url and "before=" not in url,
        lambda route: held.append(route) if not held else route.continue_(),
    )
    newest = max(rooms.world.files, key=lambda one: one.id)
    rooms.world.files.append(changed(newest, id=newest.id + 1, name="came-meanwhile.jsonl"))

    def told() -> bool:
        """Again and again, since the stream may open only now."""
        rooms.world.files[-1] = changed(rooms.world.files[-1], tokens=(rooms.world.files[-1].tokens or 0) + 1)
        return bool(held)

    hold(told, page)
    page.evaluate("document.getElementById('files-more').scrollIntoView()")
    expect(page.locator("#files-rows tr").nth(99)).to_be_attached()
    held[0].continue_()
    expect(page.locator("#files-rows .name").first).to_have_text("came-meanwhile.jsonl")
    assert min(page.evaluate("window.least")) >= 100


def test_searches_while_typing_and_asks_once_for_many_letters(rooms: Rooms) -> None:
    page = rooms.go("/files")
    expect(page.locator("#files-rows tr")).to_have_count(50)
    before = len(rooms.world.looked)
    # All letters in one task of the browser: however slow it is, it cannot come to rest between them.
    page.get_by_label("Search by name").evaluate(
        """(field) => { for (const letter of "contracts") {
          field.value += letter;
          field.dispatchEvent(new Event("input", { bubbles: true }));
        } }"""
    )
    expect(page.locator("#files-rows tr")).to_have_count(15)
    assert all("contracts" in name for name in names(page))
    asked = [one for one in rooms.world.looked[before:] if "search=c" in one]
    assert asked
    assert all("search=contracts&" in one for one in asked), "not once a letter"
    assert page.url.endswith("/files?search=contracts")


def test_h4_a_search_for_markup_finds_it_and_obeys_nothing(rooms: Rooms) -> None:
    page = rooms.go("/files?search=%3Cimg%20src%3Dx%20onerror%3Dwindow.stolen%3D1%3E")
    expect(page.locator("#files-rows .name")).to_have_text([HOSTILE])
    expect(page.locator("#search")).to_have_value("<img src=x onerror=window.stolen=1>")
    page.get_by_role("link", name=HOSTILE).click()
    expect(page.locator(".file h1")).to_have_text(HOSTILE)
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_filters_by_state(rooms: Rooms) -> None:
    page = rooms.go("/files", NARROW)
    page.get_by_role("button", name="rejected").click()
    expect(page.locator("#files-rows tr")).to_have_count(1)
    expect(page.locator("#files-rows")).to_contain_text("line 1 is no JSON")
    expect(page.get_by_role("button", name="rejected")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="All").click()
    expect(page.locator("#files-rows tr")).to_have_count(50)


def test_a_search_without_a_find_says_so_and_is_taken_back(rooms: Rooms) -> None:
    page = rooms.go("/files?search=nothing-like-this")
    expect(page.locator("#files-empty")).to_contain_text("No file is like that.")
    page.get_by_role("button", name="Show all files").click()
    expect(page.locator("#files-rows tr")).to_have_count(50)


def test_an_empty_history_says_what_to_do_first(rooms: Rooms) -> None:
    rooms.world = World(training=None)
    page = rooms.go("/files", NARROW)
    expect(page.locator("#files-empty")).to_contain_text("No file was dropped yet. Put one into the folder inbox/")


@pytest.mark.parametrize(("size", "colours"), FORMS)
def test_a_file_opens_with_all_that_is_known_of_it(rooms: Rooms, size: Any, colours: Any) -> None:
    page = rooms.go("/files#120", size, colours)
    file = page.locator(".file")
    expect(file.locator("h1")).to_have_text("support-chats-2026-09.jsonl")
    for words in (
        "Good rows",
        "2,330",
        "503,000, 55",
        "Loss over its first steps",
        "3.12",
        "1.72",
        "Before its first step",
        "2.31",
        "40 rows, never trained on",
        "301 of 301",
        "3.12 → 2.20",
        "with other small files",
        "epochs",
    ):
        expect(file).to_contain_text(words)
    expect(page.locator("#listing")).to_be_hidden()


def test_back_leads_to_the_list_where_it_was(rooms: Rooms) -> None:
    page = rooms.go("/files")
    expect(page.locator("#files-rows tr")).to_have_count(50)
    link = page.locator("#files-rows a").nth(30)
    rooms.visits[0].may_move = True  # what comes by scrolling pushes the button down
    link.hover()  # scrolls to it
    at = page.evaluate("scrollY")
    assert at > 0
    link.click()
    expect(page.locator(".file h1")).to_be_focused()
    page.go_back()
    expect(page.locator("#listing")).to_be_visible()
    expect(link).to_be_focused()
    assert abs(page.evaluate("scrollY") - at) < 50
    page.go_forward()
    expect(page.locator(".file h1")).to_be_visible()
    page.get_by_role("link", name="Back to all files").click()
    expect(page.locator("#listing")).to_be_visible()


def test_a_rejected_file_says_why_and_what_to_do(rooms: Rooms) -> None:
    page = rooms.go("/files#7", NARROW, "light")
    expect(page.locator(".file .note")).to_contain_text("could be read: line 1 is no JSON")
    expect(page.locator(".file .note")).to_contain_text(
        "What to do: Mend line 1 and drop the file again; rejected/ holds it."
    )
    expect(page.locator(".bad-rows li").first).to_contain_text("Line 1: it is no JSON")
    expect(page.locator(".bad-rows li").last).to_have_text("and 10 more")
    expect(page.get_by_role("button", name="Forget …")).to_have_count(0)


def test_a_file_that_is_not_there_says_so(rooms: Rooms) -> None:
    page = rooms.go("/files#99999")
    expect(page.locator(".file")).to_contain_text("There is no file 99999.")
    rooms.visits[0].forgive("404")


@pytest.mark.parametrize(
    ("words", "action", "purge"),
    [("Forget …", "Forget it", False), ("Forget and remove its bytes …", "Forget and remove", True)],
)
def test_forgetting_shows_its_plan_asks_once_and_follows_the_job(
    rooms: Rooms, words: str, action: str, purge: bool
) -> None:
    page = rooms.go("/files#120", NARROW)
    page.get_by_role("button", name=words).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1,020 steps undone, of 2 files:")
    expect(dialog).to_contain_text(f"{HOSTILE}: 900 of 2,410 steps")
    expect(dialog).to_contain_text("Then 1,020 steps to train again, about 82")
    expect(dialog).to_contain_text("Removed for good, 2 things:" if purge else "You can take this back afterwards")
    if purge:
        expect(dialog).to_contain_text("This cannot be taken back.")
    dialog.get_by_role("button", name="Leave it as it is").click()
    assert rooms.world.did("/api/forget") == [], "nothing happens unasked"
    page.get_by_role("button", name=words).click()
    page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()
    expect(page.locator("#said")).to_have_text("Job j1 is done.")
    assert rooms.world.did("/api/forget/plan") == [{"files": [120], "purge": purge}] * 2
    assert rooms.world.did("/api/forget") == [{"files": [120], "purge": purge, "digest": "d1-again"}]


def test_a_plan_that_changed_meanwhile_is_not_carried_out_but_shown_anew(rooms: Rooms, shots: Path) -> None:
    page = rooms.go("/files#120")
    page.get_by_role("button", name="Forget …").click()
    expect(page.get_by_role("dialog")).to_contain_text("1,020 steps undone")
    rooms.world.digest = "d2"
    page.get_by_role("dialog").get_by_role("button", name="Forget it").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("What this would do has changed since it was shown.")
    expect(dialog).to_contain_text("1,020 steps undone")
    page.screenshot(path=shots / "shown-anew.png")
    assert rooms.world.jobs == {}
    dialog.get_by_role("button", name="Forget it").click()
    expect(page.locator("#said")).to_have_text("Job j1 is done.")
    assert [body["digest"] for body in rooms.world.did("/api/forget")] == ["d1-again", "d2-again"]
    rooms.visits[0].forgive("409")
