"""What should run, held against what runs: wishes for workers, and what is told to each pool manager.

A wish is one worker that should be. It is made for a model that has fewer workers than the operator wants at least or
that a queued job waits for, or on an operator's request, and it ends when its process has ended. What runs and nobody
wished for is left alone: somebody started it by hand, or an earlier queen did. Everything here walks the fleet and is
called on a tick, never for each message.
"""

import re
from collections import Counter
from collections.abc import Mapping

from beeyard_core import limits
from beeyard_core.admission import load_failed
from beeyard_core.demand import (
    Place,
    place_for_job,
    place_for_model,
    present_workers,
    unserved_jobs,
)
from beeyard_core.dispatch import end
from beeyard_core.effect import Effect, SendDesired
from beeyard_core.fleet import SERVING, DesiredState, DesiredWorker, ProcessReport, WorkerState
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import JobVerb
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import LoadFailures, QueenState, Wish


def reconcile(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """Bring wishes in line with what is needed, and tell every pool whose list changed."""
    _give_up_on_unseen(state, now)
    _forgive(state, now)
    if not state.is_draining:
        _fail_hopeless(state, now, effects)
        _wish_missing(state, now)
    lists = _desired_lists(state)
    for pool_id in state.fleet.pools:
        workers = lists.get(pool_id, ())
        if state.desired_sent.get(pool_id, ()) != workers:
            _send(state, pool_id, workers, effects)


def send_desired(state: QueenState, pool_id: PoolId, effects: list[Effect]) -> None:
    """Tell one pool manager its whole list now."""
    _send(state, pool_id, _desired_lists(state).get(pool_id, ()), effects)


def _send(
    state: QueenState, pool_id: PoolId, workers: tuple[DesiredWorker, ...], effects: list[Effect]
) -> None:
    state.desired_sent[pool_id] = workers
    # What was promised to workers that are to come is no longer free.
    state.touched.pools[pool_id] = None
    effects.append(SendDesired(pool_id, workers))


def _desired_lists(state: QueenState) -> dict[PoolId, tuple[DesiredWorker, ...]]:
    """Every pool's list, by worker id."""
    lists: dict[PoolId, list[DesiredWorker]] = {}
    for _, wish in sorted(state.wishes.items()):
        lists.setdefault(wish.pool_id, []).append(wish.desired)
    return {pool_id: tuple(workers) for pool_id, workers in lists.items()}


def _wish_missing(state: QueenState, now: Instant) -> None:
    """Wish for as many workers as each model lacks, and for one where no worker there is could take what waits."""
    needed = _needed(state)
    if not needed:
        return
    present = present_workers(state, now)
    for model, count in needed.items():
        there = present.setdefault(model, {})
        for _ in range(count - len(there)):
            made = wish_spread(state, model, there, now)
            if isinstance(made, Refused):
                break
            there[made] = state.wishes[made].pool_id
    if not state.settings.start_on_demand:
        return
    for job in unserved_jobs(state, present):
        place = place_for_job(state, job.spec, now)
        if place is not None:
            wish_at(state, job.spec.model, place, now)


def _needed(state: QueenState) -> dict[ModelName, int]:
    """How many workers each model should have at least."""
    said = {**state.settings.scaling.by_model, **state.scales.by_model}
    needed = {model: scale.min_workers for model, scale in said.items() if scale.min_workers}
    if not state.settings.start_on_demand:
        return needed
    for model in state.queue.waiting_models():
        needed[model] = max(needed.get(model, 0), 1)
    return needed


def wish_worker(
    state: QueenState, model: ModelName, pool_id: PoolId | None, now: Instant
) -> WorkerId | Refused:
    """Wish for one more worker of a model, on the pool with the most free memory unless one is named."""
    place = place_for_model(state, model, pool_id, now)
    return place if isinstance(place, Refused) else wish_at(state, model, place, now)


def wish_spread(
    state: QueenState, model: ModelName, present: Mapping[WorkerId, PoolId], now: Instant
) -> WorkerId | Refused:
    """Wish for one more worker of a model, on a pool that has as few of the present ones as any that has room."""
    place = place_for_model(state, model, None, now, siblings=Counter(present.values()))
    return place if isinstance(place, Refused) else wish_at(state, model, place, now)


def wish_at(state: QueenState, model: ModelName, place: Place, now: Instant) -> WorkerId | Refused:
    """Wish for one more worker of a model at a place, unless it failed to load just now or has its most workers."""
    if _is_backing_off(state, model, now):
        return load_failed(state.failures[model].message)
    most = state.scale_of(model).max_workers
    if most is not None and len(present_workers(state, now).get(model, ())) >= most:
        return Refused(
            reason=Refusal.QUOTA_EXCEEDED,
            message=f"the model has its most workers, {most}; `beeyard models scale` raises that",
            retry_after_ms=limits.QUOTA_RETRY_MS,
            field="model",
        )
    return _wish(state, model, place, now)


def _is_backing_off(state: QueenState, model: ModelName, now: Instant) -> bool:
    failures = state.failures.get(model)
    return failures is not None and now.mono_ms < failures.retry_at_ms


def _wish(state: QueenState, model: ModelName, place: Place, now: Instant) -> WorkerId:
    state.worker_count += 1
    slug = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-")[:32]
    worker_id = WorkerId(f"{slug}-{state.settings.incarnation}-{state.worker_count}")
    desired = DesiredWorker(
        worker_id=worker_id, model=model, state=DesiredState.RUNNING, device=place.device
    )
    state.wishes[worker_id] = Wish(place.pool_id, desired, now.mono_ms)
    state.fleet.touched[worker_id] = None
    return worker_id


def see_process(state: QueenState, process: ProcessReport, now: Instant) -> None:
    """Take in what a host says of one worker process that was wished for."""
    wish = state.wishes.get(process.worker_id)
    if wish is None:
        return
    wish.is_seen = True
    if not process.exited and process.state is not WorkerState.FAILED:
        if process.state in SERVING and not wish.has_loaded:
            state.note_loaded(wish.desired.model, process.worker_id)
        return
    del state.wishes[process.worker_id]
    state.fleet.touched[process.worker_id] = None
    if wish.desired.state is DesiredState.RUNNING:
        note_failure(state, wish, process.failure, now, was_killed=process.was_killed)


def note_failure(
    state: QueenState, wish: Wish, message: str, now: Instant, *, was_killed: bool = False
) -> None:
    """Remember that a worker ended by a fault, and wait longer after each further try to load its model that failed.

    A worker that had loaded it says nothing about that by its end, and those that were wished for before the last
    failure are of the same try: a host that loses all its workers at once fails no job.
    """
    known = state.failures.setdefault(wish.desired.model, LoadFailures())
    if not wish.has_loaded:
        known.count(wish.wished_at_ms, now.mono_ms, was_killed=was_killed)
    doublings = min(max(known.tries - 1, 0), 16)
    wait_ms = min(limits.RESTART_BACKOFF_MIN_MS << doublings, limits.RESTART_BACKOFF_MAX_MS)
    known.retry_at_ms, known.message = now.mono_ms + wait_ms, message


def _give_up_on_unseen(state: QueenState, now: Instant) -> None:
    """Drop wishes that no host ever answered, and stopped ones that no host reports any more."""
    reported = {
        process.worker_id
        for pool in state.fleet.pools.values()
        for process in pool.report.processes
    }
    for worker_id, wish in list(state.wishes.items()):
        overdue = now.mono_ms - wish.wished_at_ms > limits.WORKER_START_TIMEOUT_MS
        if worker_id in reported or not (overdue or wish.is_seen):
            continue
        del state.wishes[worker_id]
        state.fleet.touched[worker_id] = None
        # One that was seen and is gone ended while nobody looked, with its host perhaps: no word about its model.
        if wish.desired.state is DesiredState.RUNNING and not wish.is_seen:
            note_failure(state, wish, "its host does not report the worker", now)


def _forgive(state: QueenState, now: Instant) -> None:
    """Forget failures that are old: the operator may have mended the model since."""
    for model, failures in list(state.failures.items()):
        if now.mono_ms > failures.retry_at_ms + limits.RESTART_BACKOFF_MAX_MS:
            del state.failures[model]


def _fail_hopeless(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """End the jobs of a model that failed to load so often that waiting is no help to anybody."""
    for model in state.queue.waiting_models():
        if not state.is_given_up(model):
            continue
        failure = load_failed(state.failures[model].message)
        for job in state.queue.jobs_for(model):
            end(state, job, JobVerb.FAIL, now, effects, failure=failure)
