"""The pages themselves: templates that hold no data but what the first look needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import plotly
from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from nightschool.dashboard.services import Services

HERE = Path(__file__).parent
STATIC = HERE / "static"
PAGES = {
    "/": "overview",
    "/queue": "queue",
    "/files": "files",
    "/saved": "saved",
    "/health": "health",
}
PLOTLY = "/static/plotly.min.js"
"""plotly's own script, from the package that ships it."""

_templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)


def showing(services: Services, name: str) -> Callable[[Request], Awaitable[Response]]:
    """Answers with the page of that name."""

    async def show(request: Request) -> Response:
        del request
        return HTMLResponse(_templates.get_template(f"{name}.html").render(page=name, root=services.layout.root))

    return show


async def plotly_script(request: Request) -> Response:
    """The script, to be kept by the browser."""
    del request
    folder = Path(plotly.__file__).parent
    return FileResponse(folder / "package_data" / "plotly.min.js", media_type="text/javascript")
