"""The curve, and what is marked on it."""

from __future__ import annotations

from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.shapes import Curve, CurveQuery, Marks
from nightschool.ledger import Ledger
from nightschool.record import read_generation


async def curve(call: Call) -> Curve:
    """GET /api/curve."""
    query: CurveQuery = call.query
    reader, layout = call.services.reader, call.services.layout

    def look(ledger: Ledger) -> Curve:
        return reader.memory.history.curve(ledger, read_generation(layout), query.first, query.last, query.points)

    return await reader.read(look)


async def marks(call: Call) -> Marks:
    """GET /api/marks."""
    query: CurveQuery = call.query
    reader = call.services.reader
    return await reader.read(lambda ledger: reader.memory.marked.marks(ledger, query.first, query.last))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/api/curve", "The loss curve, in as many points as asked for", curve, Curve, query=CurveQuery,
        tag="The curve",
    ),
    Endpoint(
        "GET", "/api/marks", "Files, resumes, cuts and snapshots along the curve", marks, Marks, query=CurveQuery,
        tag="The curve",
    ),
)  # fmt: skip
