"""Every route of `/openapi.json`, tried with what nobody thought of: no answer is the server's fault or undescribed.

The queen, pool manager, worker and gateway are real processes; the engine is synthetic and takes no time.
"""

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.gateway_process import gateway_process
from tests.support.stack import Stack

EXAMPLES = 40
#: Each that is valid starts a process of its own.
EXAMPLES_OF_SIMULATIONS = 8
JOBS_MAX = 20
TIMEOUT_S = 20
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.slow
async def test_no_route_fails_by_what_it_is_sent() -> None:
    async with Stack(models={"tiny": "synthetic:0"}) as stack, gateway_process(stack) as gateway:
        tried = await asyncio.to_thread(try_every_route, f"http://{gateway.address}")
        assert tried > 10
        # Whatever came, it still serves, and nothing of it was a bug.
        assert "Traceback" not in gateway.log_tail()


def try_every_route(url: str) -> int:
    """Send made-up requests to each route; return how many routes there were."""
    schema: BaseSchema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    count = 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), "a route is described in a way that cannot be read"
        try_route(found.ok(), GenerationMode.POSITIVE)
        if found.ok().body or found.ok().query:
            try_route(found.ok(), GenerationMode.NEGATIVE)
        count += 1
    return count


def try_route(operation: "APIOperation[Any, Any, Any, Any]", mode: GenerationMode) -> None:
    """Send requests that are as described, or that are not."""
    simulates = operation.path.endswith("/simulate")

    @settings(
        max_examples=EXAMPLES_OF_SIMULATIONS if simulates else EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: "Case[Any]") -> None:
        if simulates:
            shorten(case)
        case.call_and_validate(checks=CHECKS, timeout=TIMEOUT_S)

    one()


def shorten(case: "Case[Any]") -> None:
    """Let a simulation be of few jobs, if it is one at all: a million of them is as valid, and takes minutes."""
    if case.method == "GET":
        jobs = (case.query or {}).get("jobs", JOBS_MAX + 1)
        if str(jobs).isdecimal() and int(jobs) > JOBS_MAX:
            case.query = {**(case.query or {}), "jobs": JOBS_MAX}
        return
    body: Any = case.body
    load = body.get("synthetic") if isinstance(body, dict) else None
    if isinstance(load, dict) and isinstance(load.get("jobs"), int | float):
        load["jobs"] = min(load["jobs"], JOBS_MAX)
