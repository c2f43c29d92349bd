"""The description of the API, made from the endpoints and their structs: it cannot say something else than they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nightschool import __version__
from nightschool.dashboard.beats import Changed
from nightschool.dashboard.endpoints import Endpoint
from nightschool.dashboard.limits import LIVE
from nightschool.dashboard.shapes import Curve, Done, Events, Job, Now, Trouble

PATH = "/api/openapi.json"
ID = "^[A-Za-z0-9_-]{1,64}$"
REF = "#/components/schemas/{name}"
STREAMED: dict[str, tuple[type[Struct], str]] = {
    "now": (Now, "what the machine is doing, at least every ten seconds"),
    "steps": (Curve, "new steps, with a span of 1"),
    "events": (Events, "what happened"),
    "changed": (Changed, "what is to be asked for again"),
    "job": (Job, "how something that takes a while is getting on"),
    "trouble": (Trouble, "why nothing can be told; `now` comes again when it can"),
}
TROUBLES = {
    400: "the request is not one",
    401: "the token is missing or wrong, where one is needed",
    403: "asked under a foreign name, or by a page of another address",
    404: "there is no such thing",
    405: "not in this way",
    409: "something else is being done, or what was agreed to is not what would be done now",
    413: "longer than is taken",
    415: "neither JSON nor, for a file, application/octet-stream",
    422: "what was sent cannot be used",
    429: "too many at once",
    431: "a head longer than is taken",
    503: "the ledger cannot be read now, or too much is asked at once",
}


def described(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The description, as OpenAPI 3.1 has it."""
    structs: set[type[Struct]] = {Trouble, Done, *(struct for struct, _ in STREAMED.values())}
    for one in endpoints:
        structs |= {struct for struct in (one.gives, one.takes, one.query) if struct is not None}
    ordered = sorted(structs, key=lambda struct: struct.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=REF)
    for one in endpoints:
        if one.takes is not None:
            schemas[one.takes.__name__]["additionalProperties"] = False
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    paths[LIVE] = {"get": _live()}
    paths[PATH] = {"get": _plain("This description", "description", {"type": "object"})}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nightschool",
            "version": __version__,
            "description": "Times are UTC ISO 8601, sizes bytes, durations seconds, losses nats per label token.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "where page.token is set"}
            },
        },
        "security": [{}, {"token": []}],
    }


def route(endpoints: Sequence[Endpoint]) -> Route:
    """GET /api/openapi.json."""
    text = msgspec.json.format(msgspec.json.encode(described(endpoints)), indent=1)

    async def answer(request: Request) -> Response:
        del request
        return Response(text, media_type="application/json")

    return Route(PATH, answer, methods=["GET"])


def _operation(one: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    found = _plain(one.summary, _identity(one), _ref(one.gives), one.status)
    if one.tag:
        found["tags"] = [one.tag]
    text = {"type": "string", "pattern": ID}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": text} for name in re.findall(r"\{(\w+)\}", one.path)
    ]
    if one.query is not None:
        schema = schemas[one.query.__name__]
        needed = schema.get("required", [])
        for name, shape in schema["properties"].items():
            parameters.append({"name": name, "in": "query", "required": name in needed, "schema": _in_query(shape)})
    if parameters:
        found["parameters"] = parameters
    if one.streams:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        found["requestBody"] = {"required": True, "content": content}
    elif one.takes is not None:
        needed = bool(schemas[one.takes.__name__].get("required"))
        found["requestBody"] = {"required": needed, "content": {"application/json": {"schema": _ref(one.takes)}}}
    return found


def _plain(summary: str, identity: str, schema: dict[str, Any], status: int = 200) -> dict[str, Any]:
    """An operation with its answers."""
    trouble = {"application/json": {"schema": _ref(Trouble)}}
    answers: dict[str, Any] = {
        str(status): {"description": "as asked", "content": {"application/json": {"schema": schema}}}
    }
    answers |= {str(code): {"description": text, "content": trouble} for code, text in TROUBLES.items()}
    return {"summary": summary, "operationId": identity, "responses": answers}


def _live() -> dict[str, Any]:
    kinds = "\n".join(f"- `{kind}` (`{struct.__name__}`): {text}" for kind, (struct, text) in STREAMED.items())
    found = _plain("What happens, as it happens", "live", {"type": "string"})
    found["responses"]["200"] = {
        "description": "server-sent events",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    found["description"] = (
        "Server-sent events, each with one line of JSON:\n\n"
        f"{kinds}\n\nAn id is `<generation>.<event>.<step>`. With it in `Last-Event-ID`, or in `after`, what was "
        "missed comes first."
    )
    text = {"type": "string", "maxLength": 64}
    found["parameters"] = [
        {"name": "after", "in": "query", "required": False, "schema": text},
        {"name": "Last-Event-ID", "in": "header", "required": False, "schema": text},
    ]
    return found


def _in_query(shape: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema. What is null by default is left out of a query, which has no null."""
    kinds = [kind for kind in shape.get("anyOf", ()) if kind.get("type") != "null"]
    return kinds[0] if len(kinds) == 1 else shape


def _identity(one: Endpoint) -> str:
    parts = [part.strip("{}") for part in one.path.removeprefix("/api/").split("/")]
    return "-".join([one.method.lower(), *parts])


def _ref(struct: type[Struct]) -> dict[str, Any]:
    return {"$ref": REF.format(name=struct.__name__)}
