"""Values of the core with everything filled in, varied by keyword, and what must hold of a state at any moment."""

from collections import Counter
from dataclasses import replace

from beeyard_core import limits
from beeyard_core.fleet import (
    CachedModel,
    Device,
    Fleet,
    HostLoad,
    Pool,
    PoolReport,
    Worker,
    WorkerReport,
    WorkerState,
)
from beeyard_core.ids import JobId, ModelName, PoolId, WorkerId, lease_id_of
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobSpec, JobState, Priority
from beeyard_core.queue import JobQueue
from beeyard_core.state import QueenState

START = Instant(mono_ms=1_000_000, wall_ms=1_700_000_000_000)
GIB = 1 << 30
CALM_HOST = HostLoad(cpu_percent=10.0, memory_percent=20.0)


def spec_of(model: str = "m", **changes: object) -> JobSpec:
    """A small job."""
    values = {"model": ModelName(model), "prompt_tokens": 10, "max_tokens": 20} | changes
    return JobSpec(**values)  # type: ignore[arg-type]


def job_of(job_id: str, sequence: int, spec: JobSpec | None = None) -> Job:
    """A queued job."""
    return Job(job_id=JobId(job_id), spec=spec or spec_of(), sequence=sequence, accepted_at=START)


def report_of(worker_id: str, **changes: object) -> WorkerReport:
    """A worker that is ready: model m on device gpu0 of pool p1, four slots."""
    return replace(
        WorkerReport(
            worker_id=WorkerId(worker_id),
            pool_id=PoolId("p1"),
            model=ModelName("m"),
            engine="synthetic",
            state=WorkerState.READY,
            slots_total=4,
            kv_tokens_total=4_000,
            context_tokens=1_000,
            device="gpu0",
            quantization="Q4_K_M",
        ),
        **changes,  # type: ignore[arg-type]
    )


def device_of(uuid: str = "gpu0", **changes: object) -> Device:
    """A device of 24 GiB with 20 GiB free."""
    return replace(
        Device(
            uuid=uuid,
            kind="cuda",
            name="Test 24G",
            vram_total_bytes=24 * GIB,
            vram_free_bytes=20 * GIB,
            compute_capability=(8, 6),
        ),
        **changes,  # type: ignore[arg-type]
    )


def cached_of(model: str = "m", **changes: object) -> CachedModel:
    """A model that a host can load into 4 GiB."""
    return replace(
        CachedModel(
            model=ModelName(model),
            engine="synthetic",
            required_bytes=4 * GIB,
            quantization="Q4_K_M",
            context_tokens=1_000,
        ),
        **changes,  # type: ignore[arg-type]
    )


def pool_of(pool_id: str = "p1", **changes: object) -> PoolReport:
    """A host with one device and model m, and little to do."""
    return replace(
        PoolReport(
            pool_id=PoolId(pool_id), devices=(device_of(),), models=(cached_of(),), load=CALM_HOST
        ),
        **changes,  # type: ignore[arg-type]
    )


class CrowdedQueue(JobQueue):
    """A queue that says that as many jobs wait as may: 100,000 real ones would take seconds."""

    def __len__(self) -> int:
        """As many as may."""
        return limits.QUEUE_DEPTH_MAX

    def ahead_of_new(self, priority: Priority) -> int:
        """They are all as urgent."""
        del priority
        return limits.QUEUE_DEPTH_MAX


def fleet_of(*reports: WorkerReport, pools: tuple[PoolReport, ...] = ()) -> Fleet:
    """A fleet whose workers and pools were all heard of just now."""
    fleet = Fleet()
    for pool in pools:
        fleet.pools[pool.pool_id] = Pool(pool, START.mono_ms)
        fleet.known_models.update(cached.model for cached in pool.models)
    for report in reports:
        worker = Worker(report=report, session=1, heard_at_ms=START.mono_ms)
        fleet.workers[report.worker_id] = worker
        fleet.known_models.add(report.model)
        fleet.reindex(worker)
    return fleet


def check_invariants(state: QueenState) -> None:
    """Assert what must be true of the queen's memory between any two events."""
    _check_leases(state)
    _check_jobs(state)
    _check_indexes(state)


