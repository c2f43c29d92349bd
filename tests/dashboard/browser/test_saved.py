"""The page Checkpoints: what was saved, by day, and going back to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.dashboard.browser.conftest import hold
from tests.dashboard.browser.rooms import HOSTILE, World
from tests.dashboard.browser.rooms_answers import begun, ended
from tests.dashboard.browser.rooms_fixtures import FORMS, Rooms
from tests.dashboard.browser.rooms_support import NARROW, again


def moment(page: Page, title: str) -> Any:
    return page.locator(".moment").filter(has=page.locator(".name", has_text=title))


@pytest.mark.parametrize(("size", "colours"), FORMS)
def test_shows_all_states_newest_first_by_day(rooms: Rooms, size: Any, colours: Any) -> None:
    page = rooms.go("/saved", size, colours)
    expect(page.locator(".moment")).to_have_count(9)
    titles = page.locator(".moment .name").all_inner_texts()
    assert titles == [
        "before-the-letters",
        "Step 45,000",
        "Step 43,750",
        "Step 42,500",
        "2026-11-27",
        "Step 41,250",
        "2026-11-26",
        "2026-11-20",
        "2026-10-31",
    ]
    assert page.locator(".day h3").count() >= 4
    expect(moment(page, "Step 45,000")).to_contain_text("verified 40")
    expect(moment(page, "Step 45,000")).to_contain_text("312\u202fMB shared")
    expect(moment(page, "2026-11-27")).to_contain_text("kept: the last of its day")
    expect(moment(page, "2026-11-20")).to_contain_text("removed soon: newer ones of its week are kept")


def test_says_what_shared_means(rooms: Rooms) -> None:
    page = rooms.go("/saved")
    page.get_by_text("What these words mean").click()
    expect(page.get_by_text("is what another one needs too")).to_be_visible()


def test_damaged_states_are_red_say_what_to_do_and_cannot_be_gone_back_to(rooms: Rooms) -> None:
    page = rooms.go("/saved")
    expect(page.locator("#damage")).to_contain_text("2 saved states are damaged")
    for title, words in (
        ("Step 42,500", "optimizer.pt has another hash"),
        ("2026-11-26", "adapter_model.safetensors is 12 bytes short"),
    ):
        one = moment(page, title)
        expect(one).to_contain_text(f"Damaged: {words}")
        expect(one.get_by_role("button")).to_have_count(0)
        red = one.locator(".trouble").evaluate("(node) => getComputedStyle(node).color")
        assert red != one.locator(".soft").first.evaluate("(node) => getComputedStyle(node).color")


def test_those_that_were_removed_are_shown_on_request(rooms: Rooms) -> None:
    page = rooms.go("/saved")
    page.get_by_role("button", name="Show 1 that were removed").click()
    expect(moment(page, "Step 40,000")).to_contain_text("removed, as newer ones are kept")
    expect(moment(page, "Step 40,000").get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize(
    ("title", "to"), [("2026-11-27", "2026-11-27"), ("Step 43,750", "checkpoint-43750"), ("Step 41,250", "41250")]
)
@pytest.mark.parametrize(
    ("words", "later", "shown"),
    [
        ("Is trained again", "again", "They are trained again, in the same order"),
        ("Waits in the queue", "queue", "They go back to the queue"),
        ("Is set aside", "shelve", "They are set aside"),
    ],
)
def test_going_back_shows_its_plan_asks_once_and_follows_the_job(
    rooms: Rooms, title: str, to: str, words: str, later: str, shown: str
) -> None:
    page = rooms.go("/saved")
    moment(page, title).get_by_role("button", name="Go back").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Back to {to} (step 44,100). The run stands at step 45,120 now.")
    dialog.get_by_label(words).check()
    expect(dialog).to_contain_text(shown)
    expect(dialog.get_by_role("button", name="Go back")).to_be_enabled()
    assert rooms.world.did("/api/rollback") == []
    dialog.get_by_role("button", name="Go back").click()
    expect(page.locator("#said")).to_have_text("Job j1 is done.")
    assert rooms.world.did("/api/rollback") == [{"to": to, "later": later, "digest": f"d1-{later}"}]


def test_an_undone_state_that_its_step_does_not_name_alone_is_not_offered(rooms: Rooms) -> None:
    rooms.world.checkpoints[3] = type(rooms.world.checkpoints[3])(
        **{**_fields(rooms.world.checkpoints[3]), "step": 44_100}
    )
    page = rooms.go("/saved")
    expect(moment(page, "Step 44,100")).to_contain_text("undone: no part of the run any more")
    expect(moment(page, "Step 44,100").get_by_role("button")).to_have_count(0)


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def test_on_a_phone_what_can_be_chosen_is_in_sight_of_a_long_plan(rooms: Rooms) -> None:
    page = rooms.go("/saved", NARROW)
    moment(page, "2026-11-27").get_by_role("button", name="Go back").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1,020 steps undone")
    buttons = [dialog.get_by_role("button", name=name) for name in ("Leave it as it is", "Go back")]

    def below(locator: Locator) -> float:
        box = locator.bounding_box()
        assert box is not None
        return box["y"] + box["height"]

    assert dialog.evaluate("(node) => node.scrollHeight - node.clientHeight") > 0, "there is more to read than fits"
    assert dialog.evaluate("(node) => node.scrollTop") == 0, "it is read from its beginning"
    assert max(below(one) for one in buttons) <= below(dialog) <= NARROW[1]
    # At its end the last words stand above the buttons.
    dialog.evaluate("(node) => { node.scrollTop = node.scrollHeight; }")
    box = dialog.locator(".actions").bounding_box()
    assert box is not None
    assert below(dialog.locator(".plan p").last) <= box["y"]
    assert below(buttons[0]) <= below(dialog)


def test_escape_leaves_everything_as_it_is(rooms: Rooms) -> None:
    page = rooms.go("/saved", NARROW)
    moment(page, "2026-11-27").get_by_role("button", name="Go back").click()
    expect(page.get_by_role("dialog")).to_contain_text("1,020 steps undone")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert rooms.world.did("/api/rollback") == []


def test_undoes_the_last_change(rooms: Rooms) -> None:
    page = rooms.go("/saved")
    page.get_by_role("button", name="Undo the last change").click()
    page.get_by_role("dialog").get_by_role("button", name="Undo it").click()
    expect(page.locator("#said")).to_have_text("Job j1 is done.")
    assert rooms.world.did("/api/rollback") == [{"to": "undo", "later": "again", "digest": "d1-again"}]


def test_without_a_change_nothing_can_be_undone(rooms: Rooms) -> None:
    rooms.world.undo = False
    page = rooms.go("/saved")
    expect(page.locator("#undo-none")).to_be_visible()
    expect(page.get_by_role("button", name="Undo the last change")).to_be_disabled()


@pytest.mark.parametrize(
    ("name", "body"), [("before-the-letters-2", {"name": "before-the-letters-2"}), ("", {"name": None})]
)
def test_takes_a_snapshot(rooms: Rooms, name: str, body: Any) -> None:
    page = rooms.go("/saved")
    page.get_by_label("Name (optional)").fill(name)
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("#said")).to_have_text("Job j1 is done.")
    assert rooms.world.did("/api/snapshot") == [body]


def test_verifies_all_after_asking(rooms: Rooms) -> None:
    rooms.world.silent = True  # the page asks how it goes when it hears nothing
    page = rooms.go("/saved")
    page.get_by_role("button", name="Verify all now").click()
    page.get_by_role("dialog").get_by_role("button", name="Verify all").click()
    expect(page.locator("#said")).to_have_text("Job j1 is done.")
    assert rooms.world.did("/api/verify") == [None]


def test_a_verify_goes_on_beside_a_snapshot_and_is_given_up(rooms: Rooms, shots: Path) -> None:
    rooms.world.patient = True
    page = rooms.go("/saved", NARROW)
    page.get_by_role("button", name="Verify all now").click()
    page.get_by_role("dialog").get_by_role("button", name="Verify all").click()
    jobs = page.locator("#jobs li")
    expect(jobs).to_contain_text("/api/verify … The trainer saves first.")
    page.get_by_role("button", name="Take it").click()
    expect(jobs).to_have_count(2)
    # What is kept is not left half done.
    expect(jobs.nth(1).get_by_role("button", name="Give up")).to_be_hidden()
    page.screenshot(path=shots / "jobs.png")
    jobs.nth(0).get_by_role("button", name="Give up").click()
    expect(page.locator("#said")).to_have_text("Reading was given up.")
    expect(jobs).to_have_count(1)
    expect(page.get_by_role("button", name="Verify all now")).to_be_enabled()
    ended(rooms.world, "j2", "done", "Took it.")
    expect(page.locator("#said")).to_have_text("Took it.")
    expect(jobs).to_have_count(0)


@pytest.mark.parametrize("path", ["/saved", "/health"])
def test_a_page_that_is_opened_while_a_job_goes_on_shows_it_and_how_it_ends(rooms: Rooms, path: str) -> None:
    rooms.world.patient = True
    begun(rooms.world, "/api/verify")
    page = rooms.go(path)
    expect(page.locator("#jobs li")).to_contain_text("/api/verify …")
    page.reload()
    expect(page.locator("#jobs li")).to_contain_text("/api/verify …")
    # A second tab of this browser joins the stream of the first.
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#jobs li")).to_contain_text("/api/verify …")
    ended(rooms.world, "j1", "done", "All are whole.")
    for one in (page, other):
        expect(one.locator("#said")).to_have_text("All are whole.")
        expect(one.locator("#jobs li")).to_have_count(0)


def test_what_is_pressed_is_not_put_anew_under_the_finger(rooms: Rooms) -> None:
    page = rooms.go("/saved")
    back = moment(page, "2026-11-27").get_by_role("button", name="Go back")
    back.hover()
    page.mouse.down()
    for _ in range(2):  # when it asks once more, what it was told before is drawn
        before = rooms.world.looked.count("api/saved")
        rooms.world.queue.pop()  # the page is told that something changed
        hold(lambda before=before: rooms.world.looked.count("api/saved") > before, page)
    page.mouse.up()
    expect(page.get_by_role("dialog")).to_contain_text("1,020 steps undone")


def test_who_gives_up_by_keyboard_is_somewhere_afterwards(rooms: Rooms) -> None:
    rooms.world.patient = True
    begun(rooms.world, "/api/verify")
    begun(rooms.world, "/api/verify")
    page = rooms.go("/health")
    first, second = (page.locator("#jobs li").nth(n).get_by_role("button", name="Give up") for n in (0, 1))
    second.focus()
    page.keyboard.press("Shift+Tab")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#jobs li")).to_have_count(1)
    expect(page.locator("#main")).to_be_focused()
    # Pressed twice it asks once, as one that is out of reach meanwhile.
    page.get_by_role("button", name="Give up").evaluate("(one) => { one.click(); one.click(); }")
    expect(page.locator("#jobs li")).to_have_count(0)
    assert [path for method, path, _ in rooms.world.asked if method == "DELETE"] == ["/api/jobs/j1", "/api/jobs/j2"]


def test_on_a_phone_many_jobs_hide_neither_the_page_nor_its_end(rooms: Rooms, shots: Path) -> None:
    rooms.world.patient = True
    for _ in range(20):
        begun(rooms.world, "/api/verify")
    page = rooms.go("/health", NARROW)
    jobs = page.locator("#jobs li")
    expect(jobs).to_have_count(20)
    box = page.locator(".telling").bounding_box()
    assert box is not None
    assert box["height"] < NARROW[1] / 2
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    end = page.locator(".foot").evaluate("""(node) => {
      const text = document.createRange();
      text.selectNodeContents(node);
      return text.getBoundingClientRect().bottom;
    }""")
    assert end <= box["y"]
    page.screenshot(path=shots / "many-jobs.png")
    # The last can be given up, too.
    jobs.nth(19).get_by_role("button", name="Give up").click()
    expect(jobs).to_have_count(19)


def test_a_job_that_went_with_the_server_is_not_waited_for_for_ever(rooms: Rooms) -> None:
    rooms.world.patient = True
    begun(rooms.world, "/api/snapshot")
    page = rooms.go("/saved")
    expect(page.locator("#jobs li")).to_have_count(1)
    rooms.world.jobs.clear()
    expect(page.locator("#said")).to_contain_text("There is no such job.")
    expect(page.locator("#jobs li")).to_have_count(0)
    rooms.visits[0].forgive("404")


def test_h4_names_of_snapshots_and_reasons_are_shown_and_not_obeyed(rooms: Rooms) -> None:
    one = rooms.world.snapshots[2]
    rooms.world.snapshots[2] = type(one)(**{**_fields(one), "name": HOSTILE, "problem": HOSTILE, "file": HOSTILE})
    page = rooms.go("/saved", NARROW)
    expect(page.locator(".moment .name", has_text=HOSTILE)).to_be_visible()
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_nothing_saved_yet_says_when_something_will_be(rooms: Rooms) -> None:
    rooms.world = World(training=None)
    page = rooms.go("/saved", NARROW)
    expect(page.locator("#timeline")).to_contain_text(
        "Nothing is saved yet. The first checkpoint is written while the first file is trained"
    )


def test_follows_what_is_saved(rooms: Rooms) -> None:
    page = rooms.go("/saved")
    expect(page.locator(".moment")).to_have_count(9)
    newest = rooms.world.checkpoints[0]
    rooms.world.checkpoints.insert(0, type(newest)(**{**_fields(newest), "step": 46_250}))
    expect(moment(page, "Step 46,250")).to_be_visible()


def test_a_failure_is_told_and_asked_again(rooms: Rooms) -> None:
    rooms.world.broken = "The ledger cannot be read."
    page = rooms.go("/saved")
    expect(page.locator("#saved-trouble")).to_contain_text("The ledger cannot be read.")
    rooms.world.broken = ""
    rooms.visits[0].may_move = True  # the trouble goes, and its room with it
    again(page)
    expect(page.locator(".moment")).to_have_count(9)
    rooms.visits[0].forgive("422")
