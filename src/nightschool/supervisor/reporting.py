"""Keeps the process that tells the experiment trackers; at the end it is the last to go, so that all rows are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightschool.settings import TrackerSettings
from nightschool.supervisor.aside import Aside, Words
from nightschool.supervisor.children import Child
from nightschool.workspace import Layout

GRACE = 30.0


class Reporting(Aside):
    """The trackers' process.

    Args:
        layout: the workspace.
        command: program and arguments; empty where there is nothing to start.
        settings: [trackers]; where it names none, nothing is started.
        say: takes one line for the log.
        clock: monotonic seconds.
    """

    def __init__(
        self, layout: Layout, command: Sequence[str], settings: TrackerSettings, say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        words = Words(
            "The process that tells the trackers",
            "It is started again by itself; training goes on, and nothing of the curve is lost.",
            f"The trackers did not finish within {GRACE:.0f} seconds. What they lack they are told at the next start.",
        )
        child = Child("tracker", command, layout.tracker_output, GRACE, clock, cwd=layout.root)
        super().__init__(child, words, say, clock, layout.tracker_lock)
        self._settings = settings

    def apply(self, settings: TrackerSettings) -> None:
        """Go by other settings from now on."""
        if settings != self._settings:
            self._settings = settings
            self.renew()

    def tend(self, wanted: bool) -> None:
        """As of `Aside`; without a tracker there is nothing to tell."""
        super().tend(wanted and bool(self._settings.report_to))
