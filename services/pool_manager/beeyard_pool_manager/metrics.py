"""A host's figures for Prometheus, read off each snapshot that is taken of it."""

from collections import Counter
from typing import Final

from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_runtime.metrics import Family, Figures, Sampled

_PLACE: Final = ("pool_id", "device")
GPU_UTILIZATION: Final = Family(
    "gpu_utilization", "Share of the last period in which a device computed, 0 to 1.", _PLACE
)
VRAM_USED: Final = Family("vram_used_bytes", "Memory of a device in use by whomever.", _PLACE)
VRAM_TOTAL: Final = Family("vram_total_bytes", "Memory of a device.", _PLACE)
READABLE: Final = Family("inventory_readable", "Whether devices can be read, 0 or 1.", ("pool_id",))
CPU: Final = Family("host_cpu_ratio", "Share of the host's CPUs in use, 0 to 1.", ("pool_id",))
MEMORY: Final = Family("host_memory_available_bytes", "Memory for new processes.", ("pool_id",))
WORKERS: Final = Family(
    "model_state", "Worker processes of a model in a state.", ("pool_id", "model_id", "state")
)
_STATE_PREFIX: Final = "WORKER_STATE_"


class HostMetrics:
    """What a pool manager shows of its host."""

    def __init__(self, figures: Figures) -> None:
        """Begin without a reading."""
        self._sampled = Sampled(figures)

    def take(self, snapshot: pb.HostSnapshot) -> None:
        """Replace what a scrape finds by a snapshot. Without readable devices there are no figures of them."""
        pool_id = snapshot.pool_id
        states = Counter((pool_id, each.model, _state_of(each)) for each in snapshot.workers)
        devices = [((pool_id, _name_of(each)), each) for each in snapshot.devices]
        load = snapshot.load
        self._sampled.replace(
            {
                GPU_UTILIZATION: [
                    (place, each.utilization)
                    for place, each in devices
                    if each.kind == pb.DEVICE_KIND_GPU
                ],
                VRAM_USED: [(place, float(each.vram_used_bytes)) for place, each in devices],
                VRAM_TOTAL: [(place, float(each.vram_total_bytes)) for place, each in devices],
                READABLE: [((pool_id,), float(not snapshot.inventory_fault))],
                CPU: [((pool_id,), load.cpu_utilization)],
                MEMORY: [((pool_id,), float(load.memory_available_bytes))],
                WORKERS: [(key, float(count)) for key, count in states.items()],
            }
        )


def _name_of(device: pb.Device) -> str:
    return "cpu" if device.kind == pb.DEVICE_KIND_CPU else f"gpu{device.index}"


def _state_of(worker: pb.WorkerProcess) -> str:
    return engine_pb.WorkerState.Name(worker.state).removeprefix(_STATE_PREFIX).lower()
