"""A bound on every wait: of so many jobs of a model that start, one is the job that has waited for too long.

Classes, deadlines, shares and turns decide who is served first, and each of them can keep somebody waiting for ever; so
can small jobs that always find room where a large one does not. A job that has waited for `overdue_after_ms` is
overdue. Whenever `overdue_every` jobs of a model have started, the oldest overdue job that some present worker of the
model could run becomes *next*: the platform policy starts nothing else of the model before it, even where that leaves a
slot empty until there is room. So once a job is overdue it starts within `overdue_every` + 1 starts of its model for
itself and for every overdue job that is older.

The rest of the starts goes by the rules as before: at the default of 64 a flood of overdue work takes a sixty-fourth of
a model's starts. Only starts are counted and only heads are looked at, so it costs next to nothing until somebody is
overdue. The core only says who is next; what an operator's own policy makes of it is the policy's affair.
"""

from heapq import merge

from beeyard_core import limits
from beeyard_core.ids import ModelName
from beeyard_core.job import Job, JobSpec, Priority
from beeyard_core.placement import unavailability, worker_mismatch
from beeyard_core.state import QueenState


def counts_start(state: QueenState, model: ModelName) -> None:
    """A job of a model starts and has left the queue: perhaps it is somebody's turn who has waited for too long."""
    if not state.queue.waiting_for(model):
        state.starts.pop(model, None)
        return
    count = state.starts.get(model, 0) + 1
    if count >= state.settings.queue.overdue_every and model not in state.next_jobs:
        count = 0
        job = _oldest_overdue(state, model)
        if job is not None:
            state.next_jobs[model] = job.job_id
            _mark(state, job, is_next=True)
    state.starts[model] = count


def releases(state: QueenState, job: Job) -> None:
    """A waiting job leaves the queue, or cannot run any more: if it was next, nobody is."""
    if job.is_next:
        del state.next_jobs[job.spec.model]
        _mark(state, job, is_next=False)


def reviews(state: QueenState) -> None:
    """Let nobody wait for a job that is next and that no worker could run any more."""
    for job_id in list(state.next_jobs.values()):
        job = state.jobs[job_id]
        if not could_run(state, job.spec):
            releases(state, job)


def _mark(state: QueenState, job: Job, *, is_next: bool) -> None:
    job.is_next = is_next
    state.touched.jobs[job.job_id] = None


def _oldest_overdue(state: QueenState, model: ModelName) -> Job | None:
    """Return the oldest job of a model that is overdue and could run, or None. Looks at heads, the oldest first."""
    accepted_before_ms = state.now_ms - state.settings.queue.overdue_after_ms
    heads = (state.queue.heads(priority, model) for priority in Priority)
    for number, job in enumerate(merge(*heads, key=lambda each: each.sequence)):
        if job.accepted_at.mono_ms > accepted_before_ms or number >= limits.OVERDUE_LOOKED_AT_MAX:
            return None
        if could_run(state, job.spec):
            return job
    return None


def could_run(state: QueenState, spec: JobSpec) -> bool:
    """Whether some worker that takes jobs now could run a job, were it empty."""
    fleet = state.fleet
    workers = (fleet.workers[worker_id] for worker_id in fleet.by_model.get(spec.model, ()))
    return any(
        worker.report.slots_total
        and unavailability(fleet, worker, state.now_ms) is None
        and worker_mismatch(spec, fleet, worker) is None
        for worker in workers
    )
