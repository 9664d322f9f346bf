"""The host's processors and memory, as the busy rating needs them."""

from dataclasses import dataclass

import psutil

from beeyard_pool_manager.cpu_usage import CpuUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """Processors and memory at one moment.

    Attributes:
        cpu_utilization: Share of all processors in use since the last reading, 0 to 1.
        load_average_1m: Load average over one minute, as the system reports it.
        memory_available_bytes: What a new process could get without swapping.
    """

    cpu_count: int
    cpu_utilization: float
    load_average_1m: float
    memory_total_bytes: int
    memory_available_bytes: int


def read_host_load(usage: CpuUsage) -> HostLoad:
    """Return the load now; the utilisation is that since the last look of `usage`."""
    memory = psutil.virtual_memory()
    return HostLoad(
        cpu_count=psutil.cpu_count() or 1,
        cpu_utilization=usage.since_last(),
        load_average_1m=psutil.getloadavg()[0],
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
    )
