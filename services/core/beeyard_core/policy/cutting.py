"""Rows cut from the queen's state: how a job, a lease, a worker, a host and a tenant look to a policy."""

from operator import attrgetter
from typing import Final

from beeyard_core import limits
from beeyard_core.demand import Promised, free_bytes_of
from beeyard_core.fleet import DesiredState, Device, Pool, Traits, Worker, WorkerReport, WorkerState
from beeyard_core.ids import JobId, ModelName, PoolId, TenantId, WorkerId, lease_id_of
from beeyard_core.job import Job
from beeyard_core.lease import Lease
from beeyard_core.measuring import tokens_per_s_of
from beeyard_core.policy.changes import WorkerLoad
from beeyard_core.policy.world import (
    CLASSES,
    GpuRow,
    HistoryRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    RunningRow,
    TenantRow,
    WorkerRow,
)
from beeyard_core.prefix_index import name_of
from beeyard_core.state import QueenState

_NO_TRAITS: Final = Traits()
_SERVING: Final = (WorkerState.READY, WorkerState.BUSY)


def job_row(state: QueenState, job: Job) -> JobRow:
    """Return a waiting job as a policy sees it."""
    spec = job.spec
    need, wish = spec.requirements, spec.placement
    labels = dict(spec.labels) if spec.labels else {}
    capability = need.min_compute_capability
    return JobRow(
        job_id=job.job_id,
        seq=job.sequence,
        tenant_id=spec.tenant_id,
        session_id=spec.session_id,
        priority=CLASSES[spec.priority - 1],
        model_ref=spec.model,
        prompt_hash=state.prefixes.awaited(job.job_id),
        prompt_tokens=spec.prompt_tokens,
        max_tokens=spec.max_tokens,
        expected_tokens=job.expected_tokens or spec.max_tokens,
        seed=spec.seed if spec.is_seeded else None,
        created_at=job.accepted_at.mono_ms,
        queued_at=job.accepted_at.mono_ms,
        attempt=job.attempt + 1,
        deadline_at=job.deadline_at_ms,
        cost_units=spec.cost_units,
        type=labels.get("type", ""),
        session_turn=job.place or 0,
        is_next=job.is_next,
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
        extensions=",".join(need.extensions),
        labels=spec.labels,
    )


def _degrees(text: str | None) -> float | None:
    """Return a label that is an angle; None if it is none."""
    if not text:
        return None
    try:
        angle = float(text)
    except ValueError:
        return None
    return angle if -180.0 <= angle <= 180.0 else None


def prefix_rows(state: QueenState, block: int) -> list[PrefixRow]:
    """Return who has a block of prompts that jobs wait for, as a policy sees it."""
    holders = state.prefixes.holders(block)
    return [PrefixRow(worker_id, name_of(block), tokens) for worker_id, tokens in holders.items()]


def worker_status(state: QueenState, worker: Worker, now_ms: int) -> str:
    """Return a worker's state in the policy's words; one that is away or silent may still come back."""
    report = worker.report
    if worker.is_drained or report.state is WorkerState.DRAINING:
        return "leaving" if _is_leaving(state, worker) else "draining"
    if report.state is WorkerState.FAILED:
        return "failed"
    if report.state is WorkerState.STARTING and worker.session:
        return "starting"
    if not (worker.session and state.fleet.is_fresh(worker, now_ms)):
        return "away"
    return "busy" if worker.leases else "ready"


def _is_leaving(state: QueenState, worker: Worker) -> bool:
    """Whether a drained worker is to end: its memory will be free soon."""
    wish = state.wishes.get(worker.report.worker_id)
    is_stopped = wish is not None and wish.desired.state is DesiredState.STOPPED
    return worker.is_leaving or is_stopped or worker.report.state is WorkerState.DRAINING


