"""From the queue to a lease and back, and what becomes of a job when its lease ends. Who is leased where is for the
policy to say; see `policy/schedule.py`.
"""

from beeyard_core import limits
from beeyard_core.effect import (
    AnnounceEnded,
    AnnounceRequeued,
    Effect,
    ForgetJob,
    Offer,
    Revoke,
    SaveJob,
)
from beeyard_core.fairness import (
    starts_running,
    starts_waiting,
    stops_running,
    stops_waiting,
    takes_turn,
)
from beeyard_core.history import lease_record_of
from beeyard_core.ids import lease_id_of
from beeyard_core.instant import Instant
from beeyard_core.job import Decision, Job, JobState, JobVerb
from beeyard_core.lease import Lease, LeaseState, LeaseVerb
from beeyard_core.overdue import counts_start, releases
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState, TimerKind


def enqueue(state: QueenState, job: Job) -> None:
    """Let a job wait, at the place of its acceptance."""
    state.forecast.waits(job, state.now_ms)
    state.queue.push(job)
    state.touched.jobs[job.job_id] = None
    state.prefixes.await_block(job.job_id)
    starts_waiting(state, job)


def dequeue(state: QueenState, job: Job) -> None:
    """Take a waiting job out of the queue."""
    state.forecast.leaves(job)
    releases(state, job)
    state.queue.remove(job)
    state.touched.jobs[job.job_id] = None
    state.prefixes.leave_queue(job.job_id)
    stops_waiting(state, job)


def lease(
    state: QueenState, job: Job, decision: Decision, now: Instant, effects: list[Effect]
) -> None:
    """Give a waiting job to the worker that was chosen. The lease is durable before it is offered."""
    epoch = state.next_epoch()
    job.move(JobVerb.LEASE)
    takes_turn(state, job)
    job.was_next = job.is_next
    dequeue(state, job)
    counts_start(state, job.spec.model)
    job.attempt += 1
    if job.leased_at is None:
        job.waited_ms = now.mono_ms - job.accepted_at.mono_ms
        state.forecast.started(job, job.waited_ms)
    job.epoch, job.worker_id, job.leased_at, job.decision = epoch, decision.worker_id, now, decision
    given = Lease(
        lease_id=lease_id_of(epoch),
        epoch=epoch,
        job_id=job.job_id,
        worker_id=decision.worker_id,
        model=job.spec.model,
        attempt=job.attempt,
        kv_tokens=job.spec.kv_tokens,
        offered_at=now,
    )
    hold(state, given)
    state.prefixes.send(job.job_id, state.fleet.workers[decision.worker_id])
    state.set_timer(now.mono_ms + state.settings.lease_ttl_ms, TimerKind.OFFER, given.lease_id)
    effects.append(SaveJob(job.job_id))
    effects.append(Offer(given.worker_id, given.lease_id))


def hold(state: QueenState, lease: Lease) -> None:
    """Count a lease against its worker and its job's tenant."""
    worker = state.fleet.workers[lease.worker_id]
    state.leases[lease.lease_id] = lease
    worker.leases.add(lease.lease_id)
    worker.kv_tokens_used += lease.kv_tokens
    state.forecast.holds(lease.model)
    worker.jobs_served += 1
    worker.last_used_at_ms = state.now_ms
    job = state.jobs[lease.job_id]
    worker.served_class = min(worker.served_class or job.spec.priority, job.spec.priority)
    state.fleet.reindex(worker)
    state.touched.runs[lease.job_id] = None
    starts_running(state, job)


def revoke(state: QueenState, lease: Lease) -> None:
    """Take a lease back: nothing that its worker sends counts from here on, though the slot is still occupied."""
    lease.move(LeaseVerb.REVOKE)
    state.touched.runs[lease.job_id] = None
    stops_running(state, state.jobs[lease.job_id])


def free(state: QueenState, lease: Lease, verb: LeaseVerb) -> None:
    """End a lease and give its slot back."""
    if lease.is_current:
        stops_running(state, state.jobs[lease.job_id])
    was_revoked = lease.state is LeaseState.REVOKED
    lease.move(verb)
    ended_ms = lease.offered_at.wall_ms + state.now_ms - lease.offered_at.mono_ms
    state.ended_leases.append(
        lease_record_of(lease, state.fleet, ended_ms, was_revoked=was_revoked)
    )
    if verb is LeaseVerb.EXPIRE:
        state.counts.leases_expired += 1
    worker = state.fleet.workers[lease.worker_id]
    del state.leases[lease.lease_id]
    worker.leases.discard(lease.lease_id)
    worker.kv_tokens_used -= lease.kv_tokens
    state.forecast.frees(lease.model)
    worker.last_used_at_ms = state.now_ms
    state.fleet.reindex(worker)
    state.touched.runs[lease.job_id] = None


def take_back(state: QueenState, job: Job, now: Instant, effects: list[Effect]) -> None:
    """Revoke the job's lease, if it has one. A worker that is not there cannot hear it: the lease just ends."""
    if job.state is JobState.QUEUED:
        return
    held = state.leases[lease_id_of(job.epoch)]
    revoke(state, held)
    if state.fleet.workers[held.worker_id].session:
        effects.append(Revoke(held.worker_id, held.lease_id, held.epoch))
        state.set_timer(
            now.mono_ms + state.settings.lease_ttl_ms, TimerKind.REVOCATION, held.lease_id
        )
    else:
        free(state, held, LeaseVerb.RELEASE)


def requeue(state: QueenState, job: Job, effects: list[Effect], why: Refusal | None) -> None:
    """Put a job back at the place of its acceptance, which is the head of its class for an old job.

    Args:
        state: Of the queen.
        job: Had a lease.
        effects: What is to be done.
        why: What ended its attempt; None: it made way for a more urgent job.
    """
    job.move(JobVerb.REQUEUE)
    enqueue(state, job)
    effects.append(SaveJob(job.job_id))
    effects.append(AnnounceRequeued(job.job_id, why))


def end(
    state: QueenState,
    job: Job,
    verb: JobVerb,
    now: Instant,
    effects: list[Effect],
    *,
    failure: Refused | None = None,
) -> None:
    """End a job for good: durable first, then told to everybody who follows it."""
    if job.job_id in state.queue:
        dequeue(state, job)
    job.is_resting = False
    job.move(verb)
    job.ended_at, job.failure = now, failure
    state.quotas.end_job(job, now.mono_ms)
    state.prefixes.leave(job.job_id)
    effects.append(SaveJob(job.job_id))
    effects.append(AnnounceEnded(job.job_id))
    state.ended.append(job.job_id)
    oldest_ms = now.mono_ms - limits.ENDED_JOB_KEPT_MS_MIN
    while len(state.ended) > limits.ENDED_JOBS_KEPT_MAX:
        ended_at = state.jobs[state.ended[0]].ended_at
        if ended_at is not None and ended_at.mono_ms > oldest_ms:
            break
        _forget(state, effects)


def _forget(state: QueenState, effects: list[Effect]) -> None:
    """Drop the oldest ended job from memory; the store keeps it."""
    job = state.jobs.pop(state.ended.popleft())
    if job.request_id:
        state.requests.pop((job.spec.tenant_id, job.request_id), None)
    effects.append(ForgetJob(job.job_id))
