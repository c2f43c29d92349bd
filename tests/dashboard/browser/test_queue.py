"""The page Queue: what it shows, and that each act reaches the API with the right body and is answered on the page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser.rooms import HOSTILE, World, waiting
from tests.dashboard.browser.rooms_fixtures import FORMS, Rooms
from tests.dashboard.browser.rooms_support import NARROW, again


def names(page: Page) -> list[str]:
    return page.locator(".waiting .name").all_inner_texts()


def change(page: Page, name: str) -> Any:
    page.get_by_role("button", name=f"Change: {name}").click()
    return page.locator(".waiting > li.open")


@pytest.mark.parametrize(("size", "colours"), FORMS)
def test_shows_what_is_in_training_and_what_waits_in_order(rooms: Rooms, size: Any, colours: Any) -> None:
    page = rooms.go("/queue", size, colours)
    expect(page.locator("#training-name")).to_have_text("support-chats-2026-11.jsonl")
    expect(page.locator("#training-words")).to_contain_text(
        re.compile(r"120 of 301 steps, about 15.min left, done near \d\d:\d\d")
    )
    expect(page.locator(".waiting > li")).to_have_count(6)
    assert names(page) == [one.name for one in rooms.world.queue[1:]]
    expect(page.locator(".waiting > li").nth(1)).to_contain_text("priority high")
    expect(page.locator(".waiting > li").nth(1)).to_contain_text("300 steps, about 24")
    expect(page.locator(".waiting > li").nth(3)).to_contain_text("about 1,600 steps")
    expect(page.locator(".waiting > li").nth(5)).to_contain_text("not known yet")
    expect(page.locator("#queue-sum")).to_contain_text("6 files wait.")


def test_h4_markup_in_a_name_is_shown_and_not_obeyed(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_the_visit_sees_markup_that_is_obeyed(rooms: Rooms) -> None:
    """The control of the test above, and of every other one's end."""
    page = rooms.go("/queue")
    page.evaluate("window.stolen = 1")
    with pytest.raises(AssertionError):
        rooms.visits[0].require_clean()
    page.evaluate("delete window.stolen")


@pytest.mark.parametrize(
    ("name", "words", "asked"),
    [
        ("wiki-fr.parquet", "Earlier", {"file": 42, "where": "before", "other": 41}),
        ("wiki-fr.parquet", "Later", {"file": 42, "where": "before", "other": 44}),
        ("wiki-fr.parquet", "First", {"file": 42, "where": "first", "other": None}),
        ("harbour interviews", "Last", {"file": 40, "where": "last", "other": None}),
    ],
)
def test_buttons_move_a_file(rooms: Rooms, name: str, words: str, asked: Any) -> None:
    page = rooms.go("/queue")
    change(page, name).get_by_role("button", name=words, exact=True).click()
    expect(page.locator("#said")).to_contain_text("was moved")
    assert rooms.world.did("/api/queue/move") == [asked]
    order = [one.name for one in rooms.world.queue[1:]]
    expect(page.locator(".waiting .name")).to_have_text(order)
    # The buttons stay open and keep the focus, so that they can be pressed again.
    expect(page.locator(".waiting > li.open")).to_contain_text(name)


def test_later_behind_the_end_takes_on_the_priority_of_the_last(rooms: Rooms) -> None:
    """`last` alone is behind those of its own priority: it would change nothing."""
    page = rooms.go("/queue")
    change(page, "mails").get_by_role("button", name="Later", exact=True).click()
    expect(page.locator(".waiting .name").last).to_have_text("mails-2026-11-28.jsonl")
    assert rooms.world.did("/api/queue/priority") == [{"files": [43], "priority": "low"}]
    assert rooms.world.did("/api/queue/move") == [{"file": 43, "where": "last", "other": None}]


def test_alt_and_arrow_keys_move_a_file_and_keep_the_focus(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    page.get_by_role("button", name="Change: wiki-fr.parquet").focus()
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator(".waiting .name").nth(2)).to_have_text("wiki-fr.parquet")
    expect(page.get_by_role("button", name="Change: wiki-fr.parquet")).to_be_focused()
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator(".waiting .name").nth(3)).to_have_text("wiki-fr.parquet")
    assert [one["other"] for one in rooms.world.did("/api/queue/move")] == [41, 43]


