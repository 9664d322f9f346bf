"""Whether heavy work is accepted: once for each request id, once for each unique key, and only if it can ever run."""

from beeyard_core import limits
from beeyard_core.instant import Instant
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState
from beeyard_core.work import Work
from beeyard_core.work_ask import Submission, Told


def known_work(state: QueenState, asked: Submission) -> Told | Refused | None:
    """Return the work that a submission already is, or why it cannot be; None: it is new."""
    tenant_id, spec = asked.spec.tenant_id, asked.spec
    earlier = state.work.by_request.get((tenant_id, asked.request_id)) if asked.request_id else None
    if earlier is not None:
        if state.work.works[earlier].digest == asked.digest:
            return Told(earlier)
        return request_conflict()
    unique = state.work.by_unique_key.get((tenant_id, spec.unique_key)) if spec.unique_key else None
    return None if unique is None else Told(unique)


def request_conflict() -> Refused:
    """Refuse a request id that names another body."""
    return Refused(
        reason=Refusal.REQUEST_ID_CONFLICT,
        message="this request_id was used with another body; draw a new one",
        field="request_id",
    )


def admit_work(state: QueenState, asked: Submission, now: Instant) -> Work | Refused:
    """Return new work, or why it is refused."""
    if state.is_draining:
        return Refused(
            reason=Refusal.DRAINING,
            message="the queen is shutting down; send the request again in a moment",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        )
    leasable = state.settings.capacity.units_leasable
    if asked.spec.units > leasable:
        return Refused(
            reason=Refusal.INVALID_REQUEST,
            message=f"an idle host gives out {leasable} units, so work of {asked.spec.units} would never run",
            field="capacity_units",
        )
    if len(state.work.queue) >= limits.WORK_QUEUE_DEPTH_MAX:
        return Refused(
            reason=Refusal.QUEUE_FULL_REJECT,
            message=f"{limits.WORK_QUEUE_DEPTH_MAX} pieces of work wait already; send the request again later",
            retry_after_ms=limits.WORK_RETRY_MS,
            metadata={"policy_label": "reject"},
        )
    over_quota = state.quotas.admit_work(
        asked.spec.tenant_id, state.settings.quotas, state.fleet, now.mono_ms
    )
    if over_quota is not None:
        return over_quota
    deadline_ms = asked.spec.deadline_ms
    return Work(
        work_id=asked.work_id,
        spec=asked.spec,
        sequence=state.work.next_sequence(),
        accepted_at=now,
        request_id=asked.request_id,
        digest=asked.digest,
        deadline_at_ms=None if deadline_ms is None else now.mono_ms + deadline_ms,
    )
