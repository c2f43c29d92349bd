"""The page's application over a workspace that was made by hand, asked as a browser would."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient

from nightschool.dashboard import acts, uploads
from nightschool.dashboard.admission import Rules
from nightschool.dashboard.app import guarded
from nightschool.dashboard.endpoints import Endpoint
from nightschool.dashboard.jobs import OVER
from nightschool.dashboard.services import Services
from nightschool.workspace import Layout

ENDPOINTS: tuple[Endpoint, ...] = (*acts.ENDPOINTS, *uploads.ENDPOINTS)


class Asked:
    """Asks, and expects a status."""

    def __init__(self, client: TestClient, services: Services) -> None:
        self.client = client
        self.services = services

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        return self._told(self.client.post(path, json={} if body is None else body), status)

    def get(self, path: str, status: int = 200) -> Any:
        return self._told(self.client.get(path), status)

    def delete(self, path: str, status: int = 200) -> Any:
        return self._told(self.client.delete(path), status)

    def send(self, name: str, data: bytes | Iterator[bytes], status: int = 200, *, length: str | None = None) -> Any:
        headers = {"content-type": "application/octet-stream"}
        if length is not None:
            headers["content-length"] = length
        answer = self.client.post("/api/uploads", params={"name": name}, content=data, headers=headers)
        return self._told(answer, status)

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job, once it has ended."""
        end = time.monotonic() + 60
        while (found := self.get(f"/api/jobs/{job['id']}"))["state"] not in OVER:
            assert time.monotonic() < end, f"it does not end: {found}"
            time.sleep(0.01)
        return found

    @staticmethod
    def _told(answer: Any, status: int) -> Any:
        assert answer.status_code == status, answer.text
        found = answer.json()
        if status >= 400:
            assert found.keys() == {"error", "kind"}
            return found["error"]
        return found


@contextmanager
def asking(layout: Layout, endpoints: Sequence[Endpoint] = ENDPOINTS) -> Iterator[Asked]:
    services = Services(layout)
    try:
        page = guarded(services, endpoints, Rules(), None)
        with TestClient(page, base_url="http://127.0.0.1") as client:
            yield Asked(client, services)
    finally:
        services.close()
