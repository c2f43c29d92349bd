"""The curriculum is arithmetic; these are its laws."""

from collections import Counter
from dataclasses import replace

import numpy as np  # noqa: F401 - first imported by the function under test otherwise, against its deadline
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightschool import curriculum
from nightschool.curriculum import Entry, Part
from nightschool.settings import canonical

ROOT = "0" * 64


def recipe(**changes: object) -> str:
    return canonical({"train_batch_size": 4, "epochs": 1, "carry_optimizer": True, **changes})


def entry(number: int, *sequences: int, **changes: object) -> Entry:
    """An entry over as many files as there are numbers of sequences."""
    parts = [Part(10 * number + at, f"digest-{number}-{at}", count) for at, count in enumerate(sequences)]
    return curriculum.whole(parts, recipe(**changes))


entries = st.lists(
    st.builds(
        lambda sequences, batch, epochs: (sequences, batch, epochs),
        st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 3),
    ),
    min_size=1, max_size=6,
).map(lambda found: [entry(i, *n, train_batch_size=b, epochs=e) for i, (n, b, e) in enumerate(found)])  # fmt: skip


@given(entries, st.integers(0, 2**31))
def test_a2_every_sequence_is_trained_exactly_epochs_times(found: list[Entry], seed: int) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for done in range(curriculum.total_steps(found)):
        place = curriculum.place(found, done)
        assert place is not None
        for number in curriculum.step_sequences(seed, found[place.index], place.local):
            seen[place.index, int(number)] += 1
    assert seen == {
        (index, number): one.settings["epochs"] for index, one in enumerate(found) for number in range(one.sequences)
    }


@given(entries)
def test_a1_every_file_takes_its_own_number_of_steps(found: list[Entry]) -> None:
    taken = Counter(
        place.index for done in range(curriculum.total_steps(found)) if (place := curriculum.place(found, done))
    )
    assert [taken[i] for i in range(len(found))] == [
        one.settings["epochs"] * -(-one.sequences // one.settings["train_batch_size"]) for one in found
    ]
    assert curriculum.place(found, curriculum.total_steps(found)) is None


@given(entries, st.integers(0, 5), st.integers(1, 5))
def test_a_step_is_the_same_for_any_number_of_processes(found: list[Entry], local: int, world: int) -> None:
    one = found[0]
    sequences = curriculum.step_sequences(7, one, local % one.length)
    alone = curriculum.cells(sequences, 2)
    together = sorted(cell for rank in range(world) for cell in curriculum.cells(sequences, 2, rank, world))
    assert together == alone
    assert [n for _, cell in alone for n in cell] == [int(n) for n in sequences]


@given(entries, st.data())
def test_lineage_depends_on_the_past_only(found: list[Entry], data: st.DataObject) -> None:
    total = curriculum.total_steps(found)
    done = data.draw(st.integers(0, total))
    here = curriculum.lineage(ROOT, found, done)
    assert curriculum.lineage(ROOT, curriculum.cut(found, done), done) == here
    assert curriculum.lineage(ROOT, [*found, entry(99, 5)], done) == here
    assert curriculum.total_steps(curriculum.cut(found, done)) == done


@given(entries, st.data())
def test_a_range_split_in_two_has_the_same_lineage(found: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(found) - 1))
    middle = data.draw(st.integers(0, found[at].stop))
    split = [*found[:at], replace(found[at], stop=middle), replace(found[at], start=middle), *found[at + 1 :]]
    total = curriculum.total_steps(found)
    assert curriculum.lineage(ROOT, split, total) == curriculum.lineage(ROOT, found, total)


@pytest.mark.parametrize(
    "other",
    [
        [entry(1, 9), entry(0, 8)],
        [entry(0, 8), replace(entry(1, 9), parts=(Part(10, "x", 9),))],
        [entry(0, 8), entry(1, 9, learning_rate=1.0)],
        [entry(0, 8), replace(entry(1, 9), start=1)],
        [entry(0, 8), entry(1, 5, 4)],
    ],
    ids=["order", "data", "recipe", "range", "parts"],
)
def test_lineage_sees_every_difference(other: list[Entry]) -> None:
    here = [entry(0, 8), entry(1, 9)]
    assert curriculum.lineage(ROOT, here, 4) != curriculum.lineage(ROOT, other, 4)
    assert curriculum.lineage(ROOT, here, 4) != curriculum.lineage("1" * 64, here, 4)


def test_names_and_ids_are_not_part_of_the_lineage() -> None:
    renamed = replace(entry(0, 8), parts=(Part(5, "digest-0-0", 8),))
    assert curriculum.lineage(ROOT, [entry(0, 8)], 2) == curriculum.lineage(ROOT, [renamed], 2)


def test_several_files_in_another_order_are_another_lineage() -> None:
    here = entry(0, 3, 4)
    assert curriculum.lineage(ROOT, [here], 2) != curriculum.lineage(ROOT, [replace(here, parts=here.parts[::-1])], 2)


def test_f6_an_older_record_is_read() -> None:
    old = {"recipes": [recipe()], "entries": [[7, "digest", 9, 0, 1, 3]]}
    assert curriculum.from_record(old) == [Entry((Part(7, "digest", 9),), recipe(), 1, 3)]


def test_the_order_is_fixed_for_ever() -> None:
    # A change here changes what every existing run would have trained on.
    assert curriculum.order(42, "digest", 0, 12).tolist() == FIXED_ORDER
    assert curriculum.order(42, "digest", 1, 12).tolist() != FIXED_ORDER
    assert curriculum.order(43, "digest", 0, 12).tolist() != FIXED_ORDER


