"""The durable store of a single queen: one SQLite file, one thread that writes, one thread that reads.

What it remembers of policies is in `sqlite_versions.py`, of heavy work in `sqlite_work.py`, of what has ended in
`sqlite_history.py`, on the same threads.

SQLite from 3.7.0 to 3.51.2 can damage a file when two connections write or checkpoint at once, so exactly one does, on
one thread; `apsw` brings a repaired SQLite besides. A batch is one transaction with `synchronous=FULL`: one sync of the
disk for up to 64 jobs is what makes acceptance cheap.

Erased prompts stay in the write-ahead log until it is cut off. So the log is checkpointed and truncated when it is
long, and shortly after a job has ended; then no byte of the prompt is left in either file.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import apsw
from beeyard_core import limits

from beeyard_queen.store.port import (
    Batch,
    JobFilter,
    JobRow,
    Restored,
    StoreUnavailable,
    TokensRow,
)
from beeyard_queen.store.sqlite_file import StoreLock, prepare_file
from beeyard_queen.store.sqlite_history import SqliteHistory, forget_history
from beeyard_queen.store.sqlite_reader import SqliteReader
from beeyard_queen.store.sqlite_versions import SqliteVersions
from beeyard_queen.store.sqlite_work import SqliteWork
from beeyard_queen.store.sqlite_writer import SqliteWriter

T = TypeVar("T")


class SqliteStore:
    """Every port on one file. Open it first; every method may then be called from one event loop.

    A call that is cancelled while its thread works is finished by the thread all the same.

    Attributes:
        policies: The policy versions on the same file.
        work: The heavy work on the same file.
        history: What the same file remembers of what has ended.
    """

    def __init__(self, path: Path, *, pages_max: int = 0) -> None:
        """Name the file; nothing is touched before `open`.

        Args:
            path: The database; its folder is created if it is missing.
            pages_max: Most pages of 4 KiB that the file may grow to; 0: as the disk allows.
        """
        self._path = path
        self._pages_max = pages_max
        self._lock: StoreLock | None = None
        self._writer: SqliteWriter | None = None
        self._reader: SqliteReader | None = None
        self._writing, self._reading = _threads()
        self._erasure: asyncio.TimerHandle | None = None
        self.policies = SqliteVersions(self)
        self.work = SqliteWork(self)
        self.history = SqliteHistory(self)

    # --- JobWriter ---

    async def open(self) -> Restored:
        """Open or create the store and return what is unfinished."""
        return await self._run(self._writing, self._open)

    async def commit(self, batch: Batch) -> None:
        """Make the whole batch durable, or nothing of it."""
        writer = self._opened(self._writer)
        await self._run(self._writing, lambda: writer.commit(batch))
        # Behind the answer, so that no submitter waits for it.
        if writer.is_log_long:
            self._writing.submit(writer.checkpoint)
        elif writer.has_erased and self._erasure is None:
            loop = asyncio.get_running_loop()
            self._erasure = loop.call_later(limits.STORE_ERASURE_DELAY_MS / 1000, self._erase)

    async def forget(self, *, ended_before_ms: int) -> int:
        """Delete jobs with their output that ended before that wall time; return how many."""
        writer = self._opened(self._writer)
        return await self._run(self._writing, lambda: writer.forget(ended_before_ms))

    async def forget_history(self, *, ended_before_ms: int, rows_max: int) -> int:
        """Delete records that ended before that wall time, and those beyond the bound; return how many."""
        return await self.write(
            lambda connection: forget_history(connection, ended_before_ms, rows_max)
        )

    async def checkpoint(self) -> None:
        """Move everything from the write-ahead log into the database now and cut the log off."""
        await self._run(self._writing, self._opened(self._writer).checkpoint)

    async def close(self) -> None:
        """Close the store; idempotent."""
        if self._erasure is not None:
            self._erasure.cancel()
            self._erasure = None
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        if reader is not None:
            await self._run(self._reading, reader.close)
        if writer is not None:
            await self._run(self._writing, writer.close)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        # Both are idle by now, so this waits for nothing but their last instruction.
        self._writing.shutdown()
        self._reading.shutdown()
        # The store may be opened again; these start no thread before that.
        self._writing, self._reading = _threads()

    # --- JobReader ---

    async def job(self, job_id: str) -> JobRow | None:
        """Return one job, or None."""
        reader = self._opened(self._reader)
        return await self._run(self._reading, lambda: reader.job(job_id))

    async def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        """Return the job of an idempotency key, or None."""
        reader = self._opened(self._reader)
        return await self._run(self._reading, lambda: reader.job_by_request(tenant_id, request_id))

    async def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        """Return at most `limit` jobs that match, newest first."""
        reader = self._opened(self._reader)
        return await self._run(self._reading, lambda: reader.jobs(job_filter))

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        """Return the output of one job in order."""
        reader = self._opened(self._reader)
        return await self._run(self._reading, lambda: reader.tokens(job_id, from_index, rows_max))

    async def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized requests of those jobs that still have one."""
        reader = self._opened(self._reader)
        return await self._run(self._reading, lambda: reader.prompts(job_ids))

    # --- What `SqliteVersions` and `SqliteWork` need ---

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in one transaction on the thread that writes."""
        writer = self._opened(self._writer)
        return await self._run(self._writing, lambda: writer.transact(work))

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` on the thread that reads."""
        reader = self._opened(self._reader)
        return await self._run(self._reading, lambda: reader.look(work))

    # --- Within ---

    def _open(self) -> Restored:
        path = prepare_file(self._path)
        lock = StoreLock(path)
        try:
            writer = SqliteWriter(path, pages_max=self._pages_max)
            try:
                restored = writer.restore()
                reader = SqliteReader(path)
            except BaseException:
                writer.close()
                raise
        except BaseException:
            lock.release()
            raise
        self._lock, self._writer, self._reader = lock, writer, reader
        return restored

    def _erase(self) -> None:
        self._erasure = None
        if self._writer is not None:
            self._writing.submit(self._writer.checkpoint)

    @staticmethod
    def _opened(half: T | None) -> T:
        if half is None:
            raise StoreUnavailable("the store is closed")
        return half

    @staticmethod
    async def _run(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)


def _threads() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """The thread that writes and the thread that reads; neither runs before its first call."""
    return (
        ThreadPoolExecutor(1, thread_name_prefix="store-writer"),
        ThreadPoolExecutor(1, thread_name_prefix="store-reader"),
    )
