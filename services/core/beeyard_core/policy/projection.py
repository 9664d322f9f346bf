"""From the queen's state to what a policy's mirror is told of it.

The core notes the keys of what it touches (`state.Touched`); here the rows are cut, once for each key and from the
present state, so that a job that came and went between two decisions is never told. Everything costs what has changed,
but for the look at who fell silent, which walks the fleet once in a tick.

`rows_of` cuts everything anew: what a fresh mirror begins with, and what any mirror must equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from beeyard_core import limits
from beeyard_core.demand import Promised, free_bytes_of, promised_bytes
from beeyard_core.fleet import DesiredState, Device, Pool, Worker, WorkerState
from beeyard_core.ids import JobId, PoolId, TenantId, WorkerId, lease_id_of
from beeyard_core.job import Job
from beeyard_core.lease import Lease
from beeyard_core.policy.changes import Change, Gone, WorkerLoad
from beeyard_core.policy.world import (
    CLASSES,
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    Row,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)
from beeyard_core.state import QueenState

_SERVING: Final = (WorkerState.READY, WorkerState.BUSY)


@dataclass(slots=True)
class Projection:
    """What one set of mirrors was told so far.

    Attributes:
        version: Counts up with every drain that told something: the version of the state that a decision saw.
        looked_at_ms: Monotonic time of the last look at who fell silent.
        workers: Every worker as it was told last.
        models: The catalogue as it was told last.
    """

    version: int = 0
    looked_at_ms: int = 0
    workers: dict[WorkerId, WorkerRow] = field(default_factory=dict)
    _pools: dict[PoolId, PoolRow] = field(default_factory=dict)
    _gpus: dict[tuple[PoolId, str], GpuRow] = field(default_factory=dict)
    _gpus_count: dict[PoolId, int] = field(default_factory=dict)
    models: dict[str, ModelRow] = field(default_factory=dict)
    _catalogues: dict[PoolId, dict[str, ModelRow]] = field(default_factory=dict)
    _holders: dict[str, dict[PoolId, ModelRow]] = field(default_factory=dict)
    _runs: set[JobId] = field(default_factory=set)
    _jobs: set[JobId] = field(default_factory=set)

    def drain(self, state: QueenState, now_ms: int) -> list[Change]:
        """Return what mirrors must be told to be up to date, and forget that it had to be told."""
        if now_ms - self.looked_at_ms >= limits.TICK_INTERVAL_MS:
            self.looked_at_ms = now_ms
            self._notice_silence(state, now_ms)
        changes: list[Change] = []
        touched, workers = state.touched, state.fleet.touched
        if touched.pools:
            self._tell_pools(state, now_ms, changes)
        if workers:
            self._tell_workers(state, now_ms, changes)
        if touched.runs:
            self._tell_runs(state, changes)
        if touched.tenants:
            self._tell_tenants(state, changes)
        if touched.jobs:
            self._tell_jobs(state, changes)
        if changes:
            self.version += 1
        return changes

    def _notice_silence(self, state: QueenState, now_ms: int) -> None:
        """Touch what became stale, or fresh again, by nothing but the passing of time."""
        for pool_id, pool in state.fleet.pools.items():
            told = self._pools.get(pool_id)
            if told is not None and told.status != _pool_status(pool, now_ms):
                state.touched.pools[pool_id] = None
        for worker_id, row in self.workers.items():
            worker = state.fleet.workers.get(worker_id)
            if worker is None:
                is_same = row == _row_of(state, worker_id, now_ms, row)
            else:
                is_same = row.status == worker_status(state, worker, now_ms)
            if not is_same:
                state.fleet.touched[worker_id] = None

    # --- One kind after the other, in the order in which a mirror can take them ---

    def _tell_pools(self, state: QueenState, now_ms: int, changes: list[Change]) -> None:
        promised = promised_bytes(state)
        for pool_id in state.touched.pools:
            pool = state.fleet.pools[pool_id]
            before = self._pools.get(pool_id)
            row = pool_row(pool, now_ms)
            has_changed = before is None or row.status != before.status
            if row != before:
                self._pools[pool_id] = row
                changes.append(row)
            has_changed |= self._tell_gpus(pool, promised, changes)
            self._tell_models(pool, changes)
            if has_changed:
                # What a device has free, and whether its host is well, its workers have and are as well.
                state.fleet.touched.update(dict.fromkeys(state.fleet.by_pool.get(pool_id, ())))
        state.touched.pools.clear()

    def _tell_gpus(self, pool: Pool, promised: Promised, changes: list[Change]) -> bool:
        """Tell what changed of a host's devices; return whether anything did."""
        pool_id, before = pool.report.pool_id, len(changes)
        for gpu in gpu_rows(pool, promised):
            key = (pool_id, gpu.gpu_id)
            if gpu != self._gpus.get(key):
                self._gpus[key] = gpu
                changes.append(gpu)
        count = len(pool.report.devices)
        for index in range(count, self._gpus_count.get(pool_id, 0)):
            del self._gpus[pool_id, str(index)]
            changes.append(Gone("gpu", (pool_id, str(index))))
        self._gpus_count[pool_id] = count
        return len(changes) > before

    def _tell_models(self, pool: Pool, changes: list[Change]) -> None:
        """Tell what changed of the catalogue by a host's report, and which hosts can load what."""
        pool_id, rows = pool.report.pool_id, {row.ref: row for row in model_rows(pool)}
        before = self._catalogues.get(pool_id)
        if rows == before:
            return
        self._catalogues[pool_id] = rows
        for ref in (before or {}).keys() - rows.keys():
            del self._holders[ref][pool_id]
        for ref, row in rows.items():
            self._holders.setdefault(ref, {})[pool_id] = row
        # One host more, and what all could load, not all can any more.
        touched = self._holders if before is None else {*before, *rows}
        for ref in sorted(touched):
            self._tell_model(ref, changes)

    def _tell_model(self, ref: str, changes: list[Change]) -> None:
        row = _merged(self._holders[ref], len(self._catalogues))
        if row is None:
            del self._holders[ref], self.models[ref]
            changes.append(Gone("model", (ref,)))
        elif row != self.models.get(ref):
            self.models[ref] = row
            changes.append(row)

    def _tell_workers(self, state: QueenState, now_ms: int, changes: list[Change]) -> None:
        for worker_id in state.fleet.touched:
            before = self.workers.get(worker_id)
            row = _row_of(state, worker_id, now_ms, before)
            if row is None:
                if before is not None:
                    del self.workers[worker_id]
                    changes.append(Gone("worker", (worker_id,)))
                continue
            if row == before:
                continue
            self.workers[worker_id] = row
            is_load = before is not None and _but_load(before) == _but_load(row)
            changes.append(_load_of(row) if is_load else row)
        state.fleet.touched.clear()

    def _tell_runs(self, state: QueenState, changes: list[Change]) -> None:
        for job_id in state.touched.runs:
            row = running_row(state, job_id)
            if row is not None:
                self._runs.add(job_id)
                changes.append(row)
            elif job_id in self._runs:
                self._runs.discard(job_id)
                changes.append(Gone("running", (job_id,)))
        state.touched.runs.clear()

    def _tell_tenants(self, state: QueenState, changes: list[Change]) -> None:
        for tenant_id in state.touched.tenants:
            if tenant_id in state.tenants:
                changes.append(tenant_row(state, tenant_id))
            else:
                changes.append(Gone("tenant", (tenant_id,)))
        state.touched.tenants.clear()

    def _tell_jobs(self, state: QueenState, changes: list[Change]) -> None:
        for job_id in state.touched.jobs:
            if job_id in state.queue:
                self._jobs.add(job_id)
                changes.append(job_row(state.jobs[job_id]))
            elif job_id in self._jobs:
                self._jobs.discard(job_id)
                changes.append(Gone("job", (job_id,)))
        state.touched.jobs.clear()


