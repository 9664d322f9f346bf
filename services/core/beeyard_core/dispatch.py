"""From the queue to a lease: the placing of queued jobs, and what becomes of a job when its lease ends."""

from beeyard_core import limits
from beeyard_core.effect import (
    AnnounceEnded,
    AnnounceRequeued,
    Effect,
    ForgetJob,
    Offer,
    SaveJob,
)
from beeyard_core.ids import lease_id_of
from beeyard_core.instant import Instant
from beeyard_core.job import Decision, Job, JobVerb, Kind, Priority
from beeyard_core.lease import Lease, LeaseVerb
from beeyard_core.placement import place, waits_its_turn
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState, TimerKind


def place_queued(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """Lease queued jobs to open workers until one side is exhausted, in the order of class and acceptance."""
    for _ in range(limits.PLACEMENTS_PER_STEP_MAX):
        if state.is_draining or not state.fleet.open_workers or not len(state.queue):
            return
        found = _next_placement(state, now)
        if found is None:
            return
        _lease(state, *found, now, effects)


def _next_placement(state: QueenState, now: Instant) -> tuple[Job, Decision] | None:
    """Find the first job in order that some worker can take now."""
    for priority in Priority:
        heads = [
            job
            for model in state.queue.models(priority)
            if model in state.fleet.open_workers
            for job in state.queue.heads(priority, model)
        ]
        blocked: set[Kind] = set()
        for job in sorted(heads, key=lambda job: job.sequence):
            kind = job.spec.shape.kind
            if kind in blocked:
                continue
            decision = place(job.spec, state.fleet, now.mono_ms)
            if decision is not None:
                return job, decision
            if waits_its_turn(job.spec, state.fleet):
                blocked.add(kind)
    return None


def _lease(
    state: QueenState, job: Job, decision: Decision, now: Instant, effects: list[Effect]
) -> None:
    """Give the job to the worker that was chosen. The lease is durable before it is offered."""
    epoch = state.next_epoch()
    job.move(JobVerb.LEASE)
    state.queue.remove(job)
    job.attempt += 1
    job.epoch, job.worker_id, job.leased_at, job.decision = epoch, decision.worker_id, now, decision
    lease = Lease(
        lease_id=lease_id_of(epoch),
        epoch=epoch,
        job_id=job.job_id,
        worker_id=decision.worker_id,
        attempt=job.attempt,
        kv_tokens=job.spec.kv_tokens,
        offered_at=now,
    )
    hold(state, lease)
    state.set_timer(now.mono_ms + limits.LEASE_TTL_MS, TimerKind.OFFER, lease.lease_id)
    effects.append(SaveJob(job.job_id))
    effects.append(Offer(lease.worker_id, lease.lease_id))


def hold(state: QueenState, lease: Lease) -> None:
    """Count a lease against its worker."""
    worker = state.fleet.workers[lease.worker_id]
    state.leases[lease.lease_id] = lease
    worker.leases.add(lease.lease_id)
    worker.kv_tokens_used += lease.kv_tokens
    state.fleet.reindex(worker)


def free(state: QueenState, lease: Lease, verb: LeaseVerb) -> None:
    """End a lease and give its slot back."""
    lease.move(verb)
    worker = state.fleet.workers[lease.worker_id]
    del state.leases[lease.lease_id]
    worker.leases.discard(lease.lease_id)
    worker.kv_tokens_used -= lease.kv_tokens
    state.fleet.reindex(worker)


def requeue(state: QueenState, job: Job, effects: list[Effect]) -> None:
    """Put a job back at the place of its acceptance, which is the head of its class for an old job."""
    job.move(JobVerb.REQUEUE)
    state.queue.push(job)
    effects.append(SaveJob(job.job_id))
    effects.append(AnnounceRequeued(job.job_id))


def retry_or_fail(
    state: QueenState, job: Job, cause: Refused, now: Instant, effects: list[Effect]
) -> None:
    """Let a job whose attempt broke try again, or end it when trying again cannot help or was tried enough."""
    if not cause.reason.is_transient:
        end(state, job, JobVerb.FAIL, now, effects, failure=cause)
    elif job.attempt < job.spec.max_attempts:
        requeue(state, job, effects)
    else:
        failure = Refused(
            reason=Refusal.ATTEMPTS_EXHAUSTED,
            message=f"{job.attempt} of {job.attempt} attempts broke; the last one: {cause.message}",
            metadata={"last_reason": cause.reason.value, "attempt": str(job.attempt)},
        )
        end(state, job, JobVerb.FAIL, now, effects, failure=failure)


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
        state.queue.remove(job)
    job.move(verb)
    job.ended_at, job.failure = now, failure
    effects.append(SaveJob(job.job_id))
    effects.append(AnnounceEnded(job.job_id))
    state.ended.append(job.job_id)
    while len(state.ended) > limits.ENDED_JOBS_KEPT_MAX:
        _forget(state, effects)


def _forget(state: QueenState, effects: list[Effect]) -> None:
    """Drop the oldest ended job from memory; the store keeps it."""
    job = state.jobs.pop(state.ended.popleft())
    if job.request_id:
        state.requests.pop((job.spec.tenant_id, job.request_id), None)
    effects.append(ForgetJob(job.job_id))