def _check_leases(state: QueenState) -> None:
    for lease_id, lease in state.leases.items():
        assert lease_id == lease.lease_id == lease_id_of(lease.epoch)
        assert lease_id in state.fleet.workers[lease.worker_id].leases
        assert lease.epoch <= state.epoch
        job = state.jobs.get(lease.job_id)
        if lease.is_current:
            assert job is not None
            assert job.state in (JobState.LEASED, JobState.RUNNING)
            assert (job.epoch, job.worker_id) == (lease.epoch, lease.worker_id)
    current = [lease.job_id for lease in state.leases.values() if lease.is_current]
    assert len(current) == len(set(current)), "two current leases for one job"


def _check_jobs(state: QueenState) -> None:
    current = {lease.job_id for lease in state.leases.values() if lease.is_current}
    ended = set(state.ended)
    waiting = 0
    for job_id, job in state.jobs.items():
        is_waiting = job.state is JobState.QUEUED and not job.is_resting
        assert (job_id in state.queue) == is_waiting
        assert not job.is_resting or job.state is JobState.QUEUED
        assert (job_id in current) == (job.state in (JobState.LEASED, JobState.RUNNING))
        assert (job.ended_at is not None) == job.is_ended
        assert (job_id in ended) == job.is_ended
        assert job.attempt - job.preemptions <= job.spec.max_attempts
        waiting += is_waiting
    assert JobQueue.__len__(state.queue) == waiting
    for (tenant_id, request_id), job_id in state.requests.items():
        job = state.jobs[job_id]
        assert (job.spec.tenant_id, job.request_id) == (tenant_id, request_id)


def _check_indexes(state: QueenState) -> None:
    fleet = state.fleet
    open_workers: dict[ModelName, set[WorkerId]] = {}
    by_model: dict[ModelName, set[WorkerId]] = {}
    slots: dict[ModelName, int] = {}
    for worker_id, worker in fleet.workers.items():
        assert worker_id == worker.report.worker_id
        held = [state.leases[lease_id] for lease_id in worker.leases]
        assert worker.kv_tokens_used == sum(lease.kv_tokens for lease in held)
        assert min(worker.slots_free, worker.kv_tokens_free, worker.kv_tokens_used) >= 0
        model = worker.report.model
        by_model.setdefault(model, set()).add(worker_id)
        slots[model] = slots.get(model, 0) + worker.report.slots_total
        if worker.is_open:
            open_workers.setdefault(model, set()).add(worker_id)
    _check_tenants(state)
    _check_backlog(state)
    assert fleet.open_workers == open_workers
    assert fleet.by_model == by_model
    assert fleet.slots_total == slots


def _check_tenants(state: QueenState) -> None:
    for tenant_id, tenant in state.tenants.items():
        jobs = [job for job in state.jobs.values() if job.spec.tenant_id == tenant_id]
        running = [job for job in jobs if job.state in (JobState.LEASED, JobState.RUNNING)]
        assert tenant.jobs_running == len(running)
        assert tenant.jobs_waiting == sum(job.job_id in state.queue for job in jobs)
        assert tenant.tokens_served >= sum(job.tokens_charged for job in running)


def _check_backlog(state: QueenState) -> None:
    """What the forecast counts, change by change, is what a walk over jobs and leases finds."""
    depths = [0] * len(Priority)
    for model, backlog in state.forecast.backlog.models.items():
        waiting = [job for job in state.jobs.values() if job.job_id in state.queue]
        for rank in range(len(Priority)):
            jobs = [j for j in waiting if j.spec.model == model and j.spec.priority == rank + 1]
            assert backlog.waiting[rank] == len(jobs)
            assert backlog.work_ms[rank] == sum(job.expected_ms for job in jobs)
            assert backlog.unknown[rank] == sum(not job.expected_ms for job in jobs)
            depths[rank] += len(jobs)
        assert backlog.running == sum(lease.model == model for lease in state.leases.values())
    assert state.forecast.backlog.depths == depths


def check_quotas(state: QueenState) -> None:
    """Assert that each tenant is charged for what it has: of a queen whose jobs were all admitted."""
    unfinished = Counter(j.spec.tenant_id for j in state.jobs.values() if not j.is_ended)
    unfinished += Counter(w.spec.tenant_id for w in state.work.works.values() if not w.is_ended)
    assert {i: usage.jobs for i, usage in state.quotas.usages.items() if usage.jobs} == unfinished
