"""What the endpoints answer with: the workspace, the ledger's reader, and what they keep between requests."""

from __future__ import annotations

from nightschool.api import Workspace
from nightschool.dashboard.hands import Hands
from nightschool.dashboard.jobs import Jobs
from nightschool.dashboard.live import Live
from nightschool.dashboard.previewing import Previews
from nightschool.dashboard.reader import Reader
from nightschool.dashboard.staged import Uploads
from nightschool.workspace import Layout


class Services:
    """One of each, for all requests.

    Args:
        layout: the workspace.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.workspace = Workspace(layout)
        self.reader = Reader(layout)
        self.jobs = Jobs()
        self.live = Live(layout, self.reader, jobs=self.jobs.going_on)
        self.hands = Hands("acts")
        self.planning = Hands("plans")
        self.jobs.observe(lambda job: self.live.tell("job", job))
        self.uploads = Uploads(layout)
        self.previews = Previews(layout)

    def close(self) -> None:
        """Let go of all."""
        self.live.close()
        self.reader.close()
        for one in (self.hands, self.planning, self.jobs, self.uploads):
            one.close()
