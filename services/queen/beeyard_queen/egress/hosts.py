"""The outgoing side of the host streams, and the last snapshot of each host as it came.

The core keeps what decisions need; listings show everything that a host reported, so its message is kept whole.
"""

import asyncio
from dataclasses import dataclass, field

from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard.pool.v1 import snapshot_pb2
from beeyard_core import limits
from beeyard_core.fleet import DesiredState, DesiredWorker
from beeyard_core.ids import PoolId

_WIRE_STATES = {
    DesiredState.RUNNING: pb.DESIRED_STATE_RUNNING,
    DesiredState.DRAINING: pb.DESIRED_STATE_DRAINING,
    DesiredState.STOPPED: pb.DESIRED_STATE_STOPPED,
}


@dataclass(slots=True)
class HostLink:
    """One open stream to a pool manager. Only the latest list waits to be sent: it replaces the one before."""

    pool_id: PoolId
    is_closed: bool = False
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _wanted: tuple[DesiredWorker, ...] | None = None

    def send(self, workers: tuple[DesiredWorker, ...]) -> None:
        """Say which workers should run on the host."""
        self._wanted = workers
        self._woken.set()

    def close(self) -> None:
        """End the stream."""
        self.is_closed = True
        self._woken.set()

    async def response(self) -> pb.SynchronizeResponse | None:
        """Wait for a list and return it; None once the stream is to end."""
        await self._woken.wait()
        self._woken.clear()
        if self.is_closed:
            return None
        return pb.SynchronizeResponse(
            workers=[
                pb.DesiredWorker(
                    worker_id=worker.worker_id,
                    model=worker.model,
                    device=worker.device,
                    state=_WIRE_STATES[worker.state],
                )
                for worker in self._wanted or ()
            ],
            report_interval_ms=limits.REPORT_INTERVAL_MS,
            # Workers that this queen did not wish for were started by hand or by an earlier queen: both are left alone.
            authoritative=False,
        )


@dataclass(slots=True)
class Hosts:
    """Every open host stream, and every host's last snapshot with the wall time at which it came."""

    links: dict[PoolId, HostLink] = field(default_factory=dict)
    snapshots: dict[PoolId, tuple[snapshot_pb2.HostSnapshot, int]] = field(default_factory=dict)

    def open(self, pool_id: PoolId) -> HostLink:
        """Make the link of a new stream; an older stream of the same host is closed."""
        earlier = self.links.get(pool_id)
        if earlier is not None:
            earlier.close()
        link = self.links[pool_id] = HostLink(pool_id)
        return link

    def drop(self, link: HostLink) -> None:
        """Forget a stream that has ended."""
        if self.links.get(link.pool_id) is link:
            del self.links[link.pool_id]

    def send(self, pool_id: PoolId, workers: tuple[DesiredWorker, ...]) -> None:
        """Tell a host which workers should run on it, if it is there."""
        link = self.links.get(pool_id)
        if link is not None:
            link.send(workers)

    def close_all(self) -> None:
        """End every stream; the hosts come back."""
        for link in self.links.values():
            link.close()
