"""What operators ask for by hand: one more worker, one fewer, no new work on one."""

import dataclasses

from beeyard_core import limits
from beeyard_core.effect import AnswerCall, DrainWorker, Effect
from beeyard_core.event import WorkerStartRequested, WorkerStopRequested
from beeyard_core.fleet import DesiredState, DesiredWorker, Worker
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.reconcile import send_desired, wish_worker
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState, Wish


def start_requested(
    state: QueenState, event: WorkerStartRequested, now: Instant, effects: list[Effect]
) -> None:
    """Wish for one more worker, once for each request id."""
    earlier = state.answered.get(event.request_id) if event.request_id else None
    if earlier is not None:
        effects.append(AnswerCall(event.call_id, *earlier))
        return
    found = wish_worker(state, event.model, event.pool_id, now)
    if isinstance(found, Refused):
        effects.append(AnswerCall(event.call_id, None, None, found))
        return
    pool_id = state.wishes[found].pool_id
    if event.request_id:
        state.answered[event.request_id] = (found, pool_id)
        if len(state.answered) > limits.OPERATOR_REQUESTS_KEPT_MAX:
            del state.answered[next(iter(state.answered))]
    send_desired(state, pool_id, effects)
    effects.append(AnswerCall(event.call_id, found, pool_id))


def stop_requested(
    state: QueenState, event: WorkerStopRequested, now: Instant, effects: list[Effect]
) -> None:
    """Answer an operator who wants a worker to take no new work, and to end unless it is to be kept."""
    pool_id = stop_worker(state, event.worker_id, now, effects, keep=event.keep)
    if pool_id is None:
        refused = Refused(
            reason=Refusal.WORKER_NOT_FOUND,
            message="there is no such worker",
            field="worker_id",
        )
        effects.append(AnswerCall(event.call_id, None, None, refused))
    else:
        effects.append(AnswerCall(event.call_id, event.worker_id, pool_id))


def stop_worker(
    state: QueenState, worker_id: WorkerId, now: Instant, effects: list[Effect], *, keep: bool
) -> PoolId | None:
    """Let a worker take no new work and, unless it is to be kept, have it stopped by its host or by itself.

    Returns:
        The worker's pool; None: there is no such worker.
    """
    place = _whereabouts(state, worker_id)
    if place is None:
        return None
    pool_id, model = place
    worker = state.fleet.workers.get(worker_id)
    if worker is not None:
        worker.is_drained = True
        worker.is_leaving |= not keep
        _remember_drained(state, worker)
        state.fleet.reindex(worker)
        if not keep:
            effects.append(DrainWorker(worker_id))
    if pool_id in state.fleet.pools and not keep:
        desired = DesiredWorker(worker_id=worker_id, model=model, state=DesiredState.STOPPED)
        wish = state.wishes.get(worker_id) or Wish(pool_id, desired, now.mono_ms)
        state.wishes[worker_id] = dataclasses.replace(wish, desired=desired)
        state.fleet.touched[worker_id] = None
        send_desired(state, pool_id, effects)
    return pool_id


def _remember_drained(state: QueenState, worker: Worker) -> None:
    """Keep the decision while the worker is away, for as many workers as there may be."""
    state.drained[worker.report.worker_id] = worker.incarnation
    if len(state.drained) > limits.WORKERS_MAX:
        del state.drained[next(iter(state.drained))]


def _whereabouts(state: QueenState, worker_id: WorkerId) -> tuple[PoolId, ModelName] | None:
    """Find a worker's pool and model: attached, wished for, or reported by its host."""
    worker = state.fleet.workers.get(worker_id)
    if worker is not None:
        return worker.report.pool_id, worker.report.model
    wish = state.wishes.get(worker_id)
    if wish is not None:
        return wish.pool_id, wish.desired.model
    for pool_id, pool in state.fleet.pools.items():
        for process in pool.report.processes:
            if process.worker_id == worker_id and not process.exited:
                return pool_id, process.model
    return None
