"""The overview in a browser: what it tells, that nothing moves, and that what it tells stays true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser import madeup
from tests.dashboard.browser.chart import drawn
from tests.dashboard.browser.conftest import Open, hold
from tests.dashboard.browser.served import Site

STILL = 0.02
"""Of a layout shift, at most."""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_all_is_told_and_nothing_moves(opened: Open, site: Site, shots: Path, phone: bool, dark: bool) -> None:
    page = drawn(opened(site.url, phone=phone, dark=dark))
    for text in ("Training", "since 23:04", "4,530 of 6,400 steps", "done near 03:40", "186 million in 24 h"):
        expect(page.locator("body")).to_contain_text(text)
    expect(page.locator("#f-loss")).to_have_text("1.44 nats per token")
    expect(page.locator("#f-safe")).to_have_text("step 45,000")
    expect(page.locator("#learned li").first).to_contain_text("held-out loss 2.31 → 1.87 nats per token")
    expect(page.locator("#safe")).to_contain_text("The second place was last reached 3 days ago.")
    expect(page.locator("#lately li").first).to_contain_text("Prepared")
    expect(page.get_by_role("heading", name="Add files")).to_be_attached()
    expect(page).to_have_title("Training · loss 1.44 · nightschool")
    name = f"overview-{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}.png"
    page.screenshot(path=shots / name, full_page=True)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => window.shifted") < STILL


def test_that_something_moves_would_be_seen(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    page.evaluate(
        "() => document.body.prepend(Object.assign(document.createElement('h1'), { innerText: 'Late\\nand\\nhigh' }))"
    )
    page.wait_for_function("least => window.shifted > least", arg=STILL)


def markup(page: Page) -> int:
    """How many elements came out of names and texts."""
    places = ":is(#next, #lately, #learned, #chart, #chart-card, .state)"
    return page.locator(f"{places} :is(b, script, img)").count()


def test_h4_markup_in_names_is_shown_as_text(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    expect(page.locator("#next")).to_contain_text("<b>harbour</b>.jsonl")
    expect(page.locator("#lately")).to_contain_text("<b>harbour</b>.jsonl")
    # The third file is called <script>…: over the chart, shortened, and in the card of a point.
    assert any(label.startswith("<scrip") for label in page.locator("#chart .annotation-text").all_text_contents())
    box = page.locator("#chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.23, box["y"] + 100)
    expect(page.locator("#chart-card")).to_contain_text("<script>window.stolen=1</script>.jsonl")
    assert markup(page) == 0
    assert page.evaluate("() => window.stolen") is None
    page.evaluate("() => { document.getElementById('next').innerHTML += '<b>x</b>'; }")
    assert markup(page) == 1


def test_all_is_reached_by_keyboard_and_seen(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    expect(page.get_by_role("heading", name="Add files")).to_be_attached()
    focused = """() => { const one = document.activeElement, radio = one.matches('.either input');
      const style = getComputedStyle(radio ? one.nextElementSibling : one);
      return [one.id || one.textContent.trim().slice(0, 30), style.outlineStyle, style.outlineWidth]; }"""
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement === document.body"):
            break
        name, style, width = page.evaluate(focused)
        reached.append(name)
        assert (style, width) == ("solid", "2px"), name
    assert reached[0] == "Skip to the content"
    views = {"Overview", "Queue", "Files", "Checkpoints", "Health"}
    assert views | {"theme", "closer", "chart", "The queue", "All files", "picker"} <= set(reached)


def test_an_empty_workspace_says_what_to_do_and_begins_by_itself(
    opened: Open, serve: Callable[[madeup.Run], Site], shots: Path
) -> None:
    site = serve(madeup.nothing())
    page = opened(site.url)
    expect(page.get_by_role("heading", name="Nothing to learn yet")).to_be_visible()
    expect(page.locator(".welcome")).to_contain_text("nightschool add FILE")
    expect(page.locator(".welcome")).to_contain_text("inbox/")
    expect(page).to_have_title("Idle · nightschool")
    expect(page.get_by_role("heading", name="Add files")).to_be_attached()
    page.screenshot(path=shots / "overview-empty.png", full_page=True)
    assert page.evaluate("() => window.shifted") < STILL
    place = page.locator(".chart-place").bounding_box()
    hold(lambda: site.watched > 0)
    site.run.empty, site.run.state = False, "training"
    site.train(30)
    drawn(page)
    expect(page.locator(".welcome")).to_be_hidden()
    assert page.locator(".chart-place").bounding_box() == place


def test_a_server_that_is_gone_is_told_and_found_again(opened: Open, weeks: madeup.Run) -> None:
    site = Site(weeks.copy())
    with site.served():
        port = int(site.url.rsplit(":", 1)[1])
        page = drawn(opened(site.url, troubled=True))
        expect(page.locator("#state-word")).to_have_text("Training")
        hold(lambda: site.watched > 0)
    expect(page.locator("#state-word")).to_have_text("No answer")
    expect(page.locator("#state-reason")).to_contain_text("What you see is from 23:46.")
    expect(page).to_have_title("No answer · nightschool")
    with site.served(port):
        expect(page.locator("#state-word")).to_have_text("Training")
        expect(page).to_have_title("Training · loss 1.44 · nightschool")
        page.close()


def test_a_machine_that_has_stopped_or_failed_is_told(opened: Open, site: Site) -> None:
    page = opened(site.url)
    hold(lambda: site.watched > 0)
    for state, reason, mood in (
        ("stopped", "`nightschool run` starts it", "quiet"),
        ("failed", "The disk is full. Free some room.", "trouble"),
        ("training", "learning a.txt", "now"),
    ):
        site.run.state, site.run.reason = state, reason
        site.say_now()
        expect(page.locator("#state-word")).to_have_text(state.capitalize())
        expect(page.locator("#state-reason")).to_contain_text(reason.replace("`", "")[1:])
        expect(page.locator("#state")).to_have_attribute("data-mood", mood)
        assert page.title().startswith(state.capitalize())


def test_all_tabs_of_a_browser_share_one_stream(opened: Open, site: Site) -> None:
    page = opened(site.url)
    tabs = [page, *(opened(site.url, beside=page) for _ in range(3))]
    for one in tabs:
        one.bring_to_front()
        drawn(one)
    assert site.watched == 1
    site.train(10)
    for one in tabs:
        expect(one.locator("#f-steps")).to_have_text(f"{site.run.done:,} steps")
    for one in tabs:
        one.close()
    hold(lambda: site.watched == 0)


def test_the_colours_that_were_chosen_are_kept(opened: Open, site: Site) -> None:
    page = opened(site.url)
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    expect(button).to_have_text("Colours: light")
    button.click()
    expect(button).to_have_text("Colours: dark")
    assert page.evaluate(paper) != light
    page.reload()
    expect(button).to_have_text("Colours: dark")
    assert page.evaluate(paper) != light
    button.click()
    expect(button).to_have_text("Colours: system")
    assert page.evaluate(paper) == light


def test_who_wants_no_motion_gets_none(opened: Open, site: Site) -> None:
    page = opened(site.url)
    moving = "() => getComputedStyle(document.querySelector('.lamp')).animationName"
    assert page.evaluate(moving) == "breathe"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == "none"


def test_on_a_phone_no_room_is_kept_for_a_file_where_none_is_to_come(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url, phone=True))
    height = "() => document.querySelector('#state').clientHeight"
    busy = page.evaluate(height)
    site.run.state, site.run.reason = "stopped", "`nightschool run` starts it"
    site.run.empty = True
    quiet = opened(site.url, phone=True)
    expect(quiet.locator("#state-reason")).to_have_text("nightschool run starts it.")
    assert quiet.evaluate(height) < busy - 60
    assert quiet.evaluate("() => window.shifted") < STILL


def test_what_is_to_be_looked_at_is_said_in_sentences(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    said = page.locator("#safe .note p")
    expect(said).to_have_text(
        "Second place: The second place was last reached 3 days ago. Look whether /mnt/backup is mounted."
    )
