"""`nightschool events`, and that the page lists every kind that is written anywhere."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightschool.cli import events as command
from nightschool.ledger import Ledger
from nightschool.ledger.events import NEVER_PRUNED, PRUNE_PORTION
from nightschool.rebuilding.evidence import REBUILT
from nightschool.workspace import Layout
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src/nightschool").rglob("*.py"))
THROUGH = {"_say": 1, "_tell": 0}
"""Functions that hand a kind on to `events.add`, and where it stands among their arguments."""


def kinds(source: str, where: str = "") -> Iterator[str]:
    """Every kind that a file writes, and the kinds it asks for."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        if called.endswith(("events.add", "events.of_kind")):
            at = 0
        elif (name in THROUGH and "resume" in where + called) or (name == "_tell" and "api" in where):
            at = THROUGH[name]
        else:
            continue
        kind = node.args[at] if len(node.args) > at else None
        if isinstance(kind, ast.Constant):
            yield str(kind.value)
        elif ast.unparse(kind) == "REBUILT" if kind else False:
            yield REBUILT
        else:
            assert kind is not None
            assert ast.unparse(kind) == "kind", f"{where}: write the kind out, so that it can be found: {called}"


def written() -> set[str]:
    return {kind for path in SOURCES for kind in kinds(path.read_text(), str(path.relative_to(ROOT / "src")))}


def documented() -> set[str]:
    part = (ROOT / "docs/watching.md").read_text().partition("\n| kind | when | fields |\n")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE))


def test_every_kind_that_is_written_is_documented() -> None:
    assert written() == documented()
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", kind) for kind in documented())
    assert documented() >= set(NEVER_PRUNED)


def test_control_a_kind_that_is_not_documented_is_found() -> None:
    assert set(kinds('ledger.events.add("brand-new", "x")')) - documented() == {"brand-new"}
    with pytest.raises(AssertionError, match="write the kind out"):
        list(kinds('ledger.events.add(f"a-{b}", "x")'))


@pytest.fixture
def numbers(layout: Layout) -> list[int]:
    with Ledger.open(layout.ledger) as ledger:
        return [ledger.events.add("state" if n % 2 else "saved", f"number {n}", n=n) for n in range(30)]


def listed(text: str) -> list[int]:
    return [json.loads(line)["number"] for line in text.splitlines()]


def test_the_last_ones_or_all_after_a_number(here: Run, numbers: list[int]) -> None:
    assert listed(here("events", "--json").out) == numbers[-20:]
    assert listed(here("events", "-n", 3, "--json").out) == numbers[-3:]
    assert listed(here("events", "-n", 0, "--json").out) == []
    assert listed(here("events", "--since", 0, "--json").out)[-30:] == numbers
    assert listed(here("events", "--since", numbers[-2], "--json").out) == numbers[-1:]
    assert listed(here("events", "--since", numbers[-1], "--json").out) == []
    assert listed(here("events", "--kind", "saved", "-n", 2, "--json").out) == [numbers[-4], numbers[-2]]
    assert listed(here("events", "--kind", "saved", "--since", numbers[-4], "--json").out) == [numbers[-2]]


def test_fields_are_stable_and_text_is_a_line(here: Run, numbers: list[int]) -> None:
    (line,) = here("events", "-n", 1, "--json").out.splitlines()
    told = json.loads(line)
    assert list(told) == ["number", "at", "kind", "text", "fields"]
    assert (told["kind"], told["text"], told["fields"]) == ("state", "number 29", {"n": 29})
    (line,) = here("events", "-n", 1).out.splitlines()
    assert re.fullmatch(rf" *{numbers[-1]}  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  state +number 29", line)


def test_follow_goes_on_until_ctrl_c(
    here: Run, layout: Layout, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []

    def sleep(_: float) -> None:
        rounds.append(1)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        with Ledger.open(layout.ledger) as ledger:
            ledger.events.add("state", f"later {len(rounds)}")

    monkeypatch.setattr(command.time, "sleep", sleep)
    result = here("events", "-n", 1, "--follow")
    assert result.code == 0
    assert [line.split("  ")[-1].strip() for line in result.out.splitlines()] == ["number 29", "later 1", "later 2"]


def test_old_events_go_in_portions_and_some_kinds_stay(layout: Layout) -> None:
    with Ledger.open(layout.ledger) as ledger, ledger.transaction():
        cut = ledger.events.add("cut", "kept")
        for n in range(PRUNE_PORTION + 50):
            ledger.events.add("state", str(n))
    with Ledger.open(layout.ledger) as ledger:
        assert ledger.events.prune() == 0
        assert ledger.events.prune(keep=20) == PRUNE_PORTION
        assert 0 < ledger.events.prune(keep=20) < 50
        assert ledger.events.prune(keep=20) == 0
        left = ledger.events.since()
        assert (left[0].id, len(left)) == (cut, 21)
