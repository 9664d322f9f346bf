"""`SimulatePolicy` over the wire: progress and one report, in a process that ends with the call."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import psutil
import pytest
from beeyard.queen.v1 import job_pb2
from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core.event import PoolReported, WorkerAttached
from beeyard_core.fleet import CachedModel, Device, PoolReport
from beeyard_core.ids import ModelName, PoolId
from beeyard_core.instant import Instant
from beeyard_core.step import step

from tests.support.core_values import report_of
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.policy_service import Service, policy_service, source
from tests.support.told import refusal

GIB = 1 << 30
POOL = pb.SimulatedPool(
    pool_id="host", workers=2, model="m", slots=4, tokens_per_s=100, vram_bytes=80 * GIB
)
LOAD = pb.SyntheticLoad(
    jobs=60,
    arrivals_per_s=10,
    tenants=2,
    completion_tokens_mean=50,
    priorities=[
        pb.PriorityShare(priority=job_pb2.PRIORITY_INTERACTIVE, weight=1),
        pb.PriorityShare(priority=job_pb2.PRIORITY_BATCH, weight=1),
    ],
)
AZURE = b"""TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,480,10
2023-11-16 18:17:04.0319600,318,8
"""


def wanted(**changes: object) -> pb.SimulatePolicyRequest:
    fields: dict[str, object] = {"builtin": "fifo", "synthetic": LOAD, "pools": [POOL], "seed": 7}
    if "trace" in changes:
        del fields["synthetic"]
    if "source" in changes:
        del fields["builtin"]
    return pb.SimulatePolicyRequest(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with policy_service() as service:
        yield service


async def simulated(service: Service, request: pb.SimulatePolicyRequest) -> pb.SimulationReport:
    told = [answer async for answer in service.call.SimulatePolicy(request)]
    assert [one.WhichOneof("event") for one in told[-1:]] == ["report"]
    assert all(one.HasField("progress") for one in told[:-1])
    return told[-1].report


async def test_progress_comes_and_then_one_report(service: Service) -> None:
    told = [answer async for answer in service.call.SimulatePolicy(wanted())]
    assert {one.WhichOneof("event") for one in told[:-1]} == {"progress"}
    report = told[-1].report
    assert report.policy == "fifo"
    assert report.jobs_completed == 60
    assert report.queue_wait.p50_ms <= report.queue_wait.p95_ms <= report.queue_wait.max_ms
    assert 0 < report.utilization < 1
    assert report.decisions == sum(report.decisions_by_action.values())
    assert report.decisions_by_action["dispatch"] == 60
    groups = {one.WhichOneof("key"): one for one in report.groups}
    assert set(groups) == {"priority", "tenant_id", "model"}
    assert sum(one.jobs for one in report.groups if one.HasField("tenant_id")) == 60


async def test_the_same_request_gets_the_same_report(service: Service) -> None:
    first, second = [await simulated(service, wanted(builtin="platform")) for _ in range(2)]
    for report in (first, second):
        for measured in ("wall_ms", "decision_us_p50", "decision_us_p99"):
            report.ClearField(measured)
    assert first == second
    assert len(first.digest) == 64


async def test_a_policy_that_is_handed_in_decides_in_a_sandbox(service: Service) -> None:
    text = "function schedule(context) error('no') end"
    report = await simulated(service, wanted(source=source(text)))
    assert report.fallbacks_by_outcome["failed"] == 5
    assert report.suspension == "failed 5 times in 60 s"
    assert report.jobs_completed == 60


async def test_without_a_policy_the_active_one_is_simulated(service: Service) -> None:
    assert (await simulated(service, wanted(builtin=""))).policy == "platform"
    await service.deploy(
        "function schedule(context) return platform.schedule(context) end", name="mine"
    )
    assert (await simulated(service, wanted(builtin=""))).policy == "mine"


async def test_a_trace_is_simulated_as_it_was_recorded(service: Service) -> None:
    report = await simulated(service, wanted(trace=AZURE))
    assert report.jobs_completed == 2


async def test_a_model_is_started_where_it_could_be_loaded(service: Service) -> None:
    pool = pb.SimulatedPool()
    pool.CopyFrom(POOL)
    pool.loadable.add(model="other", vram_bytes=20 * GIB, load_ms=3_000)
    load = pb.SyntheticLoad(jobs=5, arrivals_per_s=1, models=["other"])
    report = await simulated(service, wanted(builtin="platform", pools=[pool], synthetic=load))
    assert report.worker_starts == 1
    assert report.queue_wait.max_ms >= 3_000
    assert report.jobs_completed == 5


async def test_without_pools_the_queens_own_fleet_is_simulated(service: Service) -> None:
    told = await refusal(service.call.SimulatePolicy(wanted(pools=[])))
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKERS_AVAILABLE")
    now = Instant(1_000_000, 0)
    report = report_of(
        "w1", pool_id=PoolId("p1"), model=ModelName("m"), slots_total=2,
        kv_tokens_total=32_768, context_tokens=16_384,
    )  # fmt: skip
    step(service.state, WorkerAttached(session=1, report=report), now)
    gpu = Device(uuid="g", kind="gpu", name="GPU", vram_total_bytes=GIB, vram_free_bytes=0)
    cached = CachedModel(model=ModelName("n"), engine="llamacpp", required_bytes=GIB // 2)
    pool = PoolReport(pool_id=PoolId("p1"), devices=(gpu,), models=(cached,))
    step(service.state, PoolReported(pool), now)
    found = await simulated(service, wanted(pools=[]))
    assert found.jobs_completed == 60
    assert any("A prompt is read" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"synthetic": None}, "load"),
        ({"trace": b""}, "trace"),
        ({"seed": -1}, "seed"),
        ({"builtin": "best"}, "builtin"),
        ({"synthetic": pb.SyntheticLoad(jobs=0, arrivals_per_s=1)}, "synthetic.jobs"),
        ({"synthetic": pb.SyntheticLoad(jobs=2_000_000, arrivals_per_s=1)}, "synthetic.jobs"),
        ({"synthetic": pb.SyntheticLoad(jobs=1)}, "synthetic.arrivals_per_s"),
        (
            {"synthetic": pb.SyntheticLoad(jobs=1, arrivals_per_s=float("nan"))},
            "synthetic.arrivals_per_s",
        ),
        (
            {"synthetic": pb.SyntheticLoad(jobs=1, arrivals_per_s=1, tenants=5_000)},
            "synthetic.tenants",
        ),
        (
            {
                "synthetic": pb.SyntheticLoad(
                    jobs=1, arrivals_per_s=1, priorities=[pb.PriorityShare(weight=1)]
                )
            },
            "synthetic.priorities[0].priority",
        ),
        ({"pools": [pb.SimulatedPool()]}, "pools[0].pool_id"),
        ({"pools": [pb.SimulatedPool(pool_id="p", model="m")]}, "pools[0].workers"),
        (
            {"pools": [POOL, pb.SimulatedPool(pool_id="p", model="m", workers=1, slots=999)]},
            "pools[1].slots",
        ),
        ({"source": pb.PolicySource(text="x")}, "source.language"),
    ],
)
async def test_a_wrong_field_is_named(
    service: Service, changes: dict[str, object], field: str
) -> None:
    told = await refusal(service.call.SimulatePolicy(wanted(**changes)))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert told.message.startswith(field)


def named(name: str) -> pb.SimulatedPool:
    pool = pb.SimulatedPool()
    pool.CopyFrom(POOL)
    pool.pool_id = name
    return pool


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trace": b"neither\n"}, "neither the header"),
        ({"pools": [POOL, POOL]}, "the same name"),
        ({"pools": [named("a\nb")]}, "one line"),
    ],
)
async def test_what_only_shows_in_the_simulation_is_told_as_well(
    service: Service, changes: dict[str, object], said: str
) -> None:
    told = await refusal(service.call.SimulatePolicy(wanted(**changes)))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert said in told.message


async def test_a_policy_that_does_not_load_is_told_with_its_line(service: Service) -> None:
    told = await refusal(service.call.SimulatePolicy(wanted(source=source("\nfunction schedule("))))
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID")
    assert told.field == "source.text"
    assert told.message.startswith("line 2: ")


def simulators() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "beeyard_queen.simulator" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            pass  # it has just ended
    return found


async def test_a_cancelled_call_ends_the_simulation_and_another_may_begin(
    service: Service,
) -> None:
    endless = pb.SyntheticLoad(jobs=1_000_000, arrivals_per_s=10)
    call = service.call.SimulatePolicy(wanted(synthetic=endless))
    async for answer in call:
        assert answer.HasField("progress")
        break
    assert len(simulators()) == 1
    told = await refusal(service.call.SimulatePolicy(wanted()))
    assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL_REJECT")
    call.cancel()
    await eventually(lambda: not simulators(), "the process of a cancelled simulation is gone")
    assert (await simulated_when_it_may(service)).jobs_completed == 60


async def simulated_when_it_may(service: Service) -> pb.SimulationReport:
    """Ask again as long as the queen has not noticed that the one before is over."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await simulated(service, wanted())
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise


async def test_a_simulation_that_dies_is_told_without_its_workings(service: Service) -> None:
    call = service.call.SimulatePolicy(
        wanted(synthetic=pb.SyntheticLoad(jobs=1_000_000, arrivals_per_s=10))
    )
    answers = aiter(call)
    await anext(answers)
    for process in simulators():
        process.kill()
    told = await refusal(call)
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "ended without a report" in told.message
