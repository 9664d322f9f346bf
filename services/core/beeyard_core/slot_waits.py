"""When the jobs that run on a worker are predicted to end, and so when a slot of it should be free."""

from beeyard_core.fleet import Worker
from beeyard_core.ids import LeaseId
from beeyard_core.instant import Instant
from beeyard_core.job import Job
from beeyard_core.lease import Lease
from beeyard_core.state import QueenState


def runner(state: QueenState, lease: Lease) -> Job | None:
    """Return the job that runs by a lease; None: it was taken back, and nobody knows when its worker stops."""
    return state.jobs[lease.job_id] if lease.is_current else None


def predicted_ends(state: QueenState, worker: Worker, now: Instant) -> dict[LeaseId, int]:
    """Return in how many milliseconds each lease of a worker is predicted to end, where that can be said.

    Of a job that has outlasted its prediction, and of one of which nothing was predicted, nothing can.
    """
    found: dict[LeaseId, int] = {}
    for lease_id in worker.leases:
        job = runner(state, state.leases[lease_id])
        if job is not None and job.leased_at is not None and job.expected_ms:
            left_ms = job.leased_at.mono_ms + job.expected_ms - now.mono_ms
            if left_ms > 0:
                found[lease_id] = left_ms
    return found


def slot_wait_ms(state: QueenState, worker: Worker, now: Instant) -> float:
    """Return how long it should take until a slot is free, in milliseconds; 0 if one is.

    Where no end is predicted it is what a slot takes on average in the model, and 0 where that is unknown, too.
    """
    if worker.slots_free:
        return 0.0
    ends = predicted_ends(state, worker, now)
    if ends:
        return float(min(ends.values()))
    usual_ms = state.forecast.service_ms.get(worker.report.model, 0.0)
    return usual_ms / max(worker.report.slots_total, 1)
