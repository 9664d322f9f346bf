"""Chooses the device of a new worker, or says why there is none. Pure.

A running worker's memory is already in what the driver reports as used, so only workers that are still loading count
against the free memory here. A loading worker may count twice for a while, which errs on the safe side.
"""

from collections.abc import Iterable, Mapping

from beeyard_core.refusal import Refusal, Refused

from beeyard_pool_manager.gpus.inventory import Device

_MIB = 1 << 20


def choose_device(
    devices: Iterable[Device],
    *,
    required_bytes: int,
    reserved_bytes: Mapping[str, int],
    wanted_uuid: str = "",
) -> Device | Refused:
    """Return the device with the most free memory that fits; of equal ones the first by UUID.

    Args:
        devices: The devices as they are now.
        required_bytes: What the worker needs; 0 if it needs no device memory.
        reserved_bytes: By UUID, what workers that are still loading will take.
        wanted_uuid: Only this device; empty: any.
    """
    candidates = [device for device in devices if wanted_uuid in {"", device.uuid}]
    if not candidates:
        wanted = f"device {wanted_uuid}" if wanted_uuid else "device"
        return Refused(
            reason=Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK,
            message=f"this host has no {wanted}; GetSnapshot lists its devices",
        )

    def available_bytes(device: Device) -> int:
        return device.vram_free_bytes - reserved_bytes.get(device.uuid, 0)

    best = min(candidates, key=lambda device: (-available_bytes(device), device.uuid))
    best_bytes = max(0, available_bytes(best))
    if required_bytes > best_bytes:
        needed, available = _mib(required_bytes), _mib(best_bytes)
        return Refused(
            reason=Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
            message=f"the model needs {needed} MiB of device memory and at most {available} MiB is free, "
            f"on {best.uuid}; choose a smaller model, fewer slots or a shorter context, or stop another worker",
            metadata={
                "needed_bytes": str(required_bytes),
                "available_bytes": str(best_bytes),
                "device": best.uuid,
            },
        )
    return best


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // _MIB)
