"""Which snapshots are kept: examples, and what holds whatever there is."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nightschool.snapshots.retention import Rules, Verdict, decide
from nightschool.snapshots.states import Kind, Snapshot

TODAY = date(2026, 11, 22)


def one(name: str, day: date, step: int = 1, kind: Kind = "daily", generation: int = 0) -> Snapshot:
    return Snapshot(Path(name), name, kind, day, step, generation, "l", "2026-11-22T03:00:00+00:00", None)


def dailies(count: int, last: date = TODAY) -> list[Snapshot]:
    days = [last - timedelta(days=back) for back in range(count)]
    return [one(day.isoformat(), day, step=(day - date(2020, 1, 1)).days) for day in reversed(days)]


def kept(verdicts: list[Verdict]) -> list[str]:
    return [verdict.snapshot.name for verdict in verdicts if verdict.keep]


def names(every: list[Snapshot]) -> set[str]:
    return {snapshot.name for snapshot in every}


def test_days_weeks_and_months_each_keep_their_last_one() -> None:
    every = dailies(400)
    found = decide(every, Rules(3, 4, 5), TODAY, names(every))
    assert kept(found) == [
        "2026-07-31", "2026-08-31", "2026-09-30", "2026-10-31", "2026-11-01", "2026-11-08", "2026-11-15", "2026-11-20",
        "2026-11-21", "2026-11-22",
    ]  # fmt: skip
    last = found[-1]
    assert last.reasons == (
        "the last of its day (1 of 3)", "the last of its week (1 of 4)", "the last of its month (1 of 5)"
    )  # fmt: skip
    assert found[0].why == "older than the newest 3 days, 4 weeks and 5 months keep"


def test_weeks_begin_on_monday_and_cross_the_year() -> None:
    every = dailies(30, date(2027, 1, 10))
    assert kept(decide(every, Rules(1, 3, 0), date(2027, 1, 10), names(every))) == [
        "2026-12-27", "2027-01-03", "2027-01-10"
    ]  # fmt: skip


def test_only_days_that_have_one_count() -> None:
    every = [one(str(day), date(2026, 1, 1) + timedelta(days=40 * day)) for day in range(5)]
    assert kept(decide(every, Rules(3, 0, 0), TODAY, names(every))) == ["2", "3", "4"]


def test_named_and_origin_ones_stay_and_take_no_place() -> None:
    every = [one("origin", date(2020, 1, 1), kind="origin"), one("fair", date(2020, 1, 1), kind="named"), *dailies(4)]
    found = decide(every, Rules(2, 0, 0), TODAY, names(every))
    assert kept(found) == ["origin", "fair", "2026-11-21", "2026-11-22"]
    assert [verdict.why for verdict in found[:2]] == ["the run began with it", "it was taken by hand"]


def test_d4_those_dated_in_the_future_do_not_make_the_others_go() -> None:
    future = [one(f"2031-01-{day:02d}", date(2031, 1, day)) for day in range(1, 20)]
    every = [*dailies(10), *future]
    found = kept(decide(every, Rules(3, 0, 0), TODAY, names(every)))
    assert found == ["2026-11-20", "2026-11-21", "2026-11-22", *(f.name for f in future)]


def test_damaged_ones_stay_for_people_to_look_at_and_take_no_place() -> None:
    every = dailies(5)
    found = decide(every, Rules(2, 0, 0), TODAY, names(every) - {"2026-11-22"})
    assert kept(found) == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert "damaged" in found[-1].why


def test_of_two_for_one_day_the_one_further_on_stays() -> None:
    every = [one("a", TODAY, step=900), one("b", TODAY, step=2600), one("c", TODAY, step=10, generation=1)]
    assert kept(decide(every, Rules(1, 1, 1), TODAY, names(every))) == ["c"]


RULES = st.builds(Rules, st.integers(0, 20), st.integers(0, 10), st.integers(0, 14))
KINDS: st.SearchStrategy[Kind] = st.sampled_from(["daily", "daily", "daily", "named", "origin"])
EVERY = st.lists(
    st.tuples(st.dates(date(2024, 1, 1), date(2028, 1, 1)), st.integers(0, 50), KINDS, st.booleans()), max_size=60
).map(
    lambda rows: [
        (one(f"{number}", day, step, kind), whole) for number, (day, step, kind, whole) in enumerate(rows)
    ]
)  # fmt: skip


@given(EVERY, RULES)
def test_what_holds_whatever_there_is(rows: list[tuple[Snapshot, bool]], rules: Rules) -> None:
    every = [snapshot for snapshot, _ in rows]
    whole = {snapshot.name for snapshot, good in rows if good}
    found = decide(every, rules, TODAY, whole)
    assert [verdict.snapshot for verdict in found] == every
    assert all(verdict.reasons for verdict in found)
    gone = [verdict.snapshot for verdict in found if not verdict.keep]
    assert all(snapshot.kind == "daily" and snapshot.date <= TODAY for snapshot in gone)
    assert names(gone) <= whole
    if whole:
        assert whole - names(gone), "the only whole one is never removed"
    left = [snapshot for snapshot in every if snapshot not in gone]
    # Asked again, it takes nothing more: what one rule counts does not depend on what went before.
    assert all(verdict.keep for verdict in decide(left, rules, TODAY, whole))
    past = [snapshot for snapshot in every if snapshot.name in whole and snapshot.date <= TODAY]
    days = sorted({snapshot.date for snapshot in past if snapshot.kind == "daily"}, reverse=True)
    kept_days = {snapshot.date for snapshot in left}
    assert set(days[: rules.daily]) <= kept_days
    months = sorted({(day.year, day.month) for day in days}, reverse=True)
    assert set(months[: rules.monthly]) <= {(day.year, day.month) for day in kept_days}


@given(st.integers(30, 400), st.integers(1, 14), st.integers(0, 8), st.integers(0, 12))
def test_pruned_every_day_it_comes_to_what_pruning_once_comes_to(
    days: int, daily: int, weekly: int, monthly: int
) -> None:
    rules, left = Rules(daily, weekly, monthly), list[Snapshot]()
    for snapshot in dailies(days):
        left.append(snapshot)
        verdicts = decide(left, rules, snapshot.date, names(left))
        left = [verdict.snapshot for verdict in verdicts if verdict.keep]
    once = decide(dailies(days), rules, TODAY, names(dailies(days)))
    assert names(left) == set(kept(once))
