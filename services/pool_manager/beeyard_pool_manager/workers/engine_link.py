"""Speaks gRPC to the EngineService of workers; the one file of this room that knows its messages.

Channels are kept per address while the worker answers, and dropped when it does not: the address of a dead worker is
soon another's.
"""

import asyncio
from collections.abc import Awaitable

import grpc
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as rpc
from beeyard_core import limits
from beeyard_core.fleet import WorkerState
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.dialing import PLAIN, Dialing

from beeyard_pool_manager.workers.worker_process import EngineReading

_STATES = {
    pb.WORKER_STATE_STARTING: WorkerState.STARTING,
    pb.WORKER_STATE_READY: WorkerState.READY,
    pb.WORKER_STATE_BUSY: WorkerState.BUSY,
    pb.WORKER_STATE_DRAINING: WorkerState.DRAINING,
    pb.WORKER_STATE_FAILED: WorkerState.FAILED,
}
_DEADLINE_S = limits.STATUS_DEADLINE_MS / 1_000


class GrpcEngineLink:
    """Asks and drains workers.

    Args:
        supervisor_id: Tells the workers who supervises them.
        dialing: What the workers are shown, and whose certificates count.
    """

    def __init__(self, supervisor_id: str, dialing: Dialing = PLAIN) -> None:
        self._supervisor_id = supervisor_id
        self._dialing = dialing
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def read(self, address: str) -> EngineReading | None:
        """Ask a worker how it is and tell it that it is supervised; None if it does not answer in time."""
        request = pb.GetStatusRequest(supervisor_id=self._supervisor_id)
        status = await _answer(self._stub(address).GetStatus(request, timeout=_DEADLINE_S))
        if status is None:
            await self._drop(address)
            return None
        return EngineReading(
            worker_id=status.worker_id,
            # A worker of a newer version may be in a state that this one does not know; it is not failed for that.
            state=_STATES.get(status.state, WorkerState.STARTING),
            load_progress=status.load_progress,
            failure=status.failure,
        )

    async def drain(self, address: str, *, grace_ms: int) -> bool:
        """Ask a worker to end its work and exit; False if it does not answer in time."""
        # On the wire 0 means the worker's own drain time, which is not what a caller with no patience wants.
        request = pb.DrainRequest(grace_ms=max(1, grace_ms))
        return await _answer(self._stub(address).Drain(request, timeout=_DEADLINE_S)) is not None

    async def close(self) -> None:
        """Close every channel."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close(None)

    def _stub(self, address: str) -> "rpc.EngineServiceAsyncStub":
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address, dialing=self._dialing)
        return rpc.EngineServiceStub(channel)

    async def _drop(self, address: str) -> None:
        channel = self._channels.pop(address, None)
        if channel is not None:
            await channel.close(None)


async def _answer(call: Awaitable[pb.EngineStatus]) -> pb.EngineStatus | None:
    """Return what a worker answers; None if it does not, or if its channel was closed meanwhile.

    A channel that another task closes cancels its calls, which looks to the caller as if it had been cancelled itself.
    """
    try:
        return await call
    except grpc.aio.AioRpcError:
        return None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None
