"""The view as text: no terminal is needed to see what it shows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from nightschool.view import drawing
from nightschool.view.drawing import ASCII, UNICODE, draw
from nightschool.view.model import View
from tests.view.making import AT, VIEW, view

AT_80 = """\
training  monday.jsonl                                               since 21:04

━━━━━━━━━━━━━━━━━━━━━━━━━━─────────────────────────────────────────────────  36%
step 431 of 1,200 of this file                  2 h 10 min left, done near 00:40

step      12,345                         loss      1.5321  ███▇▇▇▆▆▅▅▅▄▄▃▃▃▂▂▁▁▁
speed     4,312 tokens/s                 rate      0.0001
memory    2.1 GB                         GPU       17.9 GB of 25.4 GB
saved     step 12,000, 4 min ago         snapshot  2026-11-24, 19 h 30 min ago
disk      312 GB free                    files     12 learned, 1 rejected, 2 as…

31 files to come, all done near 03:45 (5 h 17 min of training)
  tuesday.jsonl                                         1,200 steps       90 min
  notizen-für-später.md                                   ~40 steps
  and 29 more

────────────────────────────────────────────────────────────────────────────────
22:23:11  Line 23 of the log.
22:24:11  Line 24 of the log.
22:25:11  Line 25 of the log.
22:26:11  Line 26 of the log.
22:27:11  Line 27 of the log.
22:28:11  Line 28 of the log.
22:29:11  Line 29 of the log.
"""


def text(page: list) -> str:
    return "".join(f"{line.plain.rstrip()}\n" for line in page)


def test_eighty_columns() -> None:
    shown = text(draw(VIEW, 80, 24))
    assert shown == AT_80


def test_two_hundred_columns_put_the_queue_beside_the_figures() -> None:
    lines = text(draw(VIEW, 200, 50)).splitlines()
    (row,) = (line for line in lines if "tuesday.jsonl" in line)
    assert row.startswith("step 431 of 1,200 of this file")
    assert row.endswith("90 min")
    assert "again.jsonl (again)" in "\n".join(lines)
    assert lines[-1] == "22:29:11  Line 29 of the log."
    assert sum("of the log" in line for line in lines) == 30


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_nothing_is_wider_or_higher_than_the_terminal(glyphs: drawing.Glyphs) -> None:
    wide = view({"reason": "日本" * 40, "state": "failed"}, trouble="no " * 50)
    for shown, width, height in itertools.product(
        (VIEW, wide, view(file_steps=0, next=(), lines=())),
        (1, 2, 7, 20, 40, 59, 60, 80, 119, 120, 200),
        (1, 2, 3, 5, 12, 24, 50),
    ):
        page = draw(shown, width, height, glyphs)
        assert 1 <= len(page) <= height
        assert all(line.cell_len <= width and "\n" not in line.plain for line in page), (width, height)


def test_control_a_line_that_is_not_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing._Page, "_cut", lambda self, line, width: line)
    with pytest.raises(AssertionError):
        test_nothing_is_wider_or_higher_than_the_terminal(UNICODE)


def test_the_state_stays_when_there_is_hardly_any_room() -> None:
    assert text(draw(VIEW, 30, 1)) == "training           since 21:04\n"
    small = text(draw(VIEW, 60, 10))
    assert "36%" in small
    assert "loss" in small


def test_a_locale_without_lines_and_blocks_gets_plain_characters() -> None:
    shown = text(draw(VIEW, 80, 24, ASCII))
    assert shown.isascii()
    assert "=====---" in shown
    assert "was 2.0000" in shown
    assert "notizen-f\\xfcr-sp\\xe4ter.md" in shown
    assert not text(draw(VIEW, 80, 24)).isascii()


def styles(state: str) -> str:
    return str(draw(view({"state": state}), 80, 24)[0].style)


def test_what_happens_now_is_yellow_and_trouble_is_red() -> None:
    assert styles("training") == "bold yellow"
    assert styles("waiting for disk") == styles("failed") == "bold red"
    assert styles("idle") == styles("outside hours") == "bold"


def test_a_loss_that_is_no_number_is_said() -> None:
    assert "not a number" in text(draw(view({"loss": None}), 80, 24))
    fresh = view({"loss": None, "learning_rate": None, "last_checkpoint": None})
    assert "loss      -\n" in text(draw(fresh, 80, 24))
    assert "saved     none yet" in text(draw(fresh, 80, 24))


def test_a_figure_has_its_place_also_while_there_is_nothing_to_say() -> None:
    def places(shown: View) -> list[tuple[int, int]]:
        labels = ("step ", "loss ", "speed ", "rate ", "memory ", "saved ", "snapshot ", "disk ", "files ")
        lines = text(draw(shown, 80, 24)).splitlines()[5:]
        return [(n, line.index(label)) for label in labels for n, line in enumerate(lines) if label in line]

    less = view({"tokens_per_second": None, "learning_rate": None, "last_snapshot": None}, trend=())
    assert places(less) == places(VIEW)


def test_the_page_is_named_while_it_is_there() -> None:
    there = replace(VIEW.status, page="http://127.0.0.1:8420")
    assert "page      http://127.0.0.1:8420" in text(draw(replace(VIEW, status=there), 80, 24))
    assert "page " not in text(draw(VIEW, 80, 24))


def test_the_file_is_named_where_the_reason_is_another() -> None:
    shown = view({"state": "starting", "reason": "the trainer loads the model"})
    assert "of 1,200 of monday.jsonl" in text(draw(shown, 80, 24))


def test_why_nothing_newer_is_shown_is_said_in_red() -> None:
    page = draw(view(trouble="The ledger is locked."), 80, 24)
    assert (page[1].plain, page[1].style) == ("The ledger is locked.", "red")


def test_e13_names_and_lines_cannot_act_on_the_terminal() -> None:
    shown = view({"reason": "a\x1b[2J.jsonl"}, lines=("2026-11-24 22:00:00  \x1b]0;x\x07",))
    assert "\x1b" not in text(draw(shown, 80, 24))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(60, "22:31"), (3000, "23:20"), (7800, "00:40"), (3 * 86400, "Fri 22:30"), (9 * 86400, "2026-12-03 22:30")],
)
def test_when_it_will_be_done(seconds: float, shown: str) -> None:
    assert drawing.done_near(AT, seconds) == shown


def test_times_of_other_days_name_the_day() -> None:
    assert drawing.clock_time(AT - timedelta(days=2), AT) == "Sun 22:30"
    assert drawing.clock_time(AT - timedelta(days=20), AT) == "2026-11-04 22:30"


def test_the_curve_spans_what_it_shows() -> None:
    assert drawing.sparkline((1.0, 2.0, 3.0), "abc") == "abc"
    assert drawing.sparkline((2.0, 2.0), "abc") == "aa"
