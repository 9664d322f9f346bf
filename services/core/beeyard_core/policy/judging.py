"""Whether an intent holds against the live state, judged after the intents before it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    Reject,
    StartWorker,
    Wait,
)
from beeyard_core.policy.world import (
    LIVE_STATUSES,
    OPEN_STATUSES,
    RANK,
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    RunningRow,
    WorkerRow,
)
from beeyard_core.policy.yard import CLOSED, window_tokens
from beeyard_core.refusal import Refusal, Refused


class PolicyWorld(Protocol):
    """What a judge looks into; `world.World` is one."""

    @property
    def jobs(self) -> Mapping[str, JobRow]:
        """Waiting jobs."""

    @property
    def workers(self) -> Mapping[str, WorkerRow]:
        """Workers."""

    @property
    def running(self) -> Mapping[str, RunningRow]:
        """Running jobs."""

    @property
    def pools(self) -> Mapping[str, PoolRow]:
        """Hosts."""

    @property
    def gpus(self) -> Mapping[tuple[str, str], GpuRow]:
        """GPUs, by host and id."""

    @property
    def models(self) -> Mapping[str, ModelRow]:
        """The catalogue."""


def _no(reason: Refusal, field_name: str, message: str) -> Refused:
    return Refused(reason=reason, message=message, field=field_name)


@dataclass(slots=True)
class Judge:
    """Judges the intents of one answer, in order. What was granted counts as gone for those that follow."""

    world: PolicyWorld
    _taken_jobs: set[str] = field(default_factory=set)
    _slots: dict[str, int] = field(default_factory=dict)
    _tokens: dict[str, int] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _promised: dict[tuple[str, str], int] = field(default_factory=dict)

    def refusal(self, intent: Intent) -> Refused | None:
        """Return why an intent does not hold; None if it does, and then it counts."""
        match intent:
            case Wait():
                return None
            case Dispatch():
                return self._dispatch(intent)
            case StartWorker():
                return self._start(intent)
            case Evict():
                return self._evict(intent)
            case Preempt():
                return self._preempt(intent)
            case Reject():
                why = self._no_job(intent.job_id, "job_id")
                if why is None:
                    self._taken_jobs.add(intent.job_id)
                return why
            case _:
                assert_never(intent)

    def _no_job(self, job_id: str, name: str) -> Refused | None:
        if job_id not in self.world.jobs or job_id in self._taken_jobs:
            return _no(Refusal.JOB_NOT_FOUND, name, "no such job waits")
        return None

    def _no_worker(self, worker_id: str, name: str) -> Refused | None:
        if worker_id not in self.world.workers or worker_id in self._gone:
            return _no(Refusal.WORKER_NOT_FOUND, name, "there is no such worker")
        return None

    def _dispatch(self, intent: Dispatch) -> Refused | None:
        missing = self._no_job(intent.job_id, "job_id")
        missing = missing or self._no_worker(intent.worker_id, "worker_id")
        if missing:
            return missing
        job, worker = self.world.jobs[intent.job_id], self.world.workers[intent.worker_id]
        why = self._unfit(job, worker) or self._full(job, worker)
        if why is None:
            self._taken_jobs.add(job.job_id)
            tokens = job.prompt_tokens + job.max_tokens
            self._slots[worker.worker_id] = self._slots.get(worker.worker_id, 0) + 1
            self._tokens[worker.worker_id] = self._tokens.get(worker.worker_id, 0) + tokens
        return why

    def _unfit(self, job: JobRow, worker: WorkerRow) -> Refused | None:
        """Why a worker is the wrong one for a job."""
        if worker.model_ref != job.model_ref:
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL
            return _no(reason, "worker_id", f"it serves {worker.model_ref}, not {job.model_ref}")
        if job.engine not in ("", worker.engine):
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE
            return _no(reason, "worker_id", f"its engine is {worker.engine}, not {job.engine}")
        if not {*filter(None, job.extensions.split(","))} <= {*worker.extensions.split(",")}:
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE
            return _no(reason, "worker_id", f"it has no extension {job.extensions}")
        pinned, avoided = job.pin_pool_id, job.avoid_pool_ids.split(",")
        if pinned not in ("", worker.pool_id) or worker.pool_id in avoided:
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK
            return _no(reason, "worker_id", f"the job must not run on pool {worker.pool_id}")
        if worker.vram_free < job.estimated_vram_bytes:
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM
            return _no(reason, "worker_id", "its device has not enough memory free")
        if job.quantizations and worker.quantization not in job.quantizations.split(","):
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION
            return _no(reason, "worker_id", f"its quantization is {worker.quantization}")
        return None

    def _full(self, job: JobRow, worker: WorkerRow) -> Refused | None:
        """Why a worker cannot take a job now."""
        if worker.status not in OPEN_STATUSES:
            return _no(Refusal.POOL_UNREADY, "worker_id", f"the worker is {worker.status}")
        if self._is_closed(worker.pool_id):
            return _no(Refusal.POOL_UNREADY, "worker_id", "its host takes nothing new")
        if worker.slots_free <= self._slots.get(worker.worker_id, 0):
            return _no(Refusal.WORKER_BUSY, "worker_id", "all its slots are taken")
        tokens = job.prompt_tokens + job.max_tokens
        free = worker.kv_free_tokens
        if free is not None and free - self._tokens.get(worker.worker_id, 0) < tokens:
            return _no(Refusal.WORKER_BUSY, "worker_id", f"it has no {tokens} KV tokens free")
        if 0 < worker.context_tokens < max(window_tokens(job), job.min_context_tokens):
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT
            return _no(reason, "worker_id", f"its context is {worker.context_tokens} tokens")
        return None

    def _is_closed(self, pool_id: str) -> bool:
        pool = self.world.pools.get(pool_id)
        return pool is not None and pool.status in CLOSED

    def _start(self, intent: StartWorker) -> Refused | None:
        model = self.world.models.get(intent.model_ref)
        if model is None:
            return _no(
                Refusal.MODEL_NOT_FOUND, "start_worker.model_ref", "no pool can load this model"
            )
        gpus = [g for key, g in self.world.gpus.items() if self._is_meant(intent, key)]
        if not gpus:
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK
            return _no(reason, "start_worker", "no pool that takes work has such a GPU")
        rooms = ((self._free(gpu), gpu.pool_id, gpu.gpu_id) for gpu in gpus)
        most = max(rooms)
        if most[0] < model.vram_required:
            reason = Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM
            return _no(reason, "start_worker", f"{model.vram_required} bytes are free nowhere")
        place = most[1:]
        self._promised[place] = self._promised.get(place, 0) + model.vram_required
        return None

    def _is_meant(self, intent: StartWorker, key: tuple[str, str]) -> bool:
        pool_id, gpu_id = key
        named = intent.pool_id in ("", pool_id) and intent.gpu_id in ("", gpu_id)
        return named and not self._is_closed(pool_id)

    def _free(self, gpu: GpuRow) -> int:
        return gpu.vram_free - self._promised.get((gpu.pool_id, gpu.gpu_id), 0)

    def _evict(self, intent: Evict) -> Refused | None:
        why = self._no_worker(intent.evict_worker_id, "evict_worker_id")
        if why:
            return why
        status = self.world.workers[intent.evict_worker_id].status
        if status not in LIVE_STATUSES:
            return _no(Refusal.DRAINING, "evict_worker_id", f"the worker is {status} already")
        self._gone.add(intent.evict_worker_id)
        return None

    def _preempt(self, intent: Preempt) -> Refused | None:
        run = self.world.running.get(intent.job_id)
        if run is None or run.is_stopping or intent.job_id in self._taken_jobs:
            return _no(Refusal.JOB_NOT_FOUND, "job_id", "no such job runs")
        why = self._no_job(intent.for_job_id, "for_job_id")
        if why:
            return why
        if run.is_kept:
            return _no(Refusal.PERMISSION_DENIED, "job_id", "the job keeps its slot")
        if RANK[run.priority] <= RANK[self.world.jobs[intent.for_job_id].priority]:
            return _no(
                Refusal.PERMISSION_DENIED, "job_id", "the running job is as urgent as the other"
            )
        self._taken_jobs.add(intent.job_id)
        return None
