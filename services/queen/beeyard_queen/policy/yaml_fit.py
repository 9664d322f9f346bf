"""Which workers could take a job now, worked out plainly from the rows of a world.

The interpreter's own reading of what `find_candidates` promises (docs/policies/helpers.md), one row at a time and
without an index, so that it can be compared with the helper that answers from indexes.
"""

import math
import re

from beeyard_core.policy.world import OPEN_STATUSES, JobRow, RunningRow, WorkerRow, World
from beeyard_core.policy.yard import window_tokens

_POOL_CLOSED = {"offline", "stale", "draining", "unhealthy"}
_POOL_HEALTHY = {"healthy", "ready", "online"}
_POOL_STALE_MS = 5_000
_EARTH_RADIUS_KM = 6371.0088
_CAPABILITY = re.compile(r"([0-9]+)\.?([0-9]*)")


def model_of(world: World, name: str) -> str:
    """Return a model's own name for an alias or name."""
    return world.aliases.get(name, name)


def is_open(world: World, worker: WorkerRow) -> bool:
    """Return whether a worker has a free slot, on a pool that is not closed."""
    pool = world.pools.get(worker.pool_id)
    is_closed = pool is not None and pool.status in _POOL_CLOSED
    return worker.status in OPEN_STATUSES and worker.slots_free > 0 and not is_closed


def is_idle(world: World, worker: WorkerRow) -> bool:
    """Return whether a worker is open and holds no job: only such a one may be evicted."""
    return is_open(world, worker) and worker.slots_free >= worker.slots_total


def is_healthy(world: World, pool_id: str, now_ms: int) -> bool:
    """Return whether a pool says that it is well, and said so lately."""
    pool = world.pools.get(pool_id)
    if pool is None or pool.status not in _POOL_HEALTHY:
        return False
    stale_ms = world.config.get("pool_stale_ms", _POOL_STALE_MS)
    stale_ms = stale_ms if isinstance(stale_ms, int | float) else _POOL_STALE_MS
    return now_ms - pool.last_report_ms <= stale_ms


def candidates(world: World, job: JobRow) -> list[WorkerRow]:
    """Return the workers that could take a job now, in the order of their ids."""
    workers = sorted(world.workers.values(), key=lambda worker: worker.worker_id)
    return [worker for worker in workers if fits(world, job, worker)]


def fits(world: World, job: JobRow, worker: WorkerRow) -> bool:
    """Return whether a worker could take a job now."""
    tokens = job.prompt_tokens + job.max_tokens
    return (
        model_of(world, job.model_ref) == worker.model_ref
        and job.engine in {"", worker.engine}
        and is_open(world, worker)
        and worker.vram_free >= job.estimated_vram_bytes
        and (worker.kv_free_tokens is None or worker.kv_free_tokens >= tokens)
        and (worker.context_tokens == 0 or worker.context_tokens >= window_tokens(job))
        and _meets_demands(world, job, worker)
    )


def fits_after(world: World, job: JobRow, running: RunningRow) -> bool:
    """Return whether a running job's worker could take a waiting one as soon as the running one has stopped."""
    worker = world.workers.get(running.worker_id)
    if worker is None:
        return False
    kv_tokens = worker.kv_free_tokens
    freed = worker._replace(
        slots_free=worker.slots_free + 1,
        kv_free_tokens=None if kv_tokens is None else kv_tokens + running.kv_tokens,
    )
    return fits(world, job, freed)


def _meets_demands(world: World, job: JobRow, worker: WorkerRow) -> bool:
    if job.min_context_tokens > 0 and worker.context_tokens < job.min_context_tokens:
        return False
    if job.quantizations and worker.quantization not in job.quantizations.split(","):
        return False
    if not {*filter(None, job.extensions.split(","))} <= {*worker.extensions.split(",")}:
        return False
    if job.pin_pool_id not in {"", worker.pool_id}:
        return False
    if job.avoid_pool_ids and worker.pool_id in job.avoid_pool_ids.split(","):
        return False
    if job.min_vram_bytes and not _is_large(world, worker, job.min_vram_bytes):
        return False
    wanted = _capability(job.min_compute_capability)
    return wanted is None or _computes(world, worker, wanted)


def _is_large(world: World, worker: WorkerRow, wanted_bytes: int) -> bool:
    ids = [part for part in worker.gpu_ids.split(",") if part]
    gpus = [world.gpus.get((worker.pool_id, gpu_id)) for gpu_id in ids]
    return bool(gpus) and all(gpu is not None and gpu.vram_total >= wanted_bytes for gpu in gpus)


def _computes(world: World, worker: WorkerRow, wanted: int) -> bool:
    ids = [part for part in worker.gpu_ids.split(",") if part]
    gpus = [world.gpus.get((worker.pool_id, gpu_id)) for gpu_id in ids]
    found = [None if gpu is None else _capability(gpu.compute_capability) for gpu in gpus]
    return bool(found) and all(has is not None and has >= wanted for has in found)


def _capability(version: str) -> int | None:
    parts = _CAPABILITY.fullmatch(version)
    return None if parts is None else int(parts[1]) * 1000 + int(parts[2] or 0)


def distance_km(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Return the great circle between two places in degrees, to the metre."""
    (lat, lon), (to_lat, to_lon) = here, there
    up = math.sin(math.radians(to_lat - lat) / 2)
    across = math.sin(math.radians(to_lon - lon) / 2)
    part = up * up + math.cos(math.radians(lat)) * math.cos(math.radians(to_lat)) * across * across
    km = 2 * _EARTH_RADIUS_KM * math.asin(math.sqrt(min(part, 1.0)))
    return math.floor(km * 1000 + 0.5) / 1000
