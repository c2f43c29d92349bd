"""Signing in as a browser does it: what it says of where a form came from depends on the page's own headers."""

from __future__ import annotations

from playwright.sync_api import expect

from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.services import Services
from nightschool.dashboard.signing_in import Key
from tests.dashboard.browser.conftest import Open
from tests.dashboard.conftest import TOKEN
from tests.dashboard.served import served_app


def test_who_knows_the_token_signs_in_and_is_where_they_wanted_to_be(opened: Open, services: Services) -> None:
    key = Key(TOKEN, services.layout.root)
    with served_app(guarded(services, ENDPOINTS, Rules(), key)) as there:
        page = opened(f"http://127.0.0.1:{there.port}/files", troubled=True)
        page.locator("#token").fill("not-the-token-at-all")
        page.locator("#token").press("Enter")
        expect(page.locator("#problem")).to_contain_text("not the token")
        page.locator("#token").fill(TOKEN)
        page.locator("#token").press("Enter")
        expect(page.locator("body")).to_have_attribute("data-page", "files")
        assert [cookie["name"] for cookie in page.context.cookies()] == [key.cookie]
        page.context.close()
        services.live.close()
