"""What becomes of a job whose attempt broke: it tries again, at once or after a rest, or it ends.

The first time it goes back at once, to the head of its class: its worker died, and the client should see a pause and
no more. From the second time on the job itself is under suspicion. It rests before each further attempt, twice as long
each time and spread out, so that a fleet which is going down is not pulled down faster. And of the jobs that were lost
with one worker only one at a time is tried: a job that kills its worker then takes none of them with it a third time.
"""

from beeyard_core import limits
from beeyard_core.dispatch import end, enqueue, requeue
from beeyard_core.effect import AnnounceRequeued, Effect, SaveJob
from beeyard_core.ids import Epoch, JobId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobState, JobVerb
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState, TimerKind


def retry_or_fail(
    state: QueenState, job: Job, cause: Refused, now: Instant, effects: list[Effect]
) -> None:
    """Let a job whose attempt broke try again, or end it when trying again cannot help or was tried enough."""
    if not cause.reason.is_transient:
        end(state, job, JobVerb.FAIL, now, effects, failure=cause)
        return
    if cause.reason is Refusal.DRAINING and job.preemptions < limits.PREEMPTIONS_PER_JOB_MAX:
        # Its worker was told to end. That says nothing of the job, however often a fleet is renewed under it.
        job.preemptions += 1
        requeue(state, job, effects, cause.reason)
        return
    broken = job.attempt - job.preemptions
    if broken >= job.spec.max_attempts:
        _exhausted(state, job, cause, now, effects)
    elif broken == 1:
        requeue(state, job, effects, cause.reason)
    else:
        _rest(state, job, cause, now, effects)


def _exhausted(
    state: QueenState, job: Job, cause: Refused, now: Instant, effects: list[Effect]
) -> None:
    failure = Refused(
        reason=Refusal.ATTEMPTS_EXHAUSTED,
        message=f"{job.attempt} of {job.attempt} attempts broke; the last one: {cause.message}",
        metadata={"last_reason": cause.reason.value, "attempt": str(job.attempt)},
    )
    end(state, job, JobVerb.FAIL, now, effects, failure=failure)


def _rest(state: QueenState, job: Job, cause: Refused, now: Instant, effects: list[Effect]) -> None:
    """Keep a job out of the queue for a while. A queen that restarts meanwhile lets it try at once."""
    broken = job.attempt - job.preemptions
    job.move(JobVerb.REQUEUE)
    job.is_resting = True
    state.set_timer(now.mono_ms + rest_ms(broken, job.epoch), TimerKind.REST, job.job_id)
    effects.append(SaveJob(job.job_id))
    effects.append(AnnounceRequeued(job.job_id, cause.reason))


def rest_ms(broken: int, epoch: Epoch) -> int:
    """Return how long a job rests of whose attempts `broken` broke, 2 or more, in milliseconds.

    Args:
        broken: Each further one doubles the rest.
        epoch: Of the last attempt. No other lease has it, so it spreads out jobs that broke at one moment.
    """
    ceiling_ms = min(limits.ATTEMPT_REST_MS_MIN << (broken - 2), limits.ATTEMPT_REST_MS_MAX)
    # Knuth's multiplicative hash: neighbouring epochs end up far apart.
    spread = epoch * 2_654_435_761 % 2**32
    return ceiling_ms // 2 + (ceiling_ms // 2) * spread // 2**32


def rest_timer(state: QueenState, job_id: JobId, now: Instant) -> None:
    """Let a rested job wait for a worker again, unless another that was lost with it is being tried just now."""
    job = state.jobs.get(job_id)
    if job is None or not job.is_resting:
        return
    assert job.worker_id is not None, "a job whose attempt broke had a worker"
    _forget_trials(state, now)
    if job.worker_id in state.trials:
        state.set_timer(
            now.mono_ms + rest_ms(2, Epoch(job.epoch + now.mono_ms)), TimerKind.REST, job_id
        )
        return
    state.trials[job.worker_id] = job_id
    job.is_resting = False
    enqueue(state, job)


def _forget_trials(state: QueenState, now: Instant) -> None:
    """Let the next of those that were lost together be tried."""
    over = [worker_id for worker_id, job_id in state.trials.items() if _is_over(state, job_id, now)]
    for worker_id in over:
        del state.trials[worker_id]


def _is_over(state: QueenState, job_id: JobId, now: Instant) -> bool:
    """Whether a job that was tried has ended, rests again, or has run for so long that it kills no worker."""
    job = state.jobs.get(job_id)
    if job is None or job.is_ended or job.is_resting:
        return True
    if job.state is JobState.QUEUED or job.leased_at is None:
        return False
    return now.mono_ms - job.leased_at.mono_ms >= limits.TRIAL_MS
