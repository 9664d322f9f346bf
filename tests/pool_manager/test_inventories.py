"""Device readings: complete or a fault, never stale, never a crash."""

import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from beeyard_pool_manager.gpus.choose import choose_inventory
from beeyard_pool_manager.gpus.cpu import CpuInventory
from beeyard_pool_manager.gpus.inventory import Device, DeviceInventory, DeviceKind, InventoryFault
from beeyard_pool_manager.gpus.nvml import NvmlInventory
from beeyard_pool_manager.gpus.reader import InventoryReader
from beeyard_pool_manager.gpus.scripted import ScriptedInventory

GIB = 1 << 30
NOT_SUPPORTED, LIBRARY_NOT_FOUND, GPU_IS_LOST, DRIVER_NOT_LOADED = 3, 12, 15, 9


class FakeNvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


@dataclass(frozen=True)
class FakeMemory:
    total: int
    used: int
    free: int


@dataclass(frozen=True)
class FakeRates:
    gpu: int


@dataclass(frozen=True)
class FakeGpu:
    """One GPU as NVML would tell it; a reading that is an int error code is refused with that code."""

    uuid: str
    name: str | bytes = "NVIDIA Test"
    memory: FakeMemory = field(default_factory=lambda: FakeMemory(80 * GIB, 30 * GIB, 50 * GIB))
    refused: dict[str, int] = field(default_factory=dict)


@dataclass
class FakeNvml:
    """Shaped like the `pynvml` module; its calls fail outside of init and shutdown, as the real ones do."""

    gpus: list[FakeGpu] = field(default_factory=list)
    init_error: int = 0
    count_error: int = 0
    is_open: bool = False
    inits: int = 0
    NVMLError: type[Exception] = FakeNvmlError

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error:
            raise FakeNvmlError(self.init_error)
        self.is_open, self.inits = True, self.inits + 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if not self.is_open or self.count_error:
            raise FakeNvmlError(self.count_error or 1)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object:  # noqa: N802
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: object, /) -> str:  # noqa: N802
        return self._gpu(handle, "uuid").uuid

    def nvmlDeviceGetName(self, handle: object, /) -> str | bytes:  # noqa: N802
        return self._gpu(handle, "name").name

    def nvmlDeviceGetMemoryInfo(self, handle: object, /) -> FakeMemory:  # noqa: N802
        return self._gpu(handle, "memory").memory

    def nvmlDeviceGetUtilizationRates(self, handle: object, /) -> FakeRates:  # noqa: N802
        self._gpu(handle, "utilization")
        return FakeRates(25)

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int, /) -> int:  # noqa: N802
        self._gpu(handle, "temperature")
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: object, /) -> int:  # noqa: N802
        self._gpu(handle, "power")
        return 312_500

    def nvmlDeviceGetTotalEccErrors(self, handle: object, error: int, counter: int, /) -> int:  # noqa: N802
        self._gpu(handle, "ecc")
        return 2

    def nvmlDeviceGetCudaComputeCapability(self, handle: object, /) -> tuple[int, int]:  # noqa: N802
        self._gpu(handle, "capability")
        return (9, 0)

    def _gpu(self, handle: object, reading: str) -> FakeGpu:
        assert isinstance(handle, FakeGpu)
        if reading in handle.refused:
            raise FakeNvmlError(handle.refused[reading])
        return handle


def devices_of(inventory: DeviceInventory) -> list[Device]:
    reading = inventory.read()
    assert not isinstance(reading, InventoryFault), reading
    return reading


def test_nvml_tells_everything_of_a_gpu() -> None:
    assert devices_of(NvmlInventory(FakeNvml([FakeGpu("GPU-a", name=b"H200")]))) == [
        Device(
            uuid="GPU-a",
            kind=DeviceKind.GPU,
            name="H200",
            index=0,
            vram_total_bytes=80 * GIB,
            vram_used_bytes=30 * GIB,
            vram_free_bytes=50 * GIB,
            utilization=0.25,
            temperature_c=61.0,
            power_w=312.5,
            ecc_errors_uncorrected=2,
            compute_capability="9.0",
        )
    ]


def test_a_reading_that_a_gpu_does_not_have_is_unset_and_no_failure() -> None:
    names = ("temperature", "power", "ecc", "capability", "utilization")
    poor = FakeGpu("GPU-a", refused=dict.fromkeys(names, NOT_SUPPORTED))
    (device,) = devices_of(NvmlInventory(FakeNvml([poor])))
    assert device.temperature_c is None
    assert device.power_w is None
    assert device.ecc_errors_uncorrected is None
    assert (device.compute_capability, device.utilization) == ("", 0.0)
    assert device.vram_free_bytes == 50 * GIB


@pytest.mark.parametrize("reading", ["temperature", "memory", "name"])
def test_a_lost_gpu_makes_the_whole_reading_a_fault(reading: str) -> None:
    nvml = FakeNvml([FakeGpu("GPU-a"), FakeGpu("GPU-b", refused={reading: GPU_IS_LOST})])
    assert NvmlInventory(nvml).read() == InventoryFault("NVML: error 15")


