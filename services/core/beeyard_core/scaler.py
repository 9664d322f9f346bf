"""Holds the number of each model's workers between what the operator wants at least and at most.

Three things happen on a tick, and each only moves towards what was asked for:

- A queue that stays long gets one more worker at a time, never beyond the most. Long is measured: how long its last
  job would wait at the pace of the workers that are there or load. It must be long for a while, and half as long before
  that is forgotten, so that a burst which the workers will soon have served starts nothing.
- A worker that nobody has used for as long as its model is kept warm is stopped, the longest unused first, never below
  the least, never one that holds a lease, and never while a job waits for the model.
- A worker beyond the most, because the most was lowered, is stopped as soon as it is idle.

Stopping drains first: from the moment of the decision the worker gets nothing new. What somebody started by hand is
left alone. The least itself is kept by `reconcile.py`, with everything else that starts workers.
"""

from collections.abc import Mapping

from beeyard_core import limits
from beeyard_core.demand import Present, present_workers
from beeyard_core.effect import AnswerCall, Effect, SaveScale
from beeyard_core.event import ModelScaleRequested
from beeyard_core.fleet import SERVING, Worker
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.operation import stop_worker
from beeyard_core.reconcile import wish_spread
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.scaling import Scale
from beeyard_core.state import QueenState


def scale(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """Start workers where queues stay long, and stop those that are not needed; on a tick."""
    if state.is_draining or not _is_scaled(state):
        return
    present = present_workers(state, now)
    _scale_out(state, present, now)
    _scale_in(state, present, now, effects)


def _is_scaled(state: QueenState) -> bool:
    """Whether anything was said that could start or stop a worker here: most queens need no walk over the fleet."""
    settings = state.settings.scaling
    said = (settings.otherwise, *settings.by_model.values(), *state.scales.by_model.values())
    return any(each.max_workers is not None or each.keep_warm_ms is not None for each in said)


# --- Out ---


def _scale_out(state: QueenState, present: Present, now: Instant) -> None:
    """Wish for one more worker of each model whose queue has been long for long enough."""
    since = state.scales.long_since_ms
    for model in [model for model in since if not state.queue.waiting_for(model)]:
        del since[model]
    for model in state.queue.waiting_models():
        workers = present.get(model, {})
        most = state.scale_of(model).max_workers
        if most is None or not 0 < len(workers) < most:
            # Nobody serves it: whoever starts the first one does not ask how long the queue is.
            since.pop(model, None)
        elif _stays_long(state, model, workers, now):
            del since[model]
            wish_spread(state, model, workers, now)


def _stays_long(
    state: QueenState, model: ModelName, workers: Mapping[WorkerId, PoolId], now: Instant
) -> bool:
    """Note whether a queue is long; return whether it has been for long enough."""
    since, settings = state.scales.long_since_ms, state.settings.scaling
    length = queue_length(state, model, workers)
    if length > 1.0:
        begun_ms = since.setdefault(model, now.mono_ms)
        return now.mono_ms - begun_ms >= settings.scale_out_after_ms
    if length <= limits.SCALE_OUT_FORGET_SHARE:
        since.pop(model, None)
    return False


def queue_length(state: QueenState, model: ModelName, workers: Mapping[WorkerId, PoolId]) -> float:
    """Return how long a model's queue is; more than 1 is long.

    Where service times were measured, it is the wait of the last job over the longest that should be. Where nothing
    was, only numbers can be compared: a queue is long when more jobs wait than all slots take at once.
    """
    known = [
        found.report.slots_total
        for worker_id in workers
        if (found := state.fleet.workers.get(worker_id)) is not None and found.report.slots_total
    ]
    # One that loads is taken to be like those that are there.
    usual = sum(known) / len(known) if known else 1.0
    slots = sum(known) + usual * (len(workers) - len(known))
    rounds = state.queue.waiting_for(model) / slots
    service_ms = state.forecast.service_ms.get(model)
    if service_ms is None:
        return rounds
    return rounds * service_ms / max(state.settings.scaling.scale_out_wait_ms, 1)


# --- In ---


def _scale_in(state: QueenState, present: Present, now: Instant, effects: list[Effect]) -> None:
    """Stop what is unused for long enough, or too much."""
    for model, workers in present.items():
        wanted = state.scale_of(model)
        if wanted.max_workers is None and wanted.keep_warm_ms is None:
            continue
        serving = sum(_serves(state, worker_id) for worker_id in workers)
        total = len(workers)
        for worker in _idle(state, workers):
            if serving <= wanted.min_workers:
                break
            is_surplus = wanted.max_workers is not None and total > wanted.max_workers
            if is_surplus or _is_cold(state, worker, wanted, now):
                stop_worker(state, worker.report.worker_id, now, effects, keep=False)
                serving, total = serving - 1, total - 1


def _serves(state: QueenState, worker_id: WorkerId) -> bool:
    worker = state.fleet.workers.get(worker_id)
    return worker is not None and worker.session != 0 and worker.report.state in SERVING


def _is_cold(state: QueenState, worker: Worker, wanted: Scale, now: Instant) -> bool:
    """Whether a worker has been unused for as long as its model is kept warm, and nobody waits for the model."""
    if wanted.keep_warm_ms is None or state.queue.waiting_for(worker.report.model):
        return False
    return now.mono_ms - worker.unused_since_ms >= wanted.keep_warm_ms


def _idle(state: QueenState, workers: Mapping[WorkerId, PoolId]) -> list[Worker]:
    """The attached workers that hold nothing and that the queen may stop, the longest unused first."""
    found = [
        state.fleet.workers[worker_id]
        for worker_id, pool_id in workers.items()
        if _serves(state, worker_id) and _is_ours(state, worker_id, pool_id)
    ]
    idle = [worker for worker in found if not worker.leases]
    return sorted(idle, key=lambda each: (each.unused_since_ms, each.report.worker_id))


def _is_ours(state: QueenState, worker_id: WorkerId, pool_id: PoolId) -> bool:
    """Whether this queen or one before it asked for the worker; what was started by hand is not ours to stop."""
    if worker_id in state.wishes:
        return True
    pool = state.fleet.pools.get(pool_id)
    processes = pool.report.processes if pool is not None else ()
    return any(each.worker_id == worker_id and not each.by_hand for each in processes)


# --- What operators say at run time ---


def scale_requested(state: QueenState, event: ModelScaleRequested, effects: list[Effect]) -> None:
    """Take over what an operator wants of a model from now on, or forget what was said at run time."""
    refused = _scale_fault(state, event)
    if refused is not None:
        effects.append(AnswerCall(event.call_id, None, None, refused))
        return
    if event.scale is None:
        state.scales.by_model.pop(event.model, None)
    else:
        state.scales.by_model[event.model] = event.scale
    state.scales.long_since_ms.pop(event.model, None)
    effects.append(SaveScale(event.model))
    effects.append(AnswerCall(event.call_id, None, None))


def _scale_fault(state: QueenState, event: ModelScaleRequested) -> Refused | None:
    if event.model not in state.fleet.known_models:
        message = "no pool or worker has ever offered this model"
        return Refused(reason=Refusal.MODEL_NOT_FOUND, message=message, field="model")
    said = state.scales.by_model
    if event.model not in said and len(said) >= limits.MODEL_SCALES_MAX and event.scale:
        message = f"{limits.MODEL_SCALES_MAX} models have a scale of their own already; reset one"
        return Refused(reason=Refusal.QUOTA_EXCEEDED, message=message, field="model")
    return event.scale.fault() if event.scale is not None else None
