"""From the core's fleet, and the hosts' last snapshots, to the messages of the fleet service."""

from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core.fleet import Worker, WorkerState
from beeyard_core.ids import PoolId, TenantId, WorkerId
from beeyard_core.quota import Usage
from beeyard_core.state import QueenState

from beeyard_queen.egress.hosts import Hosts
from beeyard_queen.ingress.wire import timestamp_of
from beeyard_queen.ingress.worker_wire import WIRE_WORKER_STATES


def pools_of(state: QueenState, hosts: Hosts, now_ms: int) -> list[pb.Pool]:
    """Return every host that has reported, by id."""
    pools = []
    for pool_id, (snapshot, wall_ms) in sorted(hosts.snapshots.items()):
        pool = state.fleet.pools.get(pool_id)
        pools.append(
            pb.Pool(
                pool_id=pool_id,
                snapshot=snapshot,
                report_time=timestamp_of(wall_ms),
                fresh=pool is not None and pool.is_fresh(now_ms),
            )
        )
    return pools


def workers_of(state: QueenState, hosts: Hosts) -> list[pb.Worker]:
    """Return every worker that is attached or that a host reports, by id."""
    processes: dict[WorkerId, tuple[PoolId, snapshot_pb2.WorkerProcess]] = {
        WorkerId(process.worker_id): (pool_id, process)
        for pool_id, (snapshot, _) in hosts.snapshots.items()
        for process in snapshot.workers
    }
    wires = []
    for worker_id in sorted(processes.keys() | state.fleet.workers.keys()):
        worker = state.fleet.workers.get(worker_id)
        wire = _attached(worker) if worker else _reported(*processes[worker_id])
        if worker_id in processes:
            _add_process(wire, processes[worker_id][1])
        wires.append(wire)
    return wires


def _attached(worker: Worker) -> pb.Worker:
    report = worker.report
    status = engine_pb.EngineStatus(
        worker_id=report.worker_id,
        model=report.model,
        engine=report.engine,
        engine_version=report.engine_version,
        device=report.device,
        state=WIRE_WORKER_STATES[_state_of(worker)],
        load_progress=report.load_progress,
        slots_total=report.slots_total,
        slots_free=worker.slots_free,
        kv_tokens_total=report.kv_tokens_total,
        kv_tokens_free=worker.kv_tokens_free,
        context_tokens=report.context_tokens,
        deterministic=report.deterministic,
        token_ids=report.token_ids,
        failure=report.failure,
        tokens_per_s=report.tokens_per_s,
        uptime_s=report.uptime_s,
        quantization=report.quantization,
    )
    return pb.Worker(
        status=status,
        pool_id=report.pool_id,
        address=report.address,
        attached=worker.session != 0,
        leases=len(worker.leases),
    )


def _state_of(worker: Worker) -> WorkerState:
    """Return the state as operators see it: a worker that the queen drains is draining."""
    ready = worker.report.state in (WorkerState.READY, WorkerState.BUSY)
    return WorkerState.DRAINING if ready and worker.is_drained else worker.report.state


def _reported(pool_id: PoolId, process: snapshot_pb2.WorkerProcess) -> pb.Worker:
    status = engine_pb.EngineStatus(
        worker_id=process.worker_id,
        model=process.model,
        engine=process.engine,
        device=process.device,
        state=process.state,
        load_progress=process.load_progress,
        failure=process.failure,
    )
    return pb.Worker(status=status, pool_id=pool_id, address=process.address)


def _add_process(wire: pb.Worker, process: snapshot_pb2.WorkerProcess) -> None:
    wire.pid = process.pid
    wire.log_tail = process.log_tail
    if process.HasField("exit_code"):
        wire.exit_code = process.exit_code


def models_of(state: QueenState, hosts: Hosts) -> list[pb.FleetModel]:
    """Return every model that was ever offered, with who offers it now, by name."""
    models = {
        name: pb.FleetModel(model=name, jobs_queued=state.queue.waiting_for(name))
        for name in sorted(state.fleet.known_models)
    }
    for pool_id, (snapshot, _) in sorted(hosts.snapshots.items()):
        for cached in snapshot.models:
            model = models.get(cached.model)  # type: ignore[call-overload]
            if model is None:
                continue
            if not cached.fault:
                model.pool_ids.append(pool_id)
            model.size_bytes = cached.size_bytes
            model.quantization = cached.quantization
            model.context_tokens = cached.context_tokens
    for worker in workers_of(state, hosts):
        model = models.get(worker.status.model)  # type: ignore[call-overload]
        if model is None:
            continue
        if worker.status.state in (engine_pb.WORKER_STATE_READY, engine_pb.WORKER_STATE_BUSY):
            model.workers_ready += 1
        elif worker.status.state == engine_pb.WORKER_STATE_STARTING:
            model.workers_starting += 1
    return list(models.values())


def tenants_of(state: QueenState) -> list[pb.Tenant]:
    """Return every tenant that is known or has a quota of its own, by id."""
    known = {*state.quotas.usages, *state.settings.quotas.by_tenant}
    return [_tenant_of(state, tenant_id) for tenant_id in sorted(known)]


def _tenant_of(state: QueenState, tenant_id: TenantId) -> pb.Tenant:
    usage = state.quotas.usages.get(tenant_id) or Usage()
    share = state.tenants.get(tenant_id)
    quota = state.settings.quotas.of(tenant_id)
    return pb.Tenant(
        tenant_id=tenant_id,
        quota=pb.Quota(
            concurrent_jobs=quota.concurrent_jobs,
            vram_bytes=quota.vram_bytes,
            tokens_per_minute=quota.tokens_per_minute,
            requests_per_second=quota.requests_per_second,
            session_tokens=quota.session_tokens,
            session_cost_units=quota.session_cost_units,
        ),
        jobs_unfinished=usage.jobs,
        jobs_running=share.jobs_running if share else 0,
        models=sorted(usage.models),
        tokens_total=usage.tokens_total,
        requests_total=usage.requests_total,
        exceeded={limit.value: count for limit, count in usage.exceeded.items()},
    )
