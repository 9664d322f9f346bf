"""The week as it usually is: how many slots of a model urgent work keeps busy in each of its hours.

Hours count from the epoch, so an hour of the week is the same in every week whatever the zone. An hour is learnt when
it is over; one in which nothing came counts as none once the model has been watched through it.
"""

from dataclasses import dataclass, field
from typing import Final

from beeyard_core.sketch import Average

HOUR_MS: Final = 3_600_000
_HOURS: Final = 168


@dataclass(slots=True)
class WeekProfile:
    """One model's week.

    Attributes:
        hour: The hour since the epoch that is being watched; -1: none yet.
        work_ms: Urgent work that came in it so far.
    """

    hour: int = -1
    work_ms: int = 0
    _hours: dict[int, Average] = field(default_factory=dict)

    def add(self, work_ms: int, wall_ms: int) -> None:
        """Count urgent work that came in at that wall time; what is of an hour that is over already comes too late."""
        hour = wall_ms // HOUR_MS
        if hour < self.hour:
            return
        if hour > self.hour:
            self._turn(hour)
        self.work_ms += work_ms

    def _turn(self, hour: int) -> None:
        """Learn the hour that is over, and those since in which nothing came."""
        if self.hour >= 0:
            self._learn(self.hour, self.work_ms)
            for empty in range(max(self.hour + 1, hour - _HOURS), hour):
                self._learn(empty, 0)
        self.hour, self.work_ms = hour, 0

    def _learn(self, hour: int, work_ms: int) -> None:
        self._hours.setdefault(hour % _HOURS, Average()).add(work_ms / HOUR_MS)

    def slots_at(self, wall_ms: int) -> float | None:
        """Return how many slots urgent work usually keeps busy in that hour of the week; None: it was never watched."""
        found = self._hours.get(wall_ms // HOUR_MS % _HOURS)
        return found.mean if found is not None else None
