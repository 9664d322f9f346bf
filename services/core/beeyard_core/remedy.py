"""The smallest single change found that would let a waiting job run: what to answer to "and what can I do about it?".

Every worker of the job's model that was looked at, and every device on which one could be started, is tried with each
change that its first exclusion suggests. A change is told only after it was tried: applied to a copy of the scene, the
worker takes the job. So a job that two things keep waiting gets no remedy from one of them alone, and is told so.

"Smallest" is what costs least to bring about: what passes by itself, then room, then what the client could do without,
then memory for another worker; within a kind the smallest amount, then the smallest id.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import IntEnum, unique
from typing import Final, NamedTuple

from beeyard_core.demand import Promised, devices_for, free_bytes_of
from beeyard_core.fleet import CachedModel, Device, Fleet, Pool, Worker, WorkerState
from beeyard_core.ids import PoolId, WorkerId
from beeyard_core.job import JobSpec
from beeyard_core.placement import (
    exclusion,
    offering_of_worker,
)


@unique
class RemedyKind(IntEnum):
    """What would have to change; the order is that of what it costs."""

    #: Its worker or host is heard of again.
    REPORT = 1
    #: The worker has loaded its model.
    LOADED = 2
    #: So many slots more on a worker.
    SLOTS = 3
    #: So many KV tokens more free on a worker.
    KV_TOKENS = 4
    #: The host is less busy, or has more units free, so that its gate opens.
    GATE = 5
    #: The worker takes new work again.
    UNDRAIN = 6
    #: A worker is started: there is room for one.
    WORKER = 7
    #: So many tokens less asked for.
    FEWER_TOKENS = 8
    #: The job does without one of its demands.
    DEMAND = 9
    #: So many bytes more free on a device, so that a worker could be started there.
    VRAM = 10
    #: So many milliseconds pass; see `time_remedy.py`, as of the next. Neither competes with what can be changed.
    LATER = 11
    #: The job had come so many milliseconds before.
    EARLIER = 12


class Remedy(NamedTuple):
    """One change that was tried and works. Ordered by what it costs.

    Attributes:
        amount: Slots, tokens, bytes or milliseconds; 0 where there is nothing to count.
        target_id: The worker, or for WORKER and VRAM the device.
        pool_id: The pool of that.
        demand: For DEMAND, the field that the job does without.
    """

    kind: RemedyKind
    amount: int
    target_id: str
    pool_id: PoolId
    demand: str = ""


#: What a job may demand of where it runs, each to be done without alone.
DEMANDS: Final = (
    "engine",
    "placement.pin_pool_id",
    "placement.avoid_pool_ids",
    "requirements.min_vram_bytes",
    "requirements.quantizations",
    "requirements.min_compute_capability",
    "requirements.min_context_tokens",
)


def smallest_remedy(
    spec: JobSpec,
    fleet: Fleet,
    workers: Iterable[Worker],
    promised: Promised,
    now_ms: int,
) -> Remedy | None:
    """Return the smallest change that works; None if no single one does, or none is needed.

    Args:
        spec: The job.
        fleet: Hosts and workers; unchanged.
        workers: Those of its workers that are looked at; the caller bounds them.
        promised: Memory that is free on paper only.
        now_ms: Monotonic time.
    """
    found: list[Remedy] = []
    for worker in workers:
        if worker.report.model != spec.model:
            continue
        if exclusion(spec, fleet, worker, now_ms) is None:
            return None
        found += (
            remedy
            for remedy in _suggested(spec, fleet, worker)
            if works(remedy, spec, fleet, promised, now_ms)
        )
    found += (
        remedy
        for remedy in _started(spec, fleet, promised, now_ms)
        if works(remedy, spec, fleet, promised, now_ms)
    )
    return min(found, default=None)


def works(remedy: Remedy, spec: JobSpec, fleet: Fleet, promised: Promised, now_ms: int) -> bool:
    """Whether the job could be placed, or a worker for it started, if this one thing were different."""
    if remedy.kind in (RemedyKind.WORKER, RemedyKind.VRAM):
        extra = remedy.amount
        return any(
            pool_id == remedy.pool_id
            and device.uuid == remedy.target_id
            and cached.required_bytes
            <= free_bytes_of(fleet.pools[pool_id], device, promised) + extra
            for pool_id, device, cached in _devices(spec, fleet, now_ms)
        )
    wished, changed, worker = _applied(remedy, spec, fleet, now_ms)
    return exclusion(wished, changed, worker, now_ms) is None


# --- Changes to a worker or to the job ---


def _suggested(spec: JobSpec, fleet: Fleet, worker: Worker) -> Iterator[Remedy]:
    report = worker.report

    def one(kind: RemedyKind, amount: int = 0, demand: str = "") -> Remedy:
        return Remedy(kind, amount, report.worker_id, report.pool_id, demand)

    yield one(RemedyKind.REPORT)
    yield one(RemedyKind.LOADED)
    yield one(RemedyKind.SLOTS, max(len(worker.leases) + 1 - report.slots_total, 1))
    missing = min(spec.kv_tokens, report.kv_tokens_total) - worker.kv_tokens_free
    if missing > 0:
        yield one(RemedyKind.KV_TOKENS, missing)
    yield one(RemedyKind.GATE)
    yield one(RemedyKind.UNDRAIN)
    offering = offering_of_worker(fleet, worker)
    room = min(
        each for each in (offering.context_tokens, offering.kv_tokens, spec.kv_tokens) if each
    )
    over = spec.kv_tokens_min - room
    if 0 < over < spec.max_tokens:
        yield one(RemedyKind.FEWER_TOKENS, over)
    for demand in DEMANDS:
        yield one(RemedyKind.DEMAND, 0, demand)


def _applied(
    remedy: Remedy, spec: JobSpec, fleet: Fleet, now_ms: int
) -> tuple[JobSpec, Fleet, Worker]:
    """Return job, scene and worker with the change made; the fleet itself stays as it is."""
    worker = fleet.workers[WorkerId(remedy.target_id)]
    pool = fleet.pools.get(remedy.pool_id)
    scene = scene_of(fleet, worker)
    changed = replace(worker, leases=worker.leases)
    report = worker.report
    match remedy.kind:
        case RemedyKind.REPORT:
            changed.heard_at_ms, changed.session = now_ms, worker.session or 1
            changed.is_saturated = False
            if pool is not None:
                fresh = replace(pool.report, inventory_fault="")
                scene.pools[remedy.pool_id] = Pool(fresh, now_ms)
        case RemedyKind.LOADED:
            changed.report = replace(report, state=WorkerState.READY)
        case RemedyKind.SLOTS:
            changed.report = replace(report, slots_total=report.slots_total + remedy.amount)
        case RemedyKind.KV_TOKENS:
            changed.kv_tokens_used = worker.kv_tokens_used - remedy.amount
        case RemedyKind.GATE:
            scene.closed_pools = set()
        case RemedyKind.UNDRAIN:
            changed.is_drained = False
            changed.report = replace(report, state=WorkerState.READY)
        case RemedyKind.FEWER_TOKENS:
            spec = spec._replace(max_tokens=spec.max_tokens - remedy.amount)
        case _:
            spec = _without(spec, remedy.demand)
    return spec, scene, changed


def scene_of(fleet: Fleet, worker: Worker) -> Fleet:
    """Return the little of a fleet that decides whether a worker takes a job, to be changed at will."""
    pool_id = worker.report.pool_id
    pool = fleet.pools.get(pool_id)
    scene = Fleet(workers={}, pools={} if pool is None else {pool_id: pool})
    scene.closed_pools = fleet.closed_pools
    return scene


def _without(spec: JobSpec, demand: str) -> JobSpec:
    """Return a job that does without one of its demands."""
    part, _, name = demand.rpartition(".")
    nothing = JobSpec(model=spec.model, prompt_tokens=0, max_tokens=0)
    if not part:
        return spec._replace(engine="")
    if part == "placement":
        empty = getattr(nothing.placement, name)
        return spec._replace(placement=spec.placement._replace(**{name: empty}))
    empty = getattr(nothing.requirements, name)
    return spec._replace(requirements=spec.requirements._replace(**{name: empty}))


# --- Another worker ---


def _devices(
    spec: JobSpec, fleet: Fleet, now_ms: int
) -> Iterator[tuple[PoolId, Device, CachedModel]]:
    """Every device, on a host that reports, on which a worker for the job could run if it were empty."""
    for pool_id, pool in fleet.pools.items():
        if pool.is_fresh(now_ms):
            for device, cached in devices_for(spec, pool_id, pool):
                yield pool_id, device, cached


def _started(spec: JobSpec, fleet: Fleet, promised: Promised, now_ms: int) -> Iterator[Remedy]:
    """One more worker, on each device: as there is room for it, or if there were so much more."""
    for pool_id, device, cached in _devices(spec, fleet, now_ms):
        missing = cached.required_bytes - free_bytes_of(fleet.pools[pool_id], device, promised)
        kind = RemedyKind.VRAM if missing > 0 else RemedyKind.WORKER
        yield Remedy(kind, max(missing, 0), device.uuid, pool_id)
