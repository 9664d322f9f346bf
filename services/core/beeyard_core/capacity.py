"""How many capacity units each host has at this moment, and who uses them.

A host's units are usable as far as its busy rating and the reserve leave them, and free as far as no lease and, unless
the operator says otherwise, no inference job uses them. What is used may exceed what is usable after the host became
busier: nothing is taken away for that, there is only nothing new. Free units are never negative.
"""

from dataclasses import dataclass

from beeyard_core.governor import Rating, usable_units
from beeyard_core.ids import PoolId
from beeyard_core.instant import Instant
from beeyard_core.state import QueenState
from beeyard_core.work import Work
from beeyard_core.work_yard import InferenceShare


@dataclass(frozen=True, slots=True)
class Room:
    """One host's units at this moment."""

    pool_id: PoolId
    rating: Rating
    total: int
    usable: int
    leased: int
    inference: int

    @property
    def free(self) -> int:
        """Units that a new lease may use; never negative."""
        return max(self.usable - self.leased - self.inference, 0)

    def takes(self, work: Work) -> bool:
        """Whether a piece of work may be leased here now."""
        return not self.rating.gates(work.spec.priority) and work.spec.units <= self.free

    def would_take(self, work: Work) -> bool:
        """Whether it could be, as busy as the host is, if nothing used its units."""
        return not self.rating.gates(work.spec.priority) and work.spec.units <= self.usable


def rooms(state: QueenState, now: Instant) -> list[Room]:
    """Return the units of every host that ever reported, by id."""
    settings, yard = state.settings.capacity, state.work
    shared = _inference_units(state)
    found = []
    for each in sorted(state.fleet.pools):
        rating = yard.governor.rating_of(each, state.fleet, now)
        found.append(
            Room(
                pool_id=each,
                rating=rating,
                total=settings.units_per_host,
                usable=usable_units(settings.units_per_host, rating.busy, settings.reserve_units),
                leased=yard.units_used.get(each, 0),
                inference=shared.get(each, 0),
            )
        )
    return found


def _inference_units(state: QueenState) -> dict[PoolId, int]:
    """Return the units that inference jobs use, by host: those of leases that still occupy a slot."""
    used: dict[PoolId, int] = {}
    if state.settings.capacity.inference is InferenceShare.IGNORED:
        return used
    for lease in state.leases.values():
        pool_id = state.fleet.workers[lease.worker_id].report.pool_id
        job = state.jobs.get(lease.job_id)
        # The core has forgotten a job that ended long ago, whose worker still has not stopped.
        used[pool_id] = used.get(pool_id, 0) + (job.spec.cost_units if job else 1)
    return used
