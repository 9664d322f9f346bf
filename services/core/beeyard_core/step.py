"""The entrance of the core: one event in, the state brought up to date, effects out.

`step` reads no clock, no chance, no socket and no file. It updates the state in place, at O(log n) an event (the tick
walks the fleet), and returns what the shell must do, in order. The same events at the same instants give the same
effects on any machine. It takes in what happened and places nothing by itself: after it, whoever drives the core lets a
policy decide (`policy/schedule.py`).
"""

from typing import assert_never

from beeyard_core.admission import admit, dropped
from beeyard_core.attendance import (
    offer_timer,
    pool_reported,
    revocation_timer,
    silence_timer,
    worker_attached,
    worker_detached,
    worker_reported,
)
from beeyard_core.dispatch import end, enqueue, take_back
from beeyard_core.effect import Accept, AcceptAgain, Effect, Refuse, SaveJob
from beeyard_core.event import (
    ApiMeasured,
    CancelRequested,
    DrainBegun,
    Event,
    FirstTokenArrived,
    JobSubmitted,
    LeaseFailed,
    LeaseFinished,
    LeaseStopped,
    ModelScaleRequested,
    OfferAccepted,
    OfferRefused,
    PoolReported,
    Ticked,
    WorkAsked,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
    WorkerStartRequested,
    WorkerStopRequested,
)
from beeyard_core.holding import hold, hold_timer
from beeyard_core.ids import JobId, LeaseId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobVerb
from beeyard_core.leasing import work_asked, work_ticked
from beeyard_core.operation import start_requested, stop_requested
from beeyard_core.overdue import reviews
from beeyard_core.reconcile import reconcile
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.retrying import rest_timer
from beeyard_core.scaler import scale, scale_requested
from beeyard_core.settlement import (
    first_token_arrived,
    lease_failed,
    lease_finished,
    lease_stopped,
    offer_accepted,
    offer_refused,
)
from beeyard_core.state import QueenState, TimerKind


def step(state: QueenState, event: Event, now: Instant) -> list[Effect]:
    """Take in one event.

    Args:
        state: The queen's memory; updated in place.
        event: What happened.
        now: When, on both clocks; never earlier than in the call before.

    Returns:
        What the shell must do, in order; see `effect.py` for the contract.
    """
    effects: list[Effect] = []
    state.now_ms = now.mono_ms
    _apply(state, event, now, effects)
    return effects


def _apply(  # noqa: C901, PLR0912 - one arm an event and nothing else
    state: QueenState, event: Event, now: Instant, effects: list[Effect]
) -> None:
    match event:
        case JobSubmitted():
            _job_submitted(state, event, now, effects)
        case CancelRequested():
            _cancel_requested(state, event.job_id, now, effects)
        case OfferAccepted():
            offer_accepted(state, event, effects)
        case OfferRefused():
            offer_refused(state, event, now, effects)
        case FirstTokenArrived():
            first_token_arrived(state, event, now, effects)
        case LeaseFinished():
            lease_finished(state, event, now, effects)
        case LeaseFailed():
            lease_failed(state, event, now, effects)
        case LeaseStopped():
            lease_stopped(state, event, now, effects)
        case WorkerAttached():
            worker_attached(state, event, now, effects)
        case WorkerDetached():
            worker_detached(state, event)
        case WorkerReported():
            worker_reported(state, event, now)
        case PoolReported():
            pool_reported(state, event, now, effects)
        case WorkerStartRequested():
            start_requested(state, event, now, effects)
        case WorkerStopRequested():
            stop_requested(state, event, now, effects)
        case ModelScaleRequested():
            scale_requested(state, event, effects)
        case WorkAsked():
            work_asked(state, event, now, effects)
        case ApiMeasured():
            state.work.governor.take_api(event.load, now)
        case DrainBegun():
            state.is_draining = True
        case Ticked():
            _ticked(state, now, effects)
        case _:
            assert_never(event)


