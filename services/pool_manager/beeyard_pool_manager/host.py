"""Takes snapshots of this host, and lets readers wait for the next change."""

import asyncio
import dataclasses

from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard_runtime.clock import Clock

from beeyard_pool_manager.catalogue import Catalogue
from beeyard_pool_manager.cpu_usage import CpuUsage
from beeyard_pool_manager.gpus.reader import InventoryReader
from beeyard_pool_manager.host_load import read_host_load
from beeyard_pool_manager.metrics import HostMetrics
from beeyard_pool_manager.snapshot import HostIdentity, make_snapshot
from beeyard_pool_manager.workers.supervisor import Supervisor


class Changes:
    """Counts changes, so that any number of readers can each wait for one that they have not seen."""

    def __init__(self) -> None:
        self._count = 0
        self._next = asyncio.Event()

    @property
    def count(self) -> int:
        """How many changes there were."""
        return self._count

    def mark(self) -> None:
        """Note a change and wake every reader."""
        self._count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def wait_beyond(self, seen: int, *, timeout_ms: int) -> None:
        """Return once there were more than `seen` changes, or after `timeout_ms` milliseconds."""
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                while self._count <= seen:
                    await self._next.wait()
        except TimeoutError:
            return


class Host:
    """This host as the outside sees it.

    Args:
        identity: Which host this is.
        inventory: Its devices.
        catalogue: Its models.
        supervisor: Its workers.
        changes: Counts what readers should hear of at once.
        clock: The time.
        metrics: Shown each snapshot.
    """

    def __init__(
        self,
        identity: HostIdentity,
        *,
        inventory: InventoryReader,
        catalogue: Catalogue,
        supervisor: Supervisor,
        changes: Changes,
        clock: Clock,
        metrics: HostMetrics,
    ) -> None:
        self._identity = identity
        self.changes = changes
        self._inventory = inventory
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._clock = clock
        self._metrics = metrics
        self._usage = CpuUsage()
        self._sequence = 0

    def settle(self, address: str) -> None:
        """Note the HOST:PORT of the PoolManagerService, which is known only once it is bound."""
        self._identity = dataclasses.replace(self._identity, address=address)

    async def snapshot(self) -> pb.HostSnapshot:
        """Return the host as it is now."""
        devices = await self._inventory.read()
        self._sequence += 1
        snapshot = make_snapshot(
            self._identity,
            sequence=self._sequence,
            now=self._clock.now(),
            devices=devices,
            load=read_host_load(self._usage),
            workers=self._supervisor.workers(),
            models=self._catalogue.entries(),
        )
        self._metrics.take(snapshot)
        return snapshot
