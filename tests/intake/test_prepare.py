"""From the archive to a prepared folder, or to rejected/ with the reason; the same file always gives the same data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightschool import durable
from nightschool.errors import DataError
from nightschool.intake import accept, packing, prepare, reading, rendering
from nightschool.intake.prepared import DATA, PreparedReader, read_meta
from nightschool.intake.tools import Tools
from nightschool.ledger import FileRow
from tests import tiny

from .workspaces import TODAY, Workspace, lines


def reader(place: Workspace, row: FileRow) -> PreparedReader:
    assert row.prepared is not None
    return PreparedReader(place.layout.prepared / row.prepared)


def contents(place: Workspace, number: int) -> list[tuple[list[int], list[int], list[int], list[int]]]:
    with reader(place, place.get(number)) as data:
        return [tuple(part.tolist() for part in data.sequence(i)) for i in range(len(data))]  # type: ignore[misc]


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}


@pytest.mark.parametrize("packing", [False, True])
def test_a_file_becomes_ready_and_the_ledger_says_what_is_in_it(place, packing):
    place.settings = place.with_settings(packing=packing, max_length=150)
    rows = [*tiny.text_rows(10), *tiny.pair_rows(10), *tiny.chat_rows(10)]
    number = place.drop("a.jsonl", lines(*rows))
    assert place.work() == ["archived", "ready"]
    row = place.get(number)
    assert (row.state, row.shape, row.rows_good, row.rows_bad) == ("ready", "mixed", 30, 0)
    with reader(place, row) as data:
        assert len(data) == row.sequences
        assert data.digest() == row.data_digest == data.meta["data_digest"]
        found = [data.sequence(i) for i in range(len(data))]
    assert row.tokens == sum(len(ids) for ids, *_ in found)
    assert row.label_tokens == sum(int(train.sum()) for _, train, *_ in found)
    assert all(len(ids) <= 150 for ids, *_ in found)
    assert {n for _, _, _, numbers in found for n in numbers.tolist()} == set(range(30))
    assert not durable.check(place.layout.prepared / (row.prepared or ""))
    assert not list(place.layout.prepared.glob(".tmp*"))
    assert not list(place.layout.tmp.iterdir())


def test_the_prepared_tokens_are_the_rows_by_hand(place):
    number = place.drop("a.jsonl", lines({"text": "ab"}, b"", {"prompt": "c", "completion": "d"}))
    place.work()
    a, b, c, d = (64 + i for i in range(4))  # ids of bytes follow the byte-level alphabet, which begins at "!"
    bos, eos = 257, 258
    assert contents(place, number) == [
        ([bos, a, b, eos], [0, 1, 1, 1], [4], [0]),
        ([bos, c, d, eos], [0, 0, 1, 1], [4], [2]),
    ]


@pytest.mark.parametrize("packing", [False, True])
def test_the_same_file_prepared_twice_gives_the_same_digest(tmp_path, model, packing):
    data = lines(*tiny.chat_rows(40), *tiny.text_rows(40))
    seen = []
    for name in ("one", "two"):
        place = Workspace(tmp_path / name, model)
        place.settings = place.with_settings(packing=packing, max_length=100)
        number = place.drop("a.jsonl", data)
        place.work()
        row = place.get(number)
        seen.append((row.data_digest, row.prepared, (place.layout.prepared / (row.prepared or "") / DATA).read_bytes()))
    assert seen[0] == seen[1]


def test_a2_every_row_of_a_file_of_several_blocks_is_there_exactly_once(place, monkeypatch):
    monkeypatch.setattr(packing, "BLOCK_ROWS", 100)
    place.settings = place.with_settings(packing=True, max_length=256)
    number = place.drop("a.jsonl", lines(*tiny.text_rows(450)))
    place.work()
    rows = [row for *_, numbers in contents(place, number) for row in numbers]
    assert sorted(rows) == list(range(450))


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 40},
        {"packing": True},
        {"loss_on": "all"},
        {"overflow": "truncate"},
        {"max_bad_rows": 0.0},
    ],
)
def test_a12_every_data_setting_is_used(place, change):
    place.settings = place.with_settings(max_length=60)
    data = lines({"text": "t" * 100}, CHAT, *tiny.pair_rows(5), b"bad")
    first = place.drop("a.jsonl", data)
    place.work()
    before = place.get(first)
    place.settings = place.with_settings(**{"max_length": 60, **change})
    second = place.drop("b.jsonl", data, again=True)
    place.work()
    after = place.get(second)
    assert (before.state, before.data_digest) != (after.state, after.data_digest)


def test_a12_template_variables_of_the_settings_are_used(place, tmp_path):
    text = "{% for m in messages %}{% generation %}{{ m['content'] ~ flag }}{% endgeneration %}{% endfor %}"
    (tmp_path / "t.jinja").write_text(text)
    digests = []
    for flag in ("x", "y"):
        changed = {"chat_template": str(tmp_path / "t.jinja"), "chat_template_kwargs": {"flag": flag}}
        place.settings = place.settings.model_copy(update={"model": place.settings.model.model_copy(update=changed)})
        number = place.drop(f"{flag}.jsonl", lines(CHAT), again=True)
        place.work()
        digests.append(place.get(number).data_digest)
    assert None not in digests
    assert digests[0] != digests[1]


def test_another_recipe_is_another_folder_and_one_that_nobody_needs_goes(place):
    number = place.drop("a.jsonl", lines(CHAT))
    place.work()
    first = place.get(number)
    place.settings = place.with_settings(loss_on="all")
    again = place.drop("a.jsonl", lines(CHAT), again=True)
    place.work()
    second = place.get(again)
    assert first.sha256 == second.sha256
    assert first.prepared != second.prepared
    assert first.data_digest != second.data_digest
    # The first file had not begun, and was prepared again under today's settings.
    assert [folder.name for folder in place.layout.prepared.iterdir()] == [second.prepared]


def test_the_same_bytes_under_the_same_recipe_are_prepared_once(place, monkeypatch):
    first = place.drop("a.jsonl", lines(CHAT))
    place.work()
    monkeypatch.setattr(prepare, "_write", None)
    second = place.drop("b.jsonl", lines(CHAT), again=True)
    assert place.work() == ["archived", "ready"]
    assert place.get(first).prepared == place.get(second).prepared


@pytest.mark.parametrize("data", [b"", b"\n \n\t\r\n", b"\xef\xbb\xbf"])
def test_e7_an_empty_file_is_rejected_with_that_reason(place, data):
    number = place.drop("a.jsonl", data)
    assert place.work() == ["archived", "rejected"]
    assert "empty, or only white space" in (place.get(number).reason or "")
    tree = place.tree()
    assert tree["rejected/a.jsonl"] == data
    assert b"empty" in tree["rejected/a.jsonl.why.txt"]
    assert len(tree) == 2


def test_e8_bad_rows_below_the_threshold_are_kept_with_their_lines_and_the_file_goes_on(place):
    good = [{"text": f"row {i}"} for i in range(8)]
    number = place.drop("a.jsonl", lines(*good[:4], b"{broken", *good[4:], {"text": 5}))
    place.work()
    row = place.get(number)
    assert (row.state, row.rows_good, row.rows_bad) == ("ready", 8, 2)
    bad = [json.loads(line) for line in place.tree("rejected")["rejected/a.jsonl.bad-rows.jsonl"].splitlines()]
    assert [(entry["line"], entry["row"]) for entry in bad] == [(5, "{broken"), (10, '{"text":5}')]
    assert "not valid JSON" in bad[0]["reason"]
    assert bad[1]["reason"] == '"text" must be a string: it is a number'
    assert list(place.tree("rejected")) == ["rejected/a.jsonl.bad-rows.jsonl"], "the file itself stays archived"
    (event,) = place.ledger.events.of_kind("file-ready")
    assert "2 bad rows left out" in event.text
    assert "line 5" in event.text


def test_e8_the_threshold_is_the_share_that_may_be_bad(place):
    good = [{"text": f"row {i}"} for i in range(8)]
    at = place.drop("at.jsonl", lines(*good, b"x", b"x"))
    above = place.drop("above.jsonl", lines(*good, b"x", b"x", b"x"))
    place.work()
    assert place.get(at).state == "ready"
    row = place.get(above)
    assert row.state == "rejected"
    assert row.rows_bad == 3
    assert "3 of its 11 rows cannot be used, more than data.max_bad_rows = 0.2 allows" in (row.reason or "")
    assert "lines 9, 10, 11" in (row.reason or "")
    tree = place.tree("rejected", "archive")
    assert tree["rejected/above.jsonl"] == lines(*good, b"x", b"x", b"x")
    assert "archive/2026-11-22/above.jsonl" not in tree
    assert row.archive == "rejected/above.jsonl"
    assert b"drop it into inbox/ again" in tree["rejected/above.jsonl.why.txt"]
    assert tree["rejected/above.jsonl.bad-rows.jsonl"].count(b"\n") == 3


def test_e8_a_corrected_file_under_the_same_name_is_learned(place):
    place.drop("a.jsonl", b"broken\n")
    place.work()
    number = place.drop("a.jsonl", lines(CHAT))
    assert place.work() == ["archived", "ready"]
    assert place.get(number).state == "ready"
    place.drop("a.jsonl", b"broken again\n")
    place.work()
    assert {n for n in place.tree("rejected") if n.endswith(".jsonl") and "bad-rows" not in n} == {
        "rejected/a.jsonl",
        "rejected/a-3.jsonl",
    }


def test_e10_a_file_in_utf_16_is_learned_like_the_same_in_utf_8(place):
    text = lines({"text": "né"}, CHAT).decode()
    one = place.drop("a.jsonl", text.encode())
    two = place.drop("b.jsonl", text.encode("utf-16"))
    place.work()
    assert place.get(one).data_digest == place.get(two).data_digest
    assert place.get(one).data_digest is not None


def test_files_of_another_kind_are_rejected_with_advice(place):
    number = place.drop("table.xlsx", b"PK\x03\x04")
    place.work()
    assert "it is an Excel workbook; save the sheet as CSV" in (place.get(number).reason or "")


def test_e17_a_row_with_nothing_left_to_learn_after_cutting_is_bad(place):
    place.settings = place.with_settings(max_length=20)
    long = {"prompt": "p" * 40, "completion": "c"}
    number = place.drop("a.jsonl", lines(*[{"text": str(i)} for i in range(9)], long))
    place.work()
    row = place.get(number)
    assert (row.rows_good, row.rows_bad) == (9, 1)
    (bad,) = place.tree("rejected").values()
    assert "its first 20 tokens (data.max_length) hold nothing" in json.loads(bad)["reason"]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        # text of 30 bytes + bos + eos = 32 tokens; pair of 4 + 30 bytes + 2 = 36 tokens; at most 10
        ("auto", {"rows_split": 1, "rows_truncated": 1, "tokens_cut": 26, "tokens": 32 + 10}),
        ("split", {"rows_split": 2, "rows_truncated": 0, "tokens_cut": 0, "tokens": 32 + 36}),
        ("truncate", {"rows_split": 0, "rows_truncated": 2, "tokens_cut": 22 + 26, "tokens": 10 + 10}),
    ],
)
@pytest.mark.parametrize("packing", [False, True])
def test_e22_rows_over_max_length_follow_the_overflow_rule_and_are_counted(place, overflow, expected, packing):
    place.settings = place.with_settings(max_length=10, overflow=overflow, packing=packing)
    number = place.drop("a.jsonl", lines({"text": "t" * 30}, {"prompt": "pppp", "completion": "c" * 30}))
    place.work()
    counts = read_meta(place.layout.prepared / (place.get(number).prepared or ""))["counts"]
    assert {key: counts[key] for key in expected} == expected
    text = place.ledger.events.of_kind("file-ready")[0].text
    if expected["rows_truncated"]:
        assert f"rows cut to 10 tokens ({expected['tokens_cut']} tokens lost)" in text
    if expected["rows_split"]:
        assert "rows longer than 10 tokens split" in text


def test_e22_long_rows_that_are_to_be_rejected_are_bad_rows_and_nothing_is_cut(place):
    place.settings = place.with_settings(max_length=10, overflow="reject")
    # A text of 8 bytes has 10 tokens with bos and eos: the longest that fits.
    rows = [*({"text": "t" * 8} for _ in range(8)), {"text": "t" * 9}, {"prompt": "pppp", "completion": "c" * 30}]
    number = place.drop("a.jsonl", lines(*rows))
    place.work()
    row = place.get(number)
    assert (row.state, row.rows_good, row.rows_bad, row.tokens) == ("ready", 8, 2, 80)
    counts = read_meta(place.layout.prepared / (row.prepared or ""))["counts"]
    assert counts["rows_split"] == counts["rows_truncated"] == counts["tokens_cut"] == 0
    (bad,) = place.tree("rejected").values()
    assert [json.loads(line)["line"] for line in bad.splitlines()] == [9, 10]
    assert b"longer than max_length: it has 11 tokens, data.max_length = 10" in bad


def test_a_piece_of_a_row_without_anything_to_learn_costs_no_training_time(place):
    place.settings = place.with_settings(max_length=10, overflow="split")
    number = place.drop("a.jsonl", lines({"prompt": "p" * 29, "completion": "c"}))
    place.work()
    assert contents(place, number) == [([63 + 16, 66, 258], [0, 1, 1], [3], [0])] or len(contents(place, number)) == 1
    counts = read_meta(place.layout.prepared / (place.get(number).prepared or ""))["counts"]
    assert counts["unlearned_sequences"] == 3


# --- the date (E20)


def dated(tmp_path: Path) -> Path:
    text = "{{ strftime_now('%d %m %Y') }}" + tiny.MARKED_TEMPLATE
    folder = tiny.make_tokenizer(tmp_path / "dated", template=text)
    (folder / "config.json").write_text("{}")
    return folder


def test_e20_prepared_on_another_day_the_tokens_are_those_of_the_day_of_acceptance(tmp_path, monkeypatch):
    from .test_masks import at

    model, digests = dated(tmp_path), []
    for day in (1, 2):
        at(monkeypatch, 2031, 5, day)
        place = Workspace(tmp_path / str(day), model)
        number = place.drop("a.jsonl", lines(CHAT))
        place.work()
        digests.append(place.get(number).data_digest)
        meta = read_meta(place.layout.prepared / (place.get(number).prepared or ""))
        assert meta["recipe"]["date"] == TODAY
    assert digests[0] == digests[1]
    # Control: without the macro the day shows.
    monkeypatch.setattr(rendering, "_dated", lambda text, date: text)
    place = Workspace(tmp_path / "control", model)
    number = place.drop("a.jsonl", lines(CHAT))
    place.work()
    assert place.get(number).data_digest != digests[0]


def test_e20_a_template_without_a_date_has_none_in_the_recipe(place, model):
    assert Tools(place.settings).recipe("2026-11-22")["date"] is None


# --- preparing again


def test_prepared_data_that_someone_removed_or_damaged_is_made_again(place):
    number = place.drop("a.jsonl", lines(CHAT))
    place.work()
    before = place.get(number)
    folder = place.layout.prepared / (before.prepared or "")
    durable.remove_tree(folder)
    assert place.work() == ["ready"]
    assert place.get(number) == before
    place.ledger.files.begin(number)
    durable.remove_tree(folder)
    assert place.work() == ["ready"]
    assert place.get(number).state == "training"
    assert not durable.check(folder)


def test_prepared_again_under_the_recipe_frozen_with_the_entry(place):
    number = place.drop("a.jsonl", lines({"text": "t" * 50}))
    place.settings = place.with_settings(max_length=10)
    place.work()
    before = place.get(number)
    frozen = read_meta(place.layout.prepared / (before.prepared or ""))["recipe"]
    place.ledger.entries.append([(number, before.data_digest or "", 6)], json.dumps({"data": frozen}), 6)
    place.ledger.files.begin(number)
    durable.remove_tree(place.layout.prepared / (before.prepared or ""))
    place.settings = place.with_settings(max_length=30)
    place.work()
    assert place.get(number).prepared == before.prepared
    assert place.get(number).data_digest == before.data_digest


def test_e20_data_that_comes_out_differently_is_said_and_not_taken(place, monkeypatch):
    number = place.drop("a.jsonl", lines({"text": "abc"}))
    place.work()
    before = place.get(number)
    place.ledger.files.begin(number)
    durable.remove_tree(place.layout.prepared / (before.prepared or ""))
    real = packing.sequences

    def other(*arguments: Any) -> Any:
        found = real(*arguments)
        return [packing.Packed(s.ids + np.int32(1), s.train, s.lengths, s.rows) for s in found]

    monkeypatch.setattr(reading, "sequences", other)
    place.work()
    assert place.get(number).data_digest == before.data_digest
    (event,) = place.ledger.events.of_kind("data-changed")
    assert "other tokens" in event.text


def test_a_recipe_of_another_tokenizer_is_refused(place):
    tools = Tools(place.settings)
    recipe = tools.recipe(TODAY)
    with pytest.raises(DataError, match="tokenizer"):
        tools.template_for({**recipe, "tokenizer": "other"})
    with pytest.raises(DataError, match="template"):
        tools.template_for({**recipe, "chat_template": "other"})


def test_an_archived_copy_that_was_changed_or_removed_is_not_trained(place, monkeypatch):
    place.settings = place.with_settings()
    changed, removed = place.drop("a.jsonl", lines({"text": "a"})), place.drop("b.jsonl", lines({"text": "b"}))
    for _ in range(2):
        row = place.ledger.files.next_to_take()
        assert row is not None
        accept.take(place.layout, place.ledger, row, TODAY)
    (place.layout.archive / TODAY / "a.jsonl").write_bytes(lines({"text": "evil"}))
    (place.layout.archive / TODAY / "b.jsonl").unlink()
    place.work()
    assert "was changed after it was archived" in (place.get(changed).reason or "")
    assert "no longer there" in (place.get(removed).reason or "")
