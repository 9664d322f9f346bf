"""The outgoing side of the worker streams: orders gather for each worker and leave as one message.

What gathers is bounded by what the worker holds: one entry a lease in each list.
"""

import asyncio
from dataclasses import dataclass, field

from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.ids import Epoch, LeaseId, WorkerId
from beeyard_core.refusal import Refusal, Refused

_REPLACED = Refused(
    reason=Refusal.WORKER_RESET,
    message="the stream was closed before the queen could answer the hello; attach again",
    retry_after_ms=limits.RECONNECT_MIN_MS,
)


@dataclass(slots=True)
class WorkerLink:
    """One open stream to a worker.

    Attributes:
        session: Number of the stream within this process.
        welcome: Resolved with the queen's answer to the hello; None: the stream ends without one.
    """

    worker_id: WorkerId
    session: int
    welcome: asyncio.Future[pb.Welcome | Refused | None]
    closed: Refused | None = None
    is_closed: bool = False
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _offers: list[pb.LeaseOffer] = field(default_factory=list)
    _revoked: dict[LeaseId, pb.LeaseRevocation] = field(default_factory=dict)
    _acknowledged: dict[LeaseId, pb.TokenAcknowledgement] = field(default_factory=dict)
    _resend: dict[LeaseId, pb.ResendRequest] = field(default_factory=dict)
    _drain: pb.DrainOrder | None = None

    def offer(self, offer: pb.LeaseOffer) -> None:
        """Offer a lease."""
        self._offers.append(offer)
        self._woken.set()

    def revoke(self, lease_id: LeaseId, epoch: Epoch, reason: Refusal | None = None) -> None:
        """Take a lease back; with a reason, as an answer to what was refused."""
        self._revoked[lease_id] = pb.LeaseRevocation(
            lease_id=lease_id, epoch=epoch, reason=reason.value if reason else ""
        )
        self._woken.set()

    def acknowledge(
        self, lease_id: LeaseId, epoch: Epoch, next_index: int, *, is_over: bool = False
    ) -> None:
        """Say up to where tokens are durable, or that the lease is over."""
        earlier = self._acknowledged.get(lease_id)
        self._acknowledged[lease_id] = pb.TokenAcknowledgement(
            lease_id=lease_id,
            epoch=epoch,
            next_index=max(next_index, earlier.next_index if earlier else 0),
            result_committed=is_over or bool(earlier and earlier.result_committed),
        )
        self._woken.set()

    def ask_again(self, lease_id: LeaseId, epoch: Epoch, from_index: int) -> None:
        """Ask for tokens that are missing."""
        request = pb.ResendRequest(lease_id=lease_id, epoch=epoch, from_index=from_index)
        self._resend[lease_id] = request
        self._woken.set()

    def drain(self, grace_ms: int) -> None:
        """Let the worker take no new work, end what runs, and exit."""
        self._drain = pb.DrainOrder(grace_ms=grace_ms)
        self._woken.set()

    def greet(self) -> None:
        """Send something, be it empty: it answers a heartbeat and renews the worker's leases at its own end."""
        self._woken.set()

    def close(self, refused: Refused | None = None) -> None:
        """End the stream, with an error if there is one."""
        self.closed, self.is_closed = refused, True
        if not self.welcome.done():
            self.welcome.set_result(refused)
        self._woken.set()

    def end_quietly(self) -> None:
        """End the stream unless it was closed with an error already."""
        if not self.is_closed:
            self.close()

    async def orders(self) -> pb.Orders | None:
        """Wait for orders and return all that have gathered; None once the stream is to end."""
        await self._woken.wait()
        self._woken.clear()
        if self.is_closed:
            return None
        orders = pb.Orders(
            offers=self._offers,
            revocations=self._revoked.values(),
            acknowledgements=self._acknowledged.values(),
            resends=self._resend.values(),
            drain=self._drain,
        )
        self._offers, self._drain = [], None
        self._revoked, self._acknowledged, self._resend = {}, {}, {}
        return orders


@dataclass(slots=True)
class Links:
    """Every open worker stream."""

    by_worker: dict[WorkerId, WorkerLink] = field(default_factory=dict)
    _session: int = 0

    def open(self, worker_id: WorkerId) -> WorkerLink:
        """Make the link of a new stream; an older stream of the same worker is closed."""
        self._session += 1
        earlier = self.by_worker.get(worker_id)
        if earlier is not None:
            earlier.close()
        welcome = asyncio.get_running_loop().create_future()
        link = WorkerLink(worker_id=worker_id, session=self._session, welcome=welcome)
        self.by_worker[worker_id] = link
        return link

    def find(self, worker_id: WorkerId) -> WorkerLink | None:
        """Return the open stream of a worker, if there is one."""
        return self.by_worker.get(worker_id)

    def drop(self, link: WorkerLink) -> None:
        """Forget a stream that has ended."""
        if self.by_worker.get(link.worker_id) is link:
            del self.by_worker[link.worker_id]

    def close_all(self) -> None:
        """End every stream; the workers keep what they hold and come back."""
        for link in self.by_worker.values():
            link.close()
