"""The corpus, through the real intake and through `preview`: both must say what was written down by hand.

Kinds of files, and the shapes that they hold here; each as it is, as .gz and as .zst:

                                    jsonl      array   indented    wrapped    objects    parquet        csv semicolons        tsv       text   markdown
messages                                3          3          3          3          3          3          3          3          3          -          -
content in parts                        3          3          3          3          3          3          3          3          3          -          -
tools                                   3          3          3          3          3          3          3          3          3          -          -
sharegpt                                3          3          3          3          3          3          3          3          3          -          -
sharegpt with calls                     3          3          3          3          3          3          3          3          3          -          -
alpaca                                  3          3          3          3          3          3          3          3          3          -          -
alpaca with history                     3          3          3          3          3          3          3          3          3          -          -
prompt+completion                       3          3          3          3          3          3          3          3          3          -          -
prompt+completion of messages           3          3          3          3          3          3          3          3          3          -          -
question+answer                         3          3          3          3          3          3          3          3          3          -          -
text                                    3          3          3          3          3          3          3          3          3          3          3
rows put right                          3          3          3          3          3          3          3          3          3          -          -
mixed                                   3          3          3          3          3          3          -          -          -          -          -
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightschool.intake import prepare, preview, reading, rejected, tokenise
from nightschool.intake.containers import streams
from nightschool.intake.preview import Preview
from tests import tiny

from . import corpus, corpus_bad
from .containers.files import PACKED, WRITERS, jsonl
from .corpus import DOCUMENTS, GOOD, HOLDS, SHAPES, TABLES, Case, by_hand
from .through import Intake, Outcome, quick

BAD = corpus_bad.CASES
ALL = [*GOOD.values(), *BAD.values()]


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with the corpus's template."""
    folder = tiny.make_tokenizer(tmp_path_factory.mktemp("knowing"), corpus.TEMPLATE)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def results(knowing: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Outcome, Preview]]:
    """What became of every file; those with the same settings go through one workspace, all at once."""
    found: dict[str, tuple[Outcome, Preview]] = {}
    root = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch, quick():
        patch.setattr(streams, "ALWAYS", 16 << 20)
        for settings, cases in itertools.groupby(sorted(ALL, key=_settings), key=_settings):
            intake = Intake(
                root / str(len(found)), knowing, **dict(next(c for c in ALL if _settings(c) == settings).settings)
            )
            found |= outcomes(intake, list(cases))
    return found


def _settings(case: Case) -> str:
    return repr(case.settings)


def outcomes(intake: Intake, cases: list[Case]) -> dict[str, tuple[Outcome, Preview]]:
    numbers = {case.name: intake.place.drop(case.name, case.data, again=True, **_options(case)) for case in cases}
    intake.work()
    return {
        case.name: (intake.outcome(numbers[case.name]), intake.preview(case.name, case.data, **_options(case)))
        for case in cases
    }


def _options(case: Case) -> dict[str, Any]:
    return {"columns": case.columns} if case.columns else {}


# --- what is compared


def check(case: Case, outcome: Outcome, seen: Preview) -> None:
    """Everything that became of a file is what was written down, and `preview` said so before."""
    sequences = []
    for number, marked in case.rows:
        ids, train = by_hand(marked)
        sequences.append((ids, train, [len(ids)], [number - 1]))
    if case.problem is not None:
        sequences = []
    bad = [(row["line"], row["reason"]) for row in outcome.bad]
    assert bad == list(case.bad)
    assert outcome.kept == case.data
    assert (outcome.state, outcome.reason) == ("ready" if case.problem is None else "rejected", case.problem)
    assert outcome.sequences == sequences
    assert (seen.container, seen.problem) == (case.container, case.problem)
    assert [(row["line"], row["reason"]) for row in seen.bad_rows] == bad
    assert seen.bad_rows == outcome.bad
    if case.problem is not None:
        assert outcome.digest is None
        return
    counts = outcome.meta["counts"]
    good = len({number for number, _ in case.rows}) + (case.name.startswith("e0"))
    wanted = {
        "rows_good": good, "rows_bad": len(bad), "tokens": sum(len(s[0]) for s in sequences),
        "label_tokens": sum(sum(s[1]) for s in sequences), "sequences": len(sequences), "rows_held_out": 0,
        "repairs": {}, "rows_truncated": 0, "rows_split": 0, "tokens_cut": 0, "unlearned_sequences": 0, **case.counts,
    }  # fmt: skip
    assert counts == wanted
    assert (outcome.meta["container"], outcome.meta["shape"]) == (case.container, case.shape)
    assert (outcome.rows_good, outcome.rows_bad) == (good, len(bad))
    said = {key: getattr(seen, key) for key in wanted if key != "unlearned_sequences"}
    assert said == {key: value for key, value in counts.items() if key != "unlearned_sequences"}
    assert (seen.shape, seen.complete) == (case.shape, True)
    shown = [(part.row, marked_again(part)) for sequence in seen.examples for part in sequence]
    assert shown == list(case.rows[: preview.EXAMPLES])


