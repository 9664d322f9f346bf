"""The queue of heavy work: strict classes, in order of acceptance within a class, found by kind.

Work of one class, kind and cost is interchangeable to whoever asks, so it waits in one line, and only the head of each
line is ever looked at. Removal is lazy, as in `queue.py`: what is gone is dropped when it comes up.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from beeyard_core.ids import TenantId, WorkId
from beeyard_core.job import Priority
from beeyard_core.work import Work

#: A line is not swept below this many entries.
_SWEEP_MIN = 32
_Lines = dict[tuple[str, int], list[tuple[int, WorkId]]]


class Depth(NamedTuple):
    """How much work of one class waits."""

    pieces: int
    units: int


@dataclass(slots=True)
class WorkQueue:
    """Every queued piece of work, by class, kind and cost."""

    _lines: dict[Priority, _Lines] = field(default_factory=lambda: {p: {} for p in Priority})
    _queued: dict[WorkId, Work] = field(default_factory=dict)
    _depths: dict[Priority, Depth] = field(
        default_factory=lambda: dict.fromkeys(Priority, Depth(0, 0))
    )

    def __len__(self) -> int:
        """How much waits."""
        return len(self._queued)

    def __contains__(self, work_id: WorkId) -> bool:
        """Whether a piece of work waits."""
        return work_id in self._queued

    def push(self, work: Work) -> None:
        """Add work at the place of its sequence, which for old work is before all younger."""
        spec = work.spec
        line = self._lines[spec.priority].setdefault((spec.kind, spec.units), [])
        heapq.heappush(line, (work.sequence, work.work_id))
        self._queued[work.work_id] = work
        self._count(work, 1)

    def remove(self, work: Work) -> None:
        """Take queued work out."""
        spec = work.spec
        del self._queued[work.work_id]
        self._count(work, -1)
        lines = self._lines[spec.priority]
        line = lines[spec.kind, spec.units]
        if len(line) > 2 * len(self._queued) + _SWEEP_MIN:
            line[:] = {entry for entry in line if entry[1] in self._queued}
            heapq.heapify(line)
        while line and line[0][1] not in self._queued:
            heapq.heappop(line)
        if not line:
            del lines[spec.kind, spec.units]

    def _count(self, work: Work, sign: int) -> None:
        pieces, units = self._depths[work.spec.priority]
        self._depths[work.spec.priority] = Depth(pieces + sign, units + sign * work.spec.units)

    def heads(
        self, priority: Priority, kinds: Collection[str], tenant_id: TenantId | None = None
    ) -> list[Work]:
        """Return the oldest work of each line of a class, oldest first.

        Args:
            priority: The class.
            kinds: Only work of these kinds; none: of any.
            tenant_id: Only work of this tenant, for which whole lines are gone through; None: of any.
        """
        found = (
            line[0] if tenant_id is None else self._oldest_of(tenant_id, line)
            for (kind, _), line in self._lines[priority].items()
            if not kinds or kind in kinds
        )
        return [self._queued[work_id] for _, work_id in sorted(entry for entry in found if entry)]

    def _oldest_of(
        self, tenant_id: TenantId, line: list[tuple[int, WorkId]]
    ) -> tuple[int, WorkId] | None:
        queued = self._queued
        return min(
            (e for e in line if e[1] in queued and queued[e[1]].spec.tenant_id == tenant_id),
            default=None,
        )

    def depths(self) -> dict[Priority, Depth]:
        """Return how much waits of each class that has any."""
        return {priority: depth for priority, depth in self._depths.items() if depth.pieces}
