"""How a queen that has just started gets its memory back from what was durable."""

from collections.abc import Iterable, Mapping

from beeyard_core.dispatch import enqueue, hold
from beeyard_core.fairness import gets_place
from beeyard_core.fleet import Worker, WorkerReport, WorkerState
from beeyard_core.ids import Epoch, ModelName, PoolId, WorkerId, lease_id_of
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobState
from beeyard_core.lease import Lease, LeaseState
from beeyard_core.scaling import Scale
from beeyard_core.sessions import SessionKey, Spending
from beeyard_core.state import QueenState, Settings, TimerKind


def restore(
    settings: Settings,
    jobs: Iterable[Job],
    *,
    epoch: int,
    sequence: int,
    models: Iterable[str],
    now: Instant,
    scales: Mapping[ModelName, Scale] | None = None,
    sessions: Mapping[SessionKey, Spending] | None = None,
) -> QueenState:
    """Rebuild the state from every job that had not ended.

    Queued jobs queue again in their old order. Leased and running ones keep their lease for one time to live: a worker
    that attaches and claims it goes on with it, and one that nobody claims expires like any other lease.

    Args:
        settings: What the operator chose.
        jobs: Jobs that had not ended, in any order, their times already on today's monotonic clock.
        epoch: The highest epoch ever given out.
        sequence: The highest sequence ever given out.
        models: Every model ever offered.
        now: The moment of the start.
        scales: What operators said at run time of the workers of single models.
        sessions: What ended jobs had used of budgets, the longest unused session first.
    """
    state = QueenState(settings=settings, sequence=sequence, epoch=Epoch(epoch), now_ms=now.mono_ms)
    state.fleet.known_models.update(ModelName(model) for model in models)
    state.scales.by_model.update(scales or {})
    state.quotas.sessions.restore(sessions or {})
    # Sessions join in the order in which their jobs were accepted.
    for job in sorted(jobs, key=lambda each: each.sequence):
        state.jobs[job.job_id] = job
        state.quotas.restore_job(job, settings.quotas)
        # An earlier queen counted these; the counters begin anew.
        job.served_index = job.next_index
        job.place, job.is_next = None, False
        if job.request_id:
            state.requests[job.spec.tenant_id, job.request_id] = job.job_id
        if job.deadline_at_ms is not None:
            state.set_timer(job.deadline_at_ms, TimerKind.DEADLINE, job.job_id)
        if job.state is JobState.QUEUED:
            job.is_resting = False
            enqueue(state, job)
        else:
            _restore_lease(state, job, now)
    return state


def _restore_lease(state: QueenState, job: Job, now: Instant) -> None:
    """Keep a lease for the worker that held it, which is expected to come back."""
    gets_place(state, job)
    worker_id = WorkerId(job.worker_id or "")
    if worker_id not in state.fleet.workers:
        absent = WorkerReport(
            worker_id=worker_id,
            pool_id=PoolId(""),
            model=job.spec.model,
            engine="",
            state=WorkerState.STARTING,
            slots_total=0,
            kv_tokens_total=0,
            context_tokens=0,
        )
        state.fleet.workers[worker_id] = Worker(report=absent, session=0, heard_at_ms=now.mono_ms)
        state.set_timer(now.mono_ms + state.settings.lease_ttl_ms, TimerKind.SILENCE, worker_id)
    hold(
        state,
        Lease(
            lease_id=lease_id_of(job.epoch),
            epoch=job.epoch,
            job_id=job.job_id,
            worker_id=worker_id,
            model=job.spec.model,
            attempt=job.attempt,
            kv_tokens=job.spec.kv_tokens,
            offered_at=job.leased_at or now,
            state=LeaseState.ACTIVE,
        ),
    )
