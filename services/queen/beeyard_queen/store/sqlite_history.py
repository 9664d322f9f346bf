"""The history of the SQLite store: every statement about it, and the reading port on the store's thread.

Rows are numbered in the order in which they were saved, so that how many there are can be bounded without counting
them: whatever is further back than the newest number allows is deleted.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import apsw
from beeyard_core import history_limits, limits
from beeyard_core.history import JobRecord, LeaseRecord
from beeyard_core.job import JobState, Priority
from beeyard_core.lease import LeaseState

from beeyard_queen.store.history import HistoryFilter, estimate_of, estimate_text

T = TypeVar("T")

_JOB_COLUMNS: Final = ", ".join(JobRecord._fields)
_LEASE_COLUMNS: Final = ", ".join(LeaseRecord._fields)
# A batch that is committed again finds its rows there already.
_SAVE_JOB: Final = (
    f"INSERT OR IGNORE INTO job_history ({_JOB_COLUMNS}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(JobRecord._fields))})"
)
_SAVE_LEASE: Final = (
    f"INSERT OR IGNORE INTO lease_history ({_LEASE_COLUMNS}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(LeaseRecord._fields))})"
)
_TABLES: Final = ("job_history", "lease_history")
_NO_END: Final = 2**63 - 1


def save_history(
    connection: apsw.Connection, jobs: Sequence[JobRecord], leases: Sequence[LeaseRecord]
) -> None:
    """Insert records, within the caller's transaction."""
    connection.executemany(_SAVE_JOB, map(_job_values, jobs))
    connection.executemany(_SAVE_LEASE, map(_lease_values, leases))


def forget_history(connection: apsw.Connection, ended_before_ms: int, rows_max: int) -> int:
    """Delete some records that ended before that wall time, and some beyond the bound; return how many."""
    forgotten = 0
    for table in _TABLES:
        connection.execute(
            f"DELETE FROM {table} WHERE number IN ("  # noqa: S608 - constants
            f"SELECT number FROM {table} WHERE ended_ms < ? ORDER BY ended_ms LIMIT ?)",
            (ended_before_ms, limits.STORE_FORGET_JOBS_MAX),
        )
        forgotten += connection.changes()
        connection.execute(
            f"DELETE FROM {table} WHERE number IN ("  # noqa: S608 - constants
            f"SELECT number FROM {table} WHERE number <= (SELECT max(number) FROM {table}) - ? "
            "ORDER BY number LIMIT ?)",
            (rows_max, limits.STORE_FORGET_JOBS_MAX),
        )
        forgotten += connection.changes()
    return forgotten


class Reading(Protocol):
    """What the port needs of the store: a look on the thread that reads."""

    def read(self, work: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        """Run `work` on the connection that reads."""
        ...


class SqliteHistory:
    """The reading port on the store's file; usable while the store is open."""

    def __init__(self, threads: Reading) -> None:
        """Work on the store's threads."""
        self._threads = threads

    async def job_records(self, history_filter: HistoryFilter) -> Sequence[JobRecord]:
        """Return at most `limit` ended jobs that match, the newest first."""
        asked = {"tenant_id": history_filter.tenant_id, "model": history_filter.model}
        rows = await self._rows("job_history", _JOB_COLUMNS, history_filter, asked)
        return [_job_record(row) for row in rows]

    async def lease_records(self, history_filter: HistoryFilter) -> Sequence[LeaseRecord]:
        """Return at most `limit` ended leases that match, the newest first."""
        asked = {"job_id": history_filter.job_id, "model": history_filter.model}
        rows = await self._rows("lease_history", _LEASE_COLUMNS, history_filter, asked)
        return [_lease_record(row) for row in rows]

    async def _rows(
        self, table: str, columns: str, wanted: HistoryFilter, asked: dict[str, str]
    ) -> Sequence[Sequence[Any]]:
        conditions = {name: value for name, value in asked.items() if value}
        where = "".join(f" AND {name} = ?" for name in conditions)
        statement = (
            f"SELECT {columns} FROM {table} WHERE ended_ms >= ? AND ended_ms < ?{where} "  # noqa: S608 - constants
            "ORDER BY ended_ms DESC, number DESC LIMIT ?"
        )
        limit = min(max(wanted.limit, 0), history_limits.HISTORY_READ_ROWS_MAX + 1)
        until_ms = wanted.until_ms or _NO_END
        values = (wanted.since_ms, until_ms, *conditions.values(), limit)

        def look(connection: apsw.Connection) -> Sequence[Sequence[Any]]:
            return connection.execute(statement, values).fetchall()

        return await self._threads.read(look)


def _job_values(record: JobRecord) -> tuple[object, ...]:
    stored = record._replace(estimate=None)
    values = [*stored[:-1], estimate_text(record.estimate)]
    values[JobRecord._fields.index("state")] = record.state.value
    values[JobRecord._fields.index("priority")] = int(record.priority)
    return tuple(values)


def _job_record(values: Sequence[Any]) -> JobRecord:
    named = dict(zip(JobRecord._fields, values, strict=True))
    named["state"] = JobState(named["state"])
    named["priority"] = Priority(named["priority"])
    named["estimate"] = estimate_of(named["estimate"])
    return JobRecord(**named)


def _lease_values(record: LeaseRecord) -> tuple[object, ...]:
    values = list(record)
    values[LeaseRecord._fields.index("ending")] = record.ending.value
    values[LeaseRecord._fields.index("was_revoked")] = int(record.was_revoked)
    return tuple(values)


def _lease_record(values: Sequence[Any]) -> LeaseRecord:
    named = dict(zip(LeaseRecord._fields, values, strict=True))
    named["ending"] = LeaseState(named["ending"])
    named["was_revoked"] = bool(named["was_revoked"])
    return LeaseRecord(**named)
