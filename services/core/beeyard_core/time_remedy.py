"""By how much later a waiting job could be placed, or by how much earlier it would have been: searched, and tried.

*Later*: what keeps the job back ends at a time that is known (a hold, a rest, the slow fall of a rating), or at one
that is predicted (a job that runs is to end, by what was measured of its like). Each of these moments is tried on a
copy of the scene as it will be then; the first at which a worker takes the job is told. A running job that has
outlasted its prediction promises nothing, and one of which nothing was predicted neither.

*Earlier*: a job that started in the very moment in which it came had found a free slot. Whoever had come before it,
needs no more than it did and can run on its worker would have had that slot.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from beeyard_core import limits
from beeyard_core.capacity import rooms
from beeyard_core.demand import promised_bytes
from beeyard_core.fleet import Fleet, Worker
from beeyard_core.governor import BUSY_MAX
from beeyard_core.ids import LeaseId
from beeyard_core.instant import Instant
from beeyard_core.job import Job
from beeyard_core.placement import exclusion
from beeyard_core.remedy import Remedy, RemedyKind, scene_of, smallest_remedy
from beeyard_core.slot_waits import predicted_ends, runner
from beeyard_core.state import QueenState, TimerKind


def kept_back_ms(state: QueenState, job: Job, now: Instant) -> int:
    """Return for how much longer a waiting job is kept from every worker by a hold or a rest; 0: it is not."""
    kept_ms = 0 if job.held_until_ms is None else job.held_until_ms - now.mono_ms
    if job.is_resting:
        rests = (
            due_ms
            for due_ms, _, kind, key in state.timers
            if kind is TimerKind.REST and key == job.job_id
        )
        kept_ms = max(kept_ms, min(rests, default=now.mono_ms) - now.mono_ms)
    return max(kept_ms, 0)


def later(state: QueenState, job: Job, workers: Iterable[Worker], now: Instant) -> Remedy | None:
    """Return the shortest wait after which a worker could take the job, or None: it could now, or nothing tells."""
    kept_ms = kept_back_ms(state, job, now)
    opening = _openings(state, now)
    found = (
        Remedy(RemedyKind.LATER, wait_ms, worker.report.worker_id, worker.report.pool_id)
        for worker in workers
        for wait_ms in _first_fit(state, job, worker, now, kept_ms, opening)
    )
    best = min(found, default=None)
    return best if best is None or best.amount else None


def _first_fit(
    state: QueenState,
    job: Job,
    worker: Worker,
    now: Instant,
    kept_ms: int,
    opening: dict[str, int],
) -> Iterator[int]:
    """Yield the first moment at which the worker takes the job, if there is one that can be known."""
    ends = predicted_ends(state, worker, now)
    opens_ms = opening.get(worker.report.pool_id, 0)
    for wait_ms in sorted({kept_ms, *(max(at, kept_ms) for at in (opens_ms, *ends.values()))}):
        gone = {lease_id for lease_id, at_ms in ends.items() if at_ms <= wait_ms}
        scene, changed = _without_leases(state, worker, gone)
        if opens_ms and opens_ms <= wait_ms:
            scene.closed_pools = set()
        if exclusion(job.spec, scene, changed, now.mono_ms) is None:
            yield wait_ms
            return


def _openings(state: QueenState, now: Instant) -> dict[str, int]:
    """Return the closed hosts that open by nothing but the fall of their rating, and in how many milliseconds."""
    found: dict[str, int] = {}
    if state.fleet.closed_pools:
        for wait_ms in range(
            limits.TICK_INTERVAL_MS, limits.RATING_RELEASE_MS + 1, limits.TICK_INTERVAL_MS
        ):
            for room in rooms(state, now.later(wait_ms)):
                is_open = room.rating.busy < BUSY_MAX and room.free > 0
                if is_open and room.pool_id in state.fleet.closed_pools:
                    found.setdefault(room.pool_id, wait_ms)
    return found


def _without_leases(state: QueenState, worker: Worker, gone: set[LeaseId]) -> tuple[Fleet, Worker]:
    """Return a worker as it is without some of its leases, and a scene for it."""
    freed = sum(state.leases[lease_id].kv_tokens for lease_id in gone)
    changed = replace(
        worker, leases=worker.leases - gone, kv_tokens_used=worker.kv_tokens_used - freed
    )
    return scene_of(state.fleet, worker), changed


def earlier(state: QueenState, job: Job, workers: Iterable[Worker], now: Instant) -> Remedy | None:
    """Return by how little earlier the job would have found a slot that was free; None: nobody took one at once.

    Of a job that ran before, or that a hold or a rest keeps back, nothing is said.
    """
    if job.attempt or kept_back_ms(state, job, now):
        return None
    found = (
        Remedy(RemedyKind.EARLIER, wait_ms, worker.report.worker_id, worker.report.pool_id)
        for worker in workers
        for wait_ms in _taken_at_once(state, job, worker, now)
    )
    return min(found, default=None)


def _taken_at_once(state: QueenState, job: Job, worker: Worker, now: Instant) -> Iterator[int]:
    """Yield by how much the job came after each of those that took a free slot of the worker as they came."""
    for lease_id in worker.leases:
        lease = state.leases[lease_id]
        other = runner(state, lease)
        if other is None or other.attempt != 1 or other.waited_ms != 0:
            continue
        ahead_ms = job.accepted_at.mono_ms - other.accepted_at.mono_ms
        # Were its KV memory more than the other's, it might not have fitted beside those that ran then.
        if ahead_ms < 0 or job.spec.kv_tokens > lease.kv_tokens:
            continue
        scene, changed = _without_leases(state, worker, {lease_id})
        if exclusion(job.spec, scene, changed, now.mono_ms) is None:
            yield ahead_ms + 1


def remedies(
    state: QueenState, job: Job, workers: Sequence[Worker], now: Instant
) -> tuple[Remedy, ...]:
    """Return what would help a waiting job: the smallest change, how much later, how much earlier; what there is of it.

    Args:
        state: The queen's memory; unchanged.
        job: A job that waits.
        workers: Those that are looked at; the caller bounds them.
        now: The moment.
    """
    is_kept = kept_back_ms(state, job, now) > 0
    fleet, now_ms = state.fleet, now.mono_ms
    if not is_kept and any(exclusion(job.spec, fleet, each, now_ms) is None for each in workers):
        return ()
    changed = None
    if not is_kept:
        # With a hold or a rest there would be two things in the way, of which it takes away one.
        changed = smallest_remedy(job.spec, fleet, workers, promised_bytes(state), now_ms)
    found = (changed, later(state, job, workers, now), earlier(state, job, workers, now))
    return tuple(remedy for remedy in found if remedy is not None)
