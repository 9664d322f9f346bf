"""From the messages of the host stream to the core's values."""

from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core import limits
from beeyard_core.fleet import (
    CachedModel,
    Device,
    HostLoad,
    PoolReport,
    ProcessReport,
    Traits,
    WorkerState,
)
from beeyard_core.ids import ModelName, PoolId, WorkerId

from beeyard_queen.ingress.worker_wire import WORKER_STATES

_KINDS = {pb.DEVICE_KIND_GPU: "gpu", pb.DEVICE_KIND_CPU: "cpu"}


def capability_of(text: str) -> tuple[int, int] | None:
    """Return a compute capability such as `8.6` as (8, 6); None if the text is none."""
    major, _, minor = text.partition(".")
    if major.isdecimal() and (minor.isdecimal() or not minor):
        return int(major), int(minor or 0)
    return None


def pool_report_of(snapshot: pb.HostSnapshot) -> PoolReport:
    """Return what decisions need of a host's snapshot."""
    return PoolReport(
        pool_id=PoolId(snapshot.pool_id),
        incarnation=snapshot.incarnation,
        devices=tuple(_device_of(device) for device in snapshot.devices),
        models=tuple(_model_of(model) for model in snapshot.models),
        processes=tuple(_process_of(process) for process in snapshot.workers),
        inventory_fault=snapshot.inventory_fault,
        traits=_traits_of(snapshot.traits),
        load=_load_of(snapshot.load) if snapshot.HasField("load") else None,
    )


def _load_of(load: pb.HostLoad) -> HostLoad:
    """Return processors and memory in percent; what a host cannot have, it did not say."""
    total = load.memory_total_bytes
    used = total - load.memory_available_bytes
    return HostLoad(
        cpu_percent=100.0 * load.cpu_utilization if load.cpu_count > 0 else None,
        memory_percent=100.0 * used / total if total > 0 else None,
    )


def _traits_of(traits: pb.HostTraits) -> Traits:
    has_place = traits.HasField("latitude") and traits.HasField("longitude")
    return Traits(
        cost_per_token=max(0.0, traits.cost_per_token),
        latitude=traits.latitude if has_place else None,
        longitude=traits.longitude if has_place else None,
        capability=traits.capability[: limits.LABEL_BYTES_MAX],
    )


def _device_of(device: pb.Device) -> Device:
    return Device(
        uuid=device.uuid,
        kind=_KINDS.get(device.kind, ""),
        name=device.name,
        vram_total_bytes=max(0, device.vram_total_bytes),
        vram_free_bytes=max(0, device.vram_free_bytes),
        compute_capability=capability_of(device.compute_capability),
        utilization=device.utilization,
        temperature_c=device.temperature_c,
        power_w=device.power_w,
    )


def _model_of(model: pb.CachedModel) -> CachedModel:
    return CachedModel(
        model=ModelName(model.model),
        engine=model.engine,
        required_bytes=max(0, model.required_bytes),
        quantization=model.quantization,
        # An older pool manager says only what the model was trained for.
        context_tokens=max(0, model.worker_context_tokens or model.context_tokens),
        size_bytes=max(0, model.size_bytes),
        architecture=model.architecture,
        fault=model.fault,
    )


def _process_of(process: pb.WorkerProcess) -> ProcessReport:
    state = WORKER_STATES.get(process.state, WorkerState.STARTING)
    return ProcessReport(
        worker_id=WorkerId(process.worker_id),
        model=ModelName(process.model),
        state=state,
        load_progress=process.load_progress,
        reserved_bytes=max(0, process.reserved_bytes),
        device=process.device,
        exited=process.HasField("exit_code") or process.state == engine_pb.WORKER_STATE_FAILED,
        was_killed=process.was_killed,
        failure=process.failure,
        by_hand=process.by_hand,
    )
