"""The reading half of the SQLite store: plain calls, all made by the one thread that reads.

Its connection sees every commit that was acknowledged before the call began, and never half of one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
from beeyard_core import limits

from beeyard_queen.store import sql
from beeyard_queen.store.port import JobFilter, JobRow, TokensRow
from beeyard_queen.store.sqlite_faults import store_faults
from beeyard_queen.store.sqlite_file import open_reader
from beeyard_queen.store.sqlite_prompts import unwrap

T = TypeVar("T")
_ANY_SEQUENCE = 2**63 - 1


def job_row(values: Sequence[Any]) -> JobRow:
    """Return the row that was read, its values in the order of `sql.JOB_COLUMNS`."""
    # STRICT tables give each column its type; only truth values are not one of SQLite's.
    return JobRow._make((*values[:-1], bool(values[-1])))


class SqliteReader:
    """A connection that cannot write."""

    def __init__(self, path: Path) -> None:
        """Open the file; the writer's connection must be open.

        Raises:
            StoreRefused: It cannot be opened.
        """
        self._connection = open_reader(path)

    def job(self, job_id: str) -> JobRow | None:
        """Return one job, or None."""
        rows = self._all(sql.JOB, (job_id,))
        return job_row(rows[0]) if rows else None

    def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        """Return the job of an idempotency key, or None."""
        rows = self._all(sql.JOB_BY_REQUEST, (tenant_id, request_id))
        return job_row(rows[0]) if rows else None

    def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        """Return at most `limit` jobs that match, newest first."""
        statement = sql.jobs_statement(
            states=len(job_filter.states),
            by_tenant=bool(job_filter.tenant_id),
            by_model=bool(job_filter.model),
        )
        # One more than a page tells whether there are more.
        limit = min(max(job_filter.limit, 0), limits.LIST_PAGE_MAX + 1)
        shared = [value for value in (job_filter.tenant_id, job_filter.model) if value]
        bounds: list[str | int] = [*shared, job_filter.before_sequence or _ANY_SEQUENCE, limit]
        values: list[str | int] = []
        for state in job_filter.states:
            values += [state, *bounds]
        return [job_row(row) for row in self._all(statement, (*(values or bounds), limit))]

    def tokens(self, job_id: str, from_index: int, rows_max: int) -> Sequence[TokensRow]:
        """Return the output of one job in order: so many rows (0: all), from the one with that token on."""
        arguments = (job_id, from_index, rows_max or -1)
        return [TokensRow(*row) for row in self._all(sql.TOKENS, arguments)]

    def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized requests of those jobs that still have one."""
        found = {}
        for job_id in job_ids:
            for (request,) in self._all(sql.PROMPT, (job_id,)):
                found[job_id] = unwrap(request)
        return found

    def look(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` on the connection; it fetches all rows of what it executes."""
        with store_faults():
            return work(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _all(self, statement: str, values: Sequence[str | int]) -> list[Any]:
        # Always to the end: an open cursor would hold back the checkpoint.
        with store_faults():
            return self._connection.execute(statement, values).fetchall()
