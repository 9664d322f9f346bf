"""Which workers are there, which are missing, and where a missing one could run.

Called on a tick: everything here may walk the fleet.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from beeyard_core import limits
from beeyard_core.fleet import SERVING, CachedModel, DesiredState, Device, Pool, WorkerState
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobSpec, Priority
from beeyard_core.placement import incompatibility, offering_of_model, offering_of_worker
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState

_ALIVE = (WorkerState.STARTING, *SERVING)

#: The workers of each model that run, load, or were wished for, and the pool of each.
Present = dict[ModelName, dict[WorkerId, PoolId]]


def present_workers(state: QueenState, now: Instant) -> Present:
    """Return the workers that count as there.

    A host that fell silent may be gone with all that ran on it: of its workers only those count that are attached.
    """
    silent = {
        pool_id
        for pool_id, pool in state.fleet.pools.items()
        if now.mono_ms - pool.reported_at_ms > limits.LEASE_TTL_MS
    }
    present: Present = {}
    for pool_id, pool in state.fleet.pools.items():
        for process in pool.report.processes:
            if pool_id not in silent and not process.exited and process.state in _ALIVE:
                present.setdefault(process.model, {})[process.worker_id] = pool_id
    for worker_id, wish in state.wishes.items():
        pools = present.setdefault(wish.desired.model, {})
        if wish.desired.state is not DesiredState.RUNNING:
            pools.pop(worker_id, None)
        elif wish.pool_id not in silent:
            pools[worker_id] = wish.pool_id
    for worker_id, worker in state.fleet.workers.items():
        pools = present.setdefault(worker.report.model, {})
        # What the worker says of itself, and what was decided about it, goes before what its host saw.
        if worker.is_drained or worker.report.state not in _ALIVE:
            pools.pop(worker_id, None)
        else:
            pools[worker_id] = worker.report.pool_id
    return present


def unserved_jobs(state: QueenState, present: Present) -> list[Job]:
    """Return, of each shape that waits, the oldest job that no present worker could ever take."""
    return [job for job in _heads(state) if not _is_served(state, job, present)]


def _heads(state: QueenState) -> Iterator[Job]:
    for priority in Priority:
        for model in state.queue.models(priority):
            yield from state.queue.heads(priority, model)


def _is_served(state: QueenState, job: Job, present: Present) -> bool:
    """Whether some present worker could take the job, now or once it is loaded."""
    fleet = state.fleet
    for worker_id, pool_id in present.get(job.spec.model, {}).items():
        worker = fleet.workers.get(worker_id)
        if worker is not None and worker.report.slots_total > 0:
            if incompatibility(job.spec, offering_of_worker(fleet, worker)) is None:
                return True
        elif pool_id not in fleet.pools or any(
            devices_for(job.spec, pool_id, fleet.pools[pool_id])
        ):
            return True
    return False


def devices_for(spec: JobSpec, pool_id: PoolId, pool: Pool) -> Iterator[tuple[Device, CachedModel]]:
    """Every device of a pool on which a worker for the job could run if it were empty."""
    for cached in pool.report.models:
        if cached.model != spec.model or cached.fault:
            continue
        for device in pool.report.devices:
            fits = cached.required_bytes <= device.vram_total_bytes
            if fits and not incompatibility(spec, offering_of_model(pool_id, cached, device)):
                yield device, cached


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a worker could run. Ordered: the most free memory first, then by id. No device: the host chooses.

    Attributes:
        busy_bytes: Free memory, negated.
    """

    busy_bytes: int
    pool_id: PoolId
    device: str = ""


def place_for_job(state: QueenState, spec: JobSpec, now: Instant) -> Place | None:
    """Return the best place for a worker that could take the job; None if there is none now."""
    places = []
    promised = promised_bytes(state)
    for pool_id, pool in state.fleet.pools.items():
        if not pool.is_fresh(now.mono_ms) or state.fleet.is_gated(pool_id):
            continue
        for device, cached in devices_for(spec, pool_id, pool):
            free_bytes = free_bytes_of(pool, device, promised)
            if cached.required_bytes <= free_bytes:
                places.append(Place(-free_bytes, pool_id, device.uuid))
    return min(places, default=None)


def place_for_model(
    state: QueenState,
    model: ModelName,
    pool_id: PoolId | None,
    now: Instant,
    *,
    device_index: int | None = None,
    siblings: Mapping[PoolId, int] | None = None,
) -> Place | Refused:
    """Return the best pool for a worker of a model, or why there is none.

    Args:
        state: The queen's memory.
        model: The model that it should hold.
        pool_id: Only this pool counts; None: any.
        now: The moment.
        device_index: Only this device of a pool counts, in the order of the host's report; None: the host chooses.
        siblings: Workers of the model that each pool has already; a pool with fewer goes first.
    """
    places: list[Place] = []
    promised = promised_bytes(state)
    listed = False
    for candidate, pool in state.fleet.pools.items():
        cached = next((m for m in pool.report.models if m.model == model and not m.fault), None)
        if cached is None or pool_id not in (None, candidate):
            continue
        listed = True
        if not pool.is_fresh(now.mono_ms):
            continue
        for index, device in enumerate(pool.report.devices):
            free_bytes = free_bytes_of(pool, device, promised)
            if device_index in (None, index) and cached.required_bytes <= free_bytes:
                named = "" if device_index is None else device.uuid
                places.append(Place(-free_bytes, candidate, named))
    if places:
        there = siblings or {}
        return min(places, key=lambda place: (there.get(place.pool_id, 0), place))
    if not listed:
        return Refused(
            reason=Refusal.MODEL_NOT_FOUND, message="no pool can load this model", field="model"
        )
    return Refused(
        reason=Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
        message="no pool with fresh reports has enough free memory for this model",
    )


#: Memory that is free on paper only, by pool and device; no device: on whichever the host chooses.
Promised = dict[tuple[PoolId, str], int]


def promised_bytes(state: QueenState) -> Promised:
    """Memory that workers will take which were wished for and which their hosts do not report yet."""
    promised: Promised = {}
    for wish in state.wishes.values():
        pool = None if wish.is_seen else state.fleet.pools.get(wish.pool_id)
        if pool is not None:
            model, place = wish.desired.model, (wish.pool_id, wish.desired.device)
            needed = next((m.required_bytes for m in pool.report.models if m.model == model), 0)
            promised[place] = promised.get(place, 0) + needed
    return promised


def free_bytes_of(pool: Pool, device: Device, promised: Promised) -> int:
    """Memory of a device that nothing uses and nobody was promised.

    What a worker uses is in the measured figure already. What workers will use is taken off: those that were wished
    for, and those that load, for the part that is not loaded yet. One of which nobody knows the device counts on each.
    """
    pool_id = pool.report.pool_id
    taken = promised.get((pool_id, device.uuid), 0) + promised.get((pool_id, ""), 0)
    for process in pool.report.processes:
        is_loading = process.state is WorkerState.STARTING and not process.exited
        if is_loading and process.device in ("", device.uuid):
            taken += math.ceil(process.reserved_bytes * (1.0 - process.load_progress))
    return device.vram_free_bytes - taken
