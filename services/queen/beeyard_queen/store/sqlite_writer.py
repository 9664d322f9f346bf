"""The writing half of the SQLite store: plain calls, all made by the one thread that writes."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TypeAlias, TypeVar

import apsw
from beeyard_core import limits
from beeyard_runtime.log import get_log

from beeyard_queen.store import sql
from beeyard_queen.store.port import Batch, Restored, StoreRefused, StoreUnavailable
from beeyard_queen.store.scales import all_scales, save_scales
from beeyard_queen.store.sessions import forget_sessions, newest_sessions
from beeyard_queen.store.sqlite_faults import refusal_of, store_faults
from beeyard_queen.store.sqlite_file import open_writer
from beeyard_queen.store.sqlite_history import save_history
from beeyard_queen.store.sqlite_prompts import wrap
from beeyard_queen.store.sqlite_reader import job_row
from beeyard_queen.store.sqlite_work import forget_work, save_work, unfinished_work

_log = get_log("store")
T = TypeVar("T")

SQLiteValue: TypeAlias = "int | str | bytes | bool"

_tokens_values = attrgetter("job_id", "first_index", "count", "ids", "text", "text_lengths")


class SqliteWriter:
    """The one connection that writes.

    Attributes:
        has_erased: Whether a prompt was erased whose bytes may still be in the write-ahead log.
    """

    def __init__(self, path: Path, *, pages_max: int = 0) -> None:
        """Open the file, which must be locked.

        Raises:
            StoreRefused: It cannot be used; the message says what to do.
        """
        self._path = path
        self._pages_max = pages_max
        self._log_pages = 0
        self.has_erased = False
        self._connection: apsw.Connection | None = self._connect()

    @property
    def is_log_long(self) -> bool:
        """Whether it is time to checkpoint."""
        return self._log_pages >= limits.STORE_LOG_PAGES_MAX

    def restore(self) -> Restored:
        """Return what a starting queen needs.

        Raises:
            StoreRefused: The file is damaged.
        """
        connection = self._connected()
        try:
            work, work_sequence = unfinished_work(connection)
            return Restored(
                jobs=tuple(map(job_row, connection.execute(sql.UNFINISHED))),
                epoch=connection.execute(sql.LAST_EPOCH).get,
                sequence=connection.execute(sql.LAST_SEQUENCE).get,
                models=tuple(model for (model,) in connection.execute(sql.MODELS)),
                work=work,
                work_sequence=work_sequence,
                scales=all_scales(connection),
                sessions=newest_sessions(connection),
            )
        except apsw.Error as fault:
            raise refusal_of(fault, self._path) from fault

    def commit(self, batch: Batch) -> None:
        """Write the batch in one transaction and sync it to the disk."""
        ended = [row for row in batch.jobs.values() if row.is_ended]
        # A prompt that would be erased in the same breath never reaches the disk.
        ended_ids = {row.job_id for row in ended}
        prompts = [
            (job_id, wrap(prompt))
            for job_id, prompt in batch.prompts.items()
            if job_id not in ended_ids
        ]

        def write(connection: apsw.Connection) -> None:
            _run_many(connection, sql.SAVE_JOBS, list(batch.jobs.values()))
            _run_many(connection, sql.SAVE_PROMPTS, prompts)
            _run_many(connection, sql.SAVE_TOKENS, list(map(_tokens_values, batch.tokens)))
            _run_many(connection, sql.ERASE_PROMPTS, [(row.sequence,) for row in ended])
            save_work(connection, list(batch.work.values()))
            save_scales(connection, batch.scales)
            _run_many(connection, sql.SAVE_SESSIONS, list(map(astuple, batch.sessions)))
            save_history(connection, batch.job_records, batch.lease_records)
            _run_many(connection, sql.SAVE_MODELS, [(model,) for model in batch.models])
            if batch.epoch:
                connection.execute(sql.SAVE_EPOCH, (batch.epoch,))

        self.transact(write)
        has_ended = bool(ended) or any(row.is_ended for row in batch.work.values())
        self.has_erased = self.has_erased or has_ended

    def forget(self, ended_before_ms: int) -> int:
        """Delete some of the jobs and work that ended before that wall time, oldest first; return how many of both."""
        forgotten: list[tuple[int]] = []

        def write(connection: apsw.Connection) -> int:
            bounds = (ended_before_ms, limits.STORE_FORGET_JOBS_MAX)
            forgotten.extend(connection.execute(sql.PICK_FORGOTTEN, bounds))
            connection.execute(sql.SAVE_SEQUENCE)
            connection.executemany(sql.FORGET_TOKENS, forgotten)
            connection.executemany(sql.FORGET_JOB, forgotten)
            forget_sessions(connection, ended_before_ms)
            return forget_work(connection, ended_before_ms)

        return self.transact(write) + len(forgotten)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database and cut it off; a fault is logged and tried again later."""
        try:
            self._connected().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.Error, StoreUnavailable) as fault:
            _log.warning("store_checkpoint_failed", error=str(fault))
            # The log goes on growing; the next commit asks again.
            return
        self._log_pages = 0
        self.has_erased = False

    def close(self) -> None:
        """Checkpoint and close; the write-ahead log is gone afterwards."""
        if self._connection is not None:
            self.checkpoint()
            self._connection.close()
            self._connection = None

    def transact(self, write: Callable[[apsw.Connection], T]) -> T:
        """Run `write` in one transaction, sync it to the disk, and return what it returned."""
        with store_faults():
            connection = self._connected()
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = write(connection)
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise
        return result

    def _roll_back(self, connection: apsw.Connection) -> None:
        # SQLite has already rolled back by itself after some faults.
        if not connection.in_transaction:
            return
        try:
            connection.execute("ROLLBACK")
        except apsw.Error as fault:
            # A connection that cannot even do that is given up; closing it rolls back, the next call opens another.
            _log.warning("store_rollback_failed", error=str(fault))
            self._connection = None
            connection.close(True)

    def _connected(self) -> apsw.Connection:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except StoreRefused as refused:
                # The queen runs already; it goes on refusing work until the disk is well again.
                raise StoreUnavailable(str(refused)) from refused
        return self._connection

    def _connect(self) -> apsw.Connection:
        connection = open_writer(self._path, pages_max=self._pages_max)
        connection.set_wal_hook(self._count_log)
        return connection

    def _count_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK


def _run_many(
    connection: apsw.Connection, statement: sql.Many, rows: Sequence[tuple[SQLiteValue, ...]]
) -> None:
    """Run a statement for all rows, in order, in as few runs as the sizes that are prepared allow."""
    start, size = 0, sql.ROWS_MAX
    while start < len(rows):
        while size > len(rows) - start:
            size //= 2
        connection.execute(
            statement.of(size), tuple(chain.from_iterable(rows[start : start + size]))
        )
        start += size
