"""What workers say of their leases: taken, refused, started, finished, failed, stopped.

Everything here begins with the fence: the lease must exist, belong to the speaker, and carry the epoch that the speaker
names. What does not pass is counted and answered so that the worker forgets it; it changes nothing.
"""

from beeyard_core.dispatch import end, free, requeue
from beeyard_core.effect import (
    AcknowledgeResult,
    CountStaleEpoch,
    Effect,
    SaveJobSoon,
)
from beeyard_core.event import (
    FirstTokenArrived,
    LeaseFailed,
    LeaseFinished,
    LeaseStopped,
    OfferAccepted,
    OfferRefused,
)
from beeyard_core.fairness import was_served
from beeyard_core.history import job_record_of
from beeyard_core.instant import Instant
from beeyard_core.job import JobState, JobVerb
from beeyard_core.lease import Lease, LeaseState, LeaseVerb
from beeyard_core.measuring import note_finish
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.retrying import retry_or_fail
from beeyard_core.state import QueenState

_Spoken = (
    OfferAccepted | OfferRefused | FirstTokenArrived | LeaseFinished | LeaseFailed | LeaseStopped
)


def _held(state: QueenState, spoken: _Spoken, effects: list[Effect]) -> Lease | None:
    """Return the lease that the worker speaks for, or count a stale epoch."""
    lease = state.leases.get(spoken.lease_id)
    if lease is None or lease.epoch != spoken.epoch or lease.worker_id != spoken.worker_id:
        effects.append(CountStaleEpoch(spoken.worker_id, spoken.lease_id, spoken.epoch))
        effects.append(AcknowledgeResult(spoken.worker_id, spoken.lease_id, spoken.epoch))
        return None
    return lease


def _give_back(state: QueenState, lease: Lease, effects: list[Effect]) -> bool:
    """Release the lease and tell the worker to forget it; return whether its result still counts."""
    counts = lease.is_current
    free(state, lease, LeaseVerb.RELEASE)
    effects.append(AcknowledgeResult(lease.worker_id, lease.lease_id, lease.epoch))
    return counts


def offer_accepted(state: QueenState, event: OfferAccepted, effects: list[Effect]) -> None:
    """The worker works on it. A lease that was revoked meanwhile stays revoked: the order is under way."""
    lease = _held(state, event, effects)
    if lease is not None and lease.state is LeaseState.OFFERED:
        lease.move(LeaseVerb.ACCEPT)


def offer_refused(
    state: QueenState, event: OfferRefused, now: Instant, effects: list[Effect]
) -> None:
    """The worker would not take it: that was no attempt, unless no worker like it ever could."""
    lease = _held(state, event, effects)
    if lease is None:
        return
    # One that no worker like it could take says nothing of the room that this one has.
    if event.reason.is_transient:
        state.fleet.workers[lease.worker_id].is_saturated = True
    if not _give_back(state, lease, effects):
        return
    job = state.jobs[lease.job_id]
    if event.reason.is_transient:
        job.attempt -= 1
        requeue(state, job, effects, event.reason)
    else:
        failure = Refused(reason=event.reason, message=_why_refused(event.reason))
        end(state, job, JobVerb.FAIL, now, effects, failure=failure)


def _why_refused(reason: Refusal) -> str:
    if reason is Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT:
        return "the prompt and max_tokens do not fit the model's context; shorten one of them"
    return "the worker cannot run this job, and no other like it could"


def first_token_arrived(
    state: QueenState, event: FirstTokenArrived, now: Instant, effects: list[Effect]
) -> None:
    """The job runs."""
    lease = _held(state, event, effects)
    if lease is None or not lease.is_current:
        return
    job = state.jobs[lease.job_id]
    if job.state is JobState.LEASED:
        job.move(JobVerb.START)
        job.first_token_at = job.first_token_at or now
        effects.append(SaveJobSoon(job.job_id))


def lease_finished(
    state: QueenState, event: LeaseFinished, now: Instant, effects: list[Effect]
) -> None:
    """The job is COMPLETED, if the lease still counts."""
    lease = _held(state, event, effects)
    if lease is None or not _give_back(state, lease, effects):
        return
    job = state.jobs[lease.job_id]
    job.next_index, job.finish = event.next_index, event.finish
    was_served(state, job, event.finish.prompt_tokens)
    note_finish(state.fleet, lease, event.finish)
    state.prefixes.finish(
        job.job_id,
        prompt_tokens=event.finish.prompt_tokens,
        cached_tokens=event.finish.cached_prompt_tokens,
    )
    end(state, job, JobVerb.FINISH, now, effects)
    state.forecast.learn(job_record_of(job, state.fleet))


def lease_failed(
    state: QueenState, event: LeaseFailed, now: Instant, effects: list[Effect]
) -> None:
    """The attempt broke: try again, or end."""
    lease = _held(state, event, effects)
    if lease is None or not _give_back(state, lease, effects):
        return
    job = state.jobs[lease.job_id]
    job.next_index = event.next_index
    was_served(state, job, None)
    metadata = {"attempt": str(lease.attempt), "worker": lease.worker_id}
    cause = Refused(reason=event.reason, message=event.message, metadata=metadata)
    retry_or_fail(state, job, cause, now, effects)


def lease_stopped(
    state: QueenState, event: LeaseStopped, now: Instant, effects: list[Effect]
) -> None:
    """The worker stopped: on our order, or by itself because it heard nothing from us for too long."""
    lease = _held(state, event, effects)
    if lease is None or not _give_back(state, lease, effects):
        return
    cause = Refused(reason=Refusal.WORKER_RESET, message="the worker stopped by itself")
    retry_or_fail(state, state.jobs[lease.job_id], cause, now, effects)
