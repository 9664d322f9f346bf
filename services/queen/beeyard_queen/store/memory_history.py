"""The history of the store in memory; see `memory.py`."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from beeyard_core import history_limits, limits
from beeyard_core.history import JobRecord, LeaseRecord

from beeyard_queen.store.history import HistoryFilter, estimate_of, estimate_text

T = TypeVar("T", JobRecord, LeaseRecord)


class MemoryHistory:
    """The reading port on lists, and what the store needs to write."""

    def __init__(self, check_open: Callable[[], None]) -> None:
        """Start empty; `check_open` raises while the store is closed."""
        self._check_open = check_open
        self._jobs: dict[int, JobRecord] = {}
        self._leases: dict[int, LeaseRecord] = {}

    # --- For the store ---

    def save(self, jobs: Iterable[JobRecord], leases: Iterable[LeaseRecord]) -> None:
        """Keep records; those that are there already stay as they are."""
        for job in jobs:
            # As any other store has it: written down and read again.
            kept = job._replace(estimate=estimate_of(estimate_text(job.estimate)))
            self._jobs.setdefault(job.sequence, kept)
        for lease in leases:
            self._leases.setdefault(lease.epoch, lease)

    def forget(self, ended_before_ms: int, rows_max: int) -> int:
        """Delete some records that ended before that wall time, and those beyond the bound; return how many."""
        before = len(self._jobs) + len(self._leases)
        self._jobs = _kept(self._jobs, ended_before_ms, rows_max)
        self._leases = _kept(self._leases, ended_before_ms, rows_max)
        return before - len(self._jobs) - len(self._leases)

    # --- The port ---

    async def job_records(self, history_filter: HistoryFilter) -> Sequence[JobRecord]:
        """Return at most `limit` ended jobs that match, the newest first."""
        self._check_open()
        tenant_id = history_filter.tenant_id
        mine = [r for r in self._jobs.values() if not tenant_id or r.tenant_id == tenant_id]
        return _matching(mine, history_filter)

    async def lease_records(self, history_filter: HistoryFilter) -> Sequence[LeaseRecord]:
        """Return at most `limit` ended leases that match, the newest first."""
        self._check_open()
        job_id = history_filter.job_id
        of_job = [r for r in self._leases.values() if not job_id or r.job_id == job_id]
        return _matching(of_job, history_filter)


def _kept(rows: dict[int, T], ended_before_ms: int, rows_max: int) -> dict[int, T]:
    oldest = sorted(rows.items(), key=lambda item: item[1].ended_ms)
    late = [key for key, row in oldest if row.ended_ms < ended_before_ms]
    gone = set(late[: limits.STORE_FORGET_JOBS_MAX])
    left = {key: row for key, row in rows.items() if key not in gone}
    return dict(list(left.items())[max(len(left) - rows_max, 0) :])


def _matching(rows: list[T], wanted: HistoryFilter) -> list[T]:
    found = [
        row
        for row in rows
        if row.ended_ms >= wanted.since_ms
        and (not wanted.until_ms or row.ended_ms < wanted.until_ms)
        and wanted.model in ("", row.model)
    ]
    # Of those that ended at one moment, the last that was saved first.
    found.reverse()
    found.sort(key=lambda row: -row.ended_ms)
    return found[: min(max(wanted.limit, 0), history_limits.HISTORY_READ_ROWS_MAX + 1)]
