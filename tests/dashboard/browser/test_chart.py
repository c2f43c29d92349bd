"""The loss curve in a browser: looking closer, new steps, marks, and names."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser import madeup
from tests.dashboard.browser.chart import drag, drawn, trace, until, window
from tests.dashboard.browser.conftest import Open, hold
from tests.dashboard.browser.served import Site


def asked(site: Site) -> tuple[int, int]:
    """The steps that were asked for last."""
    query = parse_qs(site.run.asked[-1])
    return int(query["first"][0]), int(query["last"][0])


def test_dragging_loads_finer_steps_and_all_comes_back(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    whole = window(page)
    assert trace(page, "lowest and highest") is not None
    drag(page, 0.45, 0.47)
    until(page, "!named('lowest and highest')")
    first, last = asked(site)
    assert last - first < 1200
    assert window(page)[0] == pytest.approx(first)
    # Each step is a point of its own now.
    assert trace(page, "loss")["x"] == list(range(first, last + 1))
    page.get_by_role("button", name="All").click()
    until(page, "named('lowest and highest')")
    assert window(page) == whole
    expect(page.get_by_role("button", name="All")).to_be_disabled()


def test_zooming_on_and_on_asks_once(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    before = len(site.run.asked)
    # All in one task of the browser: none of them can come to rest.
    page.evaluate("() => { for (let n = 0; n < 5; n++) document.getElementById('closer').click(); }")
    until(page, "named('loss').x[0] > given", site.run.done / 2)
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
    seen = "(chart.layout.xaxis.range[1] - chart.layout.xaxis.range[0])"
    until(page, f"{seen} < given * 0.8", whole[1] - whole[0])


def test_keys_look_closer_and_tell(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    page.locator("#chart").focus()
    page.keyboard.press("End")
    said = page.locator("#chart-said")
    expect(said).to_contain_text("support-chats-2026-11.jsonl: loss")
    expect(page.locator("#chart-card")).to_contain_text("Gradient norm")
    page.keyboard.press("+")
    expect(said).to_contain_text("Steps 22,")
    page.keyboard.press("0")
    expect(said).to_contain_text("Steps 1 to 45,465.")
    expect(page.get_by_role("button", name="All")).to_be_disabled()


@pytest.mark.parametrize(("along", "unit"), [("Tokens", 16_384), ("Hours", 7.6 / 3600)])
def test_along_the_bottom_may_be_tokens_or_hours(opened: Open, site: Site, along: str, unit: float) -> None:
    page = drawn(opened(site.url))
    page.get_by_text(along, exact=True).click()
    until(page, "Math.abs(named('smoothed').x.at(-1) / given - 1) < 1e-6", site.run.done * unit)
    page.get_by_text("Log", exact=True).click()
    until(page, "chart.layout.yaxis.type === 'log'")
    # A drag is in what stands along the bottom; asked is always for steps.
    before = len(site.run.asked)
    drag(page, 0.5, 0.6)
    hold(lambda: len(site.run.asked) > before, page)
    first, last = asked(site)
    assert 20_000 < first < last < 30_000
    assert first * unit == pytest.approx(window(page)[0], rel=0.01)
    assert last * unit == pytest.approx(window(page)[1], rel=0.01)


def test_steps_that_were_no_number_are_marked(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    bad = page.get_by_role("button", name="Not a number 3")
    # Three steps, of which two are in one point.
    assert len(trace(page, "bad")["x"]) == 2
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "false")
    until(page, "named('bad').x.length === 0")


def test_kinds_of_marks_can_be_switched_off(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    kinds = {"Files 15": "files", "Snapshots 4": "snapshot", "Resumed 2": "resumed", "Rolled back 1": "cut"}
    for words, kind in kinds.items():
        assert trace(page, kind) is not None
        page.get_by_role("button", name=words).click()
        until(page, "!named(given)", kind)


def overlaps(page: Page) -> int:
    """How many pairs of words over the chart lie on each other."""
    return page.locator("#chart .annotation-text").evaluate_all(
        """(all) => { const boxes = all.map((one) => one.getBoundingClientRect());
        return boxes.flatMap((a, n) => boxes.slice(n + 1).filter((b) =>
          a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length; }"""
    )


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_names_over_the_chart_never_overlap(opened: Open, site: Site, phone: bool) -> None:
    page = drawn(opened(site.url, phone=phone))
    words = page.locator("#chart .annotation")
    many = words.count()
    assert many > 4
    assert overlaps(page) == 0
    words.evaluate_all("(all) => { for (const one of all) one.after(one.cloneNode(true)); }")
    assert overlaps(page) >= many


def test_new_steps_arrive_without_a_storm(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    hold(lambda: site.watched > 0)
    page.evaluate(
        """() => { window.draws = 0; const react = Plotly.react;
        Plotly.react = (...all) => { window.draws += 1; return react(...all); }; }"""
    )
    began = time.monotonic()
    for _ in range(20):
        site.train(3)
        page.wait_for_timeout(50)
    last = site.run.done
    until(page, "named('smoothed').x.at(-1) === given", last)
    assert page.evaluate("() => window.draws") <= time.monotonic() - began + 1
    expect(page.locator("#f-steps")).to_have_text(f"{last:,} steps")
    expect(page.locator("#state-done")).to_have_text("4,590 of 6,400 steps")
    assert window(page)[1] > last


def test_the_right_edge_is_followed_only_where_it_is_seen(opened: Open, site: Site) -> None:
    page = drawn(opened(site.url))
    hold(lambda: site.watched > 0)
    page.locator("#chart").focus()
    before = len(site.run.asked)
    for _ in range(4):
        page.keyboard.press("+")
    hold(lambda: len(site.run.asked) > before, page)
    first, last = window(page)
    assert last >= site.run.done
    site.train(40)
    until(page, "chart.layout.xaxis.range[1] > given", last)
    assert window(page)[0] - first == pytest.approx(40)
    page.keyboard.press("PageUp")
    until(page, "chart.layout.xaxis.range[1] < given", site.run.done)
    there = window(page)
    site.train(40)
    expect(page.locator("#f-steps")).to_have_text(f"{site.run.done:,} steps")
    page.wait_for_timeout(1200)
    assert window(page) == there


def names(page: Page) -> list[str]:
    """The names over the curve: what stands highest."""
    found = page.evaluate("() => document.getElementById('chart').layout.annotations")
    over = [one for one in found if one["yref"] == "paper"]
    return [one["text"] for one in over if one["y"] == max(each["y"] for each in over)]


@pytest.mark.parametrize("state", ["training", "idle"])
def test_on_a_phone_the_last_file_is_named_and_a_tap_names_the_others(
    opened: Open, weeks: madeup.Run, serve: Callable[[madeup.Run], Site], state: str
) -> None:
    run = weeks.copy()
    run.state = state
    page = drawn(opened(serve(run).url, phone=True))
    assert len(names(page)) == 1
    assert names(page)[0].startswith("support-chats-2026-11")
    box = page.locator("#chart").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + box["width"] * 0.37, box["y"] + 100)
    expect(page.locator("#chart-card")).to_contain_text("contracts.parquet")


def test_where_names_fit_they_are_those_of_the_widest_files(
    opened: Open, weeks: madeup.Run, serve: Callable[[madeup.Run], Site]
) -> None:
    run = weeks.copy()
    run.state = "idle"
    page = drawn(opened(serve(run).url))
    assert "contracts.parquet" in names(page)
    assert len(names(page)) > 3