# --- Rows ---


def job_row(job: Job) -> JobRow:
    """Return a waiting job as a policy sees it."""
    spec = job.spec
    need, wish = spec.requirements, spec.placement
    labels = dict(spec.labels)
    capability = need.min_compute_capability
    return JobRow(
        job_id=job.job_id,
        seq=job.sequence,
        tenant_id=spec.tenant_id,
        session_id=spec.session_id,
        priority=CLASSES[spec.priority - 1],
        model_ref=spec.model,
        prompt_tokens=spec.prompt_tokens,
        max_tokens=spec.max_tokens,
        expected_tokens=spec.max_tokens,
        seed=spec.seed if spec.is_seeded else None,
        created_at=job.accepted_at.mono_ms,
        queued_at=job.accepted_at.mono_ms,
        attempt=job.attempt + 1,
        deadline_at=job.deadline_at_ms,
        cost_units=spec.cost_units,
        type=labels.get("type", ""),
        geo_lat=_degrees(labels.get("geo.lat")),
        geo_lon=_degrees(labels.get("geo.lon")),
        engine=spec.engine,
        min_context_tokens=need.min_context_tokens,
        min_compute_capability="" if capability is None else f"{capability[0]}.{capability[1]}",
        quantizations=",".join(need.quantizations),
        pin_pool_id=wish.pin_pool_id or "",
        prefer_pool_ids=",".join(wish.prefer_pool_ids),
        avoid_pool_ids=",".join(wish.avoid_pool_ids),
        min_vram_bytes=need.min_vram_bytes,
        labels=spec.labels,
    )


