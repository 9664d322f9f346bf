"""What a device reading is, and the port by which it is obtained.

A reading is either complete or a fault. There is nothing between, and no adapter may answer with numbers of an earlier
reading: the queen places nothing on a host whose inventory is faulty, which is safer than placing by guess.
"""

from dataclasses import dataclass
from enum import Enum, unique
from typing import Protocol


@unique
class DeviceKind(Enum):
    """What a device is."""

    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that can hold a model, as it is now.

    Attributes:
        uuid: NVML's UUID, or `cpu`.
        vram_used_bytes: Memory in use by whomever; a running worker's memory is already in it.
        utilization: Share of the last sampling period in which it computed, 0 to 1.
        temperature_c: Degrees Celsius; None where it cannot be read.
        power_w: Watts; None where it cannot be read.
        ecc_errors_uncorrected: Since the driver was loaded; None where there is no ECC.
        compute_capability: Such as `9.0`; empty for a CPU.
    """

    uuid: str
    kind: DeviceKind
    name: str
    index: int
    vram_total_bytes: int
    vram_used_bytes: int
    vram_free_bytes: int
    utilization: float = 0.0
    temperature_c: float | None = None
    power_w: float | None = None
    ecc_errors_uncorrected: int | None = None
    compute_capability: str = ""


@dataclass(frozen=True, slots=True)
class InventoryFault:
    """Why the devices could not be read, in words for an operator."""

    message: str


class DeviceInventory(Protocol):
    """Where device readings come from. `read` may block, so it is called on a thread of its own."""

    @property
    def name(self) -> str:
        """`nvml`, `cpu` or `scripted`."""

    def read(self) -> list[Device] | InventoryFault:
        """Return every device as it is now, or why that is not known. Never raises, never answers from memory."""

    def close(self) -> None:
        """Let go of the driver. Idempotent."""
