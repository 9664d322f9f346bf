"""A queen and workers that no pool manager looks after: nobody says that one has died, and nobody starts another.

So it is the leases alone that say what becomes of the jobs of a worker that is gone.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import engine_service_pb2_grpc as engine_rpc
from beeyard_runtime.rpc_channel import open_channel

from tests.support.service import MARK, Service, StackFailed, clear, lone_worker
from tests.support.service_log import ServiceLog, queen_log

LOOPBACK = "127.0.0.1:0"


class LoneFleet:
    """One queen process and worker processes.

    Attributes:
        queen: The queen.
        workers: Those that were started, by id.
    """

    def __init__(self, *queen_flags: str) -> None:
        """Prepare; nothing runs yet."""
        self.folder = Path(tempfile.mkdtemp(prefix="beeyard-lone-"))
        self._mark = uuid.uuid4().hex
        self._env = {MARK: self._mark}
        self._channels: dict[str, grpc.aio.Channel] = {}
        flags = ["--listen", LOOPBACK, "--admin-listen", LOOPBACK, "--log-format", "json"]
        flags += ["--store", str(self.folder / "queen.sqlite"), *queen_flags]
        self.queen = Service("queen", flags, log=self.folder / "queen.log", env=self._env)
        self.workers: dict[str, Service] = {}

    async def __aenter__(self) -> Self:
        """Start the queen."""
        await self.queen.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything, stopped processes included."""
        for channel in self._channels.values():
            await channel.close(None)
        for worker in self.workers.values():
            if worker.is_running:
                os.kill(worker.pid, signal.SIGCONT)
                await worker.kill()
        await self.queen.stop()
        left = await clear(self._mark)
        shutil.rmtree(self.folder, ignore_errors=True)
        if left and fault is None:
            raise StackFailed(f"left behind: {left}")

    @property
    def log(self) -> ServiceLog:
        """What the queen logged."""
        return queen_log(self.folder)

    def channel(self, address: str) -> grpc.aio.Channel:
        """Return the one channel to an address."""
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        return self._channels[address]

    async def start_workers(
        self,
        worker_ids: Sequence[str],
        *,
        slots: int,
        rate: int,
        queen: str = "",
        context_tokens: int = 8_192,
    ) -> None:
        """Start workers and return when the queen can place jobs on them.

        Args:
            worker_ids: Their names.
            slots: Answers at once of each.
            rate: Tokens a second of each answer.
            queen: Where they find the queen; empty: at its own address.
            context_tokens: Longest prompt plus answer of each.
        """
        for worker_id in worker_ids:
            # They start side by side: most of it is an interpreter that loads.
            flags = ["--queen", queen or self.queen.address, "--slots", str(slots)]
            flags += ["--model-source", str(rate), "--context-tokens", str(context_tokens)]
            log = self.folder / f"{worker_id}.log"
            self.workers[worker_id] = lone_worker(worker_id, *flags, log=log, env=self._env)
        await asyncio.gather(*(self.workers[worker_id].start() for worker_id in worker_ids))
        await self.until_attached(worker_ids)

    async def until_attached(self, worker_ids: Sequence[str]) -> None:
        """Return when these workers are attached and ready."""
        stub = fleet_rpc.FleetServiceStub(self.channel(self.queen.address))
        call = stub.WatchFleet(fleet_pb.WatchFleetRequest(min_interval_ms=100), timeout=60)
        try:
            async for fleet in call:
                ready = {
                    w.status.worker_id
                    for w in fleet.workers
                    if w.attached and w.status.state != engine_pb.WORKER_STATE_STARTING
                }
                if ready.issuperset(worker_ids):
                    return
        finally:
            call.cancel()
        raise AssertionError("the stream ended")

    async def is_decoding(self, worker_id: str) -> bool:
        """Whether a worker has a slot in use, as it says itself, at its own address."""
        stub = engine_rpc.EngineServiceStub(self.channel(self.workers[worker_id].address))
        answer = await stub.GetStatus(engine_pb.GetStatusRequest(), timeout=10)
        return bool(answer.slots_free < answer.slots_total)

    async def stale_writes(self) -> int:
        """Return how much the queen refused for a stale epoch."""
        stub = fleet_rpc.FleetServiceStub(self.channel(self.queen.address))
        call = stub.WatchFleet(fleet_pb.WatchFleetRequest(), timeout=10)
        try:
            async for fleet in call:
                return fleet.stale_epoch_writes
        finally:
            call.cancel()
        raise AssertionError("the stream ended")

    def signal(self, worker_ids: Sequence[str], number: signal.Signals) -> None:
        """Send a signal to these workers."""
        for worker_id in worker_ids:
            os.kill(self.workers[worker_id].pid, number)
