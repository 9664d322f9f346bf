"""What a policy wants, held against the live state and done, or not done and said why.

An intent is hearsay: it was decided on a mirror, maybe some milliseconds ago, maybe by a program that lies. So every
field is checked here once more, and an intent is applied whole or not at all. The intents of one answer are applied one
after the other, each on the state that the ones before it left: two jobs cannot take the same last slot.
"""

from typing import assert_never

from beeyard_core.demand import place_for_model
from beeyard_core.dispatch import end, lease, requeue, take_back
from beeyard_core.effect import Effect
from beeyard_core.fleet import Worker
from beeyard_core.ids import JobId, ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Decision, Job, JobState, JobVerb
from beeyard_core.operation import stop_worker
from beeyard_core.placement import exclusion, incompatibility, offering_of_worker
from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    Reject,
    StartWorker,
    Wait,
)
from beeyard_core.reconcile import send_desired, wish_at
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.residence import unevictable
from beeyard_core.state import QueenState


def apply(
    state: QueenState,
    intent: Intent,
    now: Instant,
    effects: list[Effect],
    *,
    label: str,
    is_fallback: bool = False,
) -> Refused | None:
    """Do what a policy wants, if the live state allows it.

    Args:
        state: The queen's memory; unchanged if the intent is refused.
        intent: What the policy wants.
        now: The moment.
        effects: What the shell must do is added here.
        label: The policy, as `name@version`.
        is_fallback: It decides in the place of one that failed.

    Returns:
        Why the intent was dropped; None: it was applied.
    """
    match intent:
        case Dispatch():
            found = _placeable(state, intent, now)
            if isinstance(found, Refused):
                return found
            decision = Decision(
                policy_version=label,
                worker_id=WorkerId(intent.worker_id),
                reason=intent.reason,
                considered=len(state.fleet.open_workers.get(found.spec.model, ())),
                is_fallback=is_fallback,
            )
            lease(state, found, decision, now, effects)
            return None
        case StartWorker():
            return _start(state, intent, now, effects)
        case Evict():
            return _evict(state, WorkerId(intent.evict_worker_id), now, effects)
        case Preempt():
            return _preempt(state, intent, now, effects)
        case Reject():
            return _reject(state, intent, now, effects)
        case Wait():
            state.ask_at_ms = now.mono_ms + intent.retry_after_ms if intent.retry_after_ms else None
            return None
        case _:
            assert_never(intent)


def _no(reason: Refusal, field: str, message: str) -> Refused:
    return Refused(reason=reason, message=message, field=field)


def _waiting(state: QueenState, job_id: str, field: str) -> Job | Refused:
    if JobId(job_id) not in state.queue:
        return _no(Refusal.JOB_NOT_FOUND, field, "no such job waits")
    return state.jobs[JobId(job_id)]


def _worker(state: QueenState, worker_id: str, field: str) -> Worker | Refused:
    found = state.fleet.workers.get(WorkerId(worker_id))
    return found or _no(Refusal.WORKER_NOT_FOUND, field, "there is no such worker")


def _placeable(state: QueenState, intent: Dispatch, now: Instant) -> Job | Refused:
    """Return the job if the worker can take it now."""
    job = _waiting(state, intent.job_id, "job_id")
    if isinstance(job, Refused):
        return job
    worker = _worker(state, intent.worker_id, "worker_id")
    if isinstance(worker, Refused):
        return worker
    why = exclusion(job.spec, state.fleet, worker, now.mono_ms)
    return job if why is None else _no(why.reason, "worker_id", f"the worker {why.detail}")


def _start(
    state: QueenState, intent: StartWorker, now: Instant, effects: list[Effect]
) -> Refused | None:
    """Wish for a worker where the policy wants it; an empty pool or GPU leaves the choice to queen or host."""
    index = None
    if intent.gpu_id:
        if not intent.gpu_id.isdecimal():
            return _no(
                Refusal.INVALID_REQUEST, "start_worker.gpu_id", "gpu_id is a device's number"
            )
        index = int(intent.gpu_id)
    model, pool_id = ModelName(intent.model_ref), PoolId(intent.pool_id) or None
    place = place_for_model(state, model, pool_id, now, device_index=index)
    if isinstance(place, Refused):
        return place
    made = wish_at(state, model, place, now)
    if isinstance(made, Refused):
        return made
    send_desired(state, place.pool_id, effects)
    return None


def _evict(
    state: QueenState, worker_id: WorkerId, now: Instant, effects: list[Effect]
) -> Refused | None:
    """Let a worker go, unless it goes already, is of use, or has hardly come."""
    worker = _worker(state, worker_id, "evict_worker_id")
    if isinstance(worker, Refused):
        return worker
    if worker.is_drained:
        return _no(Refusal.DRAINING, "evict_worker_id", "the worker is ending already")
    why = unevictable(state, worker, now)
    if why is not None:
        return _no(why.reason, "evict_worker_id", why.message)
    stop_worker(state, worker_id, now, effects, keep=False)
    return None


def _preempt(
    state: QueenState, intent: Preempt, now: Instant, effects: list[Effect]
) -> Refused | None:
    """Take a running job back into the queue, if that can help a more urgent one. It keeps its tokens."""
    waiting = _waiting(state, intent.for_job_id, "for_job_id")
    if isinstance(waiting, Refused):
        return waiting
    victim = state.jobs.get(JobId(intent.job_id))
    if victim is None or victim.state not in (JobState.LEASED, JobState.RUNNING):
        return _no(Refusal.JOB_NOT_FOUND, "job_id", "no such job runs")
    why = _unhelpful(state, victim, waiting)
    if why is not None:
        return why
    victim.preemptions += 1
    state.counts.preemptions += 1
    take_back(state, victim, now, effects)
    requeue(state, victim, effects, None)
    return None


def _unhelpful(state: QueenState, victim: Job, waiting: Job) -> Refused | None:
    """Return why taking back one job would be wrong, or of no use to another."""
    if waiting.spec.priority >= victim.spec.priority:
        return _no(Refusal.PERMISSION_DENIED, "for_job_id", "the waiting job is not more urgent")
    if victim.keeps_slot:
        message = f"the job was taken back {victim.preemptions} times, or waited for too long, and keeps its slot now"
        return _no(Refusal.PERMISSION_DENIED, "job_id", message)
    worker = state.fleet.workers[victim.worker_id or WorkerId("")]
    if worker.report.model != waiting.spec.model:
        reason = Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL
        return _no(reason, "job_id", "its worker serves another model than the waiting job needs")
    never = incompatibility(waiting.spec, offering_of_worker(state.fleet, worker))
    return None if never is None else _no(never.reason, "job_id", f"its worker {never.detail}")


def _reject(
    state: QueenState, intent: Reject, now: Instant, effects: list[Effect]
) -> Refused | None:
    """End a waiting job as refused by the policy."""
    job = _waiting(state, intent.job_id, "job_id")
    if isinstance(job, Refused):
        return job
    message = "the scheduling policy refused the job"
    failure = Refused(
        reason=Refusal.POLICY_DENIED,
        message=f"{message}: {intent.reason}" if intent.reason else message,
    )
    end(state, job, JobVerb.FAIL, now, effects, failure=failure)
    return None
