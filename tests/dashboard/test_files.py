"""Pages of files, and all that is known of one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightschool.dashboard import files
from nightschool.dashboard.endpoints import NotThere
from nightschool.dashboard.services import Services
from nightschool.errors import DataError
from nightschool.intake import rejected
from nightschool.intake.rows import BadRow
from nightschool.ledger import Arrival, HoldoutRow, Ledger, StepRow
from nightschool.ledger.files import STATES
from nightschool.workspace import Layout
from tests.dashboard.looking import ask, longest_read, services_of
from tests.snapshots import made

NAMES = (
    "Ärger.jsonl", "a/ärger.csv", "straße.txt", "STRASSE.TXT", "<script>alert(1)</script>.jsonl", "x.jsonl", "名前.txt",
)  # fmt: skip
SEARCHES = ("", "ä", "Ä", "RGER", "SS", "ß", "<SCRIPT", "名", ".", "nowhere")

Rows = list[tuple[int, str, str]]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The four files of `made`, of which 25 steps were done."""
    return made.workspace(tmp_path, steps=25)


@pytest.fixture
def services(layout: Layout) -> Iterator[Services]:
    with services_of(layout) as found:
        yield found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, Rows]]:
    """Sixty files in all states; their numbers, names and states, newest first."""
    layout = Layout(tmp_path_factory.mktemp("many"))
    layout.create()
    with Ledger.create(layout.ledger) as ledger, ledger.transaction():
        for number in range(60):
            name = NAMES[number % len(NAMES)]
            (id,) = ledger.files.arrive([Arrival(name, f"/gone/{number}")])
            ledger.files.set_state(id, STATES[number * 7 % len(STATES)])
            if number == 30:
                ledger.files.withdraw(ledger.files.arrive([Arrival("gone", "/gone/away")])[0])
        rows = [(row.id, row.name, row.state) for row in reversed(ledger.files.listing())]
    with services_of(layout) as services:
        yield services, rows


def listed(services: Services, **query: Any) -> list[int]:
    """The numbers of all files, asked for page by page."""
    found: list[int] = []
    before: int | None = None
    while True:
        place = {} if before is None else {"before": before}
        page = ask(services, files.ENDPOINTS, "/api/files", **{**query, **place})
        assert len(page["files"]) <= query.get("limit", 50)
        found += [file["id"] for file in page["files"]]
        if page["next"] is None:
            return found
        assert before is None or page["next"] < before
        before = page["next"]


# --- pages -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 70), search=st.sampled_from(SEARCHES),
    state=st.sampled_from(["", *STATES]), at_once=st.integers(1, 70), most=st.integers(1, 200),
)  # fmt: skip
def test_pages_joined_are_all_files_newest_first(
    many: tuple[Services, Rows], limit: int, search: str, state: str, at_once: int, most: int
) -> None:
    services, rows = many
    wanted = [
        id for id, name, its in rows if (not state or its == state) and search.casefold() in name.casefold()
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "NAMES", at_once)
        patched.setattr(files, "MOST_NAMES", most)
        assert listed(services, limit=limit, search=search, state=state) == wanted


