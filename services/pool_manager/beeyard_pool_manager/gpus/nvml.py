"""GPU readings by NVML, NVIDIA's management library.

NVML answers each question by itself and may refuse any of them: a laptop GPU has no ECC, a passively cooled one no
power reading, a virtual one no temperature. Such a refusal leaves that one reading unset. Everything else that goes
wrong (the driver was unloaded or updated under us, a GPU fell off the bus) makes the whole reading a fault, and the
library is initialised anew at the next one, so that a repaired driver is found without a restart.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from beeyard_pool_manager.gpus.inventory import Device, DeviceKind, InventoryFault

# The handle is an opaque C pointer; only the library looks inside.
Handle = object
T = TypeVar("T")

LIBRARY_NOT_FOUND = 12
# What NVML answers when a GPU, a driver or this user has no such reading: not supported, no permission, no such
# function in this driver, no sample yet, no ECC on a virtual GPU.
READING_REFUSED = frozenset({3, 4, 13, 21, 22})
_TEMPERATURE_GPU = 0
_ERROR_UNCORRECTED = 1
_ECC_SINCE_DRIVER_LOAD = 0


class MemoryReading(Protocol):
    """NVML's memory structure, in bytes."""

    @property
    def total(self) -> int:
        """All memory."""

    @property
    def used(self) -> int:
        """Memory in use, the driver's own included."""

    @property
    def free(self) -> int:
        """Memory that can be allocated."""


class UtilizationReading(Protocol):
    """NVML's utilisation structure, in percent."""

    @property
    def gpu(self) -> int:
        """Share of the last sampling period in which a kernel ran."""


class NvmlLibrary(Protocol):
    """The part of the `pynvml` module that is used here, under its names, so that the module itself satisfies it."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: D102, N802 - pynvml's own name
    def nvmlInit(self) -> None: ...  # noqa: D102, N802
    def nvmlShutdown(self) -> None: ...  # noqa: D102, N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Handle: ...  # noqa: D102, N802
    def nvmlDeviceGetUUID(self, handle: Handle, /) -> str | bytes: ...  # noqa: D102, N802
    def nvmlDeviceGetName(self, handle: Handle, /) -> str | bytes: ...  # noqa: D102, N802
    def nvmlDeviceGetMemoryInfo(self, handle: Handle, /) -> MemoryReading: ...  # noqa: D102, N802
    def nvmlDeviceGetUtilizationRates(self, handle: Handle, /) -> UtilizationReading: ...  # noqa: D102, N802
    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int, /) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetPowerUsage(self, handle: Handle, /) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetTotalEccErrors(self, handle: Handle, error: int, counter: int, /) -> int: ...  # noqa: D102, N802
    def nvmlDeviceGetCudaComputeCapability(self, handle: Handle, /) -> tuple[int, int]: ...  # noqa: D102, N802


class NvmlInventory:
    """Reads every GPU that NVML lists.

    Args:
        library: The `pynvml` module, or an object of its shape.
    """

    def __init__(self, library: NvmlLibrary) -> None:
        self._library = library
        self._is_open = False

    @property
    def name(self) -> str:
        """The name by which snapshots call this source."""
        return "nvml"

    def read(self) -> list[Device] | InventoryFault:
        """Return every GPU as it is now, or a fault; after a fault the library is initialised anew."""
        try:
            if not self._is_open:
                self._library.nvmlInit()
                self._is_open = True
            count = self._library.nvmlDeviceGetCount()
            return [self._read_device(index) for index in range(count)]
        except self._library.NVMLError as error:
            self.close()
            return InventoryFault(f"NVML: {error}")

    def close(self) -> None:
        """Let go of the driver. Idempotent; a driver that is gone already is no error."""
        if self._is_open:
            self._is_open = False
            with suppress(self._library.NVMLError):
                self._library.nvmlShutdown()

    def _read_device(self, index: int) -> Device:
        nvml = self._library
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        utilization = self._optional(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        power_mw = self._optional(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        capability = self._optional(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
        return Device(
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            kind=DeviceKind.GPU,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            index=index,
            vram_total_bytes=int(memory.total),
            vram_used_bytes=int(memory.used),
            vram_free_bytes=int(memory.free),
            # A GPU split by MIG reports no utilisation of the whole; 0 is what the wire has for that.
            utilization=(utilization or 0) / 100,
            temperature_c=self._optional(
                lambda: float(nvml.nvmlDeviceGetTemperature(handle, _TEMPERATURE_GPU))
            ),
            power_w=None if power_mw is None else power_mw / 1_000,
            ecc_errors_uncorrected=self._optional(
                lambda: int(
                    nvml.nvmlDeviceGetTotalEccErrors(
                        handle, _ERROR_UNCORRECTED, _ECC_SINCE_DRIVER_LOAD
                    )
                )
            ),
            compute_capability="" if capability is None else f"{capability[0]}.{capability[1]}",
        )

    def _optional(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except self._library.NVMLError as error:
            if getattr(error, "value", None) in READING_REFUSED:
                return None
            raise


def has_driver(library: NvmlLibrary) -> bool:
    """Tell whether the driver's library is on this host, even if the driver does not answer at the moment."""
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return getattr(error, "value", None) != LIBRARY_NOT_FOUND
    with suppress(library.NVMLError):
        library.nvmlShutdown()
    return True


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
