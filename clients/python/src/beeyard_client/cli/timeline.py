"""What became of one job, line by line: queued, decided, leased, first token, speed, trace."""

from collections.abc import Sequence

from beeyard_client.events import Finished, Started
from beeyard_client.job import Job


def timeline(job: Job, attempts: Sequence[Started], ending: Finished, trace_id: str) -> list[str]:
    """Return the lines.

    Args:
        job: The job after its end.
        attempts: Every attempt that began, in order.
        ending: Its last event.
        trace_id: The trace that this process began, if the queen names none; may be empty.

    Returns:
        Lines of equal indentation, without line ends.
    """
    timings, usage = ending.timings, ending.usage
    rows = [("job", f"{job.job_id} ({job.priority.value.lower()}, model {job.model})")]
    rows.append(("queued", f"{timings.queue_ms:.1f} ms"))
    for one in attempts:
        why = f": {one.decision}" if one.decision else ""
        rows.append(("decided", f"by {one.policy_version or 'no policy'}{why}"))
        count = f", attempt {one.attempt}" if len(attempts) > 1 else ""
        rows.append(("leased", f"to {one.worker_id} on {one.device}{count}"))
    rows.append(("first token", f"{timings.first_token_ms:.0f} ms after acceptance"))
    speed = f" at {timings.tokens_per_s:.1f} tokens/s" if timings.tokens_per_s else ""
    rows.append(("decoded", f"{usage.completion_tokens} tokens{speed}"))
    rows.append(("ended", f"{ending.reason.value} after {timings.total_ms:.0f} ms"))
    rows.append(("trace", job.trace_id or trace_id or "not traced"))
    return [f"{name:<12} {words}" for name, words in rows]
