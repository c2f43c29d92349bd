"""What an endpoint of the API is: how it is reached, what it takes, what it gives, and who answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from starlette.requests import Request

    from nightschool.dashboard.services import Services


@dataclass(frozen=True)
class Call:
    """One request, checked against the endpoint's shapes.

    Attributes:
        services: what answers are made with.
        path: the parts of the path that vary, as text.
        query: an instance of `Endpoint.query`, or None.
        body: an instance of `Endpoint.takes`, or None.
        request: for endpoints that read a stream.
    """

    services: Services
    path: dict[str, str]
    query: Any
    body: Any
    request: Request


class NotThere(Exception):
    """There is no such thing: 404, with the sentence."""


class Changed(Exception):
    """What was agreed to is not what would be done now: 409, with the sentence."""


class TooMuch(Exception):
    """More than is taken at once: 413 for a size, 429 for a number, with the sentence."""

    def __init__(self, text: str, status: Literal[413, 429] = 413) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Endpoint:
    """One operation of the API.

    Attributes:
        method, path: as in OpenAPI: `/api/files/{id}`.
        summary: what it does, in a line.
        answer: gives an instance of `gives`. A NightschoolError becomes a `Trouble`.
        gives: the struct of the answer.
        query: the struct of the query parameters.
        takes: the struct of the JSON body.
        streams: whether the body is a file's bytes.
        status: of a good answer.
        tag: heading in the description.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    summary: str
    answer: Callable[[Call], Awaitable[Struct]]
    gives: type[Struct]
    query: type[Struct] | None = None
    takes: type[Struct] | None = None
    streams: bool = False
    status: int = 200
    tag: str = field(default="", kw_only=True)
