"""The page as an ASGI application: its endpoints, checked against their shapes, its pages and its files."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from nightschool.dashboard import live, openapi, pages
from nightschool.dashboard.admission import API, Rules, content_type
from nightschool.dashboard.answers import encode, trouble
from nightschool.dashboard.endpoints import Call, Changed, Endpoint, NotThere, TooMuch
from nightschool.dashboard.guard import Guard
from nightschool.dashboard.limits import AtOnce, Limits
from nightschool.dashboard.pages import Templates
from nightschool.dashboard.seldom import Seldom
from nightschool.dashboard.services import Services
from nightschool.dashboard.signing_in import Key, Tries
from nightschool.errors import BusyError, NightschoolError, StorageError, WorkspaceError

BODY_BYTES = 65_536
JSON = "application/json"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a part of a path may be. No dots and no slashes: it can never be a way to another folder."""
_NOT_THERE = "There is no such page here. The API is described in /api/openapi.json."

log = logging.getLogger("nightschool.page")


def guarded(
    services: Services, endpoints: Sequence[Endpoint], rules: Rules, key: Key | None, limits: Limits | None = None
) -> ASGIApp:
    """The whole page: the application behind its limits and its guard."""
    limits, templates = limits or Limits(), Templates(services.layout.root)
    app = AtOnce(application(services, endpoints, templates, limits), limits.requests, limits.wait_seconds)
    return Guard(app, rules, key, Tries(time.monotonic), Seldom(log, time.monotonic), templates.sign_in)


def application(
    services: Services, endpoints: Sequence[Endpoint], templates: Templates, limits: Limits | None = None
) -> Starlette:
    """The application over a workspace, with nothing before it that keeps anyone out."""
    routes: list[BaseRoute] = [Route(one.path, _answering(services, one), methods=[one.method]) for one in endpoints]
    routes.append(live.route(services.live, (limits or Limits()).streams))
    routes.append(openapi.route(endpoints))
    routes += pages.routes(services, templates)
    app = _Application(
        routes=routes,
        exception_handlers={HTTPException: _not_routed(templates), ClientDisconnect: _gone},  # pyright: ignore[reportArgumentType]
    )
    # A redirect to the same path with or without a slash would be made of the Host header.
    app.router.redirect_slashes = False
    return app


class _Application(Starlette):
    """Without the layer that answers accidents with a text of its own: the guard has a better answer."""

    def build_middleware_stack(self) -> ASGIApp:
        return ExceptionMiddleware(self.router, handlers=self.exception_handlers)


def _answering(services: Services, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        path = {name: str(value) for name, value in request.path_params.items()}
        if not all(_ID.fullmatch(value) for value in path.values()):
            return trouble(404, _NOT_THERE, "not there")
        if endpoint.takes is not None and content_type(request.headers.get("content-type", JSON)) != JSON:
            return trouble(415, f"Send JSON, with `Content-Type: {JSON}`.", "content type")
        try:
            query = body = None
            if endpoint.query is not None:
                _known(request.query_params, endpoint.query)
                query = msgspec.convert(dict(request.query_params), endpoint.query, strict=False)
            if endpoint.takes is not None:
                data = await _body(request) or b"{}"
                _known(msgspec.json.decode(data, type=dict[str, msgspec.Raw]), endpoint.takes)
                body = msgspec.json.decode(data, type=endpoint.takes)
            found = await endpoint.answer(Call(services, path, query, body, request))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return trouble(422, str(error), "request")
        except RecursionError:
            return trouble(422, "What was sent is nested too deeply.", "request")
        except NotThere as error:
            return trouble(404, str(error), "not there")
        except Changed as error:
            return trouble(409, str(error), "changed")
        except TooMuch as error:
            return trouble(error.status, str(error), "too much")
        except NightschoolError as error:
            return trouble(_status_of(error), str(error), type(error).__name__)
        return Response(encode(found), endpoint.status, media_type="application/json")

    return answer


def _known(given: Iterable[str], shape: type[msgspec.Struct]) -> None:
    """Raise ValidationError for a word that the shape does not have: taken for another, it would silently be missed."""
    names = shape.__struct_encode_fields__
    for name in given:
        if name not in names:
            raise msgspec.ValidationError(f"There is no `{name}` here. Known: {', '.join(names) or 'nothing'}.")


async def _body(request: Request) -> bytes:
    """The JSON that was sent. Raises TooMuch as soon as it is too long, whatever its head says."""
    length = request.headers.get("content-length", "0")
    too_long = f"No request is longer than {BODY_BYTES:,} bytes, except for a file."
    if length.isdecimal() and int(length) > BODY_BYTES:
        raise TooMuch(too_long)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            raise TooMuch(too_long)
    return bytes(body)


def _status_of(error: NightschoolError) -> int:
    if isinstance(error, StorageError | WorkspaceError):
        return 503
    return 409 if isinstance(error, BusyError) else 422


def _not_routed(templates: Templates) -> Callable[[Request, HTTPException], Awaitable[Response]]:
    """Answers where there is no such path, or not with this method."""

    async def answer(request: Request, error: HTTPException) -> Response:
        text = _NOT_THERE if error.status_code == 404 else str(error.detail)
        if error.status_code == 405:
            text = "This cannot be asked for in this way. The API is described in /api/openapi.json."
        if "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(API):
            return HTMLResponse(templates.error(text), error.status_code)
        return trouble(error.status_code, text, "not there", error.headers)

    return answer


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    """Whoever asked is not there any more: nobody reads this."""
    del request, error
    return trouble(400, "The request was not sent to its end.", "request")
