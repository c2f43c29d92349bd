"""The overview in a browser: what it tells, that nothing moves, and that what it tells stays true."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from playwright.sync_api import Page, expect

from tests import ports
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
    follow_through_a_restart(opened, site, ports.kept())  # nobody else is given the port while the server is gone


def follow_through_a_restart(opened: Open, site: Site, port: int) -> None:
    with site.served(port):
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
    hold(lambda: site.watched > 0, page)  # the chart may be there before the stream is
    site.train(10)
    for one in tabs:
        expect(one.locator("#f-steps")).to_have_text(f"{site.run.done:,} steps")
    assert site.watched == 1, "all of them were told, by one stream"
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


@pytest.mark.parametrize(("done", "bad"), [(1, []), (2, []), (1, [1]), (40, range(1, 41))])
def test_a_curve_of_one_step_or_of_no_number_is_drawn(opened: Open, site: Site, done: int, bad: list[int]) -> None:
    site.run.done, site.run.bad = done, frozenset(bad)
    site.run.smooth[:done] = [math.nan if bad else 3.0] * done
    page = drawn(opened(site.url))
    expect(page.locator("#f-steps")).to_have_text(f"{done} step{'s' if done > 1 else ''}")
    expect(page.locator("#legend")).to_contain_text("Not a number" if bad else "Files")
    assert "NaN" not in page.locator("main").inner_text()


def test_a_tab_that_stays_at_the_end_lets_go_of_what_it_left_behind(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    kept = """async () => {
      const { Chart } = await import("/static/chart.js");
      const columns = await import("/static/columns.js");
      const curve = (first, last, span) => {
        const points = Array.from({ length: Math.ceil((last - first + 1) / span) }, (_, n) => n + 1);
        const step = points.map((n) => Math.min(last, first + n * span - 1));
        const made = Object.fromEntries(columns.COLUMNS.map((name) => [name, step.map(() => 1)]));
        return { ...made, step, bad: step.map(() => 0), first, last, span, generation: 1, steps_done: last };
      };
      const box = () => document.createElement("div");
      const chart = new Chart({ box: box(), card: box(), line: box(), said: box() }, null);
      chart.all = curve(0, 99_999, 100);
      chart.fine = curve(99_000, 99_999, 1);
      chart.half = 20;
      chart.range = { first: 99_000, last: 99_999 };
      let most = 0;
      for (let step = 100_000; step < 110_000; step += 1) {
        chart.add(curve(step, step, 1));
        most = Math.max(most, chart.fine?.step.length ?? 0);
      }
      clearTimeout(chart.finer);
      return [most, chart.range];
    }"""
    most, seen = page.evaluate(kept)
    assert most < 4000
    assert seen == {"first": 109_000, "last": 109_999}, "it still follows the end"


def test_a_rejected_file_is_said_to_be_rejected(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    hold(lambda: site.watched > 0)
    event = {
        "id": 500,
        "at": "2026-11-27T22:45:00+00:00",
        "kind": "file-rejected",
        "text": "a.csv: no row",
        "fields": {},
    }
    site.say("events", {"events": [event], "next": None})
    expect(page.locator("#lately li").first).to_contain_text("Rejected a.csv: no row.")


def test_times_are_those_of_the_machine_and_that_is_said_where_the_reader_has_others(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    expect(page.locator("#version")).to_have_text("nightschool 0.4.0")
    now = msgspec.to_builtins(madeup.now(site.run))
    hold(lambda: site.watched > 0)
    site.say("now", {**now, "utc_offset": -12_600})
    expect(page.locator("#version")).to_have_text("times are those of the machine, UTC−3:30; nightschool 0.4.0")
    expect(page.locator("#state-since")).to_have_text("since 18:34")
