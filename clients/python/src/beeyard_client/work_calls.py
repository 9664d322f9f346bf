"""The client's methods about heavy work: submit it, hold a lease for it, look, take away."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Unpack

from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard.queen.v1 import lease_service_pb2_grpc as rpc

from beeyard_client import work_wire as wire
from beeyard_client.connection import QueenConnection
from beeyard_client.held_lease import HeldLease, Wish
from beeyard_client.work import (
    Capacity,
    Denial,
    Grant,
    Json,
    Lease,
    Work,
    WorkOptions,
    WorkRequest,
    WorkState,
)

_NOTHING: Json = MappingProxyType({})


class WorkCalls(QueenConnection):
    """What can be asked of a queen about heavy work."""

    # --- Doing it ---

    def lease(
        self,
        kind: str,
        *,
        worker_id: str = "",
        pool_id: str = "",
        patience_ms: int | None = None,
        on_denied: Callable[[Denial], None] | None = None,
        **options: Unpack[WorkOptions],
    ) -> HeldLease:
        """Run work of your own under a lease: submits it, waits for its turn, heartbeats while the block runs.

        ```python
        async with client.lease("backup", capacity_units=20) as lease:
            await lease.report(0.5, "half of the folders")
            lease.result = {"folders": 12}
        ```

        The work is completed with the block, and failed by an exception in it. If the lease is lost, the block is
        cancelled and `LeaseLostError` raised: what it did may have been given to somebody else meanwhile.

        Args:
            kind: What kind of work it is.
            worker_id: Who holds the lease; empty: a name is drawn.
            pool_id: The host that the work runs on; empty: the queen chooses the one with the most room.
            patience_ms: How long to wait for the lease, milliseconds; None: as long as it takes.
            on_denied: Called with each denial while it waits.
            **options: See `WorkRequest`; it has one attempt, since nobody else would know how to do it.
        """
        options["request_id"] = options.get("request_id") or self._new_id()
        options["max_attempts"] = 1
        request = wire.submit_request(WorkRequest(kind=kind, **options))

        async def submit() -> str:
            return (await self._ask(self._leases().SubmitWork, request)).work_id

        wish = Wish(
            worker_id=worker_id or f"client-{self._new_id()}",
            pool_id=pool_id,
            patience_ms=patience_ms,
            on_denied=on_denied,
        )
        return HeldLease(self, self._pauses, wish, submit=submit)

    def next_lease(
        self,
        kinds: Sequence[str] = (),
        *,
        worker_id: str = "",
        capacity_units_max: int = 0,
        pool_id: str = "",
        patience_ms: int | None = None,
        on_denied: Callable[[Denial], None] | None = None,
    ) -> HeldLease:
        """Do the most urgent work that others have queued: waits for it, heartbeats while the block runs.

        ```python
        async with client.next_lease(["embedding.reindex"]) as lease:
            folder = lease.work.payload["folder"]
        ```

        Args:
            kinds: Kinds of work that this process can do; empty: any.
            worker_id: Who holds the lease; empty: a name is drawn.
            capacity_units_max: Most units to use, 1 to 100; 0: any.
            pool_id: The host that the work runs on; empty: the queen chooses the one with the most room.
            patience_ms: How long to wait for work, milliseconds; None: as long as it takes.
            on_denied: Called with each denial while it waits.
        """
        wish = Wish(
            worker_id=worker_id or f"client-{self._new_id()}",
            kinds=tuple(kinds),
            capacity_units_max=capacity_units_max,
            pool_id=pool_id,
            patience_ms=patience_ms,
            on_denied=on_denied,
        )
        return HeldLease(self, self._pauses, wish)

    # --- Queueing it, and looking ---

    async def submit_work(self, kind: str, **options: Unpack[WorkOptions]) -> Work:
        """Queue work for whoever can do it; return it once it is durable.

        Args:
            kind: The word by which those who can do it find it.
            **options: See `WorkRequest`.
        """
        options["request_id"] = options.get("request_id") or self._new_id()
        request = wire.submit_request(WorkRequest(kind=kind, **options))
        return wire.work(await self._ask(self._leases().SubmitWork, request))

    async def get_work(self, work_id: str) -> Work:
        """Return one piece of work with its result; `JOB_NOT_FOUND` if there is none."""
        return wire.work(
            await self._ask(self._leases().GetWork, pb.GetWorkRequest(work_id=work_id))
        )

    async def list_work(
        self,
        *,
        states: Sequence[WorkState] = (),
        tenant_id: str = "",
        kind: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[Work]:
        """Yield work, newest first, page by page as it is asked for.

        Args:
            states: Only in one of these states; empty: any.
            tenant_id: Only of this tenant; empty: any.
            kind: Only of this kind; empty: any.
            page_size: Pieces a request, 1 to 1000; 0: the queen's choice.

        Yields:
            Each piece once, without payload and result.
        """
        page_token = ""
        while True:
            request = pb.ListWorkRequest(
                page_size=page_size,
                page_token=page_token,
                states=wire.states_to_wire(states),
                tenant_id=tenant_id,
                kind=kind,
            )
            page = await self._ask(self._leases().ListWork, request)
            for one in page.work:
                yield wire.work(one)
            # A queen that gives the same token again would keep us here for ever.
            if not page.next_page_token or page.next_page_token == page_token:
                return
            page_token = page.next_page_token

    async def cancel_work(self, work_id: str, reason: str = "") -> Work:
        """Make sure that a piece of work does not run (any more) and return it; ended work is returned as it is."""
        request = pb.CancelWorkRequest(work_id=work_id, reason=reason)
        return wire.work(await self._ask(self._leases().CancelWork, request))

    async def revoke_lease(
        self, lease_id: str, *, reason: str = "", requeue: bool = False, epoch: int = 0
    ) -> Work:
        """Take a lease away and return its work: queued again, or failed.

        Args:
            lease_id: The lease.
            reason: Why, for its holder and the record.
            requeue: Let somebody else do the work.
            epoch: Only if this is its epoch; 0: whatever it is.
        """
        request = pb.RevokeLeaseRequest(
            lease_id=lease_id, epoch=epoch, reason=reason, requeue=requeue
        )
        return wire.work(await self._ask(self._leases().RevokeLease, request))

    async def capacity(self) -> Capacity:
        """Return how much heavy work the hosts can take now, and why."""
        return wire.capacity(await self._ask(self._leases().GetCapacity, pb.GetCapacityRequest()))

    # --- Leases, one call at a time; `lease` and `next_lease` do this by themselves ---

    async def request_lease(
        self,
        worker_id: str,
        *,
        kinds: Sequence[str] = (),
        capacity_units_max: int = 0,
        pool_id: str = "",
        work_id: str = "",
        request_id: str = "",
    ) -> Grant | Denial:
        """Ask for a lease; answered at once.

        Args:
            worker_id: Who asks: the name that this process keeps.
            kinds: Kinds of work that it can do; empty: any.
            capacity_units_max: Most units to use, 1 to 100; 0: any.
            pool_id: The host that it runs on; empty: the queen chooses.
            work_id: Only this piece of work; empty: the most urgent.
            request_id: Idempotency key; empty: one is drawn.
        """
        request = pb.RequestLeaseRequest(
            request_id=request_id or self._new_id(),
            worker_id=worker_id,
            kinds=kinds,
            capacity_units_max=capacity_units_max,
            pool_id=pool_id,
            work_id=work_id,
        )
        return wire.outcome(await self._ask(self._leases().RequestLease, request))

    async def heartbeat(self, lease: Lease) -> Lease:
        """Keep a lease alive; return it with its new expiry."""
        request = pb.HeartbeatRequest(
            lease_id=lease.lease_id, epoch=lease.epoch, worker_id=lease.worker_id
        )
        return wire.lease((await self._ask(self._leases().Heartbeat, request)).lease)

    async def report_progress(
        self,
        lease: Lease,
        progress: float,
        message: str = "",
        measurements: Mapping[str, float] = MappingProxyType({}),
    ) -> Lease:
        """Say how far the work is, 0 to 1, in a sentence and in figures; counts as a heartbeat."""
        request = pb.ReportProgressRequest(
            lease_id=lease.lease_id,
            epoch=lease.epoch,
            worker_id=lease.worker_id,
            progress=progress,
            message=message,
            measurements=measurements,
        )
        return wire.lease((await self._ask(self._leases().ReportProgress, request)).lease)

    async def complete_work(self, lease: Lease, result: Json = _NOTHING) -> Work:
        """Give a lease back because its work is done; may be repeated."""
        done = pb.WorkCompleted(result=wire.struct_of(result, "result"))
        return await self._release(lease, completed=done)

    async def fail_work(self, lease: Lease, message: str, *, retriable: bool = False) -> Work:
        """Give a lease back because its work broke; may be repeated.

        Args:
            lease: The lease.
            message: One sentence for a person, at most 1 KiB.
            retriable: Another attempt may succeed.
        """
        return await self._release(
            lease, failed=pb.WorkFailed(message=message, retriable=retriable)
        )

    async def _release(
        self,
        lease: Lease,
        *,
        completed: pb.WorkCompleted | None = None,
        failed: pb.WorkFailed | None = None,
    ) -> Work:
        request = pb.ReleaseLeaseRequest(
            lease_id=lease.lease_id,
            epoch=lease.epoch,
            worker_id=lease.worker_id,
            completed=completed,
            failed=failed,
        )
        return wire.work(await self._ask(self._leases().ReleaseLease, request))

    def _leases(self) -> "rpc.LeaseServiceAsyncStub":
        return rpc.LeaseServiceStub(self._open_channel())
