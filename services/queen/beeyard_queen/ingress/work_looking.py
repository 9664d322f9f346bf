"""Heavy work as callers see it: out of memory where it is there, since rows of running work lag, or the store."""

from collections.abc import Awaitable
from typing import TypeVar

from beeyard_core.ids import TenantId, WorkId
from beeyard_core.state import QueenState
from beeyard_core.work import Work
from beeyard_runtime.clock import Clock

from beeyard_queen.ingress.reading import answer_or_refuse
from beeyard_queen.store.work import Bodies, WorkFilter, WorkReader, WorkRow
from beeyard_queen.store.work_rows import work_of

ResultT = TypeVar("ResultT")


class WorkLooking:
    """Looks work up. Every method refuses with STORE_UNAVAILABLE if the store cannot be read."""

    def __init__(self, state: QueenState, reader: WorkReader, clock: Clock) -> None:
        """Look into the state first and into the store behind it."""
        self._state = state
        self._reader = reader
        self._clock = clock

    async def find(self, work_id: WorkId) -> Work | None:
        """Return a piece of work, or None."""
        return self._state.work.works.get(work_id) or await self.ended(work_id)

    async def work(self, work_id: WorkId) -> Work:
        """Return a piece of work that is known to be there."""
        found = await self.find(work_id)
        assert found is not None, "what was leased a moment ago is remembered"
        return found

    async def ended(self, work_id: WorkId) -> Work | None:
        """Return a piece of work that memory no longer has, or None."""
        if work_id in self._state.work.works:
            return None
        return self._of(await answer_or_refuse(self._reader.work(work_id)))

    async def ended_by_request(self, tenant_id: TenantId, request_id: str) -> Work | None:
        """Return the work of an idempotency key that memory no longer has, or None."""
        if (tenant_id, request_id) in self._state.work.by_request:
            return None
        row = await answer_or_refuse(self._reader.work_by_request(tenant_id, request_id))
        return (
            None if row is None or WorkId(row.work_id) in self._state.work.works else self._of(row)
        )

    async def by_epoch(self, epoch: int) -> Work | None:
        """Return the work whose current or last lease has this epoch, as the store knows it, or None."""
        return self._of(await answer_or_refuse(self._reader.work_by_epoch(epoch)))

    async def works(self, work_filter: WorkFilter) -> list[Work]:
        """Return work that matches, newest first, each as it is now."""
        rows = await answer_or_refuse(self._reader.works(work_filter))
        now, known = self._clock.now(), self._state.work.works
        return [known.get(WorkId(row.work_id)) or work_of(row, now) for row in rows]

    def bodies(self, work_id: WorkId) -> Awaitable[Bodies]:
        """Return payload and result of a piece of work."""
        return answer_or_refuse(self._reader.bodies(work_id))

    def _of(self, row: WorkRow | None) -> Work | None:
        return None if row is None else work_of(row, self._clock.now())