def _job_submitted(
    state: QueenState, event: JobSubmitted, now: Instant, effects: list[Effect]
) -> None:
    """Accept the job, or say why not. The answer is an effect, so it is given only when the job is durable."""
    key = (event.spec.tenant_id, event.request_id)
    earlier_id = state.requests.get(key) if event.request_id else None
    if earlier_id is not None:
        effects.append(_same_request(state.jobs[earlier_id], event))
        return
    admitted = admit(state, event.spec)
    if isinstance(admitted, Refused):
        effects.append(Refuse(event.job_id, admitted))
        return
    if admitted.dropped is not None:
        why = dropped(state, admitted.dropped)
        end(state, admitted.dropped, JobVerb.FAIL, now, effects, failure=why)
    spec = admitted.spec
    job = Job(
        job_id=event.job_id,
        spec=spec,
        sequence=state.next_sequence(),
        accepted_at=now,
        request_id=event.request_id,
        digest=event.digest,
    )
    state.jobs[job.job_id] = job
    if job.request_id:
        state.requests[key] = job.job_id
    if spec.deadline_ms is not None:
        job.deadline_at_ms = now.mono_ms + spec.deadline_ms
        state.set_timer(job.deadline_at_ms, TimerKind.DEADLINE, job.job_id)
    state.prefixes.join(job.job_id, event.prefix)
    position = state.queue.ahead_of_new(spec.priority)
    estimate = state.forecast.foresee(job, position, state.fleet)
    hold(state, job, now)
    enqueue(state, job)
    predicted_ms = (
        estimate.prediction.start_ms
        if estimate is not None
        else state.forecast.start_ms(spec.model, position, state.fleet)
    )
    effects.append(SaveJob(job.job_id))
    effects.append(Accept(job.job_id, position, predicted_ms))


def _same_request(earlier: Job, event: JobSubmitted) -> Effect:
    """Answer a request id that was seen before."""
    if earlier.digest == event.digest:
        return AcceptAgain(event.job_id, earlier.job_id)
    return Refuse(event.job_id, conflict())


def conflict() -> Refused:
    """Refuse a request id that names another body."""
    return Refused(
        reason=Refusal.REQUEST_ID_CONFLICT,
        message="this request_id was used with another body; draw a new one",
        field="request_id",
    )


def _cancel_requested(
    state: QueenState, job_id: JobId, now: Instant, effects: list[Effect]
) -> None:
    """Cancel a job that has not ended. Its lease is taken back; no token counts from here on."""
    job = state.jobs.get(job_id)
    if job is not None and not job.is_ended:
        take_back(state, job, now, effects)
        end(state, job, JobVerb.CANCEL, now, effects)


def _ticked(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """Fire what is due, then hold what should run against what runs."""
    for kind, key in state.due_timers(now.mono_ms):
        match kind:
            case TimerKind.DEADLINE:
                _deadline_timer(state, JobId(key), now, effects)
            case TimerKind.SILENCE:
                worker = state.fleet.workers.get(WorkerId(key))
                if worker is not None:
                    silence_timer(state, worker, now, effects)
            case TimerKind.OFFER:
                offer_timer(state, LeaseId(key), now, effects)
            case TimerKind.HOLD:
                hold_timer(state, state.jobs.get(JobId(key)))
            case TimerKind.REVOCATION:
                revocation_timer(state, LeaseId(key))
            case TimerKind.REST:
                rest_timer(state, JobId(key), now)
            case _:
                assert_never(kind)
    reviews(state)
    work_ticked(state, now, effects)
    scale(state, now, effects)
    reconcile(state, now, effects)


def _deadline_timer(state: QueenState, job_id: JobId, now: Instant, effects: list[Effect]) -> None:
    """End a job whose time is up."""
    job = state.jobs.get(job_id)
    if job is None or job.is_ended:
        return
    take_back(state, job, now, effects)
    failure = Refused(
        reason=Refusal.DEADLINE_EXCEEDED,
        message=f"the job did not end within its deadline of {job.spec.deadline_ms} ms",
    )
    end(state, job, JobVerb.EXPIRE, now, effects, failure=failure)
