"""`simulate_policy` of the client, against the service itself."""

import pytest
from beeyard_client import (
    BeeyardClient,
    BeeyardError,
    Priority,
    SimulatedModel,
    SimulatedPool,
    SimulationProgress,
    SimulationReport,
    SyntheticLoad,
)

from tests.support.policy_service import policy_service

GIB = 1 << 30
POOL = SimulatedPool(
    pool_id="host", workers=2, model="m", slots=4, tokens_per_s=100, vram_bytes=80 * GIB,
    loadable=(SimulatedModel(model="other", vram_bytes=GIB, load_ms=100),),
)  # fmt: skip
LOAD = SyntheticLoad(
    jobs=40, arrivals_per_s=10, tenants=2, priorities={Priority.INTERACTIVE: 2, Priority.BATCH: 1}
)


async def report_of(client: BeeyardClient, **wanted: object) -> SimulationReport:
    options = {"load": LOAD, "pools": [POOL], "seed": 3} | wanted
    told = [one async for one in client.simulate_policy(**options)]  # type: ignore[arg-type]
    assert all(isinstance(one, SimulationProgress) for one in told[:-1])
    assert isinstance(told[-1], SimulationReport)
    return told[-1]


async def test_a_report_has_every_group_of_the_jobs() -> None:
    async with policy_service() as service, BeeyardClient(service.address) as client:
        report = await report_of(client, builtin="fifo")
        assert report.policy == "fifo"
        assert report.jobs_completed == 40
        kinds = {group.kind for group in report.groups}
        assert kinds == {"priority", "tenant_id", "model"}
        assert {group.name for group in report.groups if group.kind == "priority"} <= {
            "interactive",
            "batch",
        }
        assert report.deadlines_met is None
        assert report.decisions["dispatch"] == 40
        again = await report_of(client, builtin="fifo")
        assert again.digest == report.digest


async def test_a_policy_of_ones_own_and_a_trace() -> None:
    trace = (
        b'{"timestamp": 0, "input_length": 90, "output_length": 6}\n'
        b'{"timestamp": 40, "input_length": 70, "output_length": 5}\n'
    )
    text = "function schedule(context) return platform.schedule(context) end"
    async with policy_service() as service, BeeyardClient(service.address) as client:
        report = await report_of(client, text=text, load=trace)
        assert report.jobs_completed == 2
        assert report.fallbacks == {}


async def test_what_cannot_be_simulated_is_said() -> None:
    async with policy_service() as service, BeeyardClient(service.address) as client:
        with pytest.raises(BeeyardError) as caught:
            await report_of(client, text="function schedule(")
        assert caught.value.reason == "POLICY_INVALID"
        for load in (
            SyntheticLoad(jobs=0, arrivals_per_s=1),
            SyntheticLoad(jobs=2**40, arrivals_per_s=1),
        ):
            with pytest.raises(BeeyardError) as caught:
                await report_of(client, load=load)
            assert caught.value.reason == "INVALID_REQUEST"
