"""The pages themselves: templates that hold what the first look needs, and the files that browsers keep."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nightschool import __version__
from nightschool.dashboard.answers import encode
from nightschool.dashboard.looks import now_of
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import CurveQuery
from nightschool.errors import NightschoolError
from nightschool.ledger import Ledger
from nightschool.words import escape

HERE = Path(__file__).parent
STATIC = HERE / "static"
PAGES = {
    "/": "overview",
    "/queue": "queue",
    "/files": "files",
    "/saved": "saved",
    "/health": "health",
}
PLOTLY = f"/static/plotly-{importlib.metadata.version('plotly')}.min.js"
"""plotly's own script, from the package that ships it. Its path changes with it, so browsers may keep it for ever."""
FOR_EVER = "public, max-age=31536000, immutable"
LOOKED_UP = "no-cache"
"""Kept, but asked for each time whether it is still the same: an ETag is all that is sent."""


class Templates:
    """The templates of the pages.

    Args:
        root: the workspace.
    """

    def __init__(self, root: Path) -> None:
        self._found = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
        self._found.globals |= {"plotly": PLOTLY, "version": __version__, "root": escape(root)}

    def page(self, name: str, first: Mapping[str, Any]) -> str:
        """A page, with what its first look needs: `now` (None where it is not known), `problem`, and more."""
        return self._found.get_template(f"{name}.html").render(
            page=name, now=first["now"], problem=first["problem"], first=data_block(first)
        )

    def sign_in(self, problem: str, onward: str) -> str:
        """The page on which the token is given."""
        return self._found.get_template("sign-in.html").render(page="sign-in", problem=problem, next=onward)

    def error(self, text: str) -> str:
        """A page that says what is wrong, in a sentence."""
        return self._found.get_template("error.html").render(page="error", text=text)


def routes(services: Services, templates: Templates) -> list[BaseRoute]:
    """All pages and files."""
    found: list[BaseRoute] = [Route(path, _showing(services, templates, name)) for path, name in PAGES.items()]
    return [*found, Route(PLOTLY, plotly_script), Mount("/static", Files(directory=STATIC))]


class Files(StaticFiles):
    """The page's own files."""

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:
        """A file, or that the browser has it already."""
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["Cache-Control"] = LOOKED_UP
        return answer


async def plotly_script(request: Request) -> Response:
    """The script, to be kept by the browser."""
    del request
    return FileResponse(plotly_file(), media_type="text/javascript", headers={"Cache-Control": FOR_EVER})


def plotly_file() -> Path:
    """Where the package has it. Found without importing plotly, which takes a second."""
    distribution = importlib.metadata.distribution("plotly")
    return Path(str(distribution.locate_file("plotly/package_data/plotly.min.js")))


def data_block(value: object) -> Markup:
    """A value as JSON in `<script type="application/json">`, which nothing in it can end: `<` is written out."""
    text = encode(value).decode().replace("<", "\\u003c")
    return Markup(text)


def _showing(services: Services, templates: Templates, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        del request
        first: dict[str, Any] = {"now": None, "problem": None}
        try:
            first |= await services.reader.read(lambda ledger: _first(services, ledger, name))
        except NightschoolError as error:
            # The page itself is there, and says so; its scripts ask again.
            first["problem"] = escape(error)
        return HTMLResponse(templates.page(name, first), 503 if first["problem"] else 200)

    return show


def _first(services: Services, ledger: Ledger, name: str) -> dict[str, Any]:
    """What a page's first look needs, so that it asks for nothing more: the curve as /api/curve gives it."""
    now = now_of(services.layout, ledger)
    if name != "overview":
        return {"now": now}
    query, memory = CurveQuery(), services.reader.memory
    return {
        "now": now,
        "curve": memory.history.curve(ledger, now.generation, query.first, query.last, query.points),
        "marks": memory.marked.marks(ledger, query.first, query.last),
    }
