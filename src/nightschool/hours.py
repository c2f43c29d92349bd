"""When training may run: reading `machine.hours`, and whether a moment is within it. Pure: the clock is passed in.

What counts is what a clock on the wall shows. So an hour that comes twice in autumn counts twice, one that is left out
in spring not at all, and a clock that somebody sets changes nothing but the answer from then on.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from nightschool.errors import SettingsError

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY = 1440
WEEK = 7 * DAY
LONGEST_CLOSED = timedelta(days=15)
"""No week without an opening, save one in which the change of the clocks leaves its only hour out."""
FARTHEST = timedelta(days=3653)
"""Work that ends later than this has no end that anybody could name."""

_PIECE = re.compile(r"(?P<days>[a-z -]*?)\s*(?P<begin>\d{1,2}:\d\d)\s*-\s*(?P<end>\d{1,2}:\d\d)")
_TURN_STEP = 6 * 3600


@dataclass(frozen=True)
class Hours:
    """The open parts of a week, in minutes from Monday 00:00 on the wall: apart from each other, in order."""

    open: tuple[tuple[int, int], ...]

    @property
    def always(self) -> bool:
        """Whether there is no hour outside."""
        return self.open == ((0, WEEK),)

    def covers(self, wall: datetime) -> bool:
        """Whether the wall clock's time is within the hours."""
        minute = wall.weekday() * DAY + wall.hour * 60 + wall.minute
        return any(begin <= minute < end for begin, end in self.open)

    def to_boundary(self, wall: datetime) -> timedelta:
        """How long until the wall clock shows a time at which a part begins or ends; more than 0."""
        minute = wall.weekday() * DAY + wall.hour * 60 + wall.minute
        edges = [edge for part in self.open for edge in part]
        ahead = min((edge - minute - 1) % WEEK + 1 for edge in edges)
        return timedelta(minutes=ahead) - timedelta(seconds=wall.second, microseconds=wall.microsecond)


@dataclass(frozen=True)
class Open:
    """Whether a moment is within the hours.

    Attributes:
        open: whether it is.
        why: a clause without a full stop, in local words: "training begins at 22:00".
        until: when that changes, in the zone of the moment asked about; None where it never does.
    """

    open: bool
    why: str
    until: datetime | None


def parse(text: str) -> Hours:
    """Read `22:00-07:00`, or `mon-fri 22:00-07:00, sat sun 00:00-24:00`; "" is always.

    A range over midnight belongs to the day it begins on. Where one range names its days, all must: `daily` names all.

    Raises:
        SettingsError: names the piece that is wrong, and what to write.
    """
    pieces = [piece.strip().lower() for piece in text.split(",")]
    if pieces == [""]:
        return Hours(((0, WEEK),))
    read = [(piece, *_piece(piece)) for piece in pieces]
    if any(days for _, days, _, _ in read):
        for piece, days, _, _ in read:
            if not days:
                raise _wrong(piece, f"others name their days, so this one must: daily {piece}")
    spans = []
    for _, days, begin, end in read:
        for day in days or range(7):
            start = day * DAY + begin
            spans.append((start, start + (end - begin if end > begin else end - begin + DAY)))
    return Hours(tuple(_joined(spans)))


def open_at(now: datetime, hours: Hours) -> Open:
    """Whether training may run at `now`, an aware time in the zone where the machine stands, and until when."""
    zone = _zone(now)
    open = hours.covers(now)
    until = None if hours.always else _change(now, zone, hours, open)
    if until is None:
        return Open(open, "always" if open else "no opening is in sight", None)
    when = in_words(until, now)
    return Open(open, f"training goes on until {when}" if open else f"training begins {_at(when)}", until)


def finish(now: datetime, seconds: float, hours: Hours) -> datetime | None:
    """When so many seconds of work are done that begins at `now` and rests outside the hours.

    None where that is farther away than ten years, or not a number.
    """
    end = now.astimezone(UTC) + FARTHEST
    if not math.isfinite(seconds) or seconds > FARTHEST.total_seconds():
        return None
    left = timedelta(seconds=max(0.0, seconds))
    at, zone = now, _zone(now)
    while at.astimezone(UTC) < end:
        found = open_at(at, hours)
        if found.open:
            length = None if found.until is None else found.until.astimezone(UTC) - at.astimezone(UTC)
            if length is None or left <= length:
                return (at.astimezone(UTC) + left).astimezone(zone)
            left -= length
        if found.until is None:
            return None
        at = found.until
    return None


def in_words(moment: datetime, now: datetime) -> str:
    """A moment to come, as a person at `now` would say it: `22:00`, `tomorrow at 07:00`, `Saturday at 00:00`."""
    days = (moment.date() - now.date()).days
    clock = f"{moment:%H:%M}"
    if days == 0:
        return clock
    if days == 1:
        return f"tomorrow at {clock}"
    if 1 < days < 7:
        return f"{DAYS[moment.weekday()].capitalize()} at {clock}"
    return f"{moment:%Y-%m-%d} at {clock}"


