"""A worker without a process: scripted engine, real session, scripted queen over real gRPC."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from beeyard.worker.v1 import worker_service_pb2_grpc
from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.metrics import Figures
from beeyard_runtime.telemetry import Telemetry
from beeyard_runtime.testing import serving
from beeyard_worker.drain import Drain
from beeyard_worker.engine.port import Engine
from beeyard_worker.engine_service import DirectCalls
from beeyard_worker.leases import Leases
from beeyard_worker.metrics import WorkerMetrics
from beeyard_worker.runner import Runner
from beeyard_worker.session import Session
from beeyard_worker.slots import Slots
from beeyard_worker.status import Identity, WorkerStatus

from tests.support.attached_queen import AttachedQueen
from tests.support.scripted_engine import ScriptedEngine


@dataclasses.dataclass(frozen=True)
class Rig:
    """The parts of one worker; its session runs while the rig is open."""

    queen: AttachedQueen
    engine: ScriptedEngine
    status: WorkerStatus
    runner: Runner
    leases: Leases
    direct: DirectCalls
    drain: Drain
    session: "asyncio.Task[None]"


OpenRig = Callable[..., AbstractAsyncContextManager[Rig]]


def fresh_metrics() -> WorkerMetrics:
    """Return figures of a worker at zero."""
    return WorkerMetrics(Figures(), engine="synthetic", model="scripted")


def status_of(clock: Clock, *, slots: int, kv_tokens: int) -> WorkerStatus:
    """Return the status of a worker that is still loading."""
    identity = Identity(
        worker_id="worker-1",
        pool_id="pool-1",
        model="scripted",
        engine="synthetic",
        device="cpu",
        incarnation="first",
    )
    return WorkerStatus(identity, slots=Slots(slots, kv_tokens), context_tokens=1_000, clock=clock)


async def load(engine: Engine, status: WorkerStatus, kv_tokens: int) -> None:
    """Load the engine as the composition root does."""
    facts = await engine.load(status.loading)
    status.loaded(facts, Slots(facts.slots, kv_tokens))


@asynccontextmanager
async def _open_rig(
    *,
    clock: Clock | None = None,
    slots: int = 2,
    kv_tokens: int = 20_000,
    telemetry: Telemetry | None = None,
    loaded: bool = True,
) -> AsyncIterator[Rig]:
    clock = clock or SystemClock()
    telemetry = telemetry or Telemetry()
    queen, engine = AttachedQueen(), ScriptedEngine(slots=slots)
    status = status_of(clock, slots=slots, kv_tokens=kv_tokens)
    if loaded:
        await load(engine, status, kv_tokens)
    runner = Runner(
        engine=engine, status=status, clock=clock, telemetry=telemetry, metrics=fresh_metrics()
    )
    leases = Leases(runner=runner, status=status, clock=clock, telemetry=telemetry)
    drain = Drain(status=status, clock=clock, grace_ms=10_000)
    direct = DirectCalls()
    leases.watch_rest(drain.nudge)
    direct.watch_rest(drain.nudge)
    add = worker_service_pb2_grpc.add_WorkerServiceServicer_to_server
    async with serving((add, queen)) as served:
        session = Session(
            stub=worker_service_pb2_grpc.WorkerServiceStub(served.channel),
            leases=leases,
            status=status,
            address="127.0.0.1:1",
            clock=clock,
            chance=random.Random(7),
            on_drain=drain.begin,
        )
        task = asyncio.create_task(session.run())
        try:
            yield Rig(queen, engine, status, runner, leases, direct, drain, task)
        finally:
            task.cancel()
            leases.expire()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()


@pytest.fixture
def open_rig() -> OpenRig:
    """Return what opens a rig, with the clock, slots and KV budget that the test names."""
    return _open_rig