def marked_again(part: preview.Part) -> str:
    """A row as `preview` shows it, written as the corpus writes it."""
    return "".join(f"⟦{piece.text}⟧" if piece.learned else piece.text for piece in part.pieces)


def named(start: str) -> list[Case]:
    found = [case for name, case in BAD.items() if name.startswith(start)]
    assert found, start
    return found


def of(*cases: Case) -> Callable[..., Any]:
    return pytest.mark.parametrize("case", cases, ids=str)


# --- the tests


@of(*GOOD.values())
def test_a11_every_container_with_every_shape_gives_the_tokens_and_masks_by_hand(case, results):
    check(case, *results[case.name])


@of(*named("e7 "))
def test_e7_nothing_in_it(case, results):
    check(case, *results[case.name])


@of(*named("e8 "))
def test_e8_malformed_rows_and_damaged_files(case, results):
    check(case, *results[case.name])


@of(*named("e9 "))
def test_e9_rows_of_no_measure(case, results):
    check(case, *results[case.name])


@of(*named("e10 "))
def test_e10_encodings_and_what_is_no_text(case, results):
    check(case, *results[case.name])


@of(*named("e11 "))
def test_e11_values_that_json_does_not_have(case, results):
    check(case, *results[case.name])


@of(*named("e12 "))
def test_e12_separators_that_are_no_line_breaks(case, results):
    check(case, *results[case.name])


@of(*named("e14 "))
def test_e14_bombs(case, results):
    check(case, *results[case.name])


@of(*named("e17 "))
def test_e17_nothing_to_learn(case, results):
    check(case, *results[case.name])


@of(*named("e18 "))
def test_e18_roles_that_make_no_sense(case, results):
    check(case, *results[case.name])


@of(*named("e19 "))
def test_e19_content_that_is_no_text(case, results):
    check(case, *results[case.name])


@of(*named("e22 "))
def test_e22_rows_that_are_too_long(case, results):
    check(case, *results[case.name])


@of(*named("unsupported "), *named("columns "), *named("one row "))
def test_what_is_not_supported_and_what_is_told_by_hand(case, results):
    check(case, *results[case.name])


# --- that nothing is missing


def test_the_table_is_what_the_corpus_holds():
    text = __doc__ or ""
    assert corpus.table(GOOD) in text, f"write this in its place:\n{corpus.table(GOOD)}"
    assert set(HOLDS) == {*WRITERS, *DOCUMENTS}
    for kind in HOLDS:
        missing = set(SHAPES) - set(HOLDS[kind])
        assert missing == (set(SHAPES) - {"text"} if kind in DOCUMENTS else {"mixed"} if kind in TABLES else set())
        assert {(kind, shape, packed) for shape in HOLDS[kind] for packed in PACKED} <= set(GOOD)
    assert {"container": {c.container for c in GOOD.values()}} == {
        "container": {
            kind + packed
            for kind in ("jsonl", "json", "csv", "tsv", "parquet", "text", "markdown")
            for packed in PACKED
        }
    }
    assert len(ALL) >= 120
    assert len({case.name for case in ALL}) == len(ALL)


def test_control_a_case_that_is_left_out_is_missed(monkeypatch):
    monkeypatch.delitem(GOOD, ("tsv", "alpaca", ".zst"))
    with pytest.raises(AssertionError):
        test_the_table_is_what_the_corpus_holds()


def test_every_row_of_section_e_has_a_test_here():
    own = {int(n) for name in globals() for n in re.findall(r"^test_e(\d+)_", name)}
    assert own == set(range(1, 23))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_written_by_hand_was_counted_by_hand(shape):
    sequences = [by_hand(marked) for marked in SHAPES[shape].become]
    counted = sum(len(ids) for ids, _ in sequences), sum(sum(train) for _, train in sequences)
    assert counted == SHAPES[shape].counted


def test_the_tokens_by_hand_are_those_of_the_tokenizer(marked):
    tokenizer = tokenise.load_tokenizer(marked)
    text = "".join(map(chr, range(300))) + "\u2028\U0001f600" + "".join(tiny.SPECIALS)
    assert by_hand(text)[0] == tokenizer(text, add_special_tokens=False)["input_ids"]
