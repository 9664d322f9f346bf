"""From decisions to the messages of those who watch them, and which of them each one wants."""

from typing import assert_never

from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    Reject,
    StartWorker,
    Wait,
)

from beeyard_queen.ingress.candidate_wire import candidate_message
from beeyard_queen.ingress.wire import timestamp_of
from beeyard_queen.policy.decision_feed import DecisionRecord


class Wanted:
    """What one watcher wants to see; it remembers when it last wanted a decision to wait."""

    def __init__(self, job_id: str, include_waits: bool) -> None:  # noqa: FBT001  the request's own fields
        """Want decisions about a job, or about any; and those to wait, which are about none."""
        self._job_id = job_id
        self._include_waits = include_waits and not job_id
        self._next_wait_ms: int | None = None

    def __call__(self, record: DecisionRecord) -> bool:
        """Return whether it wants this one."""
        match record.intent:
            case Wait():
                return self._include_waits and self._is_due(record.at.mono_ms)
            case Dispatch(job_id=job_id) | Reject(job_id=job_id):
                return self._job_id in ("", job_id)
            case Preempt(job_id=job_id, for_job_id=other_id):
                return self._job_id in ("", job_id, other_id)
            case StartWorker() | Evict() | None:
                return not self._job_id
            case _:
                assert_never(record.intent)

    def _is_due(self, now_ms: int) -> bool:
        if self._next_wait_ms is not None and now_ms < self._next_wait_ms:
            return False
        self._next_wait_ms = now_ms + limits.DECISION_WAITS_INTERVAL_MS
        return True


def wire_decision_of(sequence: int, record: DecisionRecord) -> pb.Decision:
    """Return one decision and what became of it."""
    refused = record.refused
    wire = pb.Decision(
        sequence=sequence,
        create_time=timestamp_of(record.at.wall_ms),
        policy_version=record.label,
        state_version=record.state_version,
        applied=refused is None,
        refusal=f"{refused.reason.value}: {refused.message}" if refused else "",
        fallback=record.is_fallback,
        cpu_us=record.cpu_us,
        candidates=map(candidate_message, record.considered),
    )
    if record.intent is not None:
        _add_intent(wire, record.intent)
    return wire


def _add_intent(wire: pb.Decision, intent: Intent) -> None:
    match intent:
        case Dispatch():
            wire.dispatch.job_id, wire.dispatch.worker_id = intent.job_id, intent.worker_id
        case Wait():
            wire.wait.SetInParent()
            wire.wait.reason, wire.wait.retry_after_ms = intent.reason, intent.retry_after_ms
        case StartWorker():
            wire.start_worker.model = intent.model_ref
            wire.start_worker.pool_id, wire.start_worker.gpu_id = intent.pool_id, intent.gpu_id
        case Evict():
            wire.evict.worker_id, wire.evict.reason = intent.evict_worker_id, intent.reason
        case Preempt():
            wire.preempt.job_id, wire.preempt.for_job_id = intent.job_id, intent.for_job_id
        case Reject():
            wire.reject.job_id, wire.reject.reason = intent.job_id, intent.reason
        case _:
            assert_never(intent)
