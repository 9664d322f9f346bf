"""Chooses where device readings come from: `auto`, `nvml`, `cpu`, or a scripted file."""

from pathlib import Path
from typing import cast

import pynvml

from beeyard_pool_manager.gpus.cpu import CpuInventory
from beeyard_pool_manager.gpus.inventory import DeviceInventory
from beeyard_pool_manager.gpus.nvml import NvmlInventory, NvmlLibrary, has_driver
from beeyard_pool_manager.gpus.scripted import ScriptedInventory


def choose_inventory(choice: str, *, library: NvmlLibrary | None = None) -> DeviceInventory:
    """Return the source of device readings that an operator named.

    Args:
        choice: `auto` (NVML where the driver's library is there, otherwise the CPU), `nvml`, `cpu`, or the path of a
            scripted inventory file.
        library: The NVML library; None: the `pynvml` module.
    """
    nvml = cast("NvmlLibrary", pynvml) if library is None else library
    match choice:
        case "nvml":
            return NvmlInventory(nvml)
        case "cpu":
            return CpuInventory()
        case "auto":
            return NvmlInventory(nvml) if has_driver(nvml) else CpuInventory()
        case path:
            return ScriptedInventory(Path(path))
