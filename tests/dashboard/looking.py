"""Asking the endpoints that only look, without a server: what they answer, as the browser would get it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request

from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.services import Services
from nightschool.ledger.database import Database
from nightschool.workspace import Layout


@contextmanager
def services_of(layout: Layout) -> Iterator[Services]:
    found = Services(layout)
    try:
        yield found
    finally:
        found.close()


def ask(services: Services, endpoints: Sequence[Endpoint], path: str, id: str | None = None, **query: Any) -> Any:
    """What GET `path` answers: encoded and read again, so that it is sure to be JSON without NaN."""
    (endpoint,) = (one for one in endpoints if one.path == path)
    checked = msgspec.convert(query, endpoint.query, strict=False) if endpoint.query else None

    async def answer() -> msgspec.Struct:
        return await endpoint.answer(
            Call(services, {} if id is None else {"id": id}, checked, None, cast("Request", None))
        )

    found = asyncio.run(answer())
    assert isinstance(found, endpoint.gives)
    told = msgspec.json.encode(found)
    # The shape is what the browser is promised.
    msgspec.json.decode(told, type=endpoint.gives, strict=True)
    return json.loads(told, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def longest_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> int:
    """The most rows that any single read of the ledger fetched during `act`: the lock is held meanwhile."""
    lengths, real = [0], Database.rows

    def rows(self: Database, *arguments: Any) -> list[tuple[Any, ...]]:
        found = real(self, *arguments)
        lengths.append(len(found))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Database, "rows", rows)
        act()
    return max(lengths)
