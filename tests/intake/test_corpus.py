"""The corpus, through the real intake and through `preview`: both must say what was written down by hand.

Kinds of files, and the shapes that they hold here; each as it is, as .gz and as .zst:

                                jsonl  array  indented  wrapped  objects  parquet  csv  semicolons  tsv  text  markdown
messages                            3      3         3        3        3        3    3           3    3     -         -
content in parts                    3      3         3        3        3        3    3           3    3     -         -
tools                               3      3         3        3        3        3    3           3    3     -         -
sharegpt                            3      3         3        3        3        3    3           3    3     -         -
sharegpt with calls                 3      3         3        3        3        3    3           3    3     -         -
alpaca                              3      3         3        3        3        3    3           3    3     -         -
alpaca with history                 3      3         3        3        3        3    3           3    3     -         -
prompt+completion                   3      3         3        3        3        3    3           3    3     -         -
prompt+completion of messages       3      3         3        3        3        3    3           3    3     -         -
question+answer                     3      3         3        3        3        3    3           3    3     -         -
text                                3      3         3        3        3        3    3           3    3     3         3
rows put right                      3      3         3        3        3        3    3           3    3     -         -
mixed                               3      3         3        3        3        3    -           -    -     -         -
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightschool import durable
from nightschool.intake import accept, preview, reading, rejected, tokenise, watch, worker
from nightschool.intake.containers import streams
from nightschool.intake.preview import Preview
from nightschool.intake.shapes import recognise
from tests import tiny

from . import corpus, corpus_bad, corpus_rows
from .containers.files import PACKED, WRITERS, jsonl
from .corpus import DOCUMENTS, GOOD, HOLDS, SHAPES, TABLES, Case, by_hand
from .through import Intake, Outcome, check, outcomes, quick

BAD = corpus_bad.CASES
assert corpus_rows.UNUSABLE  # that module adds to them
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
        for _, cases in itertools.groupby(sorted(ALL, key=_settings), key=_settings):
            group = list(cases)
            found |= outcomes(Intake(root / str(len(found)), knowing, **dict(group[0].settings)), group)
    return found


def _settings(case: Case) -> str:
    return repr(case.settings)


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


# --- section E, where it is about the inbox and not about what is in a file


@pytest.fixture
def inbox(tmp_path: Path, knowing: Path) -> Iterator[Intake]:
    with quick():
        yield Intake(tmp_path / "w", knowing)


ROW = jsonl([{"text": "ok"}])


def _ready(intake: Intake) -> dict[str, str]:
    """Take what lies in the inbox; states by name."""
    intake.place.look()
    intake.work()
    return {row.name: row.state for row in intake.place.rows()}


def test_e1_a_half_copied_file_waits(inbox):
    path = inbox.place.layout.inbox / "a.jsonl"
    path.write_bytes(ROW[:5])
    first = watch.settled(None, watch.scan(path.parent), 0, 5)
    path.write_bytes(ROW)
    second = watch.settled(first.state, watch.scan(path.parent), 5, 5)
    assert (first.ready, second.ready, second.waiting) == ([], [], 1)
    third = watch.settled(second.state, watch.scan(path.parent), 10, 5)
    assert [item.name for item in third.ready] == ["a.jsonl"]


def test_e2_unfinished_and_hidden_names_are_passed_over(inbox):
    for name in ("a.jsonl.part", "b.tmp", "c.jsonl~", ".d.jsonl", "e.crdownload", "f.jsonl"):
        (inbox.place.layout.inbox / name).write_bytes(ROW)
    assert _ready(inbox) == {"f.jsonl": "ready"}
    assert len(list(inbox.place.layout.inbox.glob("*.*"))) == 5


def test_e3_a_file_that_grows_while_it_is_read_is_read_again(inbox, monkeypatch):
    path = inbox.place.layout.inbox / "a.jsonl"
    path.write_bytes(ROW)
    real = accept.stamp
    seen: list[int] = []

    def grown(found: Any) -> Any:
        before = real(found)
        if not seen:
            with path.open("ab") as file:
                file.write(ROW)
        seen.append(1)
        return before

    monkeypatch.setattr(accept, "stamp", grown)
    inbox.place.look()
    assert inbox.place.worker().step() == "later"
    assert _ready(inbox) == {"a.jsonl": "ready"}
    (row,) = inbox.place.rows()
    assert (row.rows_good, inbox.outcome(row.id).kept) == (2, ROW * 2)


def test_e4_a_file_deleted_after_it_was_accepted_is_prepared_from_the_archive(inbox):
    number = inbox.place.drop("a.jsonl", ROW)
    one = inbox.place.worker()
    assert one.step() == "archived"
    for path in inbox.place.layout.inbox.rglob("*.jsonl"):
        path.unlink()
    assert one.step() == "ready"
    assert inbox.outcome(number).sequences[0][0] == by_hand("<bos>ok<eos>")[0]


def test_e5_the_same_bytes_under_another_name_are_a_duplicate_unless_asked_for(inbox):
    numbers = [inbox.place.drop(name, ROW) for name in ("a.jsonl", "b.jsonl")]
    inbox.work()
    assert [inbox.place.get(n).state for n in numbers] == ["ready", "duplicate"]
    again = inbox.take("c.jsonl", ROW)
    assert (again.state, again.digest) == ("ready", inbox.outcome(numbers[0]).digest)


def test_e6_the_same_name_with_other_bytes_is_another_file(inbox):
    first, second = inbox.place.drop("a.jsonl", ROW), None
    inbox.work()
    second = inbox.place.drop("a.jsonl", jsonl([{"text": "no"}]))
    inbox.work()
    assert inbox.outcome(first).kept == ROW
    assert inbox.outcome(second).kept == jsonl([{"text": "no"}])
    assert inbox.place.get(first).archive != inbox.place.get(second).archive


def test_e13_what_is_no_plain_file_with_a_plain_name_is_refused_and_stays(inbox, tmp_path):
    folder = inbox.place.layout.inbox
    (tmp_path / "secret").write_bytes(ROW)
    (folder / "a.jsonl").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "b.jsonl")
    (folder / "c\n.jsonl").write_bytes(ROW)
    Path(os.fsdecode(os.fsencode(folder) + b"/d\xff.jsonl")).write_bytes(ROW)
    (folder / f"{'e' * 195}.jsonl").write_bytes(ROW)
    (folder / "..f.jsonl").write_bytes(ROW)
    (folder / "g.jsonl").write_bytes(ROW)
    reasons = watch.scan(folder).refused
    said = {os.fsencode(Path(path).name)[:1]: reason for path, reason in reasons.items()}
    assert said == {
        b"a": "it is a symbolic link, and links are not followed; copy the file itself",
        b"b": "it is a named pipe",
        b"c": "its name holds a line break or another control character; rename it",
        b"d": "its name is not valid UTF-8; rename it",
        b"e": "its name is longer than 200 bytes; rename it",
    }
    assert _ready(inbox) == {"g.jsonl": "ready"}
    assert len(list(folder.iterdir())) >= 6


def test_e15_a_file_that_cannot_be_read_is_told_and_others_proceed(inbox, monkeypatch):
    folder = inbox.place.layout.inbox
    for name in ("a.jsonl", "b.jsonl"):
        (folder / name).write_bytes(ROW)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jsonl") and real(path, mode))
    first = watch.settled(None, watch.scan(folder), 0, 0)
    assert [(r.path.name, r.reason) for r in first.refused] == [
        ("a.jsonl", "it cannot be read: permission denied; give this user the right to read it")
    ]
    assert watch.settled(first.state, watch.scan(folder), 1, 0).refused == []
    assert _ready(inbox) == {"b.jsonl": "ready"}


def test_e16_many_files_come_in_natural_order(inbox):
    for number in range(60):
        (inbox.place.layout.inbox / f"part-{number}.jsonl").write_bytes(jsonl([{"text": f"{number}"}]))
    assert set(_ready(inbox).values()) == {"ready"}
    order = [row.name for row in inbox.place.ledger.files.each("ready")]
    assert order == [f"part-{number}.jsonl" for number in range(60)]


def test_e20_a_template_that_writes_the_date_gives_the_same_tokens_another_day(tmp_path):
    dated = corpus.TEMPLATE.replace("{{ bos_token }}", "{{ bos_token + strftime_now('%d %b %Y') + '\n' }}", 1)
    folder = tiny.make_tokenizer(tmp_path / "dated", dated)
    (folder / "config.json").write_text("{}")
    intake = Intake(tmp_path / "w", folder)
    number = intake.place.drop("a.jsonl", jsonl(SHAPES["question+answer"].rows))
    intake.work()
    first = intake.outcome(number)
    assert (
        first.sequences[0][0] == by_hand(SHAPES["question+answer"].become[0].replace("<bos>", "<bos>22 Nov 2026\n"))[0]
    )
    durable.remove_tree(intake.place.layout.prepared / str(intake.place.get(number).prepared))
    later = worker.Worker(intake.place.layout, intake.place.ledger, intake.place.settings, today=lambda: "2027-01-01")
    while later.step() is not None:
        pass
    assert intake.outcome(number).digest == first.digest
    control = intake.tools.recipe("2027-01-01")["date"]
    assert control == "2027-01-01"  # a file that is taken on another day is told that one


def test_e21_a_file_that_is_open_for_writing_is_not_taken(inbox):
    path = inbox.place.layout.inbox / "a.jsonl"
    with path.open("wb") as file:
        file.write(ROW)
        file.flush()
        if not watch.held_open(path):
            pytest.skip("this file system does not tell who has a file open")
        assert _ready(inbox) == {}
    assert _ready(inbox) == {"a.jsonl": "ready"}
    assert inbox.outcome(inbox.place.rows()[0].id).kept == ROW


# --- controls: what the corpus would not let pass


def _unmasked(self: Any, tokens: list[int], *_: Any) -> Any:
    import numpy as np

    return np.ones(len(tokens), np.int8)


def _silently(self: Any, row: Any) -> None:
    """A bad row that nobody hears of."""


def _unsaid(row: Any, mapped: Any = ()) -> Any:
    return dataclasses.replace(recognise(row, mapped), repairs=())


BROKEN = {
    "prompts are learned": ((tokenise.Tokeniser, "_mask", _unmasked), GOOD["jsonl", "messages", ""]),
    "a bad row is lost": ((rejected.BadRows, "add", _silently), BAD["e8 no value, jsonl.jsonl"]),
    "preview keeps none": ((preview._Bad, "add", _silently), BAD["e8 no value, jsonl.jsonl"]),
    "repairs are not counted": ((reading, "recognise", _unsaid), GOOD["csv", "rows put right", ""]),
    "the share is not looked at": (
        (reading.Reading, "check", lambda self: None),
        BAD["e8 one bad row of four, jsonl.jsonl"],
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_control_what_is_broken_is_found(what, inbox, monkeypatch):
    (owner, name, other), case = BROKEN[what]
    inbox.place.settings = inbox.place.with_settings(**dict(case.settings))
    inbox.tools.settings = inbox.place.settings
    found = outcomes(inbox, [case])[case.name]
    check(case, *found)
    inbox.restart()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, other)
        other_name = dataclasses.replace(case, name=f"again {case.name}")
        for folder in inbox.place.layout.prepared.iterdir():
            durable.remove_tree(folder)
        with pytest.raises(AssertionError):
            check(other_name, *outcomes(inbox, [other_name])[other_name.name])
