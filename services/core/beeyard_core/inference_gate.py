"""Whether hosts take new inference jobs: never while they are too busy, or do not say how busy they are.

What stands still here is a whole host and not a job, so that a policy sees it as workers without a free slot and goes
on with other hosts; jobs wait meanwhile, and what runs goes on. How much counts is the operator's choice:

- `ignored`: nothing. Only reports that are stale or faulty keep jobs away (`Fleet.is_fresh`).
- `counted`: what the host says of itself. While that gives a rating of 10 (its memory is full, or it does not say how
  full), the host is closed, from the very report that says so until the next one that does not: what was decided on the
  report before is not placed any more. The queen's own calls do not count: many that wait for answers must not be what
  keeps them from being answered. Nor do units: slots and KV memory are what inference is measured by.
- `gated`: besides, the whole rating and the units, decided anew with each tick; a host that was never rated is closed.
"""

from beeyard_core.capacity import rooms
from beeyard_core.fleet import PoolReport
from beeyard_core.governor import BUSY_MAX, ApiLoad, rate
from beeyard_core.ids import PoolId
from beeyard_core.instant import Instant
from beeyard_core.state import QueenState
from beeyard_core.work_yard import InferenceShare

#: Calls of a queen that has none, so that a rating says what the host says.
_NO_CALLS = ApiLoad(latency_p95_ms=0.0, error_percent=0.0, calls_inflight=0)


def host_reported(state: QueenState, report: PoolReport, now: Instant) -> None:
    """Close a host whose report has just come, if it is too busy by that report; or open it, if that is enough to."""
    share = state.settings.capacity.inference
    if share is InferenceShare.IGNORED:
        return
    closed, pool_id = state.fleet.closed_pools, report.pool_id
    is_closed = pool_id in closed
    if rate(report.load, _NO_CALLS, now).busy >= BUSY_MAX:
        closed.add(pool_id)
    elif share is InferenceShare.COUNTED:
        closed.discard(pool_id)
    elif pool_id not in state.work.governor.ratings:
        # It is rated with the next tick, which opens it.
        closed.add(pool_id)
    if is_closed != (pool_id in closed):
        _see_anew(state, pool_id)


def gate_inference(state: QueenState, now: Instant) -> None:
    """Open and close hosts by all that is known now, where all of that counts."""
    if state.settings.capacity.inference is not InferenceShare.GATED:
        return
    before = state.fleet.closed_pools
    after = {
        room.pool_id for room in rooms(state, now) if room.rating.busy >= BUSY_MAX or not room.free
    }
    for pool_id in sorted(before ^ after):
        _see_anew(state, pool_id)
    state.fleet.closed_pools = after


def _see_anew(state: QueenState, pool_id: PoolId) -> None:
    state.fleet.touched.update(dict.fromkeys(state.fleet.by_pool.get(pool_id, ())))
