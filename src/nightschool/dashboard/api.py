"""All endpoints, by the module that answers them."""

from __future__ import annotations

from nightschool.dashboard.endpoints import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
