"""A queen in the test's own process: the real parts, put together as its `app` does, over a store and a clock of ours.

    async with running_queen() as queen, queen.worker() as worker:
        job = await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))

Time stands still but for the milliseconds by which the writer keeps its commits apart, so nothing expires unless the
test turns the clock. The store outlives the queen: give it to a second one, and that is a restart.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import grpc
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.queen.v1 import history_service_pb2_grpc as history_rpc
from beeyard.queen.v1 import inference_service_pb2_grpc as inference_rpc
from beeyard.queen.v1 import lease_service_pb2_grpc as lease_rpc
from beeyard.queen.v1 import policy_service_pb2_grpc as policy_rpc
from beeyard_core import limits
from beeyard_core.instant import Instant
from beeyard_queen.app import Queen, _assemble, _Store
from beeyard_queen.config import QueenSettings
from beeyard_queen.store.memory import MemoryStore
from beeyard_runtime.clock import Clock
from beeyard_runtime.lifecycle import Stop
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.dialing import Dialing
from beeyard_runtime.telemetry import Telemetry
from beeyard_runtime.testing import ManualClock

from tests.support.eventually import eventually

LOOPBACK = "127.0.0.1:0"


class PacedClock:
    """A `ManualClock` on which the writer's batch window passes by itself; nothing else is as short."""

    def __init__(self) -> None:
        self._manual = ManualClock()
        self._passed_ms = 0

    def now(self) -> Instant:
        return self._manual.now().later(self._passed_ms)

    @property
    def sleepers(self) -> int:
        return self._manual.sleepers

    async def sleep_ms(self, ms: int) -> None:
        if ms > limits.BATCH_WINDOW_MS:
            await self._manual.sleep_ms(ms)
            return
        self._passed_ms += ms
        await asyncio.sleep(0)

    async def advance(self, ms: int) -> None:
        await self._manual.advance(ms)


@dataclass
class RunningQueen:
    """One queen and ways to talk to it."""

    queen: Queen
    clock: PacedClock
    store: MemoryStore
    channel: grpc.aio.Channel
    inference: "inference_rpc.InferenceServiceAsyncStub" = field(init=False)
    fleet: "fleet_rpc.FleetServiceAsyncStub" = field(init=False)
    leases: "lease_rpc.LeaseServiceAsyncStub" = field(init=False)
    policies: "policy_rpc.PolicyServiceAsyncStub" = field(init=False)
    history: "history_rpc.HistoryServiceAsyncStub" = field(init=False)

    def __post_init__(self) -> None:
        self.inference = inference_rpc.InferenceServiceStub(self.channel)
        self.fleet = fleet_rpc.FleetServiceStub(self.channel)
        self.leases = lease_rpc.LeaseServiceStub(self.channel)
        self.history = history_rpc.HistoryServiceStub(self.channel)
        self.policies = policy_rpc.PolicyServiceStub(self.channel)

    async def channel_as(self, token: str, stack: AsyncExitStack) -> grpc.aio.Channel:
        """Return a channel whose calls show a token, until `stack` ends."""
        dialing = Dialing(token=lambda: token)
        opened = open_channel(self.queen.server.address, dialing=dialing)
        return await stack.enter_async_context(opened)

    async def tick(self, ms: int = 250, *, times: int = 1) -> None:
        """Let time pass, step by step, and return when the writer has taken in each tick."""
        for _ in range(times):
            seen = self.queen.loop.events_count
            await self.clock.advance(ms)
            await eventually(lambda seen=seen: self.queen.loop.events_count > seen, "a tick")  # type: ignore[misc]


@asynccontextmanager
async def running_queen(
    store: MemoryStore | None = None,
    clock: PacedClock | None = None,
    *,
    telemetry: Telemetry | None = None,
    incarnation: str = "test",
    listen: str = LOOPBACK,
    default_model: str = "",
    work_lease_ttl_ms: int = limits.WORK_LEASE_TTL_MS,
    decision_journal: str = "off",
    policy_config: Sequence[str] = (),
    policy_mode: Literal["lab", "platform"] = "lab",
    **chosen: object,
) -> AsyncIterator[RunningQueen]:
    """Run a queen until the block ends, then drain it; the store stays as it was left."""
    store, clock = store or MemoryStore(), clock or PacedClock()
    settings = QueenSettings(
        listen=listen,
        admin_listen=LOOPBACK,
        default_model=default_model,
        work_lease_ttl_ms=work_lease_ttl_ms,
        decision_journal=decision_journal,
        policy_config=list(policy_config),
        policy_mode=policy_mode,
        **{"audit_log": "off", **chosen},  # type: ignore[arg-type]  # any setting of the queen; validated by pydantic
    )
    ports = _Store(store, store, store.work, store.policies, store.history)
    restored = await store.open()
    typed: Clock = clock
    queen = await _assemble(settings, ports, restored, typed, telemetry or Telemetry(), incarnation)
    stop = Stop()
    running = asyncio.create_task(queen.run(stop))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_end, stop, running, store)
        await eventually(lambda: queen.server.address or running.done(), "the queen listens")
        channel = open_channel(queen.server.address)
        stack.push_async_callback(channel.close, None)
        yield RunningQueen(queen, clock, store, channel)


async def _end(stop: Stop, running: "asyncio.Task[None]", store: MemoryStore) -> None:
    stop.set()
    try:
        await running
    finally:
        await store.close()


async def crash(queen: RunningQueen) -> None:
    """Let the store forget that the queen is there, as a kill would: what was not committed is gone."""
    await queen.store.close()
