"""What becomes of one more job when many wait already: there is room, it is refused, or an older one makes way for it.

The queue as a whole has a bound, and so has each class. What happens at the bound of the whole queue is chosen for each
class of newcomers:

- `reject`: the newcomer is refused.
- `drop-lru`: the oldest background job makes way for more urgent work, then the oldest batch job. Nobody who is waited
  for (interactive, normal) and nothing that ever began makes way; if there is nothing to drop, the newcomer is refused.
- `shed-low-priority`: from the high-water mark on, the least urgent are refused first. Background work is refused
  there, batch and normal work a third and two thirds of the way from there to the bound, interactive work at the bound.

At its own bound a class refuses in every mode: to drop what is less urgent would make no room in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final

from beeyard_core import limits
from beeyard_core.job import Job, Priority
from beeyard_core.queue import JobQueue


@unique
class Overflow(Enum):
    """What happens when the queue is full, under the names that operators and `policy_label` use."""

    REJECT = "reject"
    DROP_LRU = "drop-lru"
    SHED_LOW_PRIORITY = "shed-low-priority"


#: Which part of the room above the high-water mark is open to a class, in thirds.
_THIRDS: Final = {
    Priority.INTERACTIVE: 3,
    Priority.NORMAL: 2,
    Priority.BATCH: 1,
    Priority.BACKGROUND: 0,
}
#: Who makes way, in this order.
_DROPPED: Final = (Priority.BACKGROUND, Priority.BATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """What the operator chose.

    Attributes:
        depth_max: Most jobs that may wait.
        depth_max_by_class: The same of one class; a class that is not named has no bound of its own.
        overflow: What happens to a newcomer that finds the queue full.
        overflow_by_class: The same for newcomers of one class.
        high_water: The part of `depth_max` from which low priorities are shed, 0 to 1.
        overdue_after_ms: A job that waited for so long is overdue (`overdue.py`).
        overdue_every: Of so many starts of a model and one more, one is for the oldest overdue job.
    """

    depth_max: int = limits.QUEUE_DEPTH_MAX
    depth_max_by_class: Mapping[Priority, int] = field(default_factory=dict)
    overflow: Overflow = Overflow.REJECT
    overflow_by_class: Mapping[Priority, Overflow] = field(default_factory=dict)
    high_water: float = limits.QUEUE_HIGH_WATER
    overdue_after_ms: int = limits.OVERDUE_AFTER_MS
    overdue_every: int = limits.OVERDUE_EVERY

    def overflow_of(self, priority: Priority) -> Overflow:
        """Return what happens to a newcomer of a class."""
        return self.overflow_by_class.get(priority, self.overflow)

    def depth_max_for(self, priority: Priority) -> int:
        """Return how many jobs, of all classes, may wait before newcomers of a class find no room."""
        if self.overflow_of(priority) is not Overflow.SHED_LOW_PRIORITY:
            return self.depth_max
        mark = int(self.depth_max * self.high_water)
        return mark + (self.depth_max - mark) * _THIRDS[priority] // 3


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why a newcomer is refused: so many wait, and more may not.

    Attributes:
        label: The mode that refuses it, for `policy_label`.
        depth: How many wait of those that count.
        depth_max: How many may.
        of_class: Only jobs of its class count.
    """

    label: str
    depth: int
    depth_max: int
    of_class: bool = False


def room_for(queue: JobQueue, settings: QueueSettings, priority: Priority) -> Job | NoRoom | None:
    """Return what stands in the way of one more job: nothing, a job that makes way for it, or that there is no room."""
    overflow = settings.overflow_of(priority)
    own_max = settings.depth_max_by_class.get(priority)
    own = queue.depth(priority)
    if own_max is not None and own >= own_max:
        return NoRoom(overflow.value, own, own_max, of_class=True)
    depth, most = len(queue), settings.depth_max_for(priority)
    if depth < most:
        return None
    if overflow is Overflow.DROP_LRU:
        for dropped in _DROPPED:
            oldest = queue.oldest_untried(dropped) if dropped > priority else None
            if oldest is not None:
                return oldest
    return NoRoom(overflow.value, depth, most)
