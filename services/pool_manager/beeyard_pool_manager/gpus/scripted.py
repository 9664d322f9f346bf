"""Devices out of a JSON file, for tests, simulations and demos of hosts that one does not have.

The file is read again whenever it changes, so a test can take a GPU away or break the inventory while everything
runs: `{"devices": [{"uuid": "GPU-0", "kind": "gpu", "vram_total_bytes": 8589934592, ...}], "fault": ""}`. What workers
use is not counted into it; the file is the whole truth.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from beeyard_pool_manager.gpus.inventory import Device, DeviceKind, InventoryFault

_FILE_BYTES_MAX = 1 << 20
_Bytes = Annotated[int, Field(ge=0, lt=2**63)]


class _ScriptedDevice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    uuid: Annotated[str, Field(min_length=1, max_length=128)]
    kind: DeviceKind = DeviceKind.GPU
    name: str = "scripted device"
    index: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    vram_total_bytes: _Bytes
    vram_used_bytes: _Bytes = 0
    vram_free_bytes: _Bytes | None = None
    utilization: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature_c: float | None = None
    power_w: float | None = None
    ecc_errors_uncorrected: _Bytes | None = None
    compute_capability: str = ""

    def to_device(self, position: int) -> Device:
        free = self.vram_free_bytes
        if free is None:
            free = max(0, self.vram_total_bytes - self.vram_used_bytes)
        return Device(
            uuid=self.uuid,
            kind=self.kind,
            name=self.name,
            index=position if self.index is None else self.index,
            vram_total_bytes=self.vram_total_bytes,
            vram_used_bytes=self.vram_used_bytes,
            vram_free_bytes=free,
            utilization=self.utilization,
            temperature_c=self.temperature_c,
            power_w=self.power_w,
            ecc_errors_uncorrected=self.ecc_errors_uncorrected,
            compute_capability=self.compute_capability,
        )


class _Script(BaseModel):
    model_config = ConfigDict(extra="forbid")

    devices: Annotated[list[_ScriptedDevice], Field(max_length=1_024)] = []
    fault: str = ""


class ScriptedInventory:
    """Reports what a JSON file says.

    Args:
        path: The file; it may be missing or broken for a while, which is a fault and not an error.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._reading: list[Device] | InventoryFault = []

    @property
    def name(self) -> str:
        """The name by which snapshots call this source."""
        return "scripted"

    def read(self) -> list[Device] | InventoryFault:
        """Return the devices of the file as it is now, or why it cannot be used."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                self._reading = self._parse(found.st_size)
                self._stamp = stamp
        except OSError as error:
            self._stamp = None
            return InventoryFault(f"the scripted inventory cannot be read: {error.strerror}")
        if isinstance(self._reading, InventoryFault):
            return self._reading
        return list(self._reading)

    def close(self) -> None:
        """Nothing is held."""

    def _parse(self, size_bytes: int) -> list[Device] | InventoryFault:
        if size_bytes > _FILE_BYTES_MAX:
            return InventoryFault(f"the scripted inventory is larger than {_FILE_BYTES_MAX} bytes")
        try:
            script = _Script.model_validate_json(self._path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "file"
            return InventoryFault(f"the scripted inventory is invalid: {where}: {first['msg']}")
        if script.fault:
            return InventoryFault(script.fault)
        return [device.to_device(position) for position, device in enumerate(script.devices)]
