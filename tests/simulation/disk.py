"""The queen's disk: what was committed survives a kill, nothing else does; it may be slow, full, or give I/O errors.

The store in memory stands where SQLite stood; both pass one conformance suite. A commit takes time before and after the
moment at which it is durable, so a queen can die with a batch that is on disk and that nobody was told of.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from beeyard_core.history import JobRecord, LeaseRecord
from beeyard_queen.store.history import HistoryFilter, HistoryReader
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import (
    Batch,
    JobFilter,
    JobRow,
    Restored,
    StoreUnavailable,
    TokensRow,
)
from beeyard_queen.store.work import WorkRow

from tests.simulation.event_loop import pass_ms
from tests.simulation.world import Process

_COMMIT_MS = 1.0


@dataclass(eq=False)
class Disk:
    """What is durable, under one queen after another.

    Attributes:
        slow_ms: Added to every commit and read at most.
        is_full: Nothing can be written.
        is_broken: Nothing can be written or read.
    """

    memory: MemoryStore = field(default_factory=MemoryStore)
    slow_ms: int = 0
    is_full: bool = False
    is_broken: bool = False
    on_commit: list[Callable[[Batch], None]] = field(default_factory=list)

    @property
    def jobs(self) -> dict[str, JobRow]:
        """Every job as it is durable."""
        return self.memory._jobs

    @property
    def work(self) -> dict[str, WorkRow]:
        """Every piece of heavy work as it is durable."""
        return self.memory.work._rows

    def tokens_end(self, job_id: str) -> int:
        """Return the index after the last durable token of a job."""
        rows = self.memory._tokens.get(job_id, {})
        return max((row.first_index + row.count for row in rows.values()), default=0)

    def mount(self, process: Process) -> "MountedStore":
        """Return the store as one queen's process has it; it is let go of when that ends."""

        def let_go() -> None:
            self.memory._is_open = False

        process.on_end.append(let_go)
        return MountedStore(self, process)


class MountedHistory:
    """What has ended, on the disk."""

    def __init__(self, memory: HistoryReader, read: Callable[[], Awaitable[None]]) -> None:
        self._memory = memory
        self._read = read

    async def job_records(self, history_filter: HistoryFilter) -> Sequence[JobRecord]:
        await self._read()
        return await self._memory.job_records(history_filter)

    async def lease_records(self, history_filter: HistoryFilter) -> Sequence[LeaseRecord]:
        await self._read()
        return await self._memory.lease_records(history_filter)


class MountedStore:
    """The ports of the store, on the disk."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self.work = disk.memory.work
        self.policies = disk.memory.policies
        self.history = MountedHistory(disk.memory.history, self._read)

    async def _spend(self) -> None:
        chance = self._process.world.chance
        ms = chance.random() * _COMMIT_MS
        if self._disk.slow_ms:
            ms += chance.randrange(self._disk.slow_ms)
        await pass_ms(ms)
        if not self._process.is_alive:
            raise asyncio.CancelledError

    # --- JobWriter ---

    async def open(self) -> Restored:
        return await self._disk.memory.open()

    async def commit(self, batch: Batch) -> None:
        await self._spend()
        if self._disk.is_full or self._disk.is_broken:
            raise StoreUnavailable("the disk is full, as the seed wants it")
        await self._disk.memory.commit(batch)
        for told in self._disk.on_commit:
            told(batch)
        await self._spend()

    async def forget(self, *, ended_before_ms: int) -> int:
        await self._spend()
        if self._disk.is_full or self._disk.is_broken:
            raise StoreUnavailable("the disk is full, as the seed wants it")
        return await self._disk.memory.forget(ended_before_ms=ended_before_ms)

    async def forget_history(self, *, ended_before_ms: int, rows_max: int) -> int:
        await self._spend()
        if self._disk.is_full or self._disk.is_broken:
            raise StoreUnavailable("the disk is full, as the seed wants it")
        return await self._disk.memory.forget_history(
            ended_before_ms=ended_before_ms, rows_max=rows_max
        )

    async def close(self) -> None:
        await self._disk.memory.close()

    # --- JobReader ---

    async def _read(self) -> None:
        if self._disk.slow_ms:
            await self._spend()
        if self._disk.is_broken:
            raise StoreUnavailable("the disk does not answer, as the seed wants it")

    async def job(self, job_id: str) -> JobRow | None:
        await self._read()
        return await self._disk.memory.job(job_id)

    async def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        await self._read()
        return await self._disk.memory.job_by_request(tenant_id, request_id)

    async def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        await self._read()
        return await self._disk.memory.jobs(job_filter)

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        await self._read()
        return await self._disk.memory.tokens(job_id, from_index=from_index, rows_max=rows_max)

    async def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        await self._read()
        return await self._disk.memory.prompts(job_ids)
