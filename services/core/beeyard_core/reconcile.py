"""What should run, held against what runs: wishes for workers, and what is told to each pool manager.

A wish is one worker that should be. It is made for a model that the operator keeps warm or that a queued job waits for,
or on an operator's request, and it ends when its process has ended. What runs and nobody wished for is left alone:
somebody started it by hand, or an earlier queen did. Everything here walks the fleet and is called on a tick, never for
each message.
"""

import re

from beeyard_core import limits
from beeyard_core.admission import load_failed
from beeyard_core.dispatch import end
from beeyard_core.effect import Effect, SendDesired
from beeyard_core.fleet import DesiredState, DesiredWorker, Pool, ProcessReport, WorkerState
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import JobVerb
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import LoadFailures, QueenState, Wish

_ALIVE = (WorkerState.STARTING, WorkerState.READY, WorkerState.BUSY)


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
    effects.append(SendDesired(pool_id, workers))


def _desired_lists(state: QueenState) -> dict[PoolId, tuple[DesiredWorker, ...]]:
    """Every pool's list, by worker id."""
    lists: dict[PoolId, list[DesiredWorker]] = {}
    for _, wish in sorted(state.wishes.items()):
        lists.setdefault(wish.pool_id, []).append(wish.desired)
    return {pool_id: tuple(workers) for pool_id, workers in lists.items()}


def _wish_missing(state: QueenState, now: Instant) -> None:
    """Wish for as many workers as each model lacks."""
    needed = _needed(state)
    if not needed:
        return
    present = _present(state, now)
    for model, count in needed.items():
        for _ in range(count - len(present.get(model, ()))):
            wish_worker(state, model, None, now)


def _needed(state: QueenState) -> dict[ModelName, int]:
    """How many workers each model should have at least."""
    needed = dict(state.settings.keep)
    for model in state.queue.waiting_models():
        needed[model] = max(needed.get(model, 0), 1)
    return needed


def _present(state: QueenState, now: Instant) -> dict[ModelName, set[WorkerId]]:
    """The workers of each model that run, load, or were wished for.

    A host that fell silent may be gone with all that ran on it: of its workers only those count that are attached.
    """
    silent = {
        pool_id
        for pool_id, pool in state.fleet.pools.items()
        if now.mono_ms - pool.reported_at_ms > limits.LEASE_TTL_MS
    }
    present: dict[ModelName, set[WorkerId]] = {}
    for pool_id, pool in state.fleet.pools.items():
        for process in pool.report.processes:
            if pool_id not in silent and not process.exited and process.state in _ALIVE:
                present.setdefault(process.model, set()).add(process.worker_id)
    for worker_id, wish in state.wishes.items():
        ids = present.setdefault(wish.desired.model, set())
        if wish.desired.state is not DesiredState.RUNNING:
            ids.discard(worker_id)
        elif wish.pool_id not in silent:
            ids.add(worker_id)
    for worker_id, worker in state.fleet.workers.items():
        ids = present.setdefault(worker.report.model, set())
        # What the worker says of itself, and what was decided about it, goes before what its host saw.
        if worker.is_drained or worker.report.state not in _ALIVE:
            ids.discard(worker_id)
        else:
            ids.add(worker_id)
    return present


def wish_worker(
    state: QueenState, model: ModelName, pool_id: PoolId | None, now: Instant
) -> WorkerId | Refused:
    """Wish for one more worker of a model, on the pool with the most free memory unless one is named."""
    failures = state.failures.get(model)
    if failures is not None and now.mono_ms < failures.retry_at_ms:
        return load_failed(failures.message)
    found = _roomiest(state, model, pool_id, now)
    if isinstance(found, Refused):
        return found
    state.worker_count += 1
    slug = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-")[:32]
    worker_id = WorkerId(f"{slug}-{state.settings.incarnation}-{state.worker_count}")
    desired = DesiredWorker(worker_id=worker_id, model=model, state=DesiredState.RUNNING)
    state.wishes[worker_id] = Wish(found, desired, now.mono_ms)
    return worker_id


def _roomiest(
    state: QueenState, model: ModelName, pool_id: PoolId | None, now: Instant
) -> PoolId | Refused:
    """Find the pool that has the model and the most memory left for it."""
    rooms: list[tuple[int, PoolId]] = []
    listed = False
    for candidate, pool in sorted(state.fleet.pools.items()):
        cached = next((m for m in pool.report.models if m.model == model and not m.fault), None)
        if cached is None or (pool_id is not None and candidate != pool_id):
            continue
        listed = True
        free_bytes = _free_bytes(state, candidate, pool)
        if pool.is_fresh(now.mono_ms) and cached.required_bytes <= free_bytes:
            rooms.append((-free_bytes, candidate))
    if rooms:
        return min(rooms)[1]
    if not listed:
        return Refused(
            reason=Refusal.MODEL_NOT_FOUND, message="no pool can load this model", field="model"
        )
    return Refused(
        reason=Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
        message="no pool with fresh reports has enough free memory for this model",
    )


def _free_bytes(state: QueenState, pool_id: PoolId, pool: Pool) -> int:
    """Most free memory of one device, less what workers that were wished for but not seen yet will take."""
    required = {cached.model: cached.required_bytes for cached in pool.report.models}
    reserved = sum(
        required.get(wish.desired.model, 0)
        for wish in state.wishes.values()
        if wish.pool_id == pool_id and not wish.is_seen
    )
    return max((d.vram_free_bytes for d in pool.report.devices), default=0) - reserved


def see_process(state: QueenState, process: ProcessReport, now: Instant) -> None:
    """Take in what a host says of one worker process that was wished for."""
    wish = state.wishes.get(process.worker_id)
    if wish is None:
        return
    wish.is_seen = True
    if not process.exited and process.state is not WorkerState.FAILED:
        return
    del state.wishes[process.worker_id]
    if wish.desired.state is DesiredState.RUNNING:
        note_failure(state, process.model, process.failure, now)


def note_failure(state: QueenState, model: ModelName, message: str, now: Instant) -> None:
    """Remember that a worker of a model ended by a fault, and wait longer before each further try."""
    earlier = state.failures.get(model)
    count = earlier.count + 1 if earlier else 1
    wait_ms = min(
        limits.RESTART_BACKOFF_MIN_MS * 2 ** min(count - 1, 16), limits.RESTART_BACKOFF_MAX_MS
    )
    state.failures[model] = LoadFailures(count, now.mono_ms + wait_ms, message)


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
        if wish.desired.state is DesiredState.RUNNING:
            note_failure(state, wish.desired.model, "its host does not report the worker", now)


def _forgive(state: QueenState, now: Instant) -> None:
    """Forget failures that are old: the operator may have mended the model since."""
    for model, failures in list(state.failures.items()):
        if now.mono_ms > failures.retry_at_ms + limits.RESTART_BACKOFF_MAX_MS:
            del state.failures[model]


def _fail_hopeless(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """End the jobs of a model that failed to load so often that waiting is no help to anybody."""
    for model in state.queue.waiting_models():
        failures = state.failures.get(model)
        if failures is None or failures.count < limits.LOAD_FAILURES_MAX:
            continue
        if model in state.fleet.by_model:
            continue
        for job in state.queue.jobs_for(model):
            end(state, job, JobVerb.FAIL, now, effects, failure=load_failed(failures.message))