def test_nvml_recovers_by_itself_once_the_driver_is_back() -> None:
    nvml = FakeNvml([FakeGpu("GPU-a")])
    inventory = NvmlInventory(nvml)
    assert len(devices_of(inventory)) == 1
    nvml.count_error, nvml.init_error = GPU_IS_LOST, DRIVER_NOT_LOADED
    assert isinstance(inventory.read(), InventoryFault)
    assert not nvml.is_open
    assert inventory.read() == InventoryFault("NVML: error 9")
    nvml.count_error = nvml.init_error = 0
    nvml.gpus[0] = replace(nvml.gpus[0], memory=FakeMemory(80 * GIB, 0, 80 * GIB))
    (device,) = devices_of(inventory)
    assert device.vram_free_bytes == 80 * GIB
    assert nvml.inits == 2
    inventory.close()
    assert not nvml.is_open


@pytest.mark.parametrize(
    ("choice", "init_error", "name"),
    [
        ("auto", 0, "nvml"),
        ("auto", DRIVER_NOT_LOADED, "nvml"),
        ("auto", LIBRARY_NOT_FOUND, "cpu"),
        ("nvml", LIBRARY_NOT_FOUND, "nvml"),
        ("cpu", 0, "cpu"),
        ("fleet.json", 0, "scripted"),
    ],
)
def test_the_source_of_readings_is_chosen(choice: str, init_error: int, name: str) -> None:
    nvml = FakeNvml(init_error=init_error)
    assert choose_inventory(choice, library=nvml).name == name
    assert not nvml.is_open


def test_without_a_driver_the_real_library_says_so() -> None:
    inventory = choose_inventory("nvml")
    reading = inventory.read()
    assert isinstance(reading, InventoryFault) or all(d.kind is DeviceKind.GPU for d in reading)
    inventory.close()


def test_the_cpu_is_one_device_with_the_main_memory() -> None:
    (device,) = devices_of(CpuInventory())
    assert (device.uuid, device.kind, device.index) == ("cpu", DeviceKind.CPU, 0)
    assert 0 < device.vram_free_bytes <= device.vram_total_bytes
    assert device.vram_used_bytes + device.vram_free_bytes == device.vram_total_bytes
    assert 0 <= device.utilization <= 1
    assert device.name


def test_a_scripted_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    inventory = ScriptedInventory(path)
    assert isinstance(inventory.read(), InventoryFault)
    path.write_text(json.dumps({"devices": [{"uuid": "GPU-0", "vram_total_bytes": 8 * GIB}]}))
    (device,) = devices_of(inventory)
    assert (device.kind, device.vram_free_bytes) == (DeviceKind.GPU, 8 * GIB)
    path.write_text(json.dumps({"fault": "the driver is on strike"}))
    assert inventory.read() == InventoryFault("the driver is on strike")
    path.unlink()
    assert isinstance(inventory.read(), InventoryFault)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "file"),
        ("[]", "file"),
        ('{"devices": [{"uuid": "GPU-0"}]}', "devices.0.vram_total_bytes"),
        ('{"devices": [{"uuid": "", "vram_total_bytes": 1}]}', "devices.0.uuid"),
        ('{"devices": [{"uuid": "a", "vram_total_bytes": -1}]}', "devices.0.vram_total_bytes"),
        ('{"devices": [{"uuid": "a", "vram_total_bytes": 1, "vram": 2}]}', "devices.0.vram"),
    ],
)
def test_a_bad_scripted_file_is_a_fault_that_says_where(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "fleet.json"
    path.write_text(text)
    reading = ScriptedInventory(path).read()
    assert isinstance(reading, InventoryFault)
    assert said in reading.message


class HangingInventory:
    """Reads for as long as the test likes."""

    name = "hanging"

    def __init__(self) -> None:
        self.release = threading.Event()
        self.reads = 0

    def read(self) -> list[Device] | InventoryFault:
        self.reads += 1
        self.release.wait(20)
        return []

    def close(self) -> None:
        raise AssertionError("a hanging driver must be left alone")


async def test_a_driver_that_hangs_is_a_fault_and_is_asked_once() -> None:
    inventory = HangingInventory()
    reader = InventoryReader(inventory, timeout_ms=20)
    assert isinstance(await reader.read(), InventoryFault)
    assert isinstance(await reader.read(), InventoryFault)
    reader.close()
    assert inventory.reads == 1
    inventory.release.set()
    assert await InventoryReader(inventory, timeout_ms=5_000).read() == []


class RaisingInventory(HangingInventory):
    def read(self) -> list[Device] | InventoryFault:
        raise RuntimeError("binding mismatch")


async def test_a_driver_binding_that_breaks_is_a_fault() -> None:
    reading = await InventoryReader(RaisingInventory()).read()
    assert reading == InventoryFault("the inventory failed: RuntimeError: binding mismatch")
