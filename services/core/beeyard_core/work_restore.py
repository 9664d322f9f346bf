"""How a queen that has just started gets its heavy work back from what was durable."""

from collections.abc import Iterable
from dataclasses import replace

from beeyard_core.instant import Instant
from beeyard_core.state import QueenState
from beeyard_core.work import Work, WorkState


def restore_work(state: QueenState, works: Iterable[Work], *, sequence: int, now: Instant) -> None:
    """Put back every piece of work that had not ended.

    Queued work queues again in its old order. A lease counts on for one whole time to live: a holder that heartbeats
    goes on with it, and one that does not loses it like any other. Units of leases that were taken back before are
    free.

    Args:
        state: The state, as `restore` made it.
        works: Work that had not ended, in any order, its times already on today's monotonic clock.
        sequence: The highest sequence of work ever given out.
        now: The moment of the start.
    """
    yard = state.work
    yard.sequence = sequence
    for work in works:
        yard.remember(work)
        state.quotas.restore_work(work.spec.tenant_id)
        if work.state is WorkState.QUEUED:
            yard.enqueue(work)
            continue
        lease = work.lease
        assert lease is not None, "work that is leased or running has a lease"
        yard.occupy(work, replace(lease, expires_at_ms=now.mono_ms + lease.ttl_ms))
