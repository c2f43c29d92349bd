"""The API asked for all that its description allows, and for what it does not: never an accident, whatever is asked.

Each run makes the same requests. NIGHTSCHOOL_FUZZ_EXAMPLES asks for more of them for each operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks
from starlette.types import ASGIApp

from nightschool.dashboard import openapi
from nightschool.dashboard.admission import Rules
from nightschool.dashboard.api import ENDPOINTS
from nightschool.dashboard.app import guarded
from nightschool.dashboard.endpoints import Call, Endpoint
from nightschool.dashboard.services import Services
from nightschool.dashboard.shapes import Done, Pause
from tests.dashboard.conftest import HERE
from tests.snapshots import made

EXAMPLES = int(os.environ.get("NIGHTSCHOOL_FUZZ_EXAMPLES", "5"))
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
"""Not that all is accepted that the shapes allow: a name may be well-formed and no file's."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ASGIApp]:
    """The page of a workspace that is thrown away: what is asked of it is done."""
    layout = made.workspace(tmp_path_factory.mktemp("fuzz") / "workspace")
    made.checkpoint(layout, 20)
    services = Services(layout)
    yield guarded(services, ENDPOINTS, Rules(), None)
    services.close()


def attacked(app: ASGIApp, endpoints: tuple[Endpoint, ...], method: str, path: str, mode: GenerationMode) -> int:
    """Ask one operation in many ways. Raises where an answer is not as it is described; returns how many were made."""
    schema: Any = schemathesis.openapi.from_dict(openapi.described(endpoints))
    schema.app = app
    made = 0

    @given(case=schema[path][method].as_strategy(mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    def ask(case: Any) -> None:
        nonlocal made
        made += 1
        case.call_and_validate(base_url=HERE, checks=CHECKS)

    ask()
    return made


OPERATIONS = [
    pytest.param(one.method, one.path, mode, id=f"{one.method} {one.path} {mode.value}")
    for one in ENDPOINTS
    for mode in MODES
    # What takes nothing cannot be given something wrong.
    if mode == GenerationMode.POSITIVE or one.query or one.takes or "{" in one.path
]


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS)
def test_whatever_is_asked_the_answer_is_as_described(app: ASGIApp, method: str, path: str, mode: Any) -> None:
    assert attacked(app, ENDPOINTS, method, path, mode) > 0


# --- controls: each of the checks finds what it is for -----------------------------------------------------------


class Wrong(Done):
    said: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]


async def fail(call: Call) -> Done:
    raise RuntimeError("a mistake")


async def lie(call: Call) -> Done:
    return Wrong()


@pytest.mark.parametrize(("answer", "found"), [(fail, "Server error"), (lie, "Response violates schema")])
def test_control_a_mistake_is_found(app: ASGIApp, services: Services, answer: Any, found: str) -> None:
    endpoints = (Endpoint("POST", "/api/wrong", "Wrong", answer, Done, takes=Pause),)
    with pytest.raises(FailureGroup) as failed:
        attacked(guarded(services, endpoints, Rules(), None), endpoints, "POST", "/api/wrong", GenerationMode.POSITIVE)
    assert found in str([one.title for one in failed.value.exceptions])
