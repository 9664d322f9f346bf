"""A snapshot says what is, in a fixed order, and leaves unset what is not known."""

from dataclasses import replace

import pytest
from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core.fleet import WorkerState
from beeyard_core.instant import Instant
from beeyard_pool_manager.catalogue import CatalogueEntry
from beeyard_pool_manager.config import PoolManagerSettings
from beeyard_pool_manager.gpus.inventory import Device, DeviceKind, InventoryFault
from beeyard_pool_manager.host_load import HostLoad
from beeyard_pool_manager.snapshot import HostIdentity, make_snapshot
from beeyard_pool_manager.workers.worker_process import WorkerProcess, WorkerSpec
from pydantic import ValidationError

IDENTITY = HostIdentity(pool_id="p", address="h:1", inventory="nvml", incarnation="i")
LOAD = HostLoad(
    cpu_count=2,
    cpu_utilization=0.5,
    load_average_1m=1.5,
    memory_total_bytes=100,
    memory_available_bytes=40,
)


def gpu(uuid: str, index: int, power_w: float | None = None) -> Device:
    return Device(
        uuid=uuid,
        kind=DeviceKind.GPU,
        name="n",
        index=index,
        vram_total_bytes=10,
        vram_used_bytes=4,
        vram_free_bytes=6,
        power_w=power_w,
    )


def worker(worker_id: str, **facts: object) -> WorkerProcess:
    spec = WorkerSpec(
        worker_id=worker_id,
        model="m",
        engine="synthetic",
        source="1",
        device="cpu",
        slots=1,
        context_tokens=1,
        reserved_bytes=7,
    )
    return WorkerProcess(spec=spec, **{"state": WorkerState.READY, **facts})  # type: ignore[arg-type]


def snapshot_of(
    devices: list[Device] | InventoryFault, *workers: WorkerProcess, models: tuple[str, ...] = ()
) -> pb.HostSnapshot:
    return make_snapshot(
        IDENTITY,
        sequence=3,
        now=Instant(1, 1_700_000_000_250),
        devices=devices,
        load=LOAD,
        workers=workers,
        models=[CatalogueEntry(model=each, engine="synthetic", source="1") for each in models],
    )


def test_everything_is_in_a_fixed_order() -> None:
    devices = [gpu("GPU-b", 1), gpu("GPU-a", 0)]
    snapshot = snapshot_of(devices, worker("w2"), worker("w1"), models=("z", "a"))
    assert [each.uuid for each in snapshot.devices] == ["GPU-a", "GPU-b"]
    assert [each.worker_id for each in snapshot.workers] == ["w1", "w2"]
    assert [each.model for each in snapshot.models] == ["a", "z"]
    assert snapshot.snapshot_time.ToMilliseconds() == 1_700_000_000_250
    assert (snapshot.sequence, snapshot.load.load_average_1m) == (3, 1.5)


def test_a_reading_that_does_not_exist_is_unset_and_not_zero() -> None:
    silent, loud = snapshot_of([gpu("GPU-a", 0), gpu("GPU-b", 1, power_w=0.0)]).devices
    assert not silent.HasField("power_w")
    assert loud.HasField("power_w")
    assert not silent.HasField("temperature_c")
    assert not silent.HasField("ecc_errors_uncorrected")


def test_a_faulty_inventory_lists_no_device() -> None:
    snapshot = snapshot_of(InventoryFault("NVML: gone"))
    assert (list(snapshot.devices), snapshot.inventory_fault) == ([], "NVML: gone")


def test_an_exited_worker_has_failed_and_holds_no_memory() -> None:
    (message,) = snapshot_of(
        [], worker("w", state=WorkerState.FAILED, has_exited=True, exit_code=0)
    ).workers
    assert message.state == engine_pb.WORKER_STATE_FAILED
    assert message.HasField("exit_code")
    assert message.reserved_bytes == 0
    (running,) = snapshot_of([], worker("w")).workers
    assert not running.HasField("exit_code")
    assert running.reserved_bytes == 7


def test_what_the_operator_says_of_the_host_is_in_every_snapshot() -> None:
    settings = PoolManagerSettings(cost_per_token=0.25, geo="52.5,13.4", capability="image-gen")
    identity = replace(
        IDENTITY,
        cost_per_token=settings.cost_per_token,
        place=settings.place(),
        capability=settings.capability,
    )
    snapshot = make_snapshot(
        identity, sequence=1, now=Instant(1, 1), devices=[], load=LOAD, workers=[], models=[]
    )
    told = pb.HostTraits(cost_per_token=0.25, latitude=52.5, longitude=13.4, capability="image-gen")
    assert snapshot.traits == told
    assert not snapshot_of([]).traits.HasField("latitude")


@pytest.mark.parametrize("geo", ["Berlin", "52.5", "91,0", "0,181", "1,2,3"])
def test_a_place_that_is_none_is_refused(geo: str) -> None:
    with pytest.raises(ValidationError, match="degrees"):
        PoolManagerSettings(geo=geo)