def _degrees(text: str | None) -> float | None:
    """Return a label that is an angle; None if it is none."""
    try:
        angle = float(text or "")
    except ValueError:
        return None
    return angle if -180.0 <= angle <= 180.0 else None


def worker_status(state: QueenState, worker: Worker, now_ms: int) -> str:
    """Return a worker's state in the policy's words; one that is away or silent may still come back."""
    report = worker.report
    if worker.is_drained or report.state is WorkerState.DRAINING:
        return "draining"
    if report.state is WorkerState.FAILED:
        return "failed"
    if report.state is WorkerState.STARTING and worker.session:
        return "starting"
    if not (worker.session and state.fleet.is_fresh(worker, now_ms)):
        return "away"
    return "busy" if worker.leases else "ready"


def _row_of(
    state: QueenState, worker_id: WorkerId, now_ms: int, before: WorkerRow | None
) -> WorkerRow | None:
    """Return a worker that is there, or is to come, as a policy sees it; None if it is neither."""
    worker = state.fleet.workers.get(worker_id)
    if worker is not None:
        return worker_row(state, worker, now_ms, before)
    wish = state.wishes.get(worker_id)
    if wish is None or wish.desired.state is not DesiredState.RUNNING:
        return None
    pool = state.fleet.pools.get(wish.pool_id)
    is_silent = pool is None or now_ms - pool.reported_at_ms > limits.LEASE_TTL_MS
    return WorkerRow(
        worker_id=worker_id,
        pool_id=wish.pool_id,
        # Its host may be gone with it; nobody should wait for that.
        status="failed" if is_silent else "starting",
        model_ref=wish.desired.model,
        slots_total=0,
        slots_free=0,
        started_at=wish.wished_at_ms,
    )


def worker_row(
    state: QueenState, worker: Worker, now_ms: int, before: WorkerRow | None = None
) -> WorkerRow:
    """Return a worker as a policy sees it.

    Args:
        state: The queen's memory.
        worker: The worker.
        now_ms: Monotonic time.
        before: What was told of it, so that a start that is only known from its uptime does not seem to move.
    """
    report = worker.report
    index, device = _device_of(state, worker)
    started_at = before.started_at if before else now_ms - int(report.uptime_s * 1000)
    return WorkerRow(
        worker_id=report.worker_id,
        pool_id=report.pool_id,
        status=worker_status(state, worker, now_ms),
        model_ref=report.model,
        engine=report.engine,
        slots_total=report.slots_total,
        # It refused an offer although it looked free; until its next report that is what counts.
        slots_free=0 if worker.is_saturated else worker.slots_free,
        vram_free=device.vram_free_bytes if device else 0,
        # An estimate beyond all that there is must not wait for ever: a worker that has nothing to do may refuse it.
        kv_free_tokens=worker.kv_tokens_free if worker.leases else None,
        load=worker.load,
        tokens_per_s=report.tokens_per_s,
        started_at=started_at,
        last_used_at=worker.last_used_at_ms,
        gpu_ids=index,
        jobs_served=worker.jobs_served,
        context_tokens=report.context_tokens,
        quantization=report.quantization,
    )


def _device_of(state: QueenState, worker: Worker) -> tuple[str, Device | None]:
    pool = state.fleet.pools.get(worker.report.pool_id)
    if pool is not None:
        for index, device in enumerate(pool.report.devices):
            if device.uuid == worker.report.device:
                return str(index), device
    return "", None


def _but_load(row: WorkerRow) -> tuple[object, ...]:
    return (
        *(
            row.pool_id,
            row.model_ref,
            row.engine,
            row.slots_total,
            row.tokens_per_s,
            row.started_at,
        ),
        *(row.cost_per_token, row.geo_lat, row.geo_lon, row.capability, row.gpu_ids),
        *(row.context_tokens, row.quantization),
    )


def _load_of(row: WorkerRow) -> WorkerLoad:
    return WorkerLoad(
        row.worker_id,
        row.status,
        row.slots_free,
        row.vram_free,
        row.kv_free_tokens,
        row.load,
        row.last_used_at,
        row.jobs_served,
    )


def running_row(state: QueenState, job_id: JobId) -> RunningRow | None:
    """Return the lease of a job as a policy sees it: the one that counts, else one that was taken back."""
    job = state.jobs.get(job_id)
    lease = state.leases.get(lease_id_of(job.epoch)) if job is not None else None
    return None if job is None or lease is None else _running(job, lease)


