"""Tokens from workers to followers: the hot path, which passes the writer loop by.

A frame counts only if its lease does: the lease must exist, belong to the worker that speaks, be neither revoked nor
over, and carry the epoch that the frame names. What counts is appended to the job's feed at once; what does not is
counted and answered with a revocation, so that the worker stops. The store hears of tokens later (`QueenActor.fill`);
until then the worker keeps them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.event import (
    Event,
    FirstTokenArrived,
    LeaseFailed,
    LeaseFinished,
    LeaseStopped,
    OfferAccepted,
    OfferRefused,
)
from beeyard_core.ids import Epoch, LeaseId
from beeyard_core.lease import Lease
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_core.stream import Accepted, Dropped, Frame, Gap
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_queen.egress.feed import AttemptStarted, Feeds, JobFeed
from beeyard_queen.egress.links import WorkerLink
from beeyard_queen.ingress.worker_wire import finish_of, refusal_of
from beeyard_queen.metrics import QueenMetrics
from beeyard_queen.timelines import Timelines

_log = get_log("relay")


@dataclass(slots=True)
class Relay:
    """Takes what workers report and hands it on.

    Attributes:
        state: The core's state; read here, never written.
        post: Hands an event to the writer loop.
        on_unsaved: Called when a job's feed holds enough tokens to be made durable.
        metrics: Told how long first tokens took.
        timelines: Told when they came.
        stale_epoch_writes_count: Frames, results and claims that were refused for a stale epoch.
    """

    state: QueenState
    feeds: Feeds
    clock: Clock
    post: Callable[[Event], None]
    on_unsaved: Callable[[], None]
    metrics: QueenMetrics
    timelines: Timelines
    stale_epoch_writes_count: int = 0
    _last_stale: str = ""

    def take(self, link: WorkerLink, report: pb.Report) -> None:
        """Take in everything of one report but its heartbeat: replies, then tokens, then results."""
        for reply in report.replies:
            self._take_reply(link, reply)
        if report.frames:
            now_ms = self.clock.now().mono_ms
            for frame in report.frames:
                self._take_frame(link, frame, now_ms)
        for result in report.results:
            self._take_result(link, result)

    def _lease(self, link: WorkerLink, lease_id: str, epoch: int) -> Lease | None:
        """Return the lease if the worker may speak for it now."""
        lease = self.state.leases.get(LeaseId(lease_id))
        if lease is None or lease.epoch != epoch or lease.worker_id != link.worker_id:
            return None
        return lease if lease.is_current else None

    def next_index(self, lease_id: LeaseId) -> int:
        """Return the index of the first token of a lease's job that the queen does not have."""
        lease = self.state.leases.get(lease_id)
        feed = self.feeds.by_job.get(lease.job_id) if lease else None
        return feed.log.next_index if feed else 0

    def _take_reply(self, link: WorkerLink, reply: pb.OfferReply) -> None:
        lease_id, epoch = LeaseId(reply.lease_id), Epoch(reply.epoch)
        if not reply.accepted:
            reason = refusal_of(reply.reason)
            self.post(OfferRefused(link.worker_id, lease_id, epoch, reason))
            return
        lease = self._lease(link, lease_id, epoch)
        if lease is not None:
            self.begin(lease)
        self.post(OfferAccepted(link.worker_id, lease_id, epoch))

    def begin(self, lease: Lease) -> JobFeed:
        """Open the job's feed for the tokens of a lease and tell its followers that the attempt began."""
        feed = self.feeds.open(lease.job_id)
        job = self.state.jobs[lease.job_id]
        report = self.state.fleet.workers[lease.worker_id].report
        decision = job.decision
        started = AttemptStarted(
            # After a restart the earlier tokens have no attempt to stand behind; they are told after this one.
            first_index=feed.log.next_index if feed.attempts else 0,
            epoch=lease.epoch,
            worker_id=lease.worker_id,
            worker_address=report.address,
            model=report.model,
            device=report.device,
            attempt=lease.attempt,
            policy_version=decision.policy_version if decision else "",
            decision=decision.summary if decision else "",
        )
        feed.begin_attempt(started, lease.lease_id)
        return feed

    def _take_frame(self, link: WorkerLink, wire: pb.TokenFrame, now_ms: int) -> None:
        lease = self._lease(link, wire.lease_id, wire.epoch)
        if lease is None:
            self._refuse_stale(link, wire.lease_id, wire.epoch)
            return
        feed = self.feeds.by_job.get(lease.job_id)
        if feed is None or feed.inbox is None or feed.inbox.lease_id != wire.lease_id:
            # The worker's acceptance was lost with an earlier stream; its tokens say it as well.
            feed = self.begin(lease)
        inbox = feed.inbox
        assert inbox is not None, "an attempt that began has an inbox"
        frame = Frame(
            wire.lease_id,
            wire.epoch,
            wire.first_index,
            list(wire.ids),
            wire.text,
            list(wire.text_lengths),
        )
        match inbox.receive(frame, lease.epoch):
            case Accepted(fresh):
                self._deliver(feed, lease, fresh, now_ms)
            case Gap(resend_from):
                link.ask_again(lease.lease_id, lease.epoch, resend_from)
            case Dropped.MALFORMED:
                message = "the worker sent tokens that contradict each other"
                self.post(
                    LeaseFailed(
                        link.worker_id,
                        lease.lease_id,
                        lease.epoch,
                        feed.log.next_index,
                        refusal_of("STREAM_READ_ERROR"),
                        message,
                    )
                )
            case Dropped():
                pass

    def _deliver(self, feed: JobFeed, lease: Lease, frame: Frame, now_ms: int) -> None:
        if feed.awaits_first:
            feed.awaits_first = False
            self._count_first(lease)
            self.post(FirstTokenArrived(lease.worker_id, lease.lease_id, lease.epoch))
        feed.append(frame, now_ms)
        self.feeds.unsaved.add(feed.job_id)
        if feed.needs_saving(now_ms) and feed.job_id not in self.feeds.due:
            self.feeds.due.add(feed.job_id)
            self.on_unsaved()

    def _count_first(self, lease: Lease) -> None:
        job, worker = self.state.jobs[lease.job_id], self.state.fleet.workers[lease.worker_id]
        now = self.clock.now()
        self.metrics.first_token(job, worker.report.engine, now)
        self.timelines.first_token(lease.job_id, now)

    def _take_result(self, link: WorkerLink, result: pb.LeaseResult) -> None:
        lease_id, epoch = LeaseId(result.lease_id), Epoch(result.epoch)
        lease = self._lease(link, lease_id, epoch)
        feed = self.feeds.by_job.get(lease.job_id) if lease else None
        next_index = feed.log.next_index if feed else 0
        match result.WhichOneof("result"):
            case "finished":
                finished = result.finished
                if lease is not None and next_index < finished.next_index:
                    # Kept by the worker until it is acknowledged, and sent again behind the missing tokens.
                    link.ask_again(lease_id, epoch, next_index)
                    return
                finish = finish_of(finished.generation)
                self.post(LeaseFinished(link.worker_id, lease_id, epoch, next_index, finish))
            case "failed":
                reason = refusal_of(result.failed.reason)
                message = result.failed.message
                self.post(LeaseFailed(link.worker_id, lease_id, epoch, next_index, reason, message))
            case _:
                self.post(LeaseStopped(link.worker_id, lease_id, epoch))

    def _refuse_stale(self, link: WorkerLink, lease_id: str, epoch: int) -> None:
        self.count_stale(link.worker_id, lease_id, epoch)
        link.revoke(LeaseId(lease_id), Epoch(epoch), Refusal.STALE_EPOCH)

    def count_stale(self, worker_id: str, lease_id: str, epoch: int) -> None:
        """Count something that was refused because its lease does not count any more."""
        self.stale_epoch_writes_count += 1
        # A worker that does not listen could fill the disk with what it goes on to send: one line a lease.
        if lease_id != self._last_stale:
            self._last_stale = lease_id
            _log.warning(
                "stale_epoch_write_refused",
                worker_id=worker_id,
                lease_id=lease_id[: limits.ID_BYTES_MAX],
                epoch=epoch,
                count=self.stale_epoch_writes_count,
            )