def test_names_are_found_however_their_letters_are_written(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    with Ledger.create(layout.ledger) as ledger:
        # As macOS writes it: the letter, then its dots.
        ledger.files.arrive([Arrival(unicodedata.normalize("NFD", "ÄRGER.jsonl"), "/gone/a")])
    with services_of(layout) as services:
        assert listed(services, search="ärger") == [1]
        assert listed(services, search=unicodedata.normalize("NFD", "ärger")) == [1]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(files, "folded", str.lower)
            assert listed(services, search="ärger") == [], "control: small letters alone do not find it"


def test_counts_are_of_all_files_whatever_is_asked_for(many: tuple[Services, Rows]) -> None:
    services, rows = many
    page = ask(services, files.ENDPOINTS, "/api/files", search="nowhere", state="learned")
    assert page["files"] == []
    assert page["counts"] == {state: sum(its == state for _, _, its in rows) for state in STATES}


def test_a_state_that_there_is_not_is_refused(services: Services) -> None:
    with pytest.raises(DataError, match="there are arrived, archived"):
        ask(services, files.ENDPOINTS, "/api/files", state="eaten")


def test_h4_names_are_passed_on_as_they_are(many: tuple[Services, Rows]) -> None:
    services, _ = many
    (name,) = {file["name"] for file in ask(services, files.ENDPOINTS, "/api/files", search="script")["files"]}
    assert name == "<script>alert(1)</script>.jsonl"


def test_what_was_measured_on_held_out_rows_goes_with_each_file(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.holdouts.record([HoldoutRow(0, 1, 5, 50, 2.0, 1.5), HoldoutRow(7, 1, 5, 50, 1.9, None)])
    found = {file["id"]: file for file in ask(services, files.ENDPOINTS, "/api/files")["files"]}
    assert [found[1][key] for key in ("holdout_rows", "holdout_before", "holdout_after")] == [5, 1.9, None]
    assert found[2]["holdout_rows"] is None
    assert ask(services, files.ENDPOINTS, "/api/files/{id}", "1")["file"] == found[1]


def test_h7_a_search_through_thousands_of_files_fetches_no_more_than_a_page_at_once(
    layout: Layout, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival(f"n{n}", f"/gone/{n}") for n in range(3000)])
    monkeypatch.setattr(files, "NAMES", 400)
    assert longest_read(monkeypatch, lambda: listed(services, search="n2", limit=200)) <= 400
    assert longest_read(monkeypatch, lambda: listed(services, limit=200)) <= 201


# --- one file ----------------------------------------------------------------------------------------------------


def detail(services: Services, id: int) -> dict[str, Any]:
    return ask(services, files.ENDPOINTS, "/api/files/{id}", str(id))


@pytest.mark.parametrize(
    "word", ["", "0", "5", "-1", "+1", "1.0", "1e0", " 1", "x", "../1", "..", "%2e%2e", "١", "1_0", "9" * 18, "9" * 400]
)
def test_h5_what_is_no_number_of_a_file_is_not_there(services: Services, word: str) -> None:
    with pytest.raises(NotThere):
        ask(services, files.ENDPOINTS, "/api/files/{id}", word)


def test_what_a_file_taught_is_told_by_ranges(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        # The third is interrupted after 2 steps for the fourth, and goes on afterwards.
        third, fourth = ledger.entries.get(2), (4, "d4", 10)
        ledger.entries.replace_from(2, [
            replace(third, stop=2), replace(third, parts=(fourth,)), replace(third, start=2),
        ])  # fmt: skip
        ledger.steps.record([StepRow(n, 2, n / 10, 1e-3, 1.0, 100, 90, 0.5) for n in range(21, 37)])
        ledger.steps.record([StepRow(36, 4, float("nan"), 1e-3, 1.0, 100, 90, 0.5)])
    learnt = detail(services, 3)["learnt"]
    assert [(one["first"], one["last"], one["steps"], one["steps_done"]) for one in learnt] == [
        (21, 22, 2, 2), (33, 40, 8, 4),
    ]  # fmt: skip
    assert [(one["tokens"], one["seconds"], one["alone"]) for one in learnt] == [(200, 1.0, True), (400, 2.0, True)]
    assert learnt[0]["loss_first"] == learnt[0]["loss_last"] == pytest.approx(2.15)
    assert learnt[1]["loss_last"] == pytest.approx(3.4), "without the one that is no number"
    (other,) = detail(services, 4)["learnt"]
    assert (other["first"], other["last"], other["steps_done"]) == (23, 32, 10)


def test_of_a_long_file_the_first_and_the_last_steps_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = made.workspace(tmp_path, steps=0)
    monkeypatch.setattr(files, "PORTION", 30)
    with Ledger.open(layout.ledger) as ledger:
        ledger.entries.append([(1, "d1", 50), (2, "d2", 50)], made.RECIPE, 100)
        ledger.steps.record([StepRow(n, 0, float(n), 1e-3, 1.0, 10, 9, 0.5) for n in range(1, 91)])
    with services_of(layout) as services:
        (learnt,) = detail(services, 2)["learnt"]
    assert learnt == {
        "first": 1, "last": 100, "steps": 100, "steps_done": 90, "tokens": 900, "seconds": 45.0, "loss_first": 13.0,
        "loss_last": 78.0, "began_at": learnt["began_at"], "alone": False,
    }  # fmt: skip


def test_a_file_that_has_its_steps_before_it_has_not_begun_them_yet(tmp_path: Path) -> None:
    layout = made.workspace(tmp_path, steps=20)
    with Ledger.open(layout.ledger) as ledger:
        ledger.entries.append([(3, "d3", 10)], made.RECIPE, 10)
    with services_of(layout) as services:
        (learnt,) = detail(services, 3)["learnt"]
    assert (learnt["steps_done"], learnt["tokens"], learnt["seconds"], learnt["loss_first"]) == (0, 0, None, None)


def refuse(layout: Layout, name: str, bad: int = 0) -> int:
    """A file that came, was archived, and was rejected with so many bad rows."""
    with Ledger.open(layout.ledger) as ledger:
        (id,) = ledger.files.arrive([Arrival(name, f"/dropped/{name}")])
        archive = layout.archive / "2026-11-21" / f"{id}"
        archive.parent.mkdir(exist_ok=True)
        archive.write_text(f"{id}: no rows")
        found = made.durable_hash(archive)
        ledger.files.archived(id, found.sha256, found.bytes, str(archive.relative_to(layout.root)))
        with rejected.BadRows(layout, id) as rows:
            for number in range(1, bad + 1):
                rows.add(BadRow(number, "no JSON", "<b>", f"<script>{number}</script>" + "x" * 900))
            rejected.reject(layout, ledger, ledger.files.get(id), "no row can be used", rows)
    return id


def test_of_a_rejected_file_it_is_told_where_it_lies_and_what_to_do(layout: Layout, services: Services) -> None:
    found = detail(services, refuse(layout, "bad.jsonl"))
    assert (found["rejected"], found["archive"]) == ("rejected/bad.jsonl", None)
    assert (layout.root / found["rejected"]).is_file()
    assert (layout.root / (found["rejected"] + rejected.WHY)).is_file()
    assert found["what_to_do"].startswith("Put rejected/bad.jsonl right and drop it into inbox/ again.")
    assert found["file"]["reason"] == "no row can be used"


def test_a_file_that_was_left_where_it_is_has_only_its_reason_there(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        for name in ("left.jsonl", "left.jsonl"):
            (id,) = ledger.files.arrive([Arrival(name, f"/dropped/{name}")])
            rejected.reject(layout, ledger, ledger.files.get(id), "cannot be read")
    found = detail(services, id)
    assert found["rejected"] == f"rejected/left-{id}.jsonl{rejected.WHY}"
    assert f"(file {id}, " in (layout.root / found["rejected"]).read_text()
    assert detail(services, id - 1)["rejected"] == f"rejected/left.jsonl{rejected.WHY}"


def test_h4_bad_rows_are_bounded_and_passed_on_as_they_are(layout: Layout, services: Services) -> None:
    found = detail(services, refuse(layout, "<script>/bad.jsonl", bad=250))
    assert (len(found["bad_rows"]), found["bad_rows_left_out"]) == (100, 150)
    first = found["bad_rows"][0]
    assert (first["line"], first["reason"]) == (1, "no JSON: <b>")
    assert first["row"].startswith("<script>1</script>xxx")
    assert {len(row["row"]) for row in found["bad_rows"]} == {500}


def test_two_files_of_one_name_have_each_their_own_bad_rows(layout: Layout, services: Services) -> None:
    first, second = refuse(layout, "bad.jsonl", bad=2), refuse(layout, "bad.jsonl", bad=3)
    assert len(detail(services, first)["bad_rows"]) == 2
    assert len(detail(services, second)["bad_rows"]) == 3


def test_a_file_that_is_used_has_bad_rows_too(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger, rejected.BadRows(layout, 2) as rows:
        rows.add(BadRow(7, "no JSON", "", "{"))
        rejected.keep_bad_rows(layout, ledger.files.get(2), rows)
        ledger._database.write("UPDATE files SET rows_bad = 1 WHERE id = 2")
    found = detail(services, 2)
    assert found["bad_rows"] == [{"line": 7, "reason": "no JSON", "row": "{"}]
    assert (found["bad_rows_left_out"], found["rejected"], found["what_to_do"]) == (0, None, None)


@pytest.mark.parametrize("content", ["", "no JSON\n", "[1]\n", '{"line": "x"}\n', "[" * 70_000, '{"left_out": 3}\n'])
def test_bad_rows_that_cannot_be_read_are_left_out(layout: Layout, services: Services, content: str) -> None:
    id = refuse(layout, "bad.jsonl", bad=4)
    place = layout.root / (detail(services, id)["rejected"] + rejected.BAD_ROWS)
    place.write_text(content)
    found = detail(services, id)
    assert (found["bad_rows"], found["bad_rows_left_out"]) == ([], 4)


SECRET = json.dumps({"line": 1, "reason": "a secret", "row": "a secret"}) + "\n"


@pytest.mark.parametrize("name", ["../secret", "../../secret", "/secret", "a/../../secret", ".."])
def test_h5_names_in_the_ledger_do_not_lead_out_of_the_workspace(layout: Layout, services: Services, name: str) -> None:
    (layout.root / f"secret{rejected.BAD_ROWS}").write_text(SECRET)
    (layout.root.parent / f"secret{rejected.BAD_ROWS}").write_text(SECRET)
    with Ledger.open(layout.ledger) as ledger:
        ledger._database.write("UPDATE files SET name = ?, rows_bad = 1 WHERE id = 2", (name,))
    assert detail(services, 2)["bad_rows"] == []


def test_h5_links_in_rejected_do_not_lead_out_of_it(
    layout: Layout, services: Services, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text(SECRET)
    (layout.rejected / f"2.jsonl{rejected.BAD_ROWS}").symlink_to(outside)
    with Ledger.open(layout.ledger) as ledger:
        ledger._database.write("UPDATE files SET rows_bad = 1 WHERE id = 2")
    assert detail(services, 2)["bad_rows"] == []
    by_name = {path.name: path for path in layout.rejected.iterdir()}
    monkeypatch.setattr(files, "_inside", lambda _, name: by_name.get(name))
    assert detail(services, 2)["bad_rows"][0]["row"] == "a secret", "control: without the check it is read"


def test_every_state_that_was_not_learned_says_what_to_do(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_aside(1, "shelved")
        ledger.files.set_state(3, "forgotten", "asked")
        ledger.files.set_state(4, "archived")
        ledger.files.duplicate(4, of=2)
    assert detail(services, 1)["what_to_do"].endswith("nightschool queue put-back 1")
    assert "(file 2)" in detail(services, 4)["what_to_do"]
    assert "nightschool add --again archive/2026-11-20/4.jsonl" in detail(services, 4)["what_to_do"]
    assert "nightschool add --again archive/2026-11-20/3.jsonl" in detail(services, 3)["what_to_do"]
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.purged(3)
    assert "removed for good" in detail(services, 3)["what_to_do"]
    for state in STATES:
        with Ledger.open(layout.ledger) as ledger:
            ledger.files.set_state(2, state)
        told = detail(services, 2)["what_to_do"]
        assert (told is not None) == (state in ("rejected", "duplicate", "set_aside", "forgotten")), state


def test_settings_of_a_file_are_told_and_the_machines_own_notes_are_not(layout: Layout, services: Services) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.set_option(1, "epochs", 3)
        ledger.files.set_option(1, "rest", made.RECIPE)
    assert detail(services, 1)["settings"] == {"epochs": 3}
