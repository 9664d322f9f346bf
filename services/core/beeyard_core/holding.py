"""Background work steps aside before urgent work comes, where the operator wants that.

A background job that is begun just before a peak holds a slot in it. So a new one whose end falls into an hour in which
urgent work usually keeps most slots busy is held back: it waits in the queue as ever, at its place and counted
everywhere, but no policy is told of it yet. That is a guess about the future, and so it is bounded: no job is held for
longer than `HOLD_MS_MAX`, and none until it is overdue (`overdue.py`).
"""

from beeyard_core import history_limits
from beeyard_core.instant import Instant
from beeyard_core.job import Job, Priority
from beeyard_core.profile import HOUR_MS
from beeyard_core.state import QueenState, TimerKind


def hold_ms(state: QueenState, job: Job, now: Instant) -> int:
    """Return for how long a new job should step aside, in milliseconds; 0: not at all."""
    if not state.settings.hold_background or job.spec.priority is not Priority.BACKGROUND:
        return 0
    profile = state.forecast.profiles.get(job.spec.model)
    slots = state.fleet.slots_total.get(job.spec.model, 0)
    ends_ms = now.wall_ms + job.expected_ms
    urgent = profile.slots_at(ends_ms) if profile is not None else None
    if urgent is None or not slots or urgent < history_limits.PEAK_SHARE * slots:
        return 0
    peak_over_ms = (ends_ms // HOUR_MS + 1) * HOUR_MS - now.wall_ms
    patience_ms = state.settings.queue.overdue_after_ms - 1
    return max(min(peak_over_ms, history_limits.HOLD_MS_MAX, patience_ms), 0)


def hold(state: QueenState, job: Job, now: Instant) -> None:
    """Hold a new job back, if that is wanted and a peak is expected; before it is queued."""
    held_ms = hold_ms(state, job, now)
    if held_ms:
        job.held_until_ms = now.mono_ms + held_ms
        state.set_timer(job.held_until_ms, TimerKind.HOLD, job.job_id)


def hold_timer(state: QueenState, job: Job | None) -> None:
    """Let policies know of a job that was held for long enough."""
    if job is not None and job.held_until_ms is not None:
        job.held_until_ms = None
        state.touched.jobs[job.job_id] = None