def present_row(
    state: QueenState, worker_id: WorkerId, now_ms: int, before: WorkerRow | None
) -> WorkerRow | None:
    """Return a worker that is there, is to come, or still holds its memory, as a policy sees it; None: it does not."""
    worker = state.fleet.workers.get(worker_id)
    if worker is not None:
        return worker_row(state, worker, now_ms, before)
    wish = state.wishes.get(worker_id)
    if wish is None:
        return None
    pool = state.fleet.pools.get(wish.pool_id)
    is_silent = pool is None or now_ms - pool.reported_at_ms > limits.LEASE_TTL_MS
    status = "starting" if wish.desired.state is DesiredState.RUNNING else "leaving"
    return WorkerRow(
        worker_id=worker_id,
        pool_id=wish.pool_id,
        # Its host may be gone with it; nobody should wait for that.
        status="failed" if is_silent else status,
        model_ref=wish.desired.model,
        slots_total=0,
        slots_free=0,
        started_at=wish.wished_at_ms,
        gpu_ids=before.gpu_ids if before is not None else "",
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
    index, device = device_of(state, worker)
    pool = state.fleet.pools.get(report.pool_id)
    traits = pool.report.traits if pool is not None else _NO_TRAITS
    started_at = before.started_at if before else now_ms - int(report.uptime_s * 1000)
    return WorkerRow(
        pool_id=report.pool_id,
        model_ref=report.model,
        engine=report.engine,
        slots_total=report.slots_total,
        tokens_per_s=tokens_per_s_of(state.fleet, worker),
        cost_per_token=traits.cost_per_token,
        geo_lat=traits.latitude,
        geo_lon=traits.longitude,
        capability=traits.capability,
        started_at=started_at,
        gpu_ids=index,
        context_tokens=_window_of(report),
        quantization=report.quantization,
        extensions=",".join(sorted(report.extensions)),
        prefill_speedup=state.fleet.speeds.prefill_speedup(report.model),
        resident_at=worker.resident_since_ms,
        **load_of(state, worker, now_ms, device)._asdict(),
    )


def _window_of(report: WorkerReport) -> int:
    """The longest job that a worker could ever take: what its context and its KV memory both hold."""
    known = [tokens for tokens in (report.context_tokens, report.kv_tokens_total) if tokens]
    return min(known, default=0)


def load_of(state: QueenState, worker: Worker, now_ms: int, device: Device | None) -> WorkerLoad:
    """Return what changes of a worker while it works."""
    taken, report = len(worker.leases), worker.report
    slots_free = max(report.slots_total - taken, 0)
    is_shut = worker.is_saturated or state.fleet.is_gated(report.pool_id)
    return WorkerLoad(
        report.worker_id,
        worker_status(state, worker, now_ms),
        # It refused an offer although it looked free; until its next report that is what counts.
        0 if is_shut else slots_free,
        device.vram_free_bytes if device else 0,
        # An estimate beyond all that there is must not wait for ever: a worker that has nothing to do may refuse it.
        worker.kv_tokens_free if taken else None,
        worker.load,
        worker.last_used_at_ms,
        worker.jobs_served,
        CLASSES[worker.served_class - 1] if worker.served_class else "",
    )


def device_of(state: QueenState, worker: Worker) -> tuple[str, Device | None]:
    """Return a worker's device and its number on its host; nothing if its host did not report it."""
    pool = state.fleet.pools.get(worker.report.pool_id)
    if pool is not None:
        for index, device in enumerate(pool.report.devices):
            if device.uuid == worker.report.device:
                return str(index), device
    return "", None


#: Everything but the load in a row.
but_load: Final = attrgetter(
    *(name for name in WorkerRow._fields if name not in WorkerLoad._fields[1:])
)
#: The load in a row.
in_load: Final = attrgetter(*WorkerLoad._fields)


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
        is_kept=job.keeps_slot,
    )


def pool_status(pool: Pool, now_ms: int) -> str:
    """Return a host's state in the policy's words."""
    if pool.report.inventory_fault:
        return "unhealthy"
    return "ready" if pool.is_fresh(now_ms) else "stale"


def pool_row(pool: Pool, now_ms: int) -> PoolRow:
    """Return a host as a policy sees it."""
    return PoolRow(
        pool_id=pool.report.pool_id,
        status=pool_status(pool, now_ms),
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


def merged(holders: dict[PoolId, ModelRow], pools_count: int) -> ModelRow | None:
    """One model of the catalogue out of what several hosts say of it; what needs most memory counts."""
    if not holders:
        return None
    row = max(holders.values(), key=lambda each: each.vram_required)
    is_told = len(holders) < pools_count and len(holders) <= limits.MODEL_POOLS_TOLD_MAX
    return row._replace(pool_ids=",".join(sorted(holders)) if is_told else "")


def history_row(state: QueenState, model: ModelName, device: str) -> HistoryRow:
    """Return what jobs of a model took on a kind of device as a policy sees it."""
    forecast = state.forecast
    told, usual = forecast.told[model, device], forecast.usual_slots(model)
    return HistoryRow(model, device, told.mean_ms, told.p95_ms, told.n, told.p50_ms, *usual)


def tenant_row(state: QueenState, tenant_id: TenantId) -> TenantRow:
    """Return a tenant as a policy sees it."""
    tenant = state.tenants[tenant_id]
    return TenantRow(
        tenant_id=tenant_id,
        jobs_running=tenant.jobs_running,
        tokens_served=tenant.tokens_served,
    )
