"""The page as an ASGI application: its endpoints, checked against their shapes, its pages and its files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from nightschool.dashboard import pages
from nightschool.dashboard.endpoints import Call, Changed, Endpoint, NotThere, TooMuch
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Trouble
from nightschool.errors import BusyError, NightschoolError, StorageError, WorkspaceError

BODY_BYTES = 65_536


def application(services: Services, endpoints: Sequence[Endpoint]) -> Starlette:
    """The application over a workspace."""
    routes: list[BaseRoute] = [Route(one.path, _answering(services, one), methods=[one.method]) for one in endpoints]
    routes += [Route(path, pages.showing(services, name)) for path, name in pages.PAGES.items()]
    routes.append(Route(pages.PLOTLY, pages.plotly_script))
    routes.append(Mount("/static", StaticFiles(directory=pages.STATIC)))
    return Starlette(routes=routes)


def _answering(services: Services, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            query = body = None
            if endpoint.query is not None:
                query = msgspec.convert(dict(request.query_params), endpoint.query, strict=False)
            if endpoint.takes is not None:
                body = msgspec.json.decode(await request.body() or b"{}", type=endpoint.takes)
            path = {name: str(value) for name, value in request.path_params.items()}
            found = await endpoint.answer(Call(services, path, query, body, request))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return _trouble(422, str(error), "request")
        except NotThere as error:
            return _trouble(404, str(error), "not there")
        except Changed as error:
            return _trouble(409, str(error), "changed")
        except TooMuch as error:
            return _trouble(error.status, str(error), "too much")
        except NightschoolError as error:
            return _trouble(_status_of(error), str(error), type(error).__name__)
        return Response(msgspec.json.encode(found), endpoint.status, media_type="application/json")

    return answer


def _status_of(error: NightschoolError) -> int:
    if isinstance(error, StorageError | WorkspaceError):
        return 503
    return 409 if isinstance(error, BusyError) else 422


def _trouble(status: int, error: str, kind: str) -> Response:
    return Response(msgspec.json.encode(Trouble(error=error, kind=kind)), status, media_type="application/json")