def _running(job: Job, lease: Lease) -> RunningRow:
    return RunningRow(
        job_id=job.job_id,
        worker_id=lease.worker_id,
        tenant_id=job.spec.tenant_id,
        priority=CLASSES[job.spec.priority - 1],
        kv_tokens=lease.kv_tokens,
        started_at=lease.offered_at.mono_ms,
        is_stopping=not lease.is_current,
    )


def _pool_status(pool: Pool, now_ms: int) -> str:
    if pool.report.inventory_fault:
        return "unhealthy"
    return "ready" if pool.is_fresh(now_ms) else "stale"


def pool_row(pool: Pool, now_ms: int) -> PoolRow:
    """Return a host as a policy sees it."""
    return PoolRow(
        pool_id=pool.report.pool_id,
        status=_pool_status(pool, now_ms),
        last_report_ms=pool.reported_at_ms,
    )


def gpu_rows(pool: Pool, promised: Promised) -> list[GpuRow]:
    """Return the devices of a host as a policy sees them, numbered from 0 in the order of its report."""
    return [
        GpuRow(
            pool_id=pool.report.pool_id,
            gpu_id=str(index),
            name=device.name,
            vram_total=device.vram_total_bytes,
            vram_allocated=device.vram_total_bytes - free,
            vram_free=free,
            utilization=device.utilization,
            temperature_c=device.temperature_c,
            power_w=device.power_w,
            compute_capability=_dotted(device.compute_capability),
        )
        for index, device in enumerate(pool.report.devices)
        for free in (max(free_bytes_of(pool, device, promised), 0),)
    ]


def _dotted(capability: tuple[int, int] | None) -> str:
    return "" if capability is None else f"{capability[0]}.{capability[1]}"


def model_rows(pool: Pool) -> list[ModelRow]:
    """Return the models that a host can load as a policy sees them."""
    return [
        ModelRow(
            ref=model.model,
            family=model.architecture,
            vram_required=model.required_bytes,
            size_bytes=model.size_bytes,
            context=model.context_tokens,
            quantization=model.quantization,
        )
        for model in pool.report.models
        if not model.fault
    ]


def _merged(holders: dict[PoolId, ModelRow], pools_count: int) -> ModelRow | None:
    """One model of the catalogue out of what several hosts say of it; what needs most memory counts."""
    if not holders:
        return None
    row = max(holders.values(), key=lambda each: each.vram_required)
    is_told = len(holders) < pools_count and len(holders) <= limits.MODEL_POOLS_TOLD_MAX
    return row._replace(pool_ids=",".join(sorted(holders)) if is_told else "")


def tenant_row(state: QueenState, tenant_id: TenantId) -> TenantRow:
    """Return a tenant as a policy sees it."""
    tenant = state.tenants[tenant_id]
    return TenantRow(
        tenant_id=tenant_id,
        jobs_running=tenant.jobs_running,
        tokens_served=tenant.tokens_served,
    )


def rows_of(state: QueenState, now_ms: int, known: Projection) -> Iterator[Row]:
    """Yield everything as a policy sees it, in an order that an empty mirror takes in fastest.

    Waiting jobs are cut as they are asked for, so that a long queue need not be cut in one go; what changes meanwhile
    must be told afterwards.

    Args:
        state: The queen's memory.
        now_ms: Monotonic time.
        known: What mirrors were told already: starts and models are told as they were told before.
    """
    yield from _fleet_of(state, now_ms, known).rows()
    for job_id in sorted(state.queue.job_ids(), key=lambda each: state.jobs[each].sequence):
        if job_id in state.queue:
            yield job_row(state.jobs[job_id])


def world_of(state: QueenState, now_ms: int, known: Projection) -> World:
    """Return everything as a policy sees it, as tables. Walks all of the state."""
    world = _fleet_of(state, now_ms, known)
    world.jobs = {job_id: job_row(state.jobs[job_id]) for job_id in state.queue.job_ids()}
    return world


def _fleet_of(state: QueenState, now_ms: int, known: Projection) -> World:
    """Everything but the waiting jobs."""
    world = World(models={**known.models}, config=dict(state.settings.policy_config))
    promised = promised_bytes(state)
    for pool_id, pool in state.fleet.pools.items():
        world.pools[pool_id] = pool_row(pool, now_ms)
        for gpu in gpu_rows(pool, promised):
            world.gpus[pool_id, gpu.gpu_id] = gpu
    for worker_id in (*state.fleet.workers, *state.wishes):
        row = _row_of(state, worker_id, now_ms, known.workers.get(worker_id))
        if row is not None:
            world.workers[worker_id] = row
    for lease in state.leases.values():
        run = running_row(state, lease.job_id)
        if run is not None:
            world.running[run.job_id] = run
    for tenant_id in state.tenants:
        world.tenants[tenant_id] = tenant_row(state, tenant_id)
    return world
