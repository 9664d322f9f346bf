"""Makes a host snapshot out of readings. Pure, and the one file that turns this room's values into wire messages."""

from collections.abc import Iterable
from dataclasses import dataclass

from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core.fleet import WorkerState
from beeyard_core.instant import Instant

from beeyard_pool_manager.catalogue import CatalogueEntry
from beeyard_pool_manager.gpus.inventory import Device, DeviceKind, InventoryFault
from beeyard_pool_manager.host_load import HostLoad
from beeyard_pool_manager.workers.worker_process import WorkerProcess

_KINDS = {
    DeviceKind.GPU: pb.DEVICE_KIND_GPU,
    DeviceKind.CPU: pb.DEVICE_KIND_CPU,
}
_STATES = {
    WorkerState.STARTING: engine_pb.WORKER_STATE_STARTING,
    WorkerState.READY: engine_pb.WORKER_STATE_READY,
    WorkerState.BUSY: engine_pb.WORKER_STATE_BUSY,
    WorkerState.DRAINING: engine_pb.WORKER_STATE_DRAINING,
    WorkerState.FAILED: engine_pb.WORKER_STATE_FAILED,
}
assert set(_KINDS) == set(DeviceKind)
assert set(_STATES) == set(WorkerState)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostIdentity:
    """Which host this is.

    Attributes:
        address: HOST:PORT of the PoolManagerService.
        inventory: Where device readings come from.
        incarnation: Drawn anew at each start of the process.
        cost_per_token: What a generated token costs here; 0: nothing said.
        place: Degrees north and east; None: nobody knows.
        capability: What it is good for; empty: nothing special.
    """

    pool_id: str
    address: str
    inventory: str
    incarnation: str
    cost_per_token: float = 0.0
    place: tuple[float, float] | None = None
    capability: str = ""


def make_snapshot(
    identity: HostIdentity,
    *,
    sequence: int,
    now: Instant,
    devices: list[Device] | InventoryFault,
    load: HostLoad,
    workers: Iterable[WorkerProcess],
    models: Iterable[CatalogueEntry],
) -> pb.HostSnapshot:
    """Return the host as it is, every list in a fixed order. With an inventory fault no device is listed."""
    listed, fault = ([], devices.message) if isinstance(devices, InventoryFault) else (devices, "")
    snapshot = pb.HostSnapshot(
        pool_id=identity.pool_id,
        sequence=sequence,
        devices=[_device(each) for each in sorted(listed, key=lambda d: (d.index, d.uuid))],
        load=pb.HostLoad(
            cpu_count=load.cpu_count,
            cpu_utilization=load.cpu_utilization,
            load_average_1m=load.load_average_1m,
            memory_total_bytes=load.memory_total_bytes,
            memory_available_bytes=load.memory_available_bytes,
        ),
        workers=[worker_message(each) for each in sorted(workers, key=lambda w: w.spec.worker_id)],
        models=[_model(each) for each in sorted(models, key=lambda m: m.model)],
        address=identity.address,
        inventory=identity.inventory,
        inventory_fault=fault,
        incarnation=identity.incarnation,
        traits=_traits(identity),
    )
    snapshot.snapshot_time.FromMilliseconds(now.wall_ms)
    return snapshot


def worker_message(worker: WorkerProcess) -> pb.WorkerProcess:
    """Return one worker process as the wire has it."""
    spec = worker.spec
    message = pb.WorkerProcess(
        worker_id=spec.worker_id,
        model=spec.model,
        engine=spec.engine,
        device=spec.device,
        state=_STATES[worker.state],
        pid=worker.pid,
        address=worker.address,
        load_progress=worker.load_progress,
        memory_bytes=worker.memory_bytes,
        reserved_bytes=0 if worker.has_exited else spec.reserved_bytes,
        exit_code=worker.exit_code,
        failure=worker.failure,
        log_tail=worker.log_tail,
        adopted=worker.adopted,
        was_killed=worker.was_killed,
        by_hand=spec.by_hand,
    )
    if worker.start_wall_ms:
        message.start_time.FromMilliseconds(worker.start_wall_ms)
    return message


def _traits(identity: HostIdentity) -> pb.HostTraits:
    traits = pb.HostTraits(cost_per_token=identity.cost_per_token, capability=identity.capability)
    if identity.place is not None:
        traits.latitude, traits.longitude = identity.place
    return traits


def _device(device: Device) -> pb.Device:
    return pb.Device(
        uuid=device.uuid,
        kind=_KINDS[device.kind],
        name=device.name,
        index=device.index,
        vram_total_bytes=device.vram_total_bytes,
        vram_used_bytes=device.vram_used_bytes,
        vram_free_bytes=device.vram_free_bytes,
        utilization=device.utilization,
        temperature_c=device.temperature_c,
        power_w=device.power_w,
        ecc_errors_uncorrected=device.ecc_errors_uncorrected,
        compute_capability=device.compute_capability,
    )


def _model(entry: CatalogueEntry) -> pb.CachedModel:
    return pb.CachedModel(
        model=entry.model,
        size_bytes=entry.size_bytes,
        quantization=entry.quantization,
        context_tokens=entry.context_tokens,
        architecture=entry.architecture,
        engine=entry.engine,
        required_bytes=entry.required_bytes,
        worker_context_tokens=entry.worker_context_tokens,
        fault=entry.fault,
    )
