"""Whether hosts take new inference jobs, where the operator wants units and the busy rating to count for them, too.

A host is closed while it is rated 10, or while no unit of it is free; jobs wait meanwhile, and what runs goes on. It is
decided anew with each tick, for a whole host and not job by job, so that a policy sees it as workers without a free
slot and goes on with other hosts. A report that says that a host is too busy closes it at once: what was decided on the
report before is not placed any more.
"""

from beeyard_core.capacity import rooms
from beeyard_core.governor import BUSY_MAX
from beeyard_core.ids import PoolId
from beeyard_core.instant import Instant
from beeyard_core.state import QueenState
from beeyard_core.work_yard import InferenceShare


def close_all(state: QueenState) -> None:
    """Begin closed, if there is a gate at all: a host that was never rated takes nothing."""
    if state.settings.capacity.inference is InferenceShare.GATED:
        state.fleet.open_pools = set()


def close_if_busy(state: QueenState, pool_id: PoolId, now: Instant) -> None:
    """Close a host whose report has just come, if it is too busy by that report. The next tick opens it, if any."""
    open_pools = state.fleet.open_pools
    if open_pools is None or pool_id not in open_pools:
        return
    if state.work.governor.rating_of(pool_id, state.fleet, now).busy >= BUSY_MAX:
        open_pools.discard(pool_id)
        _see_anew(state, pool_id)


def gate_inference(state: QueenState, now: Instant) -> None:
    """Open and close hosts by what is known now."""
    before = state.fleet.open_pools
    if before is None:
        return
    after = {
        room.pool_id for room in rooms(state, now) if room.rating.busy < BUSY_MAX and room.free
    }
    for pool_id in sorted(before ^ after):
        _see_anew(state, pool_id)
    state.fleet.open_pools = after


def _see_anew(state: QueenState, pool_id: PoolId) -> None:
    state.fleet.touched.update(dict.fromkeys(state.fleet.by_pool.get(pool_id, ())))
