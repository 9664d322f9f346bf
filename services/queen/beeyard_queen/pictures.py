"""How the workers looked when a job was placed: kept for the youngest jobs, so that a placement can be explained later.

A picture is taken when the offer leaves, with every decision of its batch applied. It costs a look at each worker, and
so a model with many workers is pictured in part: what is told of them is right, and who is missing is counted in the
decision.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice

from beeyard_core import history_limits
from beeyard_core.ids import JobId
from beeyard_core.job import Job
from beeyard_core.placement import exclusion
from beeyard_core.state import QueenState


@dataclass(frozen=True, slots=True)
class Seen:
    """One worker that was not chosen: why it could not take the job, or that it could."""

    worker_id: str
    pool_id: str
    excluded_by: str
    detail: str


@dataclass(slots=True)
class Pictures:
    """The pictures of the youngest placements, by job."""

    _by_job: "OrderedDict[JobId, tuple[Seen, ...]]" = field(default_factory=OrderedDict)

    def take(self, state: QueenState, job: Job, now_ms: int) -> None:
        """Picture the other workers of the job's model, as they are now."""
        others = (
            state.fleet.workers[worker_id]
            for worker_id in state.fleet.by_model.get(job.spec.model, ())
            if worker_id != job.worker_id
        )
        seen = []
        for worker in islice(others, history_limits.CANDIDATES_PICTURED_MAX):
            why = exclusion(job.spec, state.fleet, worker, now_ms)
            reason, detail = (why.reason.value, why.detail) if why is not None else ("", "")
            seen.append(Seen(worker.report.worker_id, worker.report.pool_id, reason, detail))
        self._by_job[job.job_id] = tuple(sorted(seen, key=lambda each: each.worker_id))
        self._by_job.move_to_end(job.job_id)
        while len(self._by_job) > history_limits.PICTURES_KEPT_MAX:
            self._by_job.popitem(last=False)

    def of(self, job_id: JobId) -> tuple[Seen, ...]:
        """Return what was seen when the job was placed last; nothing if that is forgotten."""
        return self._by_job.get(job_id, ())
