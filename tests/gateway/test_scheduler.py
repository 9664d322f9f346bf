"""Scheduling policies over HTTP: every route is one call of the queen's policy service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard.queen.v1 import policy_service_pb2_grpc as rpc
from beeyard_runtime.testing import serving

from tests.support.attached_worker import AttachedWorker
from tests.support.eventually import eventually
from tests.support.live import next_of, watching
from tests.support.running_gateway import (
    TEXT,
    RunningGateway,
    asking,
    running_gateway,
    sent_events,
)
from tests.support.running_queen import RunningQueen, running_queen

ADMIN = "/v2/admin/scheduler"
LUA = "-- {}\nfunction schedule(context) return platform.schedule(context) end"
BROKEN = "function schedule(context) return nothing( end"
SYNTHETIC = {"synthetic": {"jobs": 10, "arrivals_per_s": 5}, "seed": 7}


def source(text: str, language: str = "lua") -> dict[str, Any]:
    return {"source": {"language": language, "text": text}}


async def post(gateway: RunningGateway, route: str, body: object, status: int = 200) -> Any:
    answer = await gateway.client.post(f"{ADMIN}/{route}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def get(gateway: RunningGateway, route: str, status: int = 200) -> Any:
    answer = await gateway.client.get(f"{ADMIN}/{route}")
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_policy_is_validated_deployed_listed_and_rolled_back(
    gateway: RunningGateway, queen: RunningQueen
) -> None:
    queen.queen.policies.patience_ms = 5_000
    found = await post(gateway, "validate", source(LUA.format("a")))
    assert found["states_tried"] > 0
    assert not [one for one in found["problems"] if one["severity"] == "ERROR"]
    first = await post(
        gateway, "deploy", {**source(LUA.format("a")), "name": "mine", "note": "one"}
    )
    assert (first["name"], first["version"], first["state"]) == ("mine", 1, "ACTIVE")
    second = await post(gateway, "deploy", {**source(LUA.format("b")), "name": "mine"})
    assert second["version"] == 2
    versions = (await get(gateway, "versions?name=mine"))["versions"]
    assert [(one["version"], one["state"]) for one in versions] == [(2, "ACTIVE"), (1, "INACTIVE")]
    assert "source" not in versions[0]
    back = await post(gateway, "rollback", {"version": 1})
    assert (back["version"], back["state"]) == (1, "ACTIVE")
    active = await get(gateway, "versions/active")
    assert (active["version"], active["source"]["text"]) == (1, LUA.format("a"))
    assert (await get(gateway, "versions/2"))["state"] == "INACTIVE"
    assert (await get(gateway, "versions/99", 404))["reason"] == "POLICY_NOT_FOUND"
    assert (await get(gateway, "versions/bee", 400))["field"] == "version"


async def test_what_is_wrong_with_a_policy_is_told_with_its_place(gateway: RunningGateway) -> None:
    found = await post(gateway, "validate", source(BROKEN))
    (problem,) = found["problems"]
    assert (problem["severity"], problem["line"]) == ("ERROR", 1)
    refused = await post(gateway, "deploy", source(BROKEN), 422)
    assert (refused["reason"], refused["retriable"]) == ("POLICY_INVALID", False)
    assert refused["detail"]


async def test_in_platform_mode_nothing_can_be_deployed() -> None:
    async with (
        running_queen(policy_mode="platform") as queen,
        running_gateway(queen.queen.server.address) as gateway,
    ):
        refused = await post(gateway, "deploy", source(LUA.format("a")), 409)
        assert refused["reason"] == "POLICY_IMMUTABLE"


async def test_the_platform_source_and_the_templates_can_be_read(gateway: RunningGateway) -> None:
    platform = await get(gateway, "platform-source")
    assert platform["language"] == "LUA"
    assert "schedule" in platform["text"]
    templates = (await get(gateway, "templates"))["templates"]
    assert "fair-share" in {one["name"] for one in templates}
    # What is offered can be handed in as it is.
    rules = next(one for one in templates if one["source"]["language"] == "YAML")
    assert (await post(gateway, "compile", {"source": rules["source"]}))["lua"]


async def test_decisions_are_part_of_the_live_view(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with watching(gateway, "?topics=decisions") as socket:
        await next_of(socket, "status")
        async with asking(gateway.client, "/v1/completions", TEXT) as asked:
            offer = await worker.offer()
            decision = await next_of(socket, "decision")
            while "dispatch" not in decision:
                decision = await next_of(socket, "decision")
            await worker.serve(offer, " hum")
            await asked
    assert decision["dispatch"]["worker_id"] == "w1"
    assert decision["applied"] is True


class Simulating(rpc.PolicyServiceServicer):
    """A policy service that simulates: one message of progress, then a report when the test allows."""

    def __init__(self) -> None:
        self.asked = pb.SimulatePolicyRequest()
        self.may_report = asyncio.Event()
        self.was_cancelled = asyncio.Event()

    async def SimulatePolicy(  # type: ignore[override]  # noqa: N802
        self,
        request: pb.SimulatePolicyRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> None:
        self.asked = request
        progress = pb.SimulationProgress(jobs_ended=1, jobs_total=10)
        await context.write(pb.SimulatePolicyResponse(progress=progress))
        try:
            await self.may_report.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        report = pb.SimulationReport(jobs_completed=10, utilization=0.5)
        await context.write(pb.SimulatePolicyResponse(report=report))


@asynccontextmanager
async def simulating() -> AsyncIterator[tuple[RunningGateway, Simulating]]:
    service = Simulating()  # type: ignore[abstract]  # its other calls are not made here
    async with (
        serving((rpc.add_PolicyServiceServicer_to_server, service)) as served,
        running_gateway(served.address) as gateway,
    ):
        yield gateway, service


async def test_a_simulation_is_answered_with_its_report() -> None:
    async with simulating() as (gateway, service):
        service.may_report.set()
        report = await post(gateway, "simulate", {**SYNTHETIC, **source(LUA)})
        assert (report["jobs_completed"], report["utilization"]) == (10, 0.5)
        assert service.asked.source.language == pb.POLICY_LANGUAGE_LUA
        report = await get(gateway, "simulate?jobs=50&arrivals_per_s=2.5&models=a,b&seed=3")
        assert report["jobs_completed"] == 10
        assert (service.asked.synthetic.jobs, service.asked.seed) == (50, 3)
        assert list(service.asked.synthetic.models) == ["a", "b"]


async def test_the_queen_itself_simulates(gateway: RunningGateway) -> None:
    pool = {
        "pool_id": "host",
        "workers": 2,
        "model": "m",
        "slots": 4,
        "tokens_per_s": 100,
        "vram_bytes": 80 << 30,
    }
    asked = {"synthetic": {"jobs": 20, "arrivals_per_s": 10}, "pools": [pool], "seed": 7}
    first = await post(gateway, "simulate", asked)
    assert first["jobs_completed"] == 20
    assert first["first_token"]["p99_ms"] > 0
    # The same request gives the same report, but for what is measured on this machine.
    second = await post(gateway, "simulate", asked)
    for virtual in ("virtual_ms", "first_token", "queue_wait", "utilization", "decisions"):
        assert first[virtual] == second[virtual]


async def test_a_simulation_can_tell_its_progress() -> None:
    async with simulating() as (gateway, service):
        headers = {"Accept": "text/event-stream"}
        url = f"{ADMIN}/simulate"
        async with gateway.client.stream("POST", url, json=SYNTHETIC, headers=headers) as response:
            events = sent_events(response)
            progress = await anext(events)
            assert (progress.event, progress.json["jobs_ended"]) == ("progress", 1)
            service.may_report.set()
            report = await anext(events)
        assert (report.event, report.json["jobs_completed"]) == ("report", 10)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_hanging_up_stops_the_simulation(accept: str) -> None:
    async with simulating() as (gateway, service):
        async with asking(gateway.client, f"{ADMIN}/simulate", SYNTHETIC, Accept=accept):
            await eventually(lambda: service.asked.synthetic.jobs, "it simulates")
        async with asyncio.timeout(10):
            await service.was_cancelled.wait()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("jobs=many", "jobs"),
        ("jobs=99999999", "jobs"),
        ("arrivals_per_s=0", "arrivals_per_s"),
        ("arrivals_per_s=nan", "arrivals_per_s"),
        ("seed=-1", "seed"),
        ("tenants=1.5", "tenants"),
    ],
)
async def test_a_wrong_query_is_named(gateway: RunningGateway, query: str, field: str) -> None:
    assert (await get(gateway, f"simulate?{query}", 400))["field"] == field
