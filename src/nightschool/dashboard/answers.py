"""How a refusal or an error is answered."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from nightschool.dashboard.shapes import Trouble


def trouble(status: int, error: str, kind: str, headers: Mapping[str, str] | None = None) -> Response:
    """A `Trouble` as JSON: what is wrong in a sentence, and a word for programs."""
    body = msgspec.json.encode(Trouble(error=error, kind=kind))
    return Response(body, status, dict(headers or {}), media_type="application/json")
