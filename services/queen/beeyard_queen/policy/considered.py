"""How workers looked to a decision to place a job: for whoever watches decisions, and to explain a job that waits.

It is looked at before the decision is applied, and only while somebody watches: it costs a look at each worker.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from beeyard_core import limits, placement_limits
from beeyard_core.choice import Candidate, PlacementInput, Score, place
from beeyard_core.fleet import Fleet, Worker
from beeyard_core.ids import JobId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Job
from beeyard_core.policy.intent import Dispatch, Intent
from beeyard_core.slot_waits import slot_wait_ms
from beeyard_core.state import QueenState


@dataclass(frozen=True, slots=True)
class Considered:
    """One worker: whether it was chosen, what excluded it (empty: nothing), and its score (None: unknown)."""

    worker_id: str
    pool_id: str
    is_chosen: bool
    excluded_by: str
    detail: str
    score: Score | None
    cached_tokens: int

    @classmethod
    def of(cls, candidate: Candidate, *, is_chosen: bool = False) -> "Considered":
        """Return a candidate as it is now; its worker goes on changing."""
        report, why = candidate.worker.report, candidate.exclusion
        return cls(
            worker_id=report.worker_id,
            pool_id=report.pool_id,
            is_chosen=is_chosen,
            excluded_by=why.reason.value if why is not None else "",
            detail=why.detail if why is not None else "",
            score=candidate.score,
            cached_tokens=candidate.cached_tokens,
        )


def trace_of(
    state: QueenState, job: Job, workers: Iterable[Worker], now: Instant
) -> tuple[Candidate, ...]:
    """Return workers in the order in which they would be chosen for a job, then those that are excluded."""
    fleet = state.fleet
    scene = Fleet(pools=fleet.pools, speeds=fleet.speeds, closed_pools=fleet.closed_pools)
    scene.workers = {worker.report.worker_id: worker for worker in workers}
    given = PlacementInput(
        spec=job.spec,
        fleet=scene,
        now_ms=now.mono_ms,
        held=state.prefixes.held(job.job_id),
        expected_tokens=job.expected_tokens,
        slot_waits={id_: slot_wait_ms(state, w, now) for id_, w in scene.workers.items()},
    )
    return place(given).trace


def considered(state: QueenState, intent: Intent, now: Instant) -> tuple[Considered, ...]:
    """Return the worker that a placement is for, and the best of the others of its model; nothing of anything else."""
    if not isinstance(intent, Dispatch):
        return ()
    job = state.jobs.get(JobId(intent.job_id))
    if job is None or job.job_id not in state.queue:
        return ()
    fleet, chosen = state.fleet, WorkerId(intent.worker_id)
    # Of many, always the same are looked at, whatever the order in which they are kept.
    ids = heapq.nsmallest(limits.CANDIDATES_KEPT_MAX, fleet.by_model.get(job.spec.model, ()))
    workers = [fleet.workers[i] for i in {chosen: None, **dict.fromkeys(ids)} if i in fleet.workers]
    trace = trace_of(state, job, workers, now)
    first = [each for each in trace if each.worker.report.worker_id == chosen]
    others = [each for each in trace if each.worker.report.worker_id != chosen]
    most = placement_limits.CONSIDERED_TOLD_MAX - len(first)
    told = [Considered.of(each, is_chosen=True) for each in first]
    return (*told, *(Considered.of(each) for each in others[:most]))
