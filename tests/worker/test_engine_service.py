"""EngineService over real gRPC: one worker, no queen."""

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as rpc
from beeyard.worker.v1 import generation_pb2
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.rpc_errors import from_error
from beeyard_runtime.telemetry import Telemetry
from beeyard_runtime.testing import serving
from beeyard_worker.engine.port import EngineFault
from beeyard_worker.engine_service import DirectCalls, EngineService
from beeyard_worker.runner import Runner
from beeyard_worker.status import WorkerStatus

from tests.support.scripted_engine import ScriptedEngine
from tests.worker.conftest import fresh_metrics, load, status_of


class Lone:
    """A worker without a queen: its parts, a stub, and what its callers asked for."""

    def __init__(self, *, slots: int) -> None:
        """Wire it, still loading."""
        clock = SystemClock()
        self.engine = ScriptedEngine(slots=slots)
        self.status: WorkerStatus = status_of(clock, slots=slots, kv_tokens=1_000)
        self.direct = DirectCalls()
        self.supervisors: list[str] = []
        self.drains: list[int] = []
        self.service = EngineService(
            runner=Runner(
                engine=self.engine,
                status=self.status,
                clock=clock,
                telemetry=Telemetry(),
                metrics=fresh_metrics(),
            ),
            status=self.status,
            direct=self.direct,
            clock=clock,
            chance=random.Random(5),
            on_supervisor=self.supervisors.append,
            on_drain=self.drains.append,
        )
        self.stub: rpc.EngineServiceAsyncStub


@asynccontextmanager
async def lone(*, slots: int = 2, loaded: bool = True) -> AsyncIterator[Lone]:
    """Serve a lone worker."""
    worker = Lone(slots=slots)
    if loaded:
        await load(worker.engine, worker.status, 1_000)
    async with serving((rpc.add_EngineServiceServicer_to_server, worker.service)) as served:
        worker.stub = rpc.EngineServiceStub(served.channel)
        yield worker


