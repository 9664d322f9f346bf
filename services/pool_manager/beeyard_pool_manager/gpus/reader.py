"""Reads an inventory off the event loop, within a deadline.

A driver that hangs must not hang the pool manager: the reading runs on a daemon thread, one at a time, and when it
does not come back in time the answer is a fault. Callers that ask while a reading runs share it, so a flood of
`GetSnapshot` calls does not become a flood of driver calls.
"""

import asyncio
import threading
from typing import Final

from beeyard_core import limits

from beeyard_pool_manager.gpus.inventory import Device, DeviceInventory, InventoryFault

Reading = list[Device] | InventoryFault


class InventoryReader:
    """Bounded, shared readings of one inventory. Belongs to one event loop.

    Args:
        inventory: What is read.
        timeout_ms: How long one caller waits, milliseconds.
    """

    def __init__(
        self, inventory: DeviceInventory, *, timeout_ms: int = limits.INVENTORY_TIMEOUT_MS
    ) -> None:
        self._inventory: Final = inventory
        self._timeout_ms: Final = timeout_ms
        self._running: asyncio.Future[Reading] | None = None

    @property
    def name(self) -> str:
        """Where the readings come from: `nvml`, `cpu` or `scripted`."""
        return self._inventory.name

    async def read(self) -> Reading:
        """Return the devices as they are now, or a fault; comes back within the timeout whatever the driver does."""
        if self._running is None or self._running.done():
            self._running = self._start()
        try:
            async with asyncio.timeout(self._timeout_ms / 1_000):
                return await asyncio.shield(self._running)
        except TimeoutError:
            return InventoryFault(f"the driver has not answered for {self._timeout_ms} ms")

    def close(self) -> None:
        """Let go of the driver, unless it hangs; then the end of the process does."""
        if self._running is None or self._running.done():
            self._inventory.close()

    def _start(self) -> asyncio.Future[Reading]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reading] = loop.create_future()

        def settle(reading: Reading) -> None:
            if not answer.done():
                answer.set_result(reading)

        def read() -> None:
            reading = self._read_now()
            # The loop may have ended while the driver took its time; then nobody waits for the answer.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, reading)

        threading.Thread(target=read, name="inventory", daemon=True).start()
        return answer

    def _read_now(self) -> Reading:
        try:
            return self._inventory.read()
        except Exception as error:  # noqa: BLE001 - a bug of a driver binding must not end the reports; it is told
            return InventoryFault(f"the inventory failed: {type(error).__name__}: {error}")
