"""What waits, and how long it takes."""

from __future__ import annotations

import pytest

from nightschool import forecast
from nightschool.ledger import Arrival, Ledger, StepRow
from nightschool.workspace import Layout
from tests.cli.conftest import Run


def prepared(ledger: Ledger, id: int, size: int, tokens: int, sequences: int, state: str = "ready") -> None:
    ledger.files.archived(id, f"{id:064d}", size, f"archive/2026-11-22/{id}")
    ledger.files.prepared_as(
        id, f"p{id}", shape="text", rows_good=1000, rows_bad=0, tokens=tokens, label_tokens=tokens, sequences=sequences,
        data_digest=str(id),
    )  # fmt: skip
    ledger.files.set_state(id, state)  # type: ignore[arg-type]


@pytest.fixture
def filled(layout: Layout) -> Layout:
    """One file is learned, one in training (4 of 10 steps done), three wait. 100 tokens a second, 50 a step."""
    with Ledger.open(layout.ledger) as ledger:
        names = ("learned.jsonl", "now.jsonl", "ready.jsonl", "more.jsonl", "other.csv")
        arrivals = [Arrival(name, f"/gone/{name}", bytes=2000) for name in names]
        arrivals[3] = Arrival("more.jsonl", "/gone/more.jsonl", options={"epochs": 3}, bytes=2000)
        for arrival in arrivals:
            ledger.files.arrive([arrival])
        prepared(ledger, 1, 1000, 500, 20, "learned")
        prepared(ledger, 2, 1000, 500, 20, "training")
        prepared(ledger, 3, 2000, 700, 21)
        ledger.machine.set("intake", {"train_batch_size": 4, "epochs": 1, "gather_rows": 500, "prepared_bytes": 12345})
        ledger.entries.append([(1, "1", 20)], "{}", 10)
        ledger.entries.append([(2, "2", 20)], "{}", 10)
        ledger.steps.record([StepRow(n, n // 11, 1.0, 1e-4, 1.0, 50, 50, 0.5) for n in range(1, 15)])
    return layout


@pytest.mark.usefixtures("filled")
def test_the_queue_in_order_with_steps_and_time(here: Run) -> None:
    found = here("queue", "--json").json
    assert [(one["name"], one["state"], one["steps"], one["seconds"], one["estimated"]) for one in found["files"]] == [
        ("now.jsonl", "training", 6, 3.0, False),
        ("ready.jsonl", "ready", 6, 7.0, False),
        # Of three files of this kind with 4000 bytes there are 1700 tokens in 61 sequences.
        ("more.jsonl", "arrived", 3 * 8, pytest.approx(3 * 8.5), True),
        ("other.csv", "arrived", 8, pytest.approx(8.5), True),
    ]
    assert (found["waiting"], found["estimated"]) == (3, True)
    assert found["steps"] == 6 + 6 + 31, "30.5 for the two that are not prepared: they are gathered"
    assert found["seconds"] == pytest.approx(3 + 7 + 25.5 + 8.5)
    assert found["done_at"]


@pytest.mark.usefixtures("filled")
def test_the_queue_for_people(here: Run) -> None:
    lines = here("queue").out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["2", "training"], ["3", "ready"], ["4", "arrived"], ["5", "arrived"]
    ]  # fmt: skip
    assert "~24" in lines[3]
    assert "~26 s" in lines[3]
    assert "3 files wait, about 43 steps to go, about 44 s of training" in lines[5]
    assert "and 2 more" in here("queue", "-n", 1).out
    assert len(here("queue", "-n", 0, "--json").json["files"]) == 4


@pytest.mark.usefixtures("filled")
def test_status_shows_what_waits(here: Run) -> None:
    found = here("status", "--json").json
    assert (found["steps_queued"], found["seconds_left"]) == (37, pytest.approx(44.0))
    assert found["prepared_bytes"] == 12345
    text = here("status").out
    assert "about 37 steps, about 44 s of training in all" in text
    assert "12.3 kB of tokenised data" in text
    assert here("files").out.endswith("Prepared data: 12.3 kB.\n")


def test_before_anything_is_known_nothing_is_guessed(here: Run, layout: Layout) -> None:
    assert here("queue").out == "Nothing waits.\n"
    assert here("status", "--json").json["steps_queued"] == 0
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("a.jsonl", "/gone/a", bytes=10)])
    found = here("queue", "--json").json
    assert (found["steps"], found["seconds"], found["done_at"]) == (None, None, None)
    assert (found["files"][0]["steps"], found["files"][0]["estimated"]) == (None, True)
    assert here("status", "--json").json["steps_queued"] is None
    assert "1 file waits." in here("queue").out


def test_before_the_first_step_there_are_steps_and_no_time(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        ledger.files.arrive([Arrival("a.jsonl", "/gone/a", bytes=10)])
        prepared(ledger, 1, 1000, 500, 20)
        ledger.machine.set("intake", {"train_batch_size": 4, "epochs": 2})
    found = here("queue", "--json").json
    assert (found["steps"], found["seconds"]) == (10, None)
    assert "known after the first steps" in here("queue").out
    with Ledger.open(layout.ledger) as ledger:
        ledger.machine.set("trainer", {"tokens_per_second": 100.0})
    assert here("queue", "--json").json["seconds"] == 10.0, "the trainer knows before its first steps are written down"


def test_control_files_of_another_kind_are_estimated_by_what_all_gave(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        for name in ("a.jsonl", "b.csv.gz", "c.csv.gz", "d.txt"):
            ledger.files.arrive([Arrival(name, f"/gone/{name}", bytes=1000)])
        prepared(ledger, 1, 1000, 100, 4)
        prepared(ledger, 2, 1000, 700, 28)
        ledger.machine.set("intake", {"train_batch_size": 1, "epochs": 1})
    steps = {one["name"]: one["steps"] for one in here("queue", "--json").json["files"]}
    assert (steps["c.csv.gz"], steps["d.txt"]) == (28, 16)


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.JSONL", ".jsonl"), ("a/b.v2.csv.gz", ".csv.gz"), ("a.b/c", ""), (".zst", ""), ("a.txt.zst", ".txt.zst")],
)
def test_endings(name: str, ending: str) -> None:
    assert forecast.ending_of(name) == ending


def test_e16_the_sums_are_over_all_files_however_many_there_are(here: Run, layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger:
        names = [f"{n}.{'jsonl' if n % 2 else 'CSV'}" for n in range(12_000)]
        ledger.files.enter([Arrival(name, f"/gone/{name}", bytes=100) for name in names])
        first = ledger.files.queue(limit=1)[0].id
        prepared(ledger, first, 100, 100, 1)
        ledger.machine.set("intake", {"train_batch_size": 1, "epochs": 1, "gather_rows": 500})
        parts = {part.ending: part for part in ledger.amounts.to_prepare([".csv", ".jsonl"])}
    assert (parts[".csv"].files, parts[".jsonl"].files) == (5999, 6000)
    assert parts[".jsonl"].bytes == 600_000
    found = here("queue", "--json").json
    assert (found["waiting"], found["steps"], len(found["files"])) == (12_000, 12_000, 50)