FIXED_ORDER = [3, 5, 10, 11, 4, 1, 8, 6, 2, 9, 0, 7]


@given(st.integers(0, 2**63 - 1), st.integers(1, 500))
def test_the_order_is_a_permutation(seed: int, size: int) -> None:
    assert sorted(curriculum.order(seed, "d", 0, size).tolist()) == list(range(size))


def test_cut_refuses_more_steps_than_there_are() -> None:
    with pytest.raises(ValueError, match="has 2 steps, not 3"):
        curriculum.cut([entry(0, 8)], 3)


@given(entries)
def test_the_record_gives_the_entries_back(found: list[Entry]) -> None:
    assert curriculum.from_record(curriculum.to_record(found)) == found


def test_a_broken_record_is_refused() -> None:
    with pytest.raises(ValueError, match="no curriculum"):
        curriculum.from_record({"recipes": []})


def test_a3_the_schedule_counts_from_the_beginning_of_the_run() -> None:
    carried = [entry(0, 8), entry(1, 9), entry(2, 9)]
    assert [curriculum.schedule_origin(carried, i) for i in range(3)] == [0, 0, 0]
    reset = [entry(i, 8, carry_optimizer=False) for i in range(3)]
    assert [curriculum.schedule_origin(reset, i) for i in range(3)] == [0, 2, 4]
    # A file that was interrupted and goes on where it stopped does not begin again.
    split = [replace(reset[0], stop=1), replace(reset[0], start=1), reset[1]]
    assert [curriculum.schedule_origin(split, i) for i in range(3)] == [0, 0, 2]


# --- a history that changes while it is made


@given(entries, st.data())
def test_a_whole_entry_can_be_put_anywhere_and_the_past_stays(found: list[Entry], data: st.DataObject) -> None:
    done = data.draw(st.integers(0, curriculum.total_steps(found)))
    new = entry(99, 7)
    after = curriculum.inserted(found, done, new)
    assert curriculum.cut(after, done) == curriculum.cut(found, done)
    assert curriculum.without(after, [990]) == found, "and without it all is as it was"
    where = curriculum.place(after, done)
    assert where is not None
    assert (after[where.index].parts, where.local) == (new.parts, 0)


@given(entries, st.data())
def test_a_file_ends_where_it_is_and_others_go_on(found: list[Entry], data: st.DataObject) -> None:
    done = data.draw(st.integers(0, curriculum.total_steps(found) - 1))
    split = curriculum.inserted(found, data.draw(st.integers(0, done)), entry(99, 7))
    place = curriculum.place(split, done)
    assert place is not None
    current = split[place.index]
    after = curriculum.ended(split, done)
    assert curriculum.cut(after, done) == curriculum.cut(split, done)
    assert sum(one.steps for one in after if one.parts == current.parts) == place.local
    others = [one for one in split if one.parts != current.parts]
    assert curriculum.normalised([one for one in after if one.parts != current.parts]) == curriculum.normalised(others)


@given(entries, st.data())
def test_another_recipe_counts_from_the_next_step_of_the_file_on(found: list[Entry], data: st.DataObject) -> None:
    found = [replace(one, recipe=canonical({**one.settings, "data": {}})) for one in found]
    done = data.draw(st.integers(0, curriculum.total_steps(found) - 1))
    place = curriculum.place(found, done)
    assert place is not None
    other = canonical({**found[place.index].settings, "learning_rate": 0.5})
    after = curriculum.with_recipe(found, done, other)
    assert curriculum.cut(after, done) == curriculum.cut(found, done)
    now = curriculum.place(after, done)
    assert now is not None
    assert (after[now.index].recipe, now.local) == (other, place.local)
    assert curriculum.with_recipe(after, done, other) == after
    plain = [replace(one, recipe="") for one in after]
    assert curriculum.normalised(plain) == [replace(one, recipe="") for one in found], "the steps are the same"


def test_a_further_range_neither_resets_nor_warms_up_again() -> None:
    a, u = entry(0, 12, carry_optimizer=False), entry(1, 8, carry_optimizer=False)
    split = curriculum.inserted([a], 1, u)
    assert [curriculum.schedule_origin(split, at) for at in range(3)] == [0, 1, 1], "the rest goes on where u was"
    carried = curriculum.inserted([a], 1, entry(1, 8))
    assert [curriculum.schedule_origin(carried, at) for at in range(3)] == [0, 0, 0]
    other = curriculum.with_recipe([replace(a, recipe=recipe(carry_optimizer=False, data={}))], 1,
                                   recipe(carry_optimizer=False, data={}, learning_rate=2))  # fmt: skip
    assert [curriculum.schedule_origin(other, at) for at in range(2)] == [0, 0]


def test_what_is_open_began_with_its_first_range() -> None:
    c, a, u, b = entry(0, 8), entry(1, 12), entry(2, 8), entry(3, 4)
    split = curriculum.inserted([c, a, b], 3, u)
    assert [(one.parts[0].file_id, one.start) for one in split] == [(0, 0), (10, 0), (20, 0), (10, 1), (30, 0)]
    assert [curriculum.first_range(split, at) for at in range(5)] == [0, 1, 2, 1, 4]
    assert [curriculum.oldest_open(split, at) for at in range(5)] == [0, 2, 2, 2, 7]


def test_what_was_joined_goes_on_with_further_steps_of_the_same_file() -> None:
    a, b = entry(0, 12), entry(1, 8)
    begun = [replace(a, stop=1), b]
    since = [replace(a, stop=1), b, replace(a, start=1)]
    assert curriculum.joined(begun, since) == since
    assert curriculum.joined([a, b], since) == [a, b]
    assert curriculum.joined([b], since) == [b, a]
