"""`nightschool notify`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nightschool.workspace import Layout
from tests.cli.conftest import Run
from tests.telling.servers import dead_port, server, silent

PASSWORD = "hunter2secret"


def set_to(layout: Layout, text: str) -> None:
    kept = layout.settings_file.read_text().partition("[notify]")[0]
    layout.settings_file.write_text(f"{kept}\n[notify]\n{text}\n")


def test_without_an_address_it_says_how_to_set_one(here: Run) -> None:
    result = here("notify", "--test")
    assert result.code == 3
    assert "notify.webhook" in result.err
    assert "notify.urls" in result.err


def test_each_address_is_tried_and_told_about(here: Run, layout: Layout) -> None:
    with server() as good:
        set_to(layout, f'webhook = "{good.url}"\nurls = ["json://me:{PASSWORD}@127.0.0.1:{dead_port()}/{PASSWORD}"]')
        result = here("notify", "--test")
        assert result.code == 1
        assert len(result.out.splitlines()) == 2
        assert "notify.urls, number 1 (json://...): did not arrive. apprise could not send it" in result.out
        assert f"notify.webhook (http://127.0.0.1:{good.port}/...): arrived" in result.out
        assert PASSWORD not in result.out + result.err
        assert [got["kind"] for got in good.got] == ["test"]
        assert [one["arrived"] for one in here("notify", "--test", "--json").json] == [False, True]


def test_exit_code_0_where_it_arrives_everywhere(here: Run, layout: Layout) -> None:
    with server() as good:
        set_to(layout, f'webhook = "{good.url}"')
        assert here("notify", "--test").code == 0


def test_without_test_it_shows_and_sends_nothing(here: Run, layout: Layout) -> None:
    with server() as good:
        set_to(layout, f'webhook = "http://x:{PASSWORD}@127.0.0.1:{good.port}/{PASSWORD}"')
        result = here("notify")
        assert (result.code, good.got) == (0, [])
        assert result.out.startswith(f"notify.webhook (http://127.0.0.1:{good.port}/...)\n")
        assert PASSWORD not in result.out
        assert here("notify", "--json").json["targets"][0]["waiting"] == 0


def test_without_apprise_the_extra_is_named(here: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    set_to(layout, 'urls = ["json://x"]')
    result = here("notify", "--test")
    assert result.code == 1
    assert "pip install 'nightschool[notify]'" in result.out


@pytest.mark.parametrize("text", [f'urls = "tgram://{PASSWORD}"', f"urls = [{{x = '{PASSWORD}'}}]", "webhook = 1"])
def test_a_setting_of_the_wrong_kind_is_named_without_its_value(here: Run, layout: Layout, text: str) -> None:
    set_to(layout, text)
    result = here("notify")
    assert result.code == 3
    assert "notify." in result.err
    assert PASSWORD not in result.err


def test_the_program_ends_though_a_server_hangs(layout: Layout) -> None:
    """As a process, since what could keep it are threads that Python waits for at its end."""
    with silent() as port:
        set_to(layout, f'urls = ["json://127.0.0.1:{port}/?rto=3600&cto=3600"]')
        code = (
            "import sys; from nightschool.cli import main, notify; notify.PATIENCE = 0.5;"
            f"sys.exit(main(['-C', {str(layout.root)!r}, 'notify', '--test']))"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "did not come to an end within 0.5 s" in done.stdout


def test_the_listing_of_settings_says_only_that_an_address_is_set(here: Run, layout: Layout) -> None:
    set_to(layout, f'webhook = "http://x:{PASSWORD}@y/"\nurls = ["json://{PASSWORD}"]')
    for arguments in (["settings"], ["settings", "--json"]):
        result = here(*arguments)
        assert PASSWORD not in result.out
        assert result.out.count("(set, not shown)") >= 2
    assert "(set, not shown)" not in here("settings").out.partition("notify.on ")[2]
