"""The leases of this worker: one task each, feeding an outbox that the session empties.

Knows orders and reports, but no stream: a stream may break and come back under it. A lease is here from
its offer until its result is committed in the queen, or until it is revoked, dropped or expired; whatever
ends it, its task is cancelled and the slot is free before anybody hears of it.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.outbox import HeldLease, LeaseOutbox, Outbox
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime import semconv
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log
from beeyard_runtime.telemetry import Telemetry

from beeyard_worker import wire
from beeyard_worker.engine.port import EngineFault, Generation, Token
from beeyard_worker.runner import Runner
from beeyard_worker.status import WorkerStatus

_log = get_log("leases")
LeaseKey = tuple[str, int]


@dataclasses.dataclass(slots=True, eq=False)
class _Work:
    """One lease in hand: its task, and its outbox once it is accepted."""

    offer: pb.LeaseOffer
    started_ms: int
    task: asyncio.Task[None] | None = None
    lease: LeaseOutbox[pb.LeaseResult] | None = None
    room: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    # Set when the queen ordered the stop, so that it is answered once the slot is free.
    stop_ordered: bool = False


class Leases:
    """Takes orders, works on leases, and fills reports."""

    def __init__(
        self, *, runner: Runner, status: WorkerStatus, clock: Clock, telemetry: Telemetry
    ) -> None:
        """Start with no lease; nobody listens until `listen`."""
        self._runner = runner
        self._status = status
        self._clock = clock
        self._telemetry = telemetry
        self._outbox: Outbox[pb.LeaseResult] = Outbox()
        self._works: dict[LeaseKey, _Work] = {}
        self._replies: list[pb.OfferReply] = []
        self._stopped: list[LeaseKey] = []
        self._wake: Callable[[bool], None] = _nobody
        self._on_rest: Callable[[], None] = lambda: None

    def listen(self, wake: Callable[[bool], None]) -> None:
        """Call `wake` when there is something to report; True: at once, False: it may be gathered."""
        self._wake = wake

    def watch_rest(self, on_rest: Callable[[], None]) -> None:
        """Call `on_rest` whenever a lease has come to an end here."""
        self._on_rest = on_rest

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, nothing waits for an acknowledgement and nothing is left to say."""
        return not (self._works or len(self._outbox) or self._replies or self._stopped)

    @property
    def has_unsent(self) -> bool:
        """Whether the next report would say anything."""
        return bool(self._replies or self._stopped) or self._outbox.has_unsent

    def held(self) -> list[HeldLease]:
        """Return the claims for a hello, which are also the progress for a heartbeat."""
        return self._outbox.held()

    def fill(self, report: pb.Report) -> None:
        """Move what is to be said into a report: at most one frame a lease."""
        if self._replies:
            report.replies.extend(self._replies)
            self._replies.clear()
        for frame in self._outbox.take_frames():
            wire.add_frame(report, frame)
        for _, result in self._outbox.take_results():
            report.results.append(result)
        if self._stopped:
            for lease_id, epoch in self._stopped:
                report.results.add(lease_id=lease_id, epoch=epoch, stopped=pb.LeaseStopped())
            self._stopped.clear()
            self._on_rest()

    # --- Orders ---

    def obey(self, orders: pb.Orders) -> None:
        """Carry out everything but a drain."""
        for offer in orders.offers:
            self._take(offer)
        for revocation in orders.revocations:
            self._revoke((revocation.lease_id, revocation.epoch))
        for resend in orders.resends:
            self._outbox.resend_from(resend.lease_id, resend.epoch, resend.from_index)
            self._wake(True)
        for ack in orders.acknowledgements:
            self._acknowledge(ack)

    def adopt(self, adopted: Iterable[pb.AdoptedLease]) -> None:
        """Go on with what a welcome confirms; stop and forget everything else."""
        triples = [(lease.lease_id, lease.epoch, lease.resend_from) for lease in adopted]
        for lease in self._outbox.adopt(triples):
            _log.info("lease_dropped", lease_id=lease.lease_id, epoch=lease.epoch)
            self._cancel((lease.lease_id, lease.epoch))
        self._on_rest()

    def disconnect(self) -> None:
        """Give up what the queen cannot know of after a break: unanswered offers and unsent answers."""
        for key, work in list(self._works.items()):
            if work.lease is None:
                self._cancel(key)
        self._replies.clear()
        self._stopped.clear()

    def expire(self) -> int:
        """Stop decoding: the queen was not heard for too long, so all leases have expired.

        Results are kept: the queen may still want an answer that was finished in time.

        Returns:
            How many were stopped.
        """
        running = list(self._works)
        for key in running:
            self._outbox.forget(*key)
            self._cancel(key)
        return len(running)

    def fail_running(self, reason: Refusal, message: str) -> None:
        """End everything that runs with a failure, which is delivered like any result."""
        for key, work in list(self._works.items()):
            self._cancel(key)
            if work.lease is not None and work.lease.result is None:
                work.lease.finish(_failed(work.offer, reason, message))
        self._wake(True)

    def _take(self, offer: pb.LeaseOffer) -> None:
        key = (offer.lease_id, offer.epoch)
        if key in self._works or self._outbox.find(*key) is not None:
            # Said before; an offer is never made twice with one epoch, but hearing it twice harms nobody.
            return
        # What the queen has not acknowledged is bounded, too: no new work while too much is kept.
        if (
            len(self._works) >= self._status.slots.total
            or len(self._outbox) >= limits.HELD_LEASES_MAX
        ):
            reason = Refusal.DRAINING if self._status.is_draining else Refusal.WORKER_BUSY
            self._reply(offer, reason)
            return
        work = _Work(offer, self._clock.now().mono_ms)
        self._works[key] = work
        work.task = asyncio.create_task(self._work(work), name=offer.lease_id)
        work.task.add_done_callback(lambda task: self._rest(key, work, task))

    def _revoke(self, key: LeaseKey) -> None:
        self._outbox.forget(*key)
        work = self._works.get(key)
        if work is not None:
            work.stop_ordered = True
            self._cancel(key)
            return
        self._stopped.append(key)
        self._wake(True)

    def _acknowledge(self, ack: pb.TokenAcknowledgement) -> None:
        key = (ack.lease_id, ack.epoch)
        lease = self._outbox.acknowledge(
            *key, ack.next_index, result_committed=ack.result_committed
        )
        work = self._works.get(key)
        if work is not None and lease is not None and not lease.is_full:
            work.room.set()
        if ack.result_committed:
            self._on_rest()

    def _cancel(self, key: LeaseKey) -> None:
        work = self._works.get(key)
        if work is not None and work.task is not None:
            work.task.cancel()

    # --- Work ---

    async def _work(self, work: _Work) -> None:
        offer = work.offer
        outcome = await self._admit(work)
        if outcome is None:
            return
        generation, kv_tokens = outcome
        lease = work.lease = self._accept(offer)
        try:
            result = await self._run(work, lease, generation, kv_tokens)
        except EngineFault as fault:
            _log.warning("lease_failed", lease_id=offer.lease_id, reason=fault.reason.value)
            result = _failed(offer, fault.reason, fault.message)
        except Exception:  # noqa: BLE001 - logged here; the queen is told no internals
            # A bug of the engine's adapter must not leave the queen waiting for the lease to expire.
            _log.exception("lease_crashed", lease_id=offer.lease_id, job_id=offer.job_id)
            result = _failed(offer, Refusal.WORKER_ERROR, "internal error")
        lease.finish(result)
        self._wake(True)

    async def _admit(self, work: _Work) -> tuple[Generation, int] | None:
        """Return what to run and its KV tokens; None if the offer was answered by a refusal or a failure."""
        offer = work.offer
        generation = wire.generation_from(
            offer.request, default_max_tokens=0, default_seed=0, priority=offer.priority
        )
        if isinstance(generation, Refused):
            self._fail_at_once(offer, generation.reason, generation.message)
            return None
        try:
            plan = await self._runner.plan(generation)
        except EngineFault as fault:
            self._fail_at_once(offer, fault.reason, fault.message)
            return None
        refused = plan if isinstance(plan, Refused) else self._runner.refusal(plan)
        if refused is not None:
            self._reply(offer, refused.reason)
            return None
        assert isinstance(plan, int), "what is not refused is planned"
        return generation, plan

    async def _run(
        self,
        work: _Work,
        lease: LeaseOutbox[pb.LeaseResult],
        generation: Generation,
        kv_tokens: int,
    ) -> pb.LeaseResult:
        offer, wake = work.offer, self._wake
        first_index = lease.next_index

        async def keep(tokens: Sequence[Token]) -> None:
            is_first = lease.next_index == first_index
            lease.append(wire.ids_of(tokens), [token.text for token in tokens])
            wake(is_first)
            while lease.is_full:
                work.room.clear()
                await work.room.wait()

        finish = await self._runner.run(
            offer.lease_id,
            generation,
            kv_tokens,
            sink=keep,
            parent=self._telemetry.context_from(offer.traceparent),
            attributes=self._attributes(offer),
        )
        finished = wire.finished_to_wire(
            finish,
            resume_count=first_index,
            total_ms=self._clock.now().mono_ms - work.started_ms,
        )
        return pb.LeaseResult(
            lease_id=offer.lease_id,
            epoch=offer.epoch,
            finished=pb.LeaseFinished(next_index=lease.next_index, generation=finished),
        )

    def _accept(self, offer: pb.LeaseOffer) -> LeaseOutbox[pb.LeaseResult]:
        lease = self._outbox.accept(offer.lease_id, offer.epoch, offer.request.resume_count)
        self._replies.append(
            pb.OfferReply(lease_id=offer.lease_id, epoch=offer.epoch, accepted=True)
        )
        self._wake(True)
        return lease

    def _reply(self, offer: pb.LeaseOffer, reason: Refusal) -> None:
        _log.info("offer_refused", lease_id=offer.lease_id, reason=reason.value)
        self._replies.append(
            pb.OfferReply(lease_id=offer.lease_id, epoch=offer.epoch, reason=reason.value)
        )
        self._wake(True)

    def _fail_at_once(self, offer: pb.LeaseOffer, reason: Refusal, message: str) -> None:
        # Accepted and failed rather than refused: another worker would not make the request valid.
        self._accept(offer).finish(_failed(offer, reason, message))

    def _attributes(self, offer: pb.LeaseOffer) -> dict[str, str | int]:
        return {
            semconv.JOB_ID: offer.job_id,
            semconv.LEASE_ID: offer.lease_id,
            semconv.LEASE_EPOCH: offer.epoch,
            semconv.ATTEMPT: offer.attempt,
            semconv.WORKER_ID: self._status.identity.worker_id,
            semconv.GEN_AI_REQUEST_MODEL: self._status.identity.model,
        }

    def _rest(self, key: LeaseKey, work: _Work, task: asyncio.Task[None]) -> None:
        """The task has ended, its slot is free."""
        if self._works.get(key) is work:
            del self._works[key]
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("lease_task_broke", lease_id=key[0], exc_info=fault)
        if work.stop_ordered:
            self._outbox.forget(*key)
            self._stopped.append(key)
            self._wake(True)
        self._on_rest()


def _failed(offer: pb.LeaseOffer, reason: Refusal, message: str) -> pb.LeaseResult:
    return pb.LeaseResult(
        lease_id=offer.lease_id,
        epoch=offer.epoch,
        failed=pb.LeaseFailed(reason=reason.value, message=message),
    )


def _nobody(_at_once: bool) -> None:  # noqa: FBT001 - the shape of the callback
    """Listen to nothing: there is no session yet."""
