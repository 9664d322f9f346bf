"""The last decisions, for whoever asks later, and each as it is made, for whoever watches.

A watcher that is too slow loses the oldest decisions and sees the gap in the numbers; nobody waits for it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.instant import Instant
from beeyard_core.policy.intent import Dispatch, Intent, Preempt, Reject, Wait
from beeyard_core.refusal import Refused

from beeyard_queen.policy.considered import Considered


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision and what became of it.

    Attributes:
        at: When it was made.
        label: The policy, as `name@version`.
        state_version: The version of the state that the policy saw.
        seed: What its chance was drawn from.
        intent: What it wanted; None: nothing that can be read as an intent.
        refused: Why that was dropped; None: it was applied.
        is_fallback: The active policy failed or was late, and this one decided in its place.
        cpu_us: What the policy took, microseconds; CPU time where it can be read, else wall time.
        considered: How workers looked when it was made; only of placements, and while somebody watches.
    """

    at: Instant
    label: str
    state_version: int
    seed: int
    intent: Intent | None
    refused: Refused | None = None
    is_fallback: bool = False
    cpu_us: int = 0
    considered: tuple[Considered, ...] = ()


def _concerns(record: DecisionRecord, job_id: str) -> bool:
    match record.intent:
        case Dispatch() | Preempt() | Reject():
            return record.intent.job_id == job_id
        case _:
            return False


Wanted = Callable[[DecisionRecord], bool]


@dataclass(slots=True, eq=False)
class DecisionWatch:
    """One watcher's decisions that it has not read yet, each with its number."""

    wanted: Wanted
    _unread: deque[tuple[int, DecisionRecord]] = field(
        default_factory=lambda: deque(maxlen=limits.DECISIONS_UNREAD_MAX)
    )
    _count: int = 0
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _is_closed: bool = False

    def offer(self, record: DecisionRecord) -> None:
        """Take in a decision, if it is wanted; the oldest unread one goes if there are too many."""
        if self.wanted(record):
            self._count += 1
            self._unread.append((self._count, record))
            self._woken.set()

    def close(self) -> None:
        """Let the watcher read what is there and end."""
        self._is_closed = True
        self._woken.set()

    async def decisions(self) -> AsyncIterator[tuple[int, DecisionRecord]]:
        """Yield each decision with its number, from 1, until the feed is closed."""
        while True:
            while self._unread:
                yield self._unread.popleft()
            if self._is_closed:
                return
            self._woken.clear()
            await self._woken.wait()


class DecisionFeed:
    """Where decisions are told. One event loop."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self.last: deque[DecisionRecord] = deque(maxlen=limits.DECISIONS_KEPT_MAX)
        self._watches: set[DecisionWatch] = set()

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches; decisions to wait are kept for nobody else."""
        return bool(self._watches)

    def tell(self, record: DecisionRecord) -> None:
        """Tell one decision."""
        if not isinstance(record.intent, Wait):
            self.last.append(record)
        for watch in self._watches:
            watch.offer(record)

    def about(self, job_id: str) -> DecisionRecord | None:
        """Return the last decision about a job, if it is still known."""
        return next((each for each in reversed(self.last) if _concerns(each, job_id)), None)

    @contextmanager
    def watch(self, wanted: Wanted) -> Iterator[DecisionWatch]:
        """Watch the decisions that are wanted, for as long as the context lasts."""
        watch = DecisionWatch(wanted)
        self._watches.add(watch)
        try:
            yield watch
        finally:
            self._watches.discard(watch)

    def close(self) -> None:
        """End every watch: the queen is going."""
        for watch in self._watches:
            watch.close()
