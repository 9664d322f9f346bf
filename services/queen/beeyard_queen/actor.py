"""Performs what the core decided: rows for the store, orders for workers, events for followers, answers for callers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.effect import (
    Accept,
    AcceptAgain,
    AcknowledgeResult,
    AnnounceEnded,
    AnnounceRequeued,
    AnswerCall,
    AnswerWork,
    CountStaleEpoch,
    DrainWorker,
    Effect,
    ForgetJob,
    Offer,
    Refuse,
    RefuseWorker,
    RemoveWorker,
    Revoke,
    SaveJob,
    SaveJobSoon,
    SaveScale,
    SaveWork,
    SendDesired,
    Welcome,
)
from beeyard_core.event import CancelRequested, Event, LeaseFailed, OfferRefused
from beeyard_core.history import job_record_of
from beeyard_core.ids import JobId, WorkerId, WorkId, lease_id_of
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_queen.egress.feed import Feeds, JobEnded
from beeyard_queen.egress.hosts import Hosts
from beeyard_queen.egress.links import Links
from beeyard_queen.egress.relay import Relay
from beeyard_queen.metrics import QueenMetrics
from beeyard_queen.pictures import Pictures
from beeyard_queen.prompts import Prompts
from beeyard_queen.store.port import Batch, StoreUnavailable
from beeyard_queen.store.rows import row_of
from beeyard_queen.store.tokens import tokens_row_of
from beeyard_queen.tracing import JobTraces
from beeyard_queen.work_calls import WorkCalls

_log = get_log("actor")
_DISMISSED = Refused(
    reason=Refusal.STALE_EPOCH,
    message="the worker was silent for so long that its leases have expired; attach again",
)


@dataclass(slots=True)
class Answers:
    """Callers that wait for the writer loop: submitters by job, operators by call."""

    submitters: dict[JobId, asyncio.Future[Accept | AcceptAgain | Refused]] = field(
        default_factory=dict
    )
    operators: dict[int, asyncio.Future[AnswerCall]] = field(default_factory=dict)
    cancellers: dict[JobId, list[asyncio.Future[None]]] = field(default_factory=dict)
    #: Submissions that were told that the store is unavailable. A job that becomes durable after all is cancelled,
    #: unless it has a request id: then its submitter asks again and finds it.
    disowned: set[JobId] = field(default_factory=set)
    calls_count: int = 0

    def answer_submitter(self, job_id: JobId, answer: Accept | AcceptAgain | Refused) -> None:
        """Answer a submission, if somebody still waits for it."""
        self.disowned.discard(job_id)
        waiter = self.submitters.pop(job_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)


@dataclass(slots=True, kw_only=True)
class QueenActor:
    """The loop's hands."""

    state: QueenState
    clock: Clock
    feeds: Feeds
    links: Links
    hosts: Hosts
    relay: Relay
    prompts: Prompts
    traces: JobTraces
    answers: Answers
    post: Callable[[Event], None]
    welcome_incarnation: str
    work_calls: WorkCalls
    pictures: Pictures = field(default_factory=Pictures)
    metrics: QueenMetrics

    # --- Before and after the commit ---

    def fill(self, batch: Batch, saved: set[JobId], *, everything: bool) -> None:
        """Add the rows of jobs that must be saved, with their tokens and prompts, and tokens that have waited."""
        # In a fixed order, so that the same events always have the same consequences.
        for job_id in sorted(saved):
            job = self.state.jobs.get(job_id)
            if job is None:
                continue
            feed = self.feeds.by_job.get(job_id)
            if feed is not None:
                job.next_index = max(job.next_index, feed.log.next_index)
            batch.jobs[job_id] = row_of(job, self.traces.trace_id(job_id))
            if job.is_ended:
                batch.job_records.append(job_record_of(job, self.state.fleet))
            prompt = self.prompts.unsaved(job_id)
            if prompt is not None:
                batch.prompts[job_id] = prompt
        if saved or everything:
            # Nothing waits for them; they ride along.
            batch.lease_records.extend(self.state.ended_leases)
            self.state.ended_leases.clear()
        due = self._due(everything=everything) | (self.feeds.unsaved & saved)
        for job_id in sorted(due):
            frames = self.feeds.by_job[job_id].unsaved()
            batch.tokens.extend(tokens_row_of(job_id, frame) for frame in frames)

    def fill_work(self, batch: Batch, saved: set[WorkId]) -> None:
        """Add the rows of heavy work that must be saved, with bodies that are new."""
        batch.work = self.work_calls.rows(
            self.state.work.works[work_id] for work_id in sorted(saved)
        )

    def _due(self, *, everything: bool) -> set[JobId]:
        """Return the jobs whose tokens have waited long enough; all are looked at only with `everything`."""
        due = self.feeds.due & self.feeds.unsaved
        self.feeds.due.clear()
        if everything:
            now_ms = self.clock.now().mono_ms
            due |= {j for j in self.feeds.unsaved if self.feeds.by_job[j].needs_saving(now_ms)}
        return due

    def committed(self, batch: Batch) -> None:
        """Let workers forget tokens that are durable, and prompts be dropped from memory."""
        now_ms = self.clock.now().mono_ms
        for job_id in batch.prompts:
            self.prompts.mark_saved(JobId(job_id))
        for row in batch.tokens:
            feed = self.feeds.by_job.get(JobId(row.job_id))
            if feed is None:
                continue
            feed.mark_saved(row.first_index + row.count, now_ms)
            if not feed.unsaved_count:
                self.feeds.unsaved.discard(feed.job_id)
            self._acknowledge(feed.job_id, feed.saved_index)

    def _acknowledge(self, job_id: JobId, next_index: int) -> None:
        job = self.state.jobs.get(job_id)
        if job is None or job.is_ended or job.worker_id is None:
            return
        link = self.links.find(job.worker_id)
        feed = self.feeds.by_job[job_id]
        if link is not None and feed.inbox is not None and feed.attempts:
            epoch = feed.attempts[-1].epoch
            if epoch == job.epoch:
                link.acknowledge(lease_id_of(epoch), epoch, next_index)

    def store_failed(self) -> None:
        """Tell everybody who waits for an acceptance that there is none."""
        refused = Refused(
            reason=Refusal.STORE_UNAVAILABLE,
            message="the queen cannot write to its store now; nothing was accepted, try again later",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        )
        for job_id in list(self.answers.submitters):
            self.answers.answer_submitter(job_id, refused)
            # It may become durable once the store heals, and its submitter will have gone elsewhere by then. That holds
            # for submissions that still wait for the writer, too.
            self.answers.disowned.add(job_id)
        self.work_calls.store_failed(refused)

    # --- Effects ---

    async def act(self, effect: Effect) -> None:  # noqa: C901, PLR0912 - one arm an effect and nothing else
        """Perform one effect."""
        match effect:
            case Accept():
                self._accept(effect)
            case AcceptAgain():
                self._accept_again(effect)
            case Refuse():
                self._refuse(effect)
            case Offer():
                await self._offer(effect)
            case Revoke(worker_id, lease_id, epoch):
                if link := self.links.find(worker_id):
                    link.revoke(lease_id, epoch)
            case AcknowledgeResult(worker_id, lease_id, epoch):
                if link := self.links.find(worker_id):
                    link.acknowledge(lease_id, epoch, 0, is_over=True)
            case Welcome():
                self._welcome(effect)
            case RefuseWorker(worker_id, session, refused):
                self._close_link(worker_id, session, refused)
            case RemoveWorker(worker_id, session):
                _log.warning("worker_lost", worker_id=worker_id)
                self._close_link(worker_id, session, _DISMISSED)
            case DrainWorker(worker_id):
                if link := self.links.find(worker_id):
                    link.drain(limits.WORKER_STOP_GRACE_MS)
            case AnnounceRequeued(job_id, why):
                self._announce_requeued(job_id, why)
            case AnnounceEnded(job_id):
                self._announce_ended(job_id)
            case ForgetJob(job_id):
                self.prompts.forget(job_id)
            case SendDesired(pool_id, workers):
                self.hosts.send(pool_id, workers)
            case AnswerCall():
                waiter = self.answers.operators.pop(effect.call_id, None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(effect)
            case AnswerWork(call_id, answer):
                self.work_calls.answer(call_id, answer)
            case CountStaleEpoch(worker_id, lease_id, epoch):
                self.relay.count_stale(worker_id, lease_id, epoch)
            case SaveJob() | SaveJobSoon() | SaveWork() | SaveScale():
                pass  # the loop has committed them
            case _:
                assert_never(effect)

    def _accept(self, effect: Accept) -> None:
        job = self.state.jobs[effect.job_id]
        self.traces.accepted(job)
        self.metrics.accepted(job)
        _log.debug("job_accepted", job_id=job.job_id, position=effect.position)
        if effect.job_id in self.answers.disowned and not job.request_id:
            self.post(CancelRequested(effect.job_id))
        self.answers.answer_submitter(effect.job_id, effect)

    def _accept_again(self, effect: AcceptAgain) -> None:
        self.traces.refused(effect.asked_id, "")
        self.prompts.forget(effect.asked_id)
        self.answers.answer_submitter(effect.asked_id, effect)

    def _refuse(self, effect: Refuse) -> None:
        self.traces.refused(effect.job_id, effect.refused.reason.value)
        self.metrics.refused(effect.refused)
        self.prompts.forget(effect.job_id)
        _log.info("job_refused", job_id=effect.job_id, reason=effect.refused.reason.value)
        self.answers.answer_submitter(effect.job_id, effect.refused)

    async def _offer(self, effect: Offer) -> None:
        """Send a lease with its request. A lease that was taken back since, or a worker that left, needs no offer."""
        lease = self.state.leases.get(effect.lease_id)
        if lease is None or not lease.is_current:
            return
        job = self.state.jobs[lease.job_id]
        self.pictures.take(self.state, job, self.clock.now().mono_ms)
        traceparent = self.traces.leased(job, lease, self.clock.now())
        try:
            stored = await self.prompts.get(job.job_id)
        except StoreUnavailable as fault:
            # As if the worker were busy: no attempt is counted, and its next heartbeat is the time to try again.
            _log.error("store_unavailable", fault=str(fault))
            self.post(
                OfferRefused(
                    lease.worker_id, lease.lease_id, lease.epoch, Refusal.STORE_UNAVAILABLE
                )
            )
            return
        if stored is None:
            reason, message = Refusal.INTERNAL, "the request is no longer in the store"
            self.post(LeaseFailed(lease.worker_id, lease.lease_id, lease.epoch, 0, reason, message))
            return
        request = engine_pb.GenerateRequest.FromString(stored)
        feed = self.feeds.by_job.get(job.job_id)
        is_resumed = feed is not None and bool(feed.log.next_index)
        if feed is not None and is_resumed:
            request.resume_ids.extend(feed.log.ids())
            request.resume_text = feed.log.text()
            request.resume_count = feed.log.next_index
        link = self.links.find(lease.worker_id)
        if link is None:
            return
        _log.debug(
            "lease_offered",
            job_id=job.job_id,
            worker_id=lease.worker_id,
            epoch=lease.epoch,
            attempt=lease.attempt,
        )
        self.metrics.offered(job, self.state, is_resumed=is_resumed)
        link.offer(
            pb.LeaseOffer(
                lease_id=lease.lease_id,
                epoch=lease.epoch,
                job_id=job.job_id,
                attempt=lease.attempt,
                request=request,
                traceparent=traceparent,
                kv_tokens=lease.kv_tokens,
                priority=job.spec.priority,
            )
        )

    def _welcome(self, effect: Welcome) -> None:
        link = self.links.find(effect.worker_id)
        if link is None or link.session != effect.session or link.welcome.done():
            return
        adopted = []
        for lease_id, epoch in effect.adopted:
            lease = self.state.leases.get(lease_id)
            if lease is None or not lease.is_current:
                continue
            feed = self.relay.begin(lease)
            if feed.inbox is not None:
                feed.inbox.reattach()
            adopted.append(
                pb.AdoptedLease(lease_id=lease_id, epoch=epoch, resend_from=feed.log.next_index)
            )
        ttl_ms = self.state.settings.lease_ttl_ms
        link.welcome.set_result(
            pb.Welcome(
                queen_incarnation=self.welcome_incarnation,
                heartbeat_interval_ms=min(
                    limits.HEARTBEAT_INTERVAL_MS, ttl_ms // limits.HEARTBEATS_PER_TTL
                ),
                lease_ttl_ms=ttl_ms,
                adopted=adopted,
            )
        )

    def _close_link(self, worker_id: WorkerId, session: int, refused: Refused | None) -> None:
        link = self.links.find(worker_id)
        if link is not None and link.session == session:
            link.close(refused)

    def _announce_requeued(self, job_id: JobId, why: Refusal | None) -> None:
        self.traces.requeued(job_id, why, self.clock.now())
        _log.info("job_requeued", job_id=job_id, reason=why.value if why else "PREEMPTED")
        feed = self.feeds.by_job.get(job_id)
        if feed is not None:
            feed.inbox = None
            feed.wake()

    def _announce_ended(self, job_id: JobId) -> None:
        job = self.state.jobs.get(job_id)
        self.prompts.forget(job_id)
        if job is not None:
            self.traces.ended(job)
            self.metrics.ended(job, self.state)
            failure = job.failure.reason.value if job.failure else None
            _log.info(
                "job_ended",
                job_id=job_id,
                state=job.state.value,
                reason=failure,
                attempt=job.attempt,
                tokens=job.next_index,
            )
        for waiter in self.answers.cancellers.pop(job_id, ()):
            if not waiter.done():
                waiter.set_result(None)
        feed = self.feeds.drop(job_id)
        if feed is not None:
            feed.end(JobEnded())
