"""The page Health: findings, amounts, settings and the log."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.dashboard.browser.rooms import HOSTILE, World
from tests.dashboard.browser.rooms_fixtures import FORMS, Rooms
from tests.dashboard.browser.rooms_support import NARROW, again


@pytest.mark.parametrize(("size", "colours"), FORMS)
def test_findings_come_first_and_trouble_before_what_is_good(rooms: Rooms, size: Any, colours: Any) -> None:
    page = rooms.go("/health", size, colours)
    expect(page.locator("#verdict")).to_have_text("1 thing in trouble.")
    expect(page.locator(".finding .tag")).to_have_text(["Trouble", "Worth a look", "Good", "Good"])
    expect(page.locator(".finding").first).to_contain_text("Saved states: checkpoint-42500 is damaged.")
    expect(page.locator(".finding").nth(1)).to_contain_text("See whether /mnt/backup is mounted.")


def test_all_well_says_so(rooms: Rooms) -> None:
    rooms.world.findings = rooms.world.findings[:2]
    page = rooms.go("/health")
    expect(page.locator("#verdict")).to_have_text("All is well.")


def test_amounts_are_bars_with_numbers_and_units(rooms: Rooms) -> None:
    page = rooms.go("/health")
    expect(page.locator(".amount")).to_have_count(3)
    disk, gpu, memory = page.locator(".amount").all()
    expect(disk).to_contain_text("588\u202fGB of 1.0\u202fTB used, 412\u202fGB free")
    expect(gpu).to_contain_text("none, or not known")
    expect(memory.get_by_role("img")).to_have_attribute("aria-label", "97\u202f% of the computer's memory used")
    wide = [
        one.locator(".bar > span").evaluate("(bar) => bar.offsetWidth / bar.parentNode.offsetWidth")
        for one in (disk, memory)
    ]
    assert wide == pytest.approx([0.588, 0.969], abs=0.02)
    assert [one.locator(".bar").evaluate("(bar) => bar.className") for one in (disk, memory)] == ["bar", "bar trouble"]


def test_says_what_the_machine_stands_on(rooms: Rooms) -> None:
    page = rooms.go("/health", NARROW)
    expect(page.locator("#machine-facts")).to_contain_text("from 22:00 to 07:00, and all of Sunday")
    expect(page.locator("#machine-facts")).to_contain_text("one address")
    expect(page.locator("#last-trouble li")).to_have_count(1)
    page.locator("#settings-box summary").click()
    row = page.locator("#settings tr").first
    expect(row).to_contain_text("training.learning_rate")
    expect(row).to_contain_text("nightschool.toml, line 14")
    expect(row).to_contain_text("with the next file")


def test_h4_markup_in_log_lines_and_events_is_shown_and_not_obeyed(rooms: Rooms) -> None:
    page = rooms.go("/health")
    expect(page.locator(".lines .trouble")).to_contain_text(HOSTILE)
    expect(page.locator("#last-trouble")).to_contain_text(HOSTILE)
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_the_log_follows_while_its_end_is_in_sight(rooms: Rooms) -> None:
    page = rooms.go("/health")
    expect(page.locator(".lines li")).to_have_count(200)
    page.evaluate(
        """() => { const real = window.fetch; window.asked = 0; window.fetch = (...all) => {
          window.asked += 1;
          return real(...all).finally(() => { window.asked -= 1; });
        }; }"""
    )
    rooms.world.lines.append("the newest line of all")
    expect(page.locator(".lines li").last).to_have_text("the newest line of all")
    at_end = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight < 40"
    assert page.locator(".log").evaluate(at_end)
    page.locator(".log").evaluate("(box) => { box.scrollTop = 100; }")
    expect(page.locator(".log-foot")).to_contain_text("New lines wait at the end.")
    page.wait_for_function("() => window.asked === 0")  # what was asked for while the end was in sight is shown, too
    rooms.world.lines.append("not asked for yet")
    page.wait_for_timeout(2500)
    expect(page.locator(".lines li").last).to_have_text("the newest line of all")
    page.get_by_role("button", name="To the newest line").click()
    expect(page.locator(".lines li").last).to_have_text("not asked for yet")


def test_older_lines_come_above_and_what_is_read_stays_where_it_is(rooms: Rooms) -> None:
    page = rooms.go("/health")
    expect(page.locator(".lines li")).to_have_count(200)
    top = page.locator(".lines li").first
    text = top.text_content()  # also while it is not painted yet
    assert text
    page.locator(".log").evaluate("(box) => { box.scrollTop = 0; }")
    page.get_by_role("button", name="Older lines").click()
    expect(page.locator(".lines li")).to_have_count(400)
    page.get_by_role("button", name="Older lines").click()
    expect(page.locator(".lines li")).to_have_count(480)
    expect(page.get_by_role("button", name="Older lines")).to_be_disabled()
    assert page.locator(".lines li").nth(280).text_content() == text
    assert page.locator(".lines li").all_inner_texts() == rooms.world.lines


def test_searches_in_the_log(rooms: Rooms) -> None:
    page = rooms.go("/health")
    expect(page.locator(".lines li")).to_have_count(200)
    page.get_by_label("Search in the log").fill("step 40,00")
    expect(page.locator(".lines li")).to_have_count(10)
    page.get_by_label("Search in the log").fill("no such words")
    expect(page.locator(".log-foot")).to_contain_text("No line has that in it.")
    page.get_by_label("Search in the log").fill("")
    expect(page.locator(".lines li")).to_have_count(200)


def test_on_a_phone_the_settings_are_folded_and_take_few_lines_each(rooms: Rooms) -> None:
    page = rooms.go("/health", NARROW)
    rows = page.locator("#settings tr")
    expect(rows).to_have_count(3)
    expect(rows.first).to_be_hidden()
    page.locator("#settings-box summary").click()
    expect(rows.first).to_be_visible()
    # Its name and value side by side, and below them where it comes from and when a change counts.
    cells = rows.first.locator("td")
    name, value, source, effect = cells.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().bottom)")
    tops = cells.evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().top)")
    assert tops[1] < name
    assert tops[0] < value
    assert tops[3] < source
    assert tops[2] < effect


def test_an_empty_machine_says_so(rooms: Rooms) -> None:
    rooms.world = World(training=None)
    page = rooms.go("/health", NARROW)
    expect(page.locator("#last-trouble")).to_contain_text("Nothing went wrong that was written down.")
    expect(page.locator(".log-foot")).to_contain_text("The log is empty")


def test_a_failure_is_told_and_asked_again(rooms: Rooms) -> None:
    rooms.world.broken = "The ledger cannot be read."
    page = rooms.go("/health")
    expect(page.locator("#health-trouble")).to_contain_text("The ledger cannot be read.")
    rooms.world.broken = ""
    rooms.visits[0].may_move = True  # the trouble goes, and its room with it
    again(page)
    expect(page.locator(".finding")).to_have_count(4)
    rooms.visits[0].forgive("422")
