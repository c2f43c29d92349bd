"""Sending files from the browser: the endpoints over `staged` and `previewing`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.requests import ClientDisconnect

from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.shapes import Add, Added, Done, Preview, PreviewQuery, Upload, UploadQuery
from nightschool.errors import DataError

DRAIN_SECONDS = 5.0


async def _send(call: Call) -> Upload:
    body = call.request.stream()
    try:
        promised = _promised(call.request.headers.get("content-length"))
        checkpoint = await call.services.reader.read(lambda ledger: ledger.checkpoints.newest_bytes())
        return await call.services.uploads.receive(call.query.name, promised, body, checkpoint)
    except Exception:
        await _drain(body)
        raise


def _promised(header: str | None) -> int:
    if header is None or not (header.isascii() and header.isdecimal()) or len(header) > 18:
        raise DataError("Say in the header Content-Length how many bytes the file has; then send all of them.")
    return int(header)


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read on for a moment: a browser that is still sending would see a broken connection, not the reason."""
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in body:
                pass


async def _preview(call: Call) -> Preview:
    staged = call.services.uploads.get(call.path["id"])
    return await call.services.previews.of(staged, call.query.rows, call.request.is_disconnected)


async def _add(call: Call) -> Added:
    return await call.services.uploads.add(call.path["id"], call.services.workspace, call.body)


async def _discard(call: Call) -> Done:
    name = call.services.uploads.get(call.path["id"]).name
    await call.services.uploads.discard(call.path["id"])
    return Done(said=f"{name} was thrown away.")


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/api/uploads",
        "Send a file, whole or not at all; it waits to be added",
        _send,
        Upload,
        query=UploadQuery,
        streams=True,
        tag="files",
    ),
    Endpoint(
        "GET",
        "/api/uploads/{id}/preview",
        "What the model would see of a file that was sent",
        _preview,
        Preview,
        query=PreviewQuery,
        tag="files",
    ),
    Endpoint("POST", "/api/uploads/{id}/add", "Add a file that was sent", _add, Added, takes=Add, tag="files"),
    Endpoint("DELETE", "/api/uploads/{id}", "Throw a file away that was sent", _discard, Done, tag="files"),
)