async def refusal_of(call: AsyncIterable[object]) -> tuple[str, str]:
    """Return the code and the reason with which a streaming call ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.code().name, from_error(caught.value).reason.value


async def test_the_status_tells_the_life_of_the_worker() -> None:
    async with lone(loaded=False) as worker:
        worker.status.loading(0.5)
        status = await worker.stub.GetStatus(pb.GetStatusRequest())
        assert (status.state, status.load_progress) == (pb.WORKER_STATE_STARTING, 0.5)
        await load(worker.engine, worker.status, 1_000)
        status = await worker.stub.GetStatus(pb.GetStatusRequest())
        assert (status.state, status.engine_version) == (pb.WORKER_STATE_READY, "scripted")
        assert (status.slots_free, status.kv_tokens_free, status.context_tokens) == (
            2,
            1_000,
            10_000,
        )
        worker.status.failed("the disk is gone")
        status = await worker.stub.GetStatus(pb.GetStatusRequest())
        assert (status.state, status.failure) == (pb.WORKER_STATE_FAILED, "the disk is gone")


async def test_a_supervisor_is_heard_and_an_ordinary_look_is_not() -> None:
    async with lone() as worker:
        await worker.stub.GetStatus(pb.GetStatusRequest())
        await worker.stub.GetStatus(pb.GetStatusRequest(supervisor_id="pool-1"))
        assert worker.supervisors == ["pool-1"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.stub.GetStatus(
                pb.GetStatusRequest(supervisor_id="x" * (limits.ID_BYTES_MAX + 1))
            )
        assert from_error(caught.value).field == "supervisor_id"


async def test_a_direct_call_streams_and_finishes() -> None:
    async with lone() as worker:
        call = worker.stub.Generate(
            pb.GenerateRequest(prompt="the bee", resume_count=2, resume_ids=[0, 1])
        )
        await worker.engine.until(lambda e: e.running)
        worker.engine.emit("the bee", 3)
        worker.engine.emit("the bee", 2)
        worker.engine.finish("the bee")
        events = [event async for event in call]
        assert [(e.tokens.first_index, e.tokens.count) for e in events[:-1]] == [(2, 3), (5, 2)]
        assert [list(e.tokens.ids) for e in events[:-1]] == [[2, 3, 4], [5, 6]]
        assert events[-1].finished.reason == generation_pb2.FINISH_REASON_STOP
        assert worker.status.slots.free == 2
        assert worker.engine.generations["the bee"].max_tokens == limits.MAX_TOKENS_DEFAULT
        assert worker.direct.is_idle


async def test_a_call_without_a_free_slot_is_refused_at_once() -> None:
    async with lone(slots=1) as worker:
        running = worker.stub.Generate(pb.GenerateRequest(prompt="a"))
        await worker.engine.until(lambda e: e.running)
        assert (await worker.stub.GetStatus(pb.GetStatusRequest())).state == pb.WORKER_STATE_BUSY
        second = worker.stub.Generate(pb.GenerateRequest(prompt="b"))
        assert await refusal_of(second) == ("ABORTED", "WORKER_BUSY")
        worker.engine.finish("a")
        assert [event.WhichOneof("event") async for event in running] == ["finished"]


async def test_a_cancelled_call_stops_the_generation() -> None:
    async with lone() as worker:
        call = worker.stub.Generate(pb.GenerateRequest(prompt="a"))
        await worker.engine.until(lambda e: e.running)
        call.cancel()
        await worker.engine.until(lambda e: not e.running)
        assert worker.status.slots.free == 2


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.GenerateRequest(), "INVALID_ARGUMENT", "INVALID_REQUEST"),
        (
            pb.GenerateRequest(prompt="a", max_tokens=2_000),
            "FAILED_PRECONDITION",
            "NO_CAPACITY_INCOMPATIBLE_CONTEXT",
        ),
        (
            pb.GenerateRequest(prompt="a " * 10_001),
            "FAILED_PRECONDITION",
            "NO_CAPACITY_INCOMPATIBLE_CONTEXT",
        ),
    ],
    ids=["empty", "more than the KV budget", "longer than the context"],
)
async def test_what_cannot_run_is_refused(
    request_: pb.GenerateRequest, code: str, reason: str
) -> None:
    async with lone() as worker:
        assert await refusal_of(worker.stub.Generate(request_)) == (code, reason)


async def test_a_call_before_the_model_is_loaded_is_refused() -> None:
    async with lone(loaded=False) as worker:
        call = worker.stub.Generate(pb.GenerateRequest(prompt="a"))
        assert await refusal_of(call) == ("ABORTED", "WORKER_BUSY")


async def test_a_broken_engine_is_told_by_its_reason() -> None:
    async with lone() as worker:
        call = worker.stub.Generate(pb.GenerateRequest(prompt="a"))
        worker.engine.fail("a", EngineFault(Refusal.VRAM_OOM, "no memory left"))
        assert await refusal_of(call) == ("UNAVAILABLE", "VRAM_OOM")
        assert worker.status.slots.free == 2


async def test_a_drain_is_answered_at_once_and_ends_what_runs_too_long() -> None:
    async with lone() as worker:
        call = worker.stub.Generate(pb.GenerateRequest(prompt="a"))
        await worker.engine.until(lambda e: e.running)
        await worker.stub.Drain(pb.DrainRequest(grace_ms=7))
        assert worker.drains == [7]
        worker.status.draining()
        refused = worker.stub.Generate(pb.GenerateRequest(prompt="b"))
        assert await refusal_of(refused) == ("UNAVAILABLE", "DRAINING")
        ending = asyncio.create_task(refusal_of(call))
        worker.direct.fail_running(Refusal.DRAINING, "drained")
        assert await ending == ("UNAVAILABLE", "DRAINING")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.stub.Drain(pb.DrainRequest(grace_ms=-1))
        assert from_error(caught.value).field == "grace_ms"
