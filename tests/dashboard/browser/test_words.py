"""Numbers and times in the browser are said as people say them, and the columns of a curve grow as they should."""

from __future__ import annotations

from tests.dashboard.browser.conftest import Open
from tests.dashboard.browser.served import Site

THIN = "\u202f"


def test_words(opened: Open, site: Site) -> None:
    page = opened(f"{site.url}/sign-in-is-not-there", troubled=True)
    at = "'2026-11-27T22:46:00+00:00'"
    for call, text in {
        "m.count(1234567)": "1,234,567",
        "m.count(1, 'step')": "1 step",
        "m.count(2, 'step')": "2 steps",
        "m.count(null)": "–",
        "m.ended('It rests')": "It rests.",
        "m.ended('It rests.')": "It rests.",
        "m.ended('Type `nightschool run`')": "Type `nightschool run`.",
        "m.ended(null)": "",
        "m.many(745_000_000, 'tokens')": "745 million tokens",
        "m.many(999_999_999, 'tokens')": "1 billion tokens",
        "m.many(950, 'tokens')": "950 tokens",
        "m.bytes(0)": "0_B",
        "m.bytes(999)": "999_B",
        "m.bytes(1500)": "1.5_kB",
        "m.bytes(412e9)": "412_GB",
        "m.bytes(1.84e12)": "1.8_TB",
        "m.duration(0.42)": "0.4_s",
        "m.duration(40)": "40_s",
        "m.duration(720)": "12_min",
        "m.duration(12_000)": "3_h 20_min",
        "m.duration(2 * 86400 + 4 * 3600)": "2 days 4_h",
        "m.roughly(20)": "a minute",
        "m.roughly(720)": "12_min",
        "m.roughly(3500)": "1_h",
        "m.roughly(1.5 * 3600)": "1½_h",
        "m.roughly(3.1 * 3600)": "3_h",
        "m.roughly(14.2 * 3600)": "14_h",
        "m.roughly(3 * 86400)": "3 days",
        f"m.foreseen(2.9 * 3600, {at})": "about 3_h left, done near 02:40",
        f"m.foreseen(30 * 3600, {at})": "about 30_h left, done near Sunday, 06:00",
        f"m.foreseen(null, {at})": "",
        f"m.since('2026-11-27T21:04:00+00:00', {at})": "since 22:04",
        f"m.since('2026-11-26T21:04:00+00:00', {at})": "since yesterday 22:04",
        f"m.when('2026-11-24T21:04:00+00:00', {at})": "Tuesday 22:04",
        f"m.when('2026-10-24T20:04:00+00:00', {at})": "24 Oct, 22:04",
        f"m.when('2025-10-24T20:04:00+00:00', {at})": "24 Oct 2025, 22:04",
        f"m.ago('2026-11-27T22:45:40+00:00', {at})": "just now",
        f"m.ago('2026-11-27T22:05:00+00:00', {at})": "40_min ago",
        "m.loss(1.4449)": "1.44",
        "m.loss(0.01234)": "0.0123",
        "m.loss(123.4)": "123",
        "m.loss(NaN)": "–",
        "m.rate(2153.4)": "2,153 tokens/s",
        "m.learningRate(1e-4)": "1e-4",
        "m.learningRate(2.5e-5)": "2.5e-5",
        "m.learningRate(0)": "0",
        "m.share(999, 1000)": "99_%",
        "m.share(1, 2)": "50_%",
        "m.capital('waiting for disk')": "Waiting for disk",
    }.items():
        found = page.evaluate(f"async () => {{ const m = await import('/static/words.js'); return {call}; }}")
        assert found == text.replace("_", THIN), call


def test_times_are_those_of_the_machine(opened: Open, site: Site) -> None:
    page = opened(f"{site.url}/sign-in-is-not-there", troubled=True)
    call = """async () => {
      const m = await import('/static/words.js');
      const now = '2026-11-27T22:46:00+00:00';
      m.setOffset(-5 * 3600);
      return [m.clock(now), m.day('2026-11-27T04:00:00+00:00', now)]; }"""
    assert page.evaluate(call) == ["17:46", "yesterday"]


COLUMNS = """
const m = await import('/static/columns.js');
const curve = (span, steps, loss, bad = []) => {
  const last = steps.at(-1);
  const made = { first: 1, last, span, generation: 0, steps_done: last };
  for (const name of m.COLUMNS) made[name] = [...loss];
  return Object.assign(made, { step: steps, bad: steps.map((_, n) => bad[n] ?? 0) });
};
"""


def test_new_steps_fill_up_the_last_point(opened: Open, site: Site) -> None:
    page = opened(f"{site.url}/sign-in-is-not-there", troubled=True)
    found = page.evaluate(
        f"""async () => {{ {COLUMNS}
        const all = curve(4, [3, 7, 9], [4, 3, 2]);
        const added = m.append(all, curve(1, [9, 10, 11, 12], [9, 5, null, 1], [0, 0, 1, 0]));
        return [added, all.step, all.loss, all.loss_min, all.loss_max, all.bad, all.last]; }}"""
    )
    # Steps 8 to 11 are a point: two of 2, one of 5, and one that is no number; step 9 was known already.
    assert found == [3, [3, 7, 11, 12], [4, 3, 3, 1], [4, 3, 2, 1], [4, 3, 5, 1], [0, 0, 1, 0], 12]


def test_steps_with_a_gap_or_of_another_past_are_refused(opened: Open, site: Site) -> None:
    page = opened(f"{site.url}/sign-in-is-not-there", troubled=True)
    found = page.evaluate(
        f"""async () => {{ {COLUMNS}
        const other = curve(1, [3], [1]); other.generation = 1;
        const begun = () => curve(1, [1, 2], [4, 3]);
        return [m.append(begun(), curve(1, [4], [1])), m.append(begun(), other)]; }}"""
    )
    assert found == [-1, -1]


def test_a_closer_view_is_smoothed_with_its_own_half_life(opened: Open, site: Site) -> None:
    page = opened(f"{site.url}/sign-in-is-not-there", troubled=True)
    found = page.evaluate(
        f"""async () => {{ {COLUMNS}
        const near = curve(1, [1, 2], [4, 4]);
        m.append(near, curve(1, [3, 4], [0, 0]), 1);
        return [near.smooth, m.halfLife(50), m.halfLife(50 * 64), m.halfLife(1)]; }}"""
    )
    assert found == [[4, 4, 2, 1], 1, 64, 1]
