"""The description of the API says what there is: every route, every shape, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from starlette.routing import Route
from starlette.testclient import TestClient

from nightschool.dashboard import openapi
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import application
from nightschool.dashboard.endpoints import Endpoint
from nightschool.dashboard.limits import Limits
from nightschool.dashboard.pages import Templates
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Done


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return openapi.described(ENDPOINTS)


def routed(services: Services, endpoints: tuple[Endpoint, ...] = ENDPOINTS) -> set[tuple[str, str]]:
    """Every method and path below /api/ that is answered."""
    app = application(services, endpoints, Templates(services.layout.root), Limits())
    return {
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/api/")
        for method in (route.methods or set()) - {"HEAD"}
    }


def told(description: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, found in description["paths"].items() for method in found}


def test_every_route_is_described(described: dict[str, Any], services: Services) -> None:
    assert told(described) == routed(services)


def test_control_a_route_without_its_description_is_found(described: dict[str, Any], services: Services) -> None:
    async def answer(call: Any) -> Done:
        raise NotImplementedError

    further = Endpoint("GET", "/api/further", "Further", answer, Done)
    assert routed(services, (*ENDPOINTS, further)) - told(described) == {("GET", "/api/further")}


def test_it_is_served(page: TestClient, described: dict[str, Any]) -> None:
    answer = page.get(openapi.PATH)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == described


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(one) for one in value.values()))
    return set().union(*(references(one) for one in value)) if isinstance(value, list) else set()


def test_every_shape_that_is_named_is_there_and_sound(described: dict[str, Any]) -> None:
    shapes = described["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in references(described)} <= set(shapes)
    for shape in shapes.values():
        Draft202012Validator({**shape, "components": described["components"]})  # raises where it is no schema


def test_every_operation_says_what_it_is(described: dict[str, Any]) -> None:
    identities = []
    for path, operations in described["paths"].items():
        for operation in operations.values():
            identities.append(operation["operationId"])
            assert operation["summary"]
            assert any(status < "300" for status in operation["responses"])
            inside = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
            assert inside == set(re.findall(r"\{(\w+)\}", path))
    assert len(identities) == len(set(identities))


def test_answers_are_of_the_shape_they_are_said_to_be(page: TestClient, described: dict[str, Any]) -> None:
    asked = 0
    for path, operations in described["paths"].items():
        found = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/json")
        if found is None or "{" in path:
            continue
        schema = {**found["schema"], "components": described["components"]}
        Draft202012Validator(schema).validate(page.get(path).json())
        asked += 1
    assert asked >= 9


def test_what_is_null_by_default_is_left_out_of_a_query(described: dict[str, Any]) -> None:
    for operations in described["paths"].values():
        for operation in operations.values():
            for one in operation.get("parameters", ()):
                assert "anyOf" not in one["schema"], one["name"]