def test_a_file_is_dragged_to_another_place(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    expect(page.locator(".waiting > li")).to_have_count(6)
    target = page.locator('.waiting > li[data-id="41"]')
    page.locator('.waiting > li[data-id="43"] .grip').drag_to(target, target_position={"x": 60, "y": 4})
    expect(page.locator(".waiting .name").nth(2)).to_have_text("mails-2026-11-28.jsonl")
    assert rooms.world.did("/api/queue/move") == [{"file": 43, "where": "before", "other": 41}]


def test_what_is_in_training_or_trained_again_cannot_be_moved(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    again = page.locator('.waiting > li[data-id="31"]')
    expect(again).to_contain_text("trained once more")
    expect(again.get_by_role("button")).to_have_count(0)
    open = change(page, "harbour")
    expect(open.get_by_role("button", name="Earlier")).to_be_disabled()
    expect(open.get_by_role("button", name="First")).to_be_disabled()


def test_now_says_that_it_interrupts_and_asks_once(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    change(page, "wiki-fr").get_by_role("button", name="Now").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("support-chats-2026-11.jsonl is interrupted for it")
    dialog.get_by_role("button", name="Leave it as it is").click()
    assert rooms.world.did("/api/queue/priority") == []
    page.locator(".open").get_by_role("button", name="Now").click()
    page.get_by_role("dialog").get_by_role("button", name="Learn it now").click()
    expect(page.locator("#said")).to_contain_text("Priority now")
    assert rooms.world.did("/api/queue/priority") == [{"files": [42], "priority": "now"}]


def test_priority_is_set_by_a_button(rooms: Rooms) -> None:
    page = rooms.go("/queue", NARROW)
    change(page, "wiki-fr").get_by_role("button", name="High").click()
    expect(page.locator(".open").get_by_role("button", name="High")).to_have_attribute("aria-pressed", "true")
    assert rooms.world.did("/api/queue/priority") == [{"files": [42], "priority": "high"}]


def test_removes_after_asking_and_puts_back(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    change(page, "wiki-fr").get_by_role("button", name="Remove").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Its bytes are kept, and you can put it back.")
    rooms.visits[0].may_move = True  # the list grows shorter and longer; an answer may come long after what was pressed
    dialog.get_by_role("button", name="Remove it").click()
    expect(page.locator(".waiting > li")).to_have_count(5)
    assert rooms.world.did("/api/queue/remove") == [{"files": [42]}]
    page.get_by_role("button", name="Put back: wiki-fr.parquet").click()
    expect(page.locator(".waiting > li")).to_have_count(6)
    assert rooms.world.did("/api/queue/put-back") == [{"files": [42]}]


@pytest.mark.parametrize(
    ("words", "least", "most"),
    [
        ("Until it is resumed", None, None),
        ("For an hour", 3600, 3600),
        ("For two hours", 7200, 7200),
        ("Until morning", 1, 86_400),
    ],
)
def test_pauses_for_as_long_as_was_chosen_and_resumes(rooms: Rooms, words: str, least: Any, most: Any) -> None:
    page = rooms.go("/queue")
    page.get_by_role("button", name="Pause …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(words).check()
    dialog.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#said")).to_contain_text("frees the GPU")
    ((seconds,),) = [tuple(body.values()) for body in rooms.world.did("/api/pause")]
    assert seconds == least or least < seconds <= most
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#said")).to_contain_text("Goes on")
    assert rooms.world.did("/api/resume") == [None]
    expect(page.get_by_role("button", name="Pause …")).to_be_visible()


@pytest.mark.parametrize(
    ("offset", "now", "seconds"),
    [(0, "06:59:59", 1), (0, "07:00:00", 86_400), (7200, "04:00:00", 3600), (-18_000, "23:00:00", 46_800)],
)
def test_morning_is_that_of_the_machine(rooms: Rooms, offset: int, now: str, seconds: int) -> None:
    page = rooms.go("/queue")
    found = page.evaluate(
        "async ([at, offset]) => (await import('/static/telling.js')).untilHour(7, at, offset)",
        [f"2026-11-27T{now}+00:00", offset],
    )
    assert found == seconds


@pytest.mark.parametrize(("words", "shelve"), [("Wait behind all others", False), ("Are set aside", True)])
def test_skips_after_asking(rooms: Rooms, words: str, shelve: bool) -> None:
    page = rooms.go("/queue")
    page.get_by_role("button", name="Skip …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("120 of 301 steps) stays in the model")
    dialog.get_by_label(words).check()
    dialog.get_by_role("button", name="Skip it").click()
    expect(page.locator("#said")).to_contain_text("The next file begins")
    assert rooms.world.did("/api/skip") == [{"shelve": shelve, "file": 124}]


def test_stops_after_saying_how_to_start_again(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    page.get_by_role("button", name="Stop …").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("nightschool run")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert rooms.world.did("/api/stop") == []
    page.get_by_role("button", name="Stop …").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    expect(page.locator("#said")).to_contain_text("It saves, and ends.")
    assert rooms.world.did("/api/stop") == [None]


def test_a_machine_that_does_not_run_cannot_be_stopped(rooms: Rooms) -> None:
    rooms.world.running = False
    page = rooms.go("/queue")
    expect(page.locator("#acts")).to_contain_text("The machine does not run. nightschool run starts it.")
    expect(page.get_by_role("button", name="Stop …")).to_have_count(0)


def test_follows_the_queue_as_it_changes(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    expect(page.locator(".waiting > li")).to_have_count(6)
    rooms.world.queue.append(waiting(50, "came-meanwhile.jsonl"))
    expect(page.get_by_role("link", name="came-meanwhile.jsonl")).to_be_visible()


def test_a_long_queue_is_shown_in_parts(rooms: Rooms) -> None:
    rooms.world.queue = [waiting(1000 + n, f"part-{n:03}.jsonl") for n in range(120)]
    page = rooms.go("/queue")
    expect(page.locator(".waiting > li")).to_have_count(50)
    # The one before which the last shown comes is not shown itself.
    change(page, "part-049").get_by_role("button", name="Later", exact=True).click()
    expect(page.locator(".waiting .name").last).to_have_text("part-050.jsonl")
    assert rooms.world.did("/api/queue/move") == [{"file": 1049, "where": "before", "other": 1051}]
    rooms.visits[0].may_move = True  # what comes pushes the button down
    page.get_by_role("button", name="Show more of 120").click()
    expect(page.locator(".waiting > li")).to_have_count(120)


def test_an_empty_queue_says_what_to_do_first(rooms: Rooms) -> None:
    rooms.world = World(training=None)
    page = rooms.go("/queue", NARROW)
    expect(page.locator("#queue-sum")).to_contain_text(
        "Nothing waits. Add a file above, or put one into the folder inbox/"
    )
    expect(page.locator("#training-name")).to_have_text("Nothing right now")
    expect(page.get_by_role("button", name="Skip …")).to_have_count(0)


def test_an_act_that_is_refused_says_why(rooms: Rooms) -> None:
    page = rooms.go("/queue")
    open = change(page, "wiki-fr")
    # It still stands in the queue: of one that went the page may take the buttons away before they are pressed.
    rooms.world.refused.add(42)
    open.get_by_role("button", name="First").click()
    expect(page.locator("#said")).to_contain_text("File 42 is not in the queue.")
    rooms.visits[0].forgive("422")


def test_a_queue_that_cannot_be_read_says_why_and_is_asked_again(rooms: Rooms) -> None:
    rooms.world.broken = "The ledger cannot be read: the disk is gone."
    page = rooms.go("/queue")
    expect(page.locator("#queue-trouble")).to_contain_text("The ledger cannot be read")
    rooms.world.broken = ""
    rooms.visits[0].may_move = True  # the trouble goes, and its room with it
    again(page)
    expect(page.locator(".waiting > li")).to_have_count(6)
    rooms.visits[0].forgive("422")
