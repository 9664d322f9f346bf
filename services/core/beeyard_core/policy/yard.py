"""The fleet of the twin: workers by model and speed, GPUs by free memory, idle workers by last use, running jobs.

Like `lines.py` the counterpart of `lua/mirror`, written from its rules. What a worker can take is `fits`.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from beeyard_core.policy.world import (
    LIVE_STATUSES,
    OPEN_STATUSES,
    RANK,
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    RunningRow,
    WorkerRow,
)
from beeyard_core.scaling import Eviction
from beeyard_core.speeds import PREFILL_SPEEDUP

#: Nothing new is placed on a pool of these states.
CLOSED = ("offline", "stale", "draining", "unhealthy")

SpeedKey = tuple[float, float, int, str]


def _speed_key(worker: WorkerRow) -> SpeedKey:
    """The fastest first, then the least loaded, the most memory free, by id."""
    return (-worker.tokens_per_s, worker.load, -worker.vram_free, worker.worker_id)


def capability_number(version: str) -> int | None:
    """Return `8.6` as 8006, so that 8.10 is more than 8.9; None for what is no version."""
    major, _, minor = version.partition(".")
    if not major.isdecimal() or not (minor or "0").isdecimal():
        return None
    return int(major) * 1000 + int(minor or "0")


def _parts(csv: str) -> list[str]:
    return [part for part in csv.split(",") if part]


@dataclass(slots=True)
class Crew:
    """The workers of one model: the open ones by speed, how many are live, and who could make way there."""

    open: list[SpeedKey] = field(default_factory=list)
    live: int = 0
    victims: list[tuple[int, int, str]] = field(default_factory=list)
    stopping: int = 0


@dataclass(slots=True)
class Yard:
    """Everything that can run a job, and what runs."""

    workers: dict[str, WorkerRow] = field(default_factory=dict)
    pools: dict[str, PoolRow] = field(default_factory=dict)
    gpus: dict[tuple[str, str], GpuRow] = field(default_factory=dict)
    models: dict[str, ModelRow] = field(default_factory=dict)
    runs: dict[str, RunningRow] = field(default_factory=dict)
    holders: dict[str, dict[str, int]] = field(default_factory=dict)
    crews: dict[str, Crew] = field(default_factory=dict)
    #: Workers that will end and free their memory.
    leaving: set[str] = field(default_factory=set)
    #: Idle workers, the longest unused first.
    idle: list[tuple[int, str]] = field(default_factory=list)
    #: GPUs, the one with the most free memory first; ids of one length sort as numbers.
    roomiest: list[tuple[int, str, str, str]] = field(default_factory=list)
    _runs_of: dict[str, dict[str, None]] = field(default_factory=dict)

    # --- Rows ---

    def put_worker(self, worker: WorkerRow) -> None:
        """Take in a worker, new or changed."""
        self._unfile(worker.worker_id)
        before = self.workers.get(worker.worker_id)
        if before is not None and not _is_same(before, worker):
            self._empty_cache(worker.worker_id)
        self.workers[worker.worker_id] = worker
        self._file(worker)

    def drop_worker(self, worker_id: str) -> None:
        """Forget a worker and what it holds in its cache."""
        self._unfile(worker_id)
        self.workers.pop(worker_id, None)
        self._empty_cache(worker_id)

    def _empty_cache(self, worker_id: str) -> None:
        for prompt_hash, holders in list(self.holders.items()):
            if holders.pop(worker_id, None) and not holders:
                del self.holders[prompt_hash]

    def put_pool(self, pool: PoolRow) -> None:
        """Take in what a host says; its workers open or close with it."""
        mine = [worker for worker in self.workers.values() if worker.pool_id == pool.pool_id]
        for worker in mine:
            self._unfile(worker.worker_id)
        self.pools[pool.pool_id] = pool
        for worker in mine:
            self._file(worker)

    def put_gpu(self, gpu: GpuRow) -> None:
        """Take in a GPU, new or changed."""
        before = self.gpus.get((gpu.pool_id, gpu.gpu_id))
        if before is not None:
            del self.roomiest[bisect_left(self.roomiest, _room_key(before))]
        self.gpus[gpu.pool_id, gpu.gpu_id] = gpu
        insort(self.roomiest, _room_key(gpu))

    def drop_gpu(self, pool_id: str, gpu_id: str) -> None:
        """Forget a GPU."""
        gpu = self.gpus.pop((pool_id, gpu_id))
        del self.roomiest[bisect_left(self.roomiest, _room_key(gpu))]

    def put_prefix(self, prefix: PrefixRow) -> None:
        """Take in what a worker holds of a prompt."""
        holders = self.holders.setdefault(prefix.prompt_hash, {})
        if prefix.tokens > 0 and prefix.worker_id in self.workers:
            holders[prefix.worker_id] = prefix.tokens
        else:
            holders.pop(prefix.worker_id, None)
        if not holders:
            del self.holders[prefix.prompt_hash]

    def put_run(self, run: RunningRow) -> None:
        """Take in a running job."""
        self.drop_run(run.job_id)
        self.runs[run.job_id] = run
        self._runs_of.setdefault(run.worker_id, {})[run.job_id] = None
        self._count_run(run, 1)

    def drop_run(self, job_id: str) -> None:
        """Forget a running job, if it is there."""
        run = self.runs.pop(job_id, None)
        if run is not None:
            self._count_run(run, -1)
            del self._runs_of[run.worker_id][job_id]

    def _count_run(self, run: RunningRow, by: int) -> None:
        worker = self.workers.get(run.worker_id)
        if worker is None:
            return
        crew = self.crews[worker.model_ref]
        key = (-RANK[run.priority], -run.started_at, run.job_id)
        if run.is_stopping:
            crew.stopping += by
        elif run.is_kept:
            pass
        elif by > 0:
            insort(crew.victims, key)
        else:
            del crew.victims[bisect_left(crew.victims, key)]

    # --- Indexes ---

    def is_pool_open(self, pool_id: str) -> bool:
        """Whether a host may get work; one that nobody reported is given the benefit of the doubt."""
        pool = self.pools.get(pool_id)
        return pool is None or pool.status not in CLOSED

    def _is_open(self, worker: WorkerRow) -> bool:
        ready = worker.slots_free > 0 and worker.status in OPEN_STATUSES
        return ready and self.is_pool_open(worker.pool_id)

    def _file(self, worker: WorkerRow) -> None:
        crew = self.crews.setdefault(worker.model_ref, Crew())
        crew.live += worker.status in LIVE_STATUSES
        if worker.status == "leaving":
            self.leaving.add(worker.worker_id)
        if self._is_open(worker):
            insort(crew.open, _speed_key(worker))
            if worker.slots_free >= worker.slots_total:
                insort(self.idle, (worker.last_used_at, worker.worker_id))
        for job_id in self._runs_of.get(worker.worker_id, ()):
            self._count_run(self.runs[job_id], 1)

    def _unfile(self, worker_id: str) -> None:
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        for job_id in self._runs_of.get(worker_id, ()):
            self._count_run(self.runs[job_id], -1)
        crew = self.crews[worker.model_ref]
        crew.live -= worker.status in LIVE_STATUSES
        self.leaving.discard(worker_id)
        if self._is_open(worker):
            del crew.open[bisect_left(crew.open, _speed_key(worker))]
            if worker.slots_free >= worker.slots_total:
                del self.idle[bisect_left(self.idle, (worker.last_used_at, worker_id))]

    # --- Answers ---

    def fits(self, job: JobRow, worker: WorkerRow) -> bool:
        """Whether an open worker of a job's model can take it now."""
        tokens = job.prompt_tokens + job.max_tokens
        free = worker.kv_free_tokens
        if worker.vram_free < job.estimated_vram_bytes or (free is not None and free < tokens):
            return False
        window = worker.context_tokens
        if 0 < window < window_tokens(job) or window < job.min_context_tokens:
            return False
        if job.engine not in ("", worker.engine) or not _pool_allowed(job, worker.pool_id):
            return False
        if job.quantizations and worker.quantization not in _parts(job.quantizations):
            return False
        if job.extensions and not {*_parts(job.extensions)} <= {*_parts(worker.extensions)}:
            return False
        return self._serves(job, [(worker.pool_id, gpu) for gpu in _parts(worker.gpu_ids)])

    def _serves(self, job: JobRow, gpus: list[tuple[str, str]]) -> bool:
        """Whether every one of some GPUs has the memory and the compute capability that a job asks for."""
        if job.min_vram_bytes:
            has_all = [
                self.gpus[g].vram_total >= job.min_vram_bytes for g in gpus if g in self.gpus
            ]
            if not sum(has_all) == len(gpus) > 0:
                return False
        wanted = capability_number(job.min_compute_capability)
        if wanted is None:
            return True
        has = [capability_number(self.gpus[g].compute_capability) for g in gpus if g in self.gpus]
        known = [number for number in has if number is not None and number >= wanted]
        return len(known) == len(gpus) > 0

    def duration_ms(self, job: JobRow, worker: WorkerRow) -> float:
        """How long a job would take on a worker; infinite if the worker's speed was never measured."""
        if not worker.tokens_per_s > 0:
            return math.inf
        held = self.holders.get(job.prompt_hash, {}).get(worker.worker_id, 0)
        fresh = job.prompt_tokens - min(held, job.prompt_tokens)
        speedup = worker.prefill_speedup if worker.prefill_speedup > 0 else PREFILL_SPEEDUP
        return (fresh / speedup + job.expected_tokens) * 1000 / worker.tokens_per_s

    def best_worker(self, job: JobRow) -> WorkerRow | None:
        """The worker on which a job would end first; in a preferred pool, if one has a place for it."""
        preferred = set(_parts(job.prefer_pool_ids))
        best = self._fastest(job, preferred) if preferred else None
        if best is None:
            preferred, best = set(), self._fastest(job, set())
        if best is None:
            return None
        candidates = [best]
        for worker_id in self.holders.get(job.prompt_hash, ()):
            worker = self.workers[worker_id]
            may = worker.model_ref == job.model_ref and self._is_open(worker)
            if may and (not preferred or worker.pool_id in preferred) and self.fits(job, worker):
                candidates.append(worker)
        if len(candidates) == 1:
            return best
        return min(candidates, key=lambda w: (self.duration_ms(job, w), *_speed_key(w)[1:]))

    def _fastest(self, job: JobRow, pools: set[str]) -> WorkerRow | None:
        crew = self.crews.get(job.model_ref)
        for key in crew.open if crew else ():
            worker = self.workers[key[-1]]
            if (not pools or worker.pool_id in pools) and self.fits(job, worker):
                return worker
        return None

    def victim(self, job: JobRow) -> RunningRow | None:
        """The least urgent, then youngest running job in whose place a more urgent one would fit."""
        crew = self.crews.get(job.model_ref)
        for key in crew.victims if crew else ():
            run = self.runs[key[-1]]
            worker = self.workers[run.worker_id]
            free = worker.kv_free_tokens
            freed = worker._replace(
                slots_free=worker.slots_free + 1,
                kv_free_tokens=None if free is None else free + run.kv_tokens,
            )
            may = RANK[run.priority] > RANK[job.priority] and self._is_open(freed)
            if may and self.fits(job, freed):
                return run
        return None

    def loadable(self, job: JobRow) -> ModelRow | None:
        """The catalogue's entry of a job's model, if a worker of it could take the job at all."""
        model = self.models.get(job.model_ref)
        if model is None or model.context < job.min_context_tokens or job.extensions:
            return None
        if job.quantizations and model.quantization not in _parts(job.quantizations):
            return None
        return model

    def gpu_for(self, job: JobRow) -> GpuRow | None:
        """The GPU with the most free memory on which a worker for a job could be started."""
        model = self.loadable(job)
        if model is None:
            return None
        for free, pool_id, _, gpu_id in self.roomiest:
            if -free < model.vram_required:
                return None
            if _loads(model, pool_id) and self._allows(job, self.gpus[pool_id, gpu_id]):
                return self.gpus[pool_id, gpu_id]
        return None

    def _allows(self, job: JobRow, gpu: GpuRow) -> bool:
        allowed = self.is_pool_open(gpu.pool_id) and _pool_allowed(job, gpu.pool_id)
        return allowed and self._serves(job, [(gpu.pool_id, gpu.gpu_id)])

    def unused(self, job: JobRow, eviction: Eviction) -> Iterator[WorkerRow]:
        """Idle workers in whose place a worker for a job could be started, those that should go first at the front."""
        model = self.loadable(job)
        idle = [worker_id for _, worker_id in self.idle] if model else []
        if eviction is Eviction.LFU:
            # Stable: of those that served as many jobs, the longest unused comes first.
            idle.sort(key=lambda worker_id: self.workers[worker_id].jobs_served)
        return (self.workers[worker_id] for worker_id in idle if self._makes_room(worker_id, job))

    def is_room_coming(self, job: JobRow) -> bool:
        """Whether a worker for a job could be started once one of those that leave has ended."""
        return any(self._makes_room(worker_id, job) for worker_id in self.leaving)

    def _makes_room(self, worker_id: str, job: JobRow) -> bool:
        """Whether a worker for a job could be started in the place of one that is there."""
        model = self.loadable(job)
        worker = self.workers[worker_id]
        gpus = _parts(worker.gpu_ids)
        gpu = self.gpus.get((worker.pool_id, gpus[0])) if gpus else None
        held = self.models.get(worker.model_ref)
        freed = held.vram_required // len(gpus) if held and gpus else 0
        if not gpu or not model or gpu.vram_free + freed < model.vram_required:
            return False
        return _loads(model, gpu.pool_id) and self._allows(job, gpu)


def _is_same(before: WorkerRow, after: WorkerRow) -> bool:
    """Whether a row is of the process that an earlier one was of; if not, its cache is another."""
    return (before.model_ref, before.pool_id) == (after.model_ref, after.pool_id)


def _room_key(gpu: GpuRow) -> tuple[int, str, str, str]:
    return (-gpu.vram_free, gpu.pool_id, f"{gpu.gpu_id:>20}", gpu.gpu_id)


def window_tokens(job: JobRow) -> int:
    """The context that a job needs for certain: its prompt may be half as long as estimated, and the worker counts."""
    return job.prompt_tokens // 2 + job.max_tokens


def _loads(model: ModelRow, pool_id: str) -> bool:
    return not model.pool_ids or pool_id in _parts(model.pool_ids)


def _pool_allowed(job: JobRow, pool_id: str) -> bool:
    return job.pin_pool_id in ("", pool_id) and pool_id not in _parts(job.avoid_pool_ids)
