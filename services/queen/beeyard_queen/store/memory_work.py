"""The heavy work of the store in memory; see `memory.py`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from beeyard_core import limits

from beeyard_queen.store.port import BatchInvalid
from beeyard_queen.store.work import Bodies, WorkFilter, WorkRow


class MemoryWork:
    """The reading port on a dictionary, and what the store needs to write."""

    def __init__(self, check_open: Callable[[], None]) -> None:
        """Start empty; `check_open` raises while the store is closed."""
        self._check_open = check_open
        self._rows: dict[str, WorkRow] = {}
        self.sequence = 0

    # --- For the store ---

    def check(self, rows: Iterable[WorkRow]) -> None:
        """Refuse what a database's constraints would refuse."""
        for row in rows:
            others = [other for other in self._rows.values() if other.work_id != row.work_id]
            key = (row.tenant_id, row.request_id)
            if any(other.sequence == row.sequence for other in others):
                raise BatchInvalid(f"other work has sequence {row.sequence}")
            if row.request_id and any((o.tenant_id, o.request_id) == key for o in others):
                raise BatchInvalid(f"other work has request id {row.request_id}")

    def save(self, rows: Iterable[WorkRow]) -> None:
        """Insert or replace rows; what is fixed at acceptance, and bodies that are not given, stay."""
        for row in rows:
            first = self._rows.get(row.work_id, row)
            self.sequence = max(self.sequence, first.sequence)
            self._rows[row.work_id] = replace(
                first,
                state=row.state,
                is_ended=row.is_ended,
                ended_ms=row.ended_ms,
                epoch=row.epoch,
                details=row.details,
                payload=b"" if row.is_ended else row.payload or first.payload,
                result=row.result or first.result,
            )

    def unfinished(self) -> tuple[WorkRow, ...]:
        """Return the work that has not ended, by sequence."""
        rows = (_bare(row) for row in self._rows.values() if not row.is_ended)
        return tuple(sorted(rows, key=lambda row: row.sequence))

    def forget(self, ended_before_ms: int) -> int:
        """Delete work that ended before that wall time; return how much."""
        ended = [r for r in self._rows.values() if r.is_ended and r.ended_ms < ended_before_ms]
        ended.sort(key=lambda row: row.ended_ms)
        forgotten = ended[: limits.STORE_FORGET_JOBS_MAX]
        for row in forgotten:
            del self._rows[row.work_id]
        return len(forgotten)

    # --- WorkReader ---

    async def work(self, work_id: str) -> WorkRow | None:
        """Return one piece of work, or None."""
        return self._first(lambda row: row.work_id == work_id)

    async def work_by_request(self, tenant_id: str, request_id: str) -> WorkRow | None:
        """Return the work of an idempotency key, or None."""
        key = (tenant_id, request_id)
        return self._first(lambda row: bool(request_id) and (row.tenant_id, row.request_id) == key)

    async def work_by_epoch(self, epoch: int) -> WorkRow | None:
        """Return the work whose current or last lease has this epoch, or None."""
        return self._first(lambda row: row.epoch == epoch > 0)

    async def works(self, work_filter: WorkFilter) -> Sequence[WorkRow]:
        """Return at most `limit` pieces of work that match, newest first."""
        self._check_open()
        matching = [_bare(row) for row in self._rows.values() if _matches(row, work_filter)]
        matching.sort(key=lambda row: -row.sequence)
        return matching[: min(max(work_filter.limit, 0), limits.LIST_PAGE_MAX + 1)]

    async def bodies(self, work_id: str) -> Bodies:
        """Return payload and result of one piece of work; empty if there is no such work."""
        self._check_open()
        row = self._rows.get(work_id)
        return Bodies(row.payload, row.result) if row else Bodies(b"", b"")

    def _first(self, is_it: Callable[[WorkRow], bool]) -> WorkRow | None:
        self._check_open()
        return next((_bare(row) for row in self._rows.values() if is_it(row)), None)


def _bare(row: WorkRow) -> WorkRow:
    return replace(row, payload=b"", result=b"")


def _matches(row: WorkRow, work_filter: WorkFilter) -> bool:
    return (
        (not work_filter.states or row.state in work_filter.states)
        and (not work_filter.tenant_id or row.tenant_id == work_filter.tenant_id)
        and (not work_filter.kind or row.kind == work_filter.kind)
        and (not work_filter.before_sequence or row.sequence < work_filter.before_sequence)
    )