class LocalZone(tzinfo):
    """The zone of this computer as it is now, with its changes of the clock: `datetime.astimezone` gives a mere offset.

    Asks the C library each time, so TZ and a changed /etc/localtime count.
    """

    def fromutc(self, dt: datetime) -> datetime:
        """The wall clock at a moment; which of two equal times it is stands in `fold`."""
        return datetime.fromtimestamp(dt.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        """How far the wall clock is ahead of UTC then."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:  # noqa: ARG002 (its form is given)
        """Not known, and not needed."""
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        """What the zone is called then."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()


def local_now() -> datetime:
    """What the clock on the wall shows here."""
    time.tzset()
    return datetime.now(LocalZone())


def _piece(piece: str) -> tuple[list[int], int, int]:
    """The days, none where none are named, and first and last minute of one range."""
    if not piece:
        raise _wrong(piece, "there is nothing between two commas")
    found = _PIECE.fullmatch(piece)
    if found is None:
        if not any(c.isdigit() for c in piece):
            raise _wrong(piece, f"it has no times; days of one range are joined by spaces, as in: {piece} 22:00-07:00")
        raise _wrong(piece, "write it as 22:00-07:00, or as mon-fri 22:00-07:00")
    begin, end = (_minute(piece, found[name]) for name in ("begin", "end"))
    if begin == DAY:
        raise _wrong(piece, "a range may end at 24:00 but not begin there: begin at 00:00 of the next day")
    if begin == end:
        raise _wrong(piece, "begin and end are the same; a whole day is 00:00-24:00")
    return list(_days(piece, found["days"])), begin, end


def _minute(piece: str, clock: str) -> int:
    hour, minute = map(int, clock.split(":"))
    if minute > 59 or hour * 60 + minute > DAY:
        raise _wrong(piece, f"{clock} is no time of day")
    return hour * 60 + minute


def _days(piece: str, text: str) -> Iterator[int]:
    for word in re.sub(r"\s*-\s*", "-", text).split():
        if word == "daily":
            yield from range(7)
            continue
        first, _, last = word.partition("-")
        begin = _day(piece, first)
        end = _day(piece, last) if "-" in word else begin
        yield from ((begin + n) % 7 for n in range((end - begin) % 7 + 1))


def _day(piece: str, word: str) -> int:
    for number, name in enumerate(DAYS):
        if len(word) >= 3 and name.startswith(word):
            return number
    raise _wrong(piece, f"{word!r} is no day; days are mon, tue, wed, thu, fri, sat, sun, and daily for all")


def _wrong(piece: str, why: str) -> SettingsError:
    return SettingsError(f"`machine.hours`: {piece!r} cannot be read: {why}.")


def _joined(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans within one week: cut at its end, sorted, joined where they touch."""
    cut = [(begin, min(end, WEEK)) for begin, end in spans] + [(0, end - WEEK) for _, end in spans if end > WEEK]
    begin, end = -1, -1
    for first, last in sorted(cut):
        if first <= end:
            end = max(end, last)
            continue
        if end >= 0:
            yield begin, end
        begin, end = first, last
    yield begin, end


def _change(now: datetime, zone: tzinfo, hours: Hours, open: bool) -> datetime | None:
    """The first moment after `now` at which it is not `open`, if there is one within two weeks."""
    at = now.astimezone(UTC)
    end = at + LONGEST_CLOSED
    while at < end:
        boundary = at + hours.to_boundary(at.astimezone(zone))
        # The wall clock may jump before it gets there, into the hours or out of them.
        at = _turn(at, boundary, zone) or boundary
        if hours.covers(at.astimezone(zone)) != open:
            return at.astimezone(zone)
    return None


def _turn(begin: datetime, end: datetime, zone: tzinfo) -> datetime | None:
    """The first moment after `begin`, and not after `end`, from which on the clocks are another way ahead of UTC."""
    low, last = math.floor(begin.timestamp()), math.floor(end.timestamp())
    ahead = _ahead(low, zone)
    while low < last:
        high = min(low + _TURN_STEP, last)
        if _ahead(high, zone) != ahead:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _ahead(middle, zone) == ahead else (low, middle)
            return datetime.fromtimestamp(high, UTC)
        low = high
    return None


def _ahead(second: int, zone: tzinfo) -> timedelta | None:
    return datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset()


def _zone(now: datetime) -> tzinfo:
    if now.tzinfo is None:
        raise ValueError("the time has no zone")
    return now.tzinfo


def _at(when: str) -> str:
    """With the little word that the language wants: `at 22:00`, `tomorrow at 07:00`, `on Saturday at 00:00`."""
    if when[0].isdigit():
        return f"at {when}" if len(when) == 5 else f"on {when}"
    return when if when.startswith("tomorrow") else f"on {when}"
