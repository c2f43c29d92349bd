"""Keeps the process that serves the page. It reads its settings when it starts, and is started again for other ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightschool.errors import SettingsError
from nightschool.settings import PageSettings
from nightschool.supervisor.aside import Aside, Words
from nightschool.supervisor.children import Child
from nightschool.workspace import Layout

GRACE = 5.0


class Showing(Aside):
    """The page's process.

    Args:
        layout: the workspace.
        command: program and arguments; empty where there is to be no page.
        settings: [page]; with port 0 nothing is started.
        host, port: of the command line, over those of the settings.
        say: takes one line for the log.
        clock: monotonic seconds.
    """

    def __init__(
        self, layout: Layout, command: Sequence[str], settings: PageSettings, say: Callable[[str], None],
        clock: Callable[[], float], host: str | None = None, port: int | None = None,
    ) -> None:  # fmt: skip
        words = Words(
            "The page", "It is started again by itself; training goes on.",
            f"The page did not end within {GRACE:.0f} seconds and was killed.",
        )  # fmt: skip
        given = {"--host": host, "--port": port}
        options = [str(part) for pair in given.items() if pair[1] is not None for part in pair]
        command = [*command, *options] if command else ()
        child = Child("page", command, layout.page_output, GRACE, clock, cwd=layout.root)
        super().__init__(child, words, say, clock, layout.page_lock)
        self._over = (host, port)
        self._settings = settings
        self._wanted = settings.at(host, port).port != 0

    def apply(self, settings: PageSettings) -> None:
        """Go by other settings from now on. Where the page would be open to everybody there is none any more."""
        if settings == self._settings:
            return
        self._settings = settings
        try:
            self._wanted = settings.at(*self._over).port != 0
        except SettingsError as error:
            self._wanted = False
            self._say(f"There is no page any more: {error}")
        self.renew()

    def tend(self, wanted: bool) -> None:
        """As of `Aside`; with port 0 there is no page."""
        super().tend(wanted and self._wanted)
