"""The overview in a browser: what it shows, that it stays where it is, and that the chart can be looked into."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser import madeup
from tests.dashboard.browser.conftest import Open
from tests.dashboard.browser.served import Site

DRAWN = "() => performance.getEntriesByName('chart').length > 0 && document.getElementById('chart').layout.yaxis6"
STILL = 0.02
"""Of a layout shift, at most."""


def drawn(page: Page) -> Page:
    """The page, once all of its chart is drawn."""
    page.wait_for_function(DRAWN)
    return page


def window(page: Page) -> tuple[float, float]:
    """The ends of what is seen of the chart."""
    first, last = page.evaluate("() => document.getElementById('chart').layout.xaxis.range")
    return first, last


def trace(page: Page, name: str) -> Any:
    """A trace of the chart, by name; None where it is not drawn."""
    return page.evaluate("name => document.getElementById('chart').data.find((one) => one.name === name) ?? null", name)


def drag(page: Page, begin: float, end: float) -> None:
    """Drag over the curve, from one part of its width to another."""
    box = page.locator("#chart").bounding_box()
    assert box is not None
    y = box["y"] + 130
    page.mouse.move(box["x"] + box["width"] * begin, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, y, steps=6)
    page.mouse.up()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_all_is_told_and_nothing_moves(opened: Open, site: Site, shots: Path, phone: bool, dark: bool) -> None:
    page = drawn(opened(site.url, phone=phone, dark=dark))
    for text in ("Training", "since 23:04", "4,530 of 6,400 steps", "done near 03:40", "186 million in 24 h"):
        expect(page.locator("body")).to_contain_text(text.replace("4 h", "4\u202fh"))
    expect(page.locator("#f-loss")).to_have_text("1.44 nats per token")
    expect(page.locator("#f-safe")).to_have_text("step 45,000")
    expect(page.locator("#learned li").first).to_contain_text("held-out loss 2.31 → 1.87 nats per token")
    expect(page.locator("#safe")).to_contain_text("The second place was last reached 3 days ago.")
    expect(page.locator("#lately li").first).to_contain_text("Prepared")
    expect(page.get_by_role("heading", name="Add files")).to_be_attached()
    expect(page).to_have_title("Training · loss 1.44 · nightschool")
    page.screenshot(path=shots / f"overview-{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}.png", full_page=True)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => window.shifted") < STILL


def test_that_something_moves_would_be_seen(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    page.evaluate("() => { const late = document.createElement('div'); late.style.height = '200px'; document.body.prepend(late); }")
    page.wait_for_function("least => window.shifted > least", arg=STILL)


def markup(page: Page) -> int:
    """How many elements came out of names and texts."""
    return page.evaluate(
        "() => document.querySelectorAll(':is(#next, #lately, #learned, #chart, #chart-card, .state) :is(b, script, img)').length"
    )


def test_h4_markup_in_names_is_shown_as_text(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    expect(page.locator("#next")).to_contain_text("<b>harbour</b>.jsonl")
    expect(page.locator("#lately")).to_contain_text("<b>harbour</b>.jsonl")
    # The third file is called <script>…: over the chart, shortened, and in the card of a point.
    labels = page.evaluate("() => [...document.querySelectorAll('#chart .annotation-text')].map((one) => one.textContent)")
    assert any(label.startswith("<scrip") for label in labels)
    page.locator("#chart").focus()
    box = page.locator("#chart").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.23, box["y"] + 100)
    expect(page.locator("#chart-card")).to_contain_text("<script>window.stolen=1</script>.jsonl")
    assert markup(page) == 0
    assert page.evaluate("() => window.stolen") is None
    page.evaluate("() => { document.getElementById('next').innerHTML += '<b>x</b>'; }")
    assert markup(page) == 1


def test_dragging_loads_finer_steps_and_all_comes_back(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    whole = window(page)
    assert trace(page, "lowest and highest") is not None
    drag(page, 0.45, 0.47)
    page.wait_for_function("() => !document.getElementById('chart').data.some((one) => one.name === 'lowest and highest')")
    first, last = window(page)
    asked = parse_qs(site.run.asked[-1])
    assert int(asked["last"][0]) - int(asked["first"][0]) < 1200
    assert int(asked["first"][0]) == pytest.approx(first)
    # Each step is a point of its own now.
    steps = trace(page, "loss")["x"]
    assert [b - a for a, b in zip(steps, steps[1:], strict=False)] == [1] * (len(steps) - 1)
    assert last - first < (whole[1] - whole[0]) / 20
    page.get_by_role("button", name="All").click()
    page.wait_for_function("() => document.getElementById('chart').data.some((one) => one.name === 'lowest and highest')")
    assert window(page) == whole
    expect(page.get_by_role("button", name="All")).to_be_disabled()


def test_zooming_on_and_on_asks_once(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    before = len(site.run.asked)
    # All in one task of the browser: none of them can come to rest.
    page.evaluate("() => { for (let n = 0; n < 5; n++) document.getElementById('closer').click(); }")
    page.wait_for_function("() => document.getElementById('chart').data[0].x.length > 1000 && !document.getElementById('chart').data.some((one) => one.name === 'lowest and highest' && one.x[0] < 100)")
    assert len(site.run.asked) - before == 1


def test_the_wheel_zooms_only_where_it_is_meant(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    whole = window(page)
    page.locator("#chart").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    assert window(page) == whole
    page.locator("#chart").click()
    page.mouse.wheel(0, -300)
    page.wait_for_function("wide => { const [a, b] = document.getElementById('chart').layout.xaxis.range; return b - a < wide * 0.8; }", arg=whole[1] - whole[0])


@pytest.mark.parametrize(("along", "unit"), [("Tokens", 16_384), ("Hours", 7.6 / 3600)])
def test_along_the_bottom_may_be_tokens_or_hours(opened: Open, site: Site, along: str, unit: float) -> None:
    page = drawn(opened(site.url))
    page.get_by_text(along, exact=True).click()
    page.wait_for_function("end => Math.abs(document.getElementById('chart').data.find((one) => one.name === 'smoothed').x.at(-1) - end) < end / 1e6", arg=site.run.done * unit)
    page.get_by_text("Log", exact=True).click()
    page.wait_for_function("() => document.getElementById('chart').layout.yaxis.type === 'log'")
    # A drag is in what stands along the bottom; asked is always for steps.
    drag(page, 0.45, 0.55)
    page.wait_for_function("() => document.getElementById('chart').layout.xaxis.range[0] > 1")
    page.wait_for_timeout(600)
    first, last = window(page)
    asked = parse_qs(site.run.asked[-1])
    assert int(asked["first"][0]) * unit == pytest.approx(first, rel=0.01)
    assert int(asked["last"][0]) * unit == pytest.approx(last, rel=0.01)


def test_steps_that_were_no_number_are_marked(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    bad = page.get_by_role("button", name="Not a number 3")
    expect(bad).to_be_visible()
    # Three steps, of which two are in one point.
    assert len(trace(page, "bad")["x"]) == 2
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "false")
    page.wait_for_function("() => document.getElementById('chart').data.find((one) => one.name === 'bad').x.length === 0")


def test_kinds_of_marks_can_be_switched_off(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    for words, kind in (("Files 15", "files"), ("Snapshots 4", "snapshot"), ("Resumed 2", "resumed"), ("Rolled back 1", "cut")):
        assert trace(page, kind) is not None
        page.get_by_role("button", name=words).click()
        page.wait_for_function("kind => !document.getElementById('chart').data.some((one) => one.name === kind)", arg=kind)


def test_names_over_the_chart_never_overlap(opened: Open, site: Site) -> None:
    overlap = """() => {
      const boxes = [...document.querySelectorAll('#chart .annotation-text')].map((one) => one.getBoundingClientRect());
      return boxes.flatMap((a, n) => boxes.slice(n + 1).filter((b) =>
        a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length; }"""
    for phone in (False, True):
        page = drawn(opened(site.url, phone=phone))
        assert page.locator("#chart .annotation-text").count() > 4
        assert page.evaluate(overlap) == 0
        page.evaluate("() => { const one = document.querySelector('#chart .annotation-text'); one.parentNode.append(one.cloneNode(true)); }")
        assert page.evaluate(overlap) == 1


def test_new_steps_arrive_without_a_storm(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    page.evaluate("() => { window.draws = 0; const react = Plotly.react; Plotly.react = (...all) => { window.draws += 1; return react(...all); }; }")
    began = time.monotonic()
    for _ in range(20):
        site.train(3)
        page.wait_for_timeout(50)
    last = site.run.done
    page.wait_for_function("last => document.getElementById('chart').data.find((one) => one.name === 'smoothed').x.at(-1) === last", arg=last)
    page.wait_for_timeout(100)
    assert page.evaluate("() => window.draws") <= time.monotonic() - began + 1
    expect(page.locator("#f-steps")).to_have_text(f"{last:,} steps")
    expect(page.locator("#state-done")).to_have_text("4,590 of 6,400 steps")
    assert window(page)[1] > last


def test_the_right_edge_is_followed_only_where_it_is_seen(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    page.locator("#chart").focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.wait_for_timeout(600)
    before = window(page)
    assert before[1] >= site.run.done
    site.train(40)
    page.wait_for_function("end => document.getElementById('chart').layout.xaxis.range[1] > end", arg=before[1])
    after = window(page)
    assert after[0] - before[0] == pytest.approx(40)
    page.keyboard.press("PageUp")
    page.wait_for_timeout(600)
    before = window(page)
    assert before[1] < site.run.done
    site.train(40)
    expect(page.locator("#f-steps")).to_have_text(f"{site.run.done:,} steps")
    page.wait_for_timeout(1200)
    assert window(page) == before


def test_all_is_reached_by_keyboard_and_seen(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    expect(page.get_by_role("heading", name="Add files")).to_be_attached()
    focused = """() => { const one = document.activeElement; const style = getComputedStyle(one);
      const shown = one.nextElementSibling && one.matches('.either input') ? getComputedStyle(one.nextElementSibling) : style;
      return [one.id || one.textContent.trim().slice(0, 30), shown.outlineStyle, shown.outlineWidth]; }"""
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, style, width = page.evaluate(focused)
        if page.evaluate("() => document.activeElement === document.body"):
            break
        reached.append(name)
        assert (style, width) == ("solid", "2px"), name
    assert reached[0] == "Skip to the content"
    for name in ("Overview", "Queue", "Files", "Checkpoints", "Health", "theme", "closer", "chart", "The queue", "All files"):
        assert name in reached
    page.locator("#chart").focus()
    page.keyboard.press("End")
    expect(page.locator("#chart-said")).to_contain_text("support-chats-2026-11.jsonl: loss")
    page.keyboard.press("+")
    expect(page.locator("#chart-said")).to_contain_text("Steps 22,")
    page.keyboard.press("0")
    expect(page.get_by_role("button", name="All")).to_be_disabled()


def test_an_empty_workspace_says_what_to_do_and_begins_by_itself(opened: Open, serve: Callable[[madeup.Run], Site], shots: Path) -> None:
    site = serve(madeup.nothing())
    page = opened(site.url)
    expect(page.get_by_role("heading", name="Nothing to learn yet")).to_be_visible()
    expect(page.locator(".welcome")).to_contain_text("nightschool add FILE")
    expect(page.locator(".welcome")).to_contain_text("inbox/")
    expect(page).to_have_title("Idle · nightschool")
    page.wait_for_timeout(300)
    page.screenshot(path=shots / "overview-empty.png", full_page=True)
    assert page.evaluate("() => window.shifted") < STILL
    place = page.locator(".chart-place").bounding_box()
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
    expect(page.locator("#state-word")).to_have_text("No answer")
    expect(page.locator("#state-reason")).to_contain_text("What you see is from 23:46.")
    expect(page).to_have_title("No answer · nightschool")
    with site.served(port):
        expect(page.locator("#state-word")).to_have_text("Training")
        expect(page).to_have_title("Training · loss 1.44 · nightschool")


def test_a_machine_that_has_stopped_or_failed_is_told(opened: Open, site: Site) -> None:
    page = opened(site.url)
    for state, reason, mood in (
        ("stopped", "`nightschool run` starts it", "quiet"),
        ("failed", "The disk is full. Free some room.", "trouble"),
        ("training", "learning a.txt", "now"),
    ):
        site.run.state, site.run.reason = state, reason
        page.wait_for_function("() => true")
        _until(lambda: site.watched > 0)
        site.say_now()
        expect(page.locator("#state-word")).to_have_text(state.capitalize())
        expect(page.locator("#state-reason")).to_contain_text(reason.replace("`", "")[1:])
        expect(page.locator("#state")).to_have_attribute("data-mood", mood)
        assert page.title().startswith(state.capitalize())


def test_all_tabs_of_a_browser_share_one_stream(opened: Open, site: Site) -> None:
    page = opened(site.url)
    others = [opened(site.url, beside=page) for _ in range(3)]
    for one in (page, *others):
        drawn(one)
    assert site.watched == 1
    site.train(10)
    for one in (page, *others):
        expect(one.locator("#f-steps")).to_have_text(f"{site.run.done:,} steps")
    for one in (page, *others):
        one.close()
    _until(lambda: site.watched == 0)


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


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to hold")
