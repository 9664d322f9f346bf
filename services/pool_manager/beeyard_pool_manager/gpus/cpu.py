"""The host's processors and main memory as one device, for hosts without a GPU."""

import platform
from pathlib import Path

import psutil

from beeyard_pool_manager.cpu_usage import CpuUsage
from beeyard_pool_manager.gpus.inventory import Device, DeviceKind, InventoryFault

CPU_UUID = "cpu"
_CPUINFO = Path("/proc/cpuinfo")


class CpuInventory:
    """Reports one device of kind cpu; its memory is the host's main memory."""

    def __init__(self) -> None:
        self._product = _product_name()
        self._usage = CpuUsage()

    @property
    def name(self) -> str:
        """The name by which snapshots call this source."""
        return "cpu"

    def read(self) -> list[Device] | InventoryFault:
        """Return the CPU as it is now. Free memory is what a new process could get without swapping."""
        try:
            memory = psutil.virtual_memory()
            utilization = self._usage.since_last()
        except (OSError, psutil.Error) as error:
            return InventoryFault(f"the host's memory cannot be read: {error}")
        return [
            Device(
                uuid=CPU_UUID,
                kind=DeviceKind.CPU,
                name=self._product,
                index=0,
                vram_total_bytes=memory.total,
                vram_used_bytes=memory.total - memory.available,
                vram_free_bytes=memory.available,
                utilization=utilization,
            )
        ]

    def close(self) -> None:
        """Nothing is held."""


def _product_name() -> str:
    try:
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux; the generic name below says enough
    return platform.processor() or platform.machine() or "cpu"
