"""The fleet's wire types turned into the client's own; the other half of `wire.py`."""

from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import fleet_service_pb2
from beeyard.worker.v1 import engine_service_pb2

from beeyard_client.fleet import (
    CachedModel,
    Device,
    Fleet,
    Model,
    Pool,
    Quota,
    Tenant,
    Worker,
    WorkerState,
)
from beeyard_client.scale import ModelScale, Scale
from beeyard_client.wire import moment


def fleet(wire: fleet_service_pb2.FleetSnapshot) -> Fleet:
    """Return the whole fleet."""
    return Fleet(
        version=wire.version,
        pools=tuple(pool(one) for one in wire.pools),
        workers=tuple(worker(one) for one in wire.workers),
        jobs_queued=wire.jobs_queued,
        jobs_running=wire.jobs_running,
        stale_epoch_writes=wire.stale_epoch_writes,
    )


def pool(wire: fleet_service_pb2.Pool) -> Pool:
    """Return one host."""
    snapshot, load = wire.snapshot, wire.snapshot.load
    return Pool(
        pool_id=wire.pool_id,
        address=snapshot.address,
        fresh=wire.fresh,
        report_time=moment(wire.report_time),
        inventory=snapshot.inventory,
        inventory_fault=snapshot.inventory_fault,
        cpu_count=load.cpu_count,
        cpu_utilization=load.cpu_utilization,
        memory_total_bytes=load.memory_total_bytes,
        memory_available_bytes=load.memory_available_bytes,
        devices=tuple(_device(one) for one in snapshot.devices),
        cached_models=tuple(_cached_model(one) for one in snapshot.models),
    )


def _device(wire: snapshot_pb2.Device) -> Device:
    kind = snapshot_pb2.DeviceKind
    has_ecc = wire.HasField("ecc_errors_uncorrected")
    return Device(
        uuid=wire.uuid,
        kind=kind.Name(wire.kind).removeprefix("DEVICE_KIND_")
        if wire.kind in kind.values()
        else "UNKNOWN",
        name=wire.name,
        index=wire.index,
        vram_total_bytes=wire.vram_total_bytes,
        vram_used_bytes=wire.vram_used_bytes,
        vram_free_bytes=wire.vram_free_bytes,
        utilization=wire.utilization,
        temperature_c=wire.temperature_c if wire.HasField("temperature_c") else None,
        power_w=wire.power_w if wire.HasField("power_w") else None,
        ecc_errors_uncorrected=wire.ecc_errors_uncorrected if has_ecc else None,
        compute_capability=wire.compute_capability,
    )


def _cached_model(wire: snapshot_pb2.CachedModel) -> CachedModel:
    return CachedModel(
        model=wire.model,
        size_bytes=wire.size_bytes,
        quantization=wire.quantization,
        context_tokens=wire.context_tokens,
        architecture=wire.architecture,
        engine=wire.engine,
        required_bytes=wire.required_bytes,
        fault=wire.fault,
    )


def worker(wire: fleet_service_pb2.Worker) -> Worker:
    """Return one worker."""
    status = wire.status
    return Worker(
        worker_id=status.worker_id,
        pool_id=wire.pool_id,
        address=wire.address,
        model=status.model,
        engine=status.engine,
        engine_version=status.engine_version,
        device=status.device,
        state=_worker_state(status.state),
        load_progress=status.load_progress,
        slots_total=status.slots_total,
        slots_free=status.slots_free,
        kv_tokens_total=status.kv_tokens_total,
        kv_tokens_free=status.kv_tokens_free,
        context_tokens=status.context_tokens,
        deterministic=status.deterministic,
        token_ids=status.token_ids,
        failure=status.failure,
        tokens_per_s=status.tokens_per_s,
        uptime_s=status.uptime_s,
        quantization=status.quantization,
        attached=wire.attached,
        leases=wire.leases,
        pid=wire.pid,
        exit_code=wire.exit_code if wire.HasField("exit_code") else None,
        log_tail=wire.log_tail,
    )


def _worker_state(wire: "engine_service_pb2.WorkerState.ValueType") -> WorkerState:
    states = engine_service_pb2.WorkerState
    name = states.Name(wire) if wire in states.values() else ""
    word = name.removeprefix("WORKER_STATE_")
    return WorkerState(word) if word in set(WorkerState) else WorkerState.UNKNOWN


def model(wire: fleet_service_pb2.FleetModel) -> Model:
    """Return one model."""
    return Model(
        model=wire.model,
        pool_ids=tuple(wire.pool_ids),
        workers_ready=wire.workers_ready,
        workers_starting=wire.workers_starting,
        jobs_queued=wire.jobs_queued,
        size_bytes=wire.size_bytes,
        quantization=wire.quantization,
        context_tokens=wire.context_tokens,
    )


def tenants(wire: fleet_service_pb2.ListTenantsResponse) -> tuple[Tenant, ...]:
    """Return the tenants."""
    return tuple(_tenant(one, enforced=wire.enforced) for one in wire.tenants)


def _tenant(wire: fleet_service_pb2.Tenant, *, enforced: bool) -> Tenant:
    quota = wire.quota
    return Tenant(
        tenant_id=wire.tenant_id,
        quota=Quota(
            concurrent_jobs=quota.concurrent_jobs if quota.HasField("concurrent_jobs") else None,
            vram_bytes=quota.vram_bytes if quota.HasField("vram_bytes") else None,
            tokens_per_minute=quota.tokens_per_minute
            if quota.HasField("tokens_per_minute")
            else None,
            requests_per_second=quota.requests_per_second
            if quota.HasField("requests_per_second")
            else None,
            session_tokens=quota.session_tokens if quota.HasField("session_tokens") else None,
            session_cost_units=quota.session_cost_units
            if quota.HasField("session_cost_units")
            else None,
        ),
        enforced=enforced,
        jobs_unfinished=wire.jobs_unfinished,
        jobs_running=wire.jobs_running,
        models=tuple(wire.models),
        tokens_total=wire.tokens_total,
        requests_total=wire.requests_total,
        exceeded=dict(wire.exceeded),
    )


def scale_of(scale: Scale) -> fleet_service_pb2.Scale:
    """Return a scale as the wire has it."""
    return fleet_service_pb2.Scale(
        min_workers=scale.min_workers,
        max_workers=scale.max_workers,
        keep_warm_ms=scale.keep_warm_ms,
    )


def model_scale(wire: fleet_service_pb2.ModelScale) -> ModelScale:
    """Return what is wanted of one model."""
    sources, said = fleet_service_pb2.ScaleSource, wire.scale
    name = sources.Name(wire.source) if wire.source in sources.values() else ""
    word = name.removeprefix("SCALE_SOURCE_")
    return ModelScale(
        model=wire.model,
        scale=Scale(
            min_workers=said.min_workers,
            max_workers=said.max_workers if said.HasField("max_workers") else None,
            keep_warm_ms=said.keep_warm_ms if said.HasField("keep_warm_ms") else None,
        ),
        source="" if word == "UNSPECIFIED" else word,
        workers_ready=wire.workers_ready,
        workers_starting=wire.workers_starting,
        jobs_queued=wire.jobs_queued,
    )
