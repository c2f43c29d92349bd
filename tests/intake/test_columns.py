"""Columns that have other names, mapped by hand."""

from __future__ import annotations

import pytest

from nightschool.errors import DataError
from nightschool.intake.shapes import (
    PAIR,
    QUESTION,
    SHAREGPT,
    Chat,
    Pair,
    RowError,
    Text,
    check_columns,
    map_columns,
    recognise,
)
from nightschool.intake.shapes.columns import COLUMNS, IN_MESSAGES

from .workspaces import Workspace, lines

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}


@pytest.mark.parametrize(
    ("row", "columns", "shape"),
    [
        ({"ask": "a", "reply": "b"}, {"prompt": "ask", "completion": "reply"}, Pair("a", "b")),
        ({"body": "a"}, {"text": "body"}, Text("a")),
        ({"prompt": "b", "completion": "a"}, {"prompt": "completion", "completion": "prompt"}, Pair("a", "b")),
        ({"dialog": [USER, BOT]}, {"messages": "dialog"}, Chat([USER, BOT])),
        ({"ask": "Hi", "answer": "Yo"}, {"question": "ask"}, Chat([USER, BOT], shape=QUESTION)),
        # A column of that name gives way to the one that was mapped onto it.
        ({"text": "label", "body": "a"}, {"text": "body"}, Text("a")),
        # What was mapped decides, whatever else the row could be.
        ({"messages": [USER, BOT], "body": "a"}, {"text": "body"}, Text("a")),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"completion": "chosen"}, Pair("a", "b")),
        ({"chosen": [USER, BOT], "rejected": []}, {"messages": "chosen"}, Chat([USER, BOT])),
        # A mapping that does not fit this row does not stand in its way.
        ({"text": "a"}, {"prompt": "ask", "completion": "reply", "system": "rules"}, Text("a")),
        (
            {"dialog": [{"who": "human", "says": "Hi"}, {"who": "gpt", "says": "Yo"}]},
            {"conversations": "dialog", "role": "who", "content": "says"},
            Chat([USER, BOT], shape=SHAREGPT),
        ),
        (
            {"prompt": [{"role": "user", "text": "Hi"}], "completion": [{"role": "assistant", "text": "Yo"}]},
            {"content": "text"},
            Chat([USER, BOT], given=1, shape=PAIR),
        ),
    ],
)
def test_a_mapped_row_is_the_one_under_our_names(row, columns, shape):
    check_columns(columns)
    assert recognise(map_columns(row, columns), columns) == shape


def test_without_a_mapping_the_row_itself_is_given_back():
    row = {"text": "a"}
    assert map_columns(row, {}) is row


def test_a_mapping_that_misses_leaves_a_reason_to_act_on():
    with pytest.raises(RowError, match='it has "body"; expected "messages"'):
        recognise(map_columns({"body": "a"}, {"text": "Body"}), ["text"])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"promt": "ask"}, 'did you mean "prompt"'),
        ({"ask": "prompt"}, 'did you mean prompt = "ask"'),
        ({"zzz": "ask"}, "known are messages"),
        ({"prompt": 5}, "must name a column"),
        ({"prompt": ""}, "must name a column"),
        ({"prompt": "a", "completion": "a"}, 'gives the column "a" to both "prompt" and "completion"'),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused_with_what_to_do(columns, words):
    with pytest.raises(DataError) as caught:
        check_columns(columns)
    assert words in str(caught.value)


def test_every_name_of_ours_may_be_mapped():
    check_columns({name: f"their {name}" for name in (*COLUMNS, *IN_MESSAGES)})


def test_the_mapping_of_the_settings_and_of_the_file_reach_the_rows(place: Workspace):
    inbox = place.settings.inbox.model_copy(update={"columns": {"text": "body"}})
    place.settings = place.settings.model_copy(update={"inbox": inbox})
    data = lines({"body": "a", "title": "bb"})
    seen = {}
    for name, columns in (("settings", None), ("own", {"text": "title"}), ("wrong", {"txt": "title"})):
        options = {"again": True, **({"columns": columns} if columns else {})}
        number = place.drop(f"{name}.jsonl", data, **options)
        place.work()
        seen[name] = place.get(number)
    assert seen["settings"].state == seen["own"].state == "ready"
    assert seen["settings"].tokens + 1 == seen["own"].tokens
    assert seen["wrong"].state == "rejected"
    assert 'did you mean "text"' in (seen["wrong"].reason or "")


def test_every_column_shape_and_repair_is_documented():
    from pathlib import Path

    from nightschool.intake import shapes
    from nightschool.intake.shapes.columns import IN_MESSAGES

    text = (Path(__file__).parents[2] / "docs/rows.md").read_text(encoding="utf-8")
    names = [*COLUMNS, *IN_MESSAGES, "messages", "sharegpt", "prompt+completion", "alpaca", "question+answer", "text"]
    assert [name for name in names if f"`{name}`" not in text] == []
    repairs = [getattr(shapes, name) for name in shapes.__all__ if name.isupper()]
    assert [name for name in repairs if name not in text] == []
