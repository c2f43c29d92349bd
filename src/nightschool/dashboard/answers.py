"""How what was found, a refusal or an error is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from nightschool.dashboard.shapes import Trouble
from nightschool.words import escape


def trouble(status: int, error: str, kind: str, headers: Mapping[str, str] | None = None) -> Response:
    """A `Trouble` as JSON: what is wrong in a sentence, and a word for programs."""
    body = encode(Trouble(error=error, kind=kind))
    return Response(body, status, dict(headers or {}), media_type="application/json")


def encode(value: object) -> bytes:
    """A value as JSON. Names of folders may hold bytes that are no UTF-8, which no JSON can: they are written out."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_written_out(msgspec.to_builtins(value)))


def _written_out(value: Any) -> Any:
    if isinstance(value, str):
        return value if _is_text(value) else escape(value)
    if isinstance(value, dict):
        return {_written_out(key): _written_out(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_written_out(one) for one in value]
    return value


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)
