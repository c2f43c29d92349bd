"""All endpoints, by the module that answers them."""

from __future__ import annotations

from nightschool.dashboard import acts, curves, files, health, log, looks, saved, uploads
from nightschool.dashboard.endpoints import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = (
    *looks.ENDPOINTS,
    *curves.ENDPOINTS,
    *files.ENDPOINTS,
    *saved.ENDPOINTS,
    *health.ENDPOINTS,
    *log.ENDPOINTS,
    *acts.ENDPOINTS,
    *uploads.ENDPOINTS,
)
