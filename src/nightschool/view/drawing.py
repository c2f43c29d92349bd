"""A view as lines of text with a few colours, for a terminal of any size. Pure: the same view, the same lines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from textwrap import wrap

from rich.text import Text

from nightschool.view.model import View
from nightschool.words import duration, escape, in_bytes

NOW, TROUBLE, QUIET = "yellow", "red", "dim"
AT_WORK = ("training", "saving", "preparing", "starting", "stopping")
IN_TROUBLE = ("failed", "restarting", "waiting", "waiting for disk")
SIDE_BY_SIDE = 120
"""Columns from which on the queue stands beside the figures."""
LEFT = 88
NARROW = 60
LABEL = 10
FEWEST_LINES = 3
LONGEST_NAME = 30
NOTHING = "-"
MOST_REASON = 4
GAP = 2


@dataclass(frozen=True)
class Glyphs:
    """What bars and curves are drawn with."""

    full: str
    rest: str
    trend: str
    more: str
    plain: bool


UNICODE = Glyphs("━", "─", "▁▂▃▄▅▆▇█", "…", False)
ASCII = Glyphs("=", "-", "", "", True)


def draw(view: View, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """At most `height` lines of at most `width` columns. What matters least goes first where there is no room."""
    return _Page(view, max(width, 1), glyphs).lines(max(height, 1))


class _Page:
    def __init__(self, view: View, width: int, glyphs: Glyphs) -> None:
        self.view = view
        self.width = width
        self.glyphs = glyphs
        self.wide = width >= SIDE_BY_SIDE

    def lines(self, height: int) -> list[Text]:
        left = LEFT if self.wide else self.width
        found = self._head()[: max(1, height - 1)]
        room = height - len(found)
        for block in (self._bar(left), self._figures(left)[: max(2, room - 9)]):
            if block and room > len(block):
                found += [Text(), *block]
                room -= len(block) + 1
        if self.wide:
            begin = min(len(found), len(self._head()) + 1)
            found = self._beside(found, begin, left)
        elif room > FEWEST_LINES + 3:
            queue = self._queue(self.width, min(room - FEWEST_LINES - 3, max(4, room // 3)))
            if queue:
                found += [Text(), *queue]
                room -= len(queue) + 1
        if room > 2 and self.view.lines:
            found += [Text(), *self._log(room - 1)]
        return [self._cut(line, self.width) for line in found[:height]]

    def _beside(self, found: list[Text], begin: int, left: int) -> list[Text]:
        """The queue to the right of the lines from `begin` on."""
        space = min(self.width - left - GAP, left)
        right = self._queue(space, max(0, len(found) - begin - 1))
        joined = found[:begin]
        for number, line in enumerate(found[begin:]):
            line = self._cut(line, left)
            if number < len(right):
                line.pad_right(left + GAP - line.cell_len)
                line.append_text(right[number])
            joined.append(line)
        return joined

    def _head(self) -> list[Text]:
        view, status = self.view, self.view.status
        style = f"bold {NOW}" if status.state in AT_WORK else "bold"
        style = f"bold {TROUBLE}" if status.state in IN_TROUBLE else style
        lines = [Text(self._plain(status.state), style)]
        reason = status.reason
        if status.paused and status.pid is None:
            reason += " (and `nightschool resume` ends the pause)"
        since = ""
        if status.since:
            began = datetime.fromisoformat(status.since).astimezone(view.at.tzinfo)
            since = f"since {clock_time(began, view.at)}"
        space = self.width - len(status.state) - GAP - (len(since) + GAP if since else 0)
        words = self._plain(reason)
        if len(words) <= space:
            lines[0].append(f"  {words}", "")
        else:
            lines += [Text(line) for line in wrap(words, self.width)[:MOST_REASON]]
        if since and lines[0].cell_len + GAP + len(since) <= self.width:
            lines[0].pad_right(self.width - lines[0].cell_len - len(since))
            lines[0].append(since, QUIET)
        if view.trouble:
            lines += [Text(line, TROUBLE) for line in wrap(self._plain(view.trouble), self.width)[:2]]
        return lines

    def _bar(self, width: int) -> list[Text]:
        view = self.view
        if not view.file_steps:
            return []
        share = view.file_step / view.file_steps
        percent = f"{share:>4.0%}"
        cells = max(4, width - len(percent) - 1)
        full = int(cells * share)
        bar = Text(self.glyphs.full * full, NOW).append(self.glyphs.rest * (cells - full), QUIET).append(f" {percent}")
        file = view.status.current_file
        # Where the first line tells something else, the name is here.
        named = "this file" if file is None or file == view.status.reason else self._plain(file)
        under = Text(f"step {view.file_step:,} of {view.file_steps:,} of ")
        under.append_text(self._cut(Text(named), LONGEST_NAME))
        if view.file_seconds is not None:
            left = f"{duration(view.file_seconds)} left, done near {done_near(view.at, view.file_seconds)}"
            if under.cell_len + GAP + len(left) <= width:
                under.pad_right(width - under.cell_len - len(left))
                under.append(left)
            else:
                return [bar, under, Text(left)]
        return [bar, under]

    def _figures(self, width: int) -> list[Text]:
        columns = 1 if width < NARROW else 2
        space = (width - GAP * (columns - 1)) // columns
        pairs = [(label, value) for label, value in self._pairs(space) if value is not None]
        rows = -(-len(pairs) // columns)
        found = []
        for row in range(rows):
            line = Text()
            for column in range(columns):
                at = row * columns + column
                if at >= len(pairs):
                    continue
                line.pad_right(max(0, column * (space + GAP) - line.cell_len))
                label, value = pairs[at]
                cell = Text(label.ljust(LABEL), QUIET).append_text(value)
                line.append_text(self._cut(cell, space))
            found.append(line)
        return found

    def _pairs(self, space: int) -> list[tuple[str, Text | None]]:
        status, hardware = self.view.status, self.view.hardware
        files = [f"{status.learned:,} learned"]
        for number, word in ((status.rejected, "rejected"), (status.set_aside, "aside")):
            if number:
                files.append(f"{number:,} {word}")
        saved, kept = status.last_checkpoint, status.last_snapshot
        gpu = None
        if hardware.gpu_total:
            gpu = Text(f"{in_bytes(hardware.gpu_used or 0)} of {in_bytes(hardware.gpu_total)}")
        speed = status.tokens_per_second
        rate, memory = status.learning_rate, hardware.trainer_bytes
        # Each has its place, also while there is nothing to say: figures that move are hard to read.
        return [
            ("step", Text(f"{status.step:,}")),
            ("loss", self._loss(space)),
            ("speed", Text(NOTHING if speed is None else f"{speed:,.0f} tokens/s")),
            ("rate", Text(NOTHING if rate is None else f"{rate:.3g}")),
            ("memory", Text(NOTHING if memory is None else in_bytes(memory))),
            ("GPU", gpu),
            ("saved", self._aged(f"step {saved['step']:,}", saved["written_at"]) if saved else Text("none yet")),
            ("snapshot", self._aged(self._plain(kept["name"]), kept["taken_at"]) if kept else Text("none yet")),
            ("disk", None if hardware.disk_free is None else Text(f"{in_bytes(hardware.disk_free)} free")),
            ("files", Text(", ".join(files))),
            ("page", Text(status.page) if status.page else None),
        ]  # fmt: skip

    def _loss(self, space: int) -> Text:
        status, trend = self.view.status, self.view.trend
        if status.learning_rate is None:
            return Text(NOTHING)
        if status.loss is None:
            return Text("not a number", TROUBLE)
        found = Text(f"{status.loss:.4f}")
        if len(trend) > 1 and self.glyphs.trend:
            # The newest of it, where there is no room for all.
            trend = trend[-max(1, space - LABEL - found.cell_len - GAP) :]
            found.append("  ").append(sparkline(trend, self.glyphs.trend), NOW)
        elif len(trend) > 1:
            found.append(f", was {trend[0]:.4f}", QUIET)
        return found

    def _aged(self, what: str, stamp: str) -> Text:
        age = max(0.0, (self.view.at - datetime.fromisoformat(stamp)).total_seconds())
        return Text(what).append(f", {duration(age)} ago", QUIET)

    def _queue(self, width: int, height: int) -> list[Text]:
        """What is to come: a line about all of it, then the first files with steps and time."""
        view, status = self.view, self.view.status
        if height < 1:
            return []
        if not view.next:
            return [Text("nothing waits", QUIET)]
        number = max(len(view.next), status.queued + sum(one.again for one in view.next))
        lines = [Text(f"{number:,} {'file' if number == 1 else 'files'} to come")]
        if status.seconds_left is not None:
            what = f"all done near {done_near(view.at, status.seconds_left)}"
            if status.state == "training":
                lines[0].append(f", {what}")
            lines[0].append(f" ({duration(status.seconds_left)} of training)", QUIET)
        shown = view.next[: height - 1]
        if number > len(shown) > 0:
            shown = shown[: max(0, height - 2)]
        for one in shown:
            steps = "" if one.steps is None else f"{'~' if one.estimated else ''}{one.steps:,} steps"
            time = "" if one.seconds is None else duration(one.seconds)
            figures = f"{steps:>14}{time:>13}" if width >= NARROW - GAP else f"{time:>13}"
            name = Text(f"  {self._plain(one.name)}{' (again)' if one.again else ''}")
            name = self._cut(name, max(1, width - len(figures) - 1))
            name.pad_right(max(0, width - len(figures) - name.cell_len))
            lines.append(name.append(figures, QUIET))
        if number > len(shown) and height > 1:
            lines.append(Text(f"  and {number - len(shown):,} more", QUIET))
        return lines

    def _log(self, height: int) -> list[Text]:
        lines = [Text(self.glyphs.rest * self.width, QUIET)]
        for line in self.view.lines[-(height - 1) :]:
            stamp, _, text = self._plain(line).partition("  ")
            # The day is that of today or yesterday: the time alone tells it.
            stamp = stamp[-8:] if len(stamp) == len("2026-11-22 22:04:11") else stamp
            lines.append(Text(f"{stamp}  ", QUIET).append(text, ""))
        return lines

    def _plain(self, text: str) -> str:
        text = escape(text)
        return text.encode("ascii", "backslashreplace").decode("ascii") if self.glyphs.plain else text

    def _cut(self, line: Text, width: int) -> Text:
        line = line.copy()
        line.truncate(width, overflow="ellipsis" if self.glyphs.more else "crop")
        return line


def sparkline(values: tuple[float, ...], levels: str) -> str:
    """One character for each value, between the lowest and the highest."""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    return "".join(levels[min(len(levels) - 1, int((value - low) / spread * len(levels)))] for value in values)


def clock_time(when: datetime, now: datetime) -> str:
    """`21:04`; more than 20 hours away `Tue 21:04`; more than six days away `2026-11-22 21:04`."""
    if abs(when - now) <= timedelta(hours=20):
        return f"{when:%H:%M}"
    if abs((when.date() - now.date()).days) <= 6:
        return f"{when:%a %H:%M}"
    return f"{when:%Y-%m-%d %H:%M}"


def done_near(now: datetime, seconds: float) -> str:
    """When something ends that takes so long, to five minutes where it is more than an hour away."""
    end = now + timedelta(seconds=seconds)
    if seconds >= 3600:
        end += timedelta(minutes=2.5)
        end = end.replace(minute=end.minute // 5 * 5)
    return clock_time(end, now)
