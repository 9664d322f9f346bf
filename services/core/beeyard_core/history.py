"""What is remembered of a job and of a lease once they have ended: figures and names, never a word of a prompt.

Live rows are for going on after a restart and go with their output; these stay longer, and everything that is said
about the past is worked out from them: success rates, waits, how good the predictions were, what jobs will need.
"""

from typing import Final, NamedTuple

from beeyard_core.fleet import Fleet
from beeyard_core.ids import JobId, LeaseId, ModelName, PoolId, TenantId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobState, Priority
from beeyard_core.lease import Lease, LeaseState
from beeyard_core.prediction import Estimate

#: A time that never came.
NEVER: Final = -1


class JobRecord(NamedTuple):
    """One ended job: wall times in milliseconds since the epoch, spans in milliseconds, NEVER where it came not so far.

    Attributes:
        reason: Why it did not complete, as a reason of the contract; empty if it did, or was cancelled.
        worker_id: The worker of its last attempt, like pool, device and policy; empty if it was never placed.
        wait_ms: From acceptance to its first lease.
        first_token_ms: From acceptance to its first token.
        service_ms: From its last lease to its end.
        total_ms: From acceptance to its end.
        prefill_ms: From the start of its last attempt to the first token, as the worker measured; 0: unknown.
        decode_ms: From the first token of that attempt to the last.
        estimate: What was predicted when it was accepted; None: too little was known.
    """

    sequence: int
    job_id: JobId
    tenant_id: TenantId
    model: ModelName
    priority: Priority
    state: JobState
    reason: str
    policy_version: str
    worker_id: str
    pool_id: str
    device: str
    attempts: int
    preemptions: int
    prompt_tokens: int
    max_tokens: int
    answer_tokens: int
    created_ms: int
    ended_ms: int
    wait_ms: int
    first_token_ms: int
    service_ms: int
    total_ms: int
    prefill_ms: float
    decode_ms: float
    estimate: Estimate | None = None


class LeaseRecord(NamedTuple):
    """One ended lease; times as in `JobRecord`.

    Attributes:
        ending: RELEASED: the worker gave it back; EXPIRED: it was silent for too long.
        was_revoked: The queen had taken it back before.
    """

    epoch: int
    lease_id: LeaseId
    job_id: JobId
    model: ModelName
    worker_id: WorkerId
    pool_id: PoolId
    attempt: int
    ending: LeaseState
    was_revoked: bool
    leased_ms: int
    ended_ms: int


def job_record_of(job: Job, fleet: Fleet) -> JobRecord:
    """Return what is to be remembered of a job that has ended; its worker may be gone, and with it pool and device."""
    assert job.ended_at is not None, "a job that has ended knows when"
    worker = fleet.workers.get(job.worker_id) if job.worker_id is not None else None
    device = fleet.device_of(worker) if worker is not None else None
    spec, finish = job.spec, job.finish
    return JobRecord(
        sequence=job.sequence,
        job_id=job.job_id,
        tenant_id=spec.tenant_id,
        model=spec.model,
        priority=spec.priority,
        state=job.state,
        reason=job.failure.reason.value if job.failure is not None else "",
        policy_version=job.decision.policy_version if job.decision is not None else "",
        worker_id=job.worker_id or "",
        pool_id=worker.report.pool_id if worker is not None else "",
        device=device.name if device is not None else "",
        attempts=job.attempt,
        preemptions=job.preemptions,
        prompt_tokens=spec.prompt_tokens,
        max_tokens=spec.max_tokens,
        answer_tokens=job.next_index,
        created_ms=job.accepted_at.wall_ms,
        ended_ms=job.ended_at.wall_ms,
        wait_ms=_wait_ms(job),
        first_token_ms=_span(job.accepted_at, job.first_token_at),
        service_ms=_span(job.leased_at, job.ended_at),
        total_ms=_span(job.accepted_at, job.ended_at),
        prefill_ms=finish.prefill_ms if finish is not None else 0.0,
        decode_ms=finish.decode_ms if finish is not None else 0.0,
        estimate=job.estimate,
    )


def _wait_ms(job: Job) -> int:
    """Until the first lease; a queen that restarted meanwhile knows the last one only."""
    return job.waited_ms if job.waited_ms is not None else _span(job.accepted_at, job.leased_at)


def _span(begin: Instant | None, end: Instant | None) -> int:
    return NEVER if begin is None or end is None else max(end.mono_ms - begin.mono_ms, 0)


def lease_record_of(lease: Lease, fleet: Fleet, ended_ms: int, *, was_revoked: bool) -> LeaseRecord:
    """Return what is to be remembered of a lease that has ended, at that wall time."""
    worker = fleet.workers[lease.worker_id]
    return LeaseRecord(
        epoch=lease.epoch,
        lease_id=lease.lease_id,
        job_id=lease.job_id,
        model=lease.model,
        worker_id=lease.worker_id,
        pool_id=worker.report.pool_id,
        attempt=lease.attempt,
        ending=lease.state,
        was_revoked=was_revoked,
        leased_ms=lease.offered_at.wall_ms,
        ended_ms=ended_ms,
    )
