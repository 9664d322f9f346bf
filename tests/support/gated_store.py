"""A store in memory whose commits wait at a gate, so that a test can look at what happens meanwhile."""

import asyncio

from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import Batch, StoreUnavailable

from tests.support.eventually import eventually


class GatedStore(MemoryStore):
    """Lets every commit pass until the gate is shut."""

    def __init__(self) -> None:
        """Start with the gate open."""
        super().__init__()
        self._gate: asyncio.Future[None] | None = None
        self._waiting = 0

    def shut(self) -> None:
        """Let no commit pass from now on."""
        self._gate = asyncio.get_running_loop().create_future()

    def pass_all(self) -> None:
        """Open the gate, if it is shut."""
        if self._gate is not None:
            self._gate.set_result(None)
            self._gate = None

    def fail_all(self) -> None:
        """Fail whoever waits at the gate, and open it."""
        assert self._gate is not None, "the gate is shut"
        self._gate.set_exception(StoreUnavailable("the disk is full, as the test wants it"))
        self._gate = None

    async def somebody_waits(self) -> None:
        """Return once a commit waits at the gate."""
        await eventually(lambda: self._waiting, "a commit waits at the gate")

    async def commit(self, batch: Batch) -> None:
        """Wait at the gate, then keep the whole batch or nothing of it."""
        if self._gate is not None:
            self._waiting += 1
            try:
                await self._gate
            finally:
                self._waiting -= 1
        await super().commit(batch)
