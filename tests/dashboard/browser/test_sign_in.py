"""Signing in with a browser, which sends more than the form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.services import Services
from nightschool.dashboard.signing_in import Key
from tests.dashboard.browser.conftest import Open
from tests.dashboard.browser.rooms_support import serving
from tests.snapshots import made

TOKEN = "a token of many letters"


def at_rest(page: Page, path: str) -> None:
    """Wait until the page has been answered all that it asks by itself: at its start, and again as its stream opens."""
    page.wait_for_function(
        """(path) => performance.getEntriesByType("resource")
          .filter((one) => new URL(one.name).pathname === path).length >= 2""",
        arg=path,
    )


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    layout = made.workspace(tmp_path / "my-model", steps=10)
    services = Services(layout)
    with serving(guarded(services, ENDPOINTS, Rules(), Key(TOKEN, layout.root))) as found:
        yield found
    services.close()


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_a_browser_signs_in_and_is_led_on(opened: Open, address: str, shots: Path, phone: bool) -> None:
    page = opened(f"{address}/health", phone=phone, dark=phone, troubled=True)
    expect(page.locator("#token")).to_be_focused()
    page.screenshot(path=shots / f"sign-in-{'phone' if phone else 'desk'}.png")
    assert "my-model" not in page.content(), "who has not signed in is not told what this is"
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.locator("#token").fill("another token of letters")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the token of this page")
    expect(page.locator("#token")).to_be_focused()
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_have_text("Health")
    expect(page.locator(".finding").first).to_be_visible()


def test_what_stands_behind_the_sign_of_number_in_an_address_is_not_lost(opened: Open, address: str) -> None:
    page = opened(f"{address}/files#2", troubled=True)
    page.locator("#token").fill("another token of letters")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("not the token of this page")
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1.name")).to_have_text("2.jsonl")
    assert page.url == f"{address}/files#2"
    # And where it is only found out by what the page asks for: for that, and not for what it asks by itself.
    at_rest(page, "/api/files")
    page.context.clear_cookies()
    page.evaluate("() => { setTimeout(() => { location.hash = '#1'; }, 50); }")
    expect(page.locator("#token")).to_be_focused()
    page.locator("#token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("h1.name")).to_have_text("1.jsonl")
    assert page.url == f"{address}/files#1"


def test_whoever_signs_in_at_once_does_not_outrun_what_keeps_the_rest_of_the_address(
    opened: Open, address: str
) -> None:
    """A password manager sends the form as soon as there is one."""
    page = opened(f"{address}/", troubled=True)
    page.add_init_script(
        f"""addEventListener("readystatechange", () => {{
          const field = document.getElementById("token");
          if (document.readyState !== "interactive" || !field) return;
          field.value = {TOKEN!r};
          field.form.requestSubmit();
        }}, true);"""
    )
    page.goto(f"{address}/files#2")
    expect(page.locator("h1.name")).to_have_text("2.jsonl")


def test_whoever_is_signed_out_meanwhile_is_asked_again(opened: Open, address: str) -> None:
    page = opened(f"{address}/saved", troubled=True)
    page.locator("#token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Checkpoints and snapshots")
    expect(page.locator("#take")).to_be_visible()
    at_rest(page, "/api/saved")
    page.context.clear_cookies()
    page.get_by_role("button", name="Take it").click()
    expect(page.locator("#token")).to_be_focused()
    assert page.url.endswith("/sign-in?next=%2Fsaved")
