"""The only file of the client that knows both its own types and the wire's.

Nothing is judged here but what protobuf itself cannot carry: a number that overflows its field, or text that is not
Unicode. Everything else is for the queen to refuse, so that there is one set of rules.
"""

from datetime import UTC, datetime
from typing import Final

from beeyard.queen.v1 import inference_service_pb2, job_pb2
from beeyard.worker.v1 import generation_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from beeyard_client import history_wire
from beeyard_client.errors import invalid
from beeyard_client.events import (
    Budget,
    Cancelled,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    Queued,
    Started,
    Timings,
    Tokens,
    Usage,
)
from beeyard_client.job import (
    Candidate,
    Explanation,
    Job,
    JobRequest,
    JobSpan,
    JobState,
    JobTimeline,
    LeaseRecord,
    Placement,
    Priority,
    Remedy,
    Requirements,
)
from beeyard_client.prediction import Prediction

_INT32_FIELDS: Final = ("max_tokens", "top_k", "cost_units", "max_attempts")
_INT64_FIELDS: Final = ("seed", "deadline_ms")
_TEXT_FIELDS: Final = ("prompt", "model", "tenant_id", "session_id", "request_id", "engine")


def infer_request(job: JobRequest) -> inference_service_pb2.InferRequest:
    """Return the message of `Infer`.

    Raises:
        BeeyardError: `INVALID_REQUEST`, with the field, for what no message can carry.
    """
    _check_carried(job)
    try:
        wire = inference_service_pb2.InferRequest(
            request_id=job.request_id,
            model=job.model,
            prompt=job.prompt or "",
            messages=[
                generation_pb2.ChatMessage(role=one.role, content=one.content)
                for one in job.messages
            ],
            max_tokens=job.max_tokens,
            temperature=job.temperature,
            top_p=job.top_p,
            top_k=job.top_k,
            seed=job.seed,
            stop=list(job.stop),
            priority=priority_to_wire(job.priority),
            tenant_id=job.tenant_id,
            session_id=job.session_id,
            deadline_ms=job.deadline_ms,
            engine=job.engine,
            requirements=_requirements_to_wire(job.requirements),
            placement=_placement_to_wire(job.placement),
            labels=dict(job.labels),
            cost_units=job.cost_units,
            max_attempts=job.max_attempts,
        )
    except (UnicodeEncodeError, ValueError) as error:
        # What is left after the checks above: nested text and numbers.
        raise invalid("", "a field of the request is out of range or not valid Unicode") from error
    return wire


def submit_request(job: JobRequest) -> inference_service_pb2.SubmitJobRequest:
    """Return the message of `SubmitJob`: field for field the same as that of `Infer`, so the same bytes."""
    return inference_service_pb2.SubmitJobRequest.FromString(infer_request(job).SerializeToString())


def _check_carried(job: JobRequest) -> None:
    if job.prompt is not None and job.messages:
        raise invalid("prompt", "give either a prompt or messages, not both")
    if job.prompt is None and not job.messages:
        raise invalid("prompt", "give a prompt or messages")
    for name in _TEXT_FIELDS:
        if any("\ud800" <= one <= "\udfff" for one in getattr(job, name) or ""):
            raise invalid(name, f"{name} is not valid Unicode text")
    for fields, bits in ((_INT32_FIELDS, 31), (_INT64_FIELDS, 63)):
        for name in fields:
            value = getattr(job, name)
            if value is not None and not -(1 << bits) <= value < 1 << bits:
                raise invalid(name, f"{name} is out of range")


def priority_to_wire(priority: Priority | str | None) -> "job_pb2.Priority.ValueType":
    """Return a class as the wire has it; None is left to the queen.

    Raises:
        BeeyardError: `INVALID_REQUEST` if there is no such class.
    """
    if priority is None:
        return job_pb2.PRIORITY_UNSPECIFIED
    return job_pb2.Priority.Value(f"PRIORITY_{Priority.parse(priority).value}")


def _requirements_to_wire(needs: Requirements | None) -> job_pb2.Requirements | None:
    if needs is None:
        return None
    return job_pb2.Requirements(
        min_vram_bytes=needs.min_vram_bytes,
        quantizations=list(needs.quantizations),
        min_compute_capability=needs.min_compute_capability,
        min_context_tokens=needs.min_context_tokens,
        extensions=list(needs.extensions),
    )


def _placement_to_wire(placement: Placement | None) -> job_pb2.Placement | None:
    if placement is None:
        return None
    return job_pb2.Placement(
        pin_pool_id=placement.pin_pool_id,
        prefer_pool_ids=list(placement.prefer_pool_ids),
        avoid_pool_ids=list(placement.avoid_pool_ids),
    )


def states_to_wire(states: tuple[JobState, ...]) -> "list[job_pb2.JobState.ValueType]":
    """Return the states of a listing's filter; `UNKNOWN` is no state to ask for."""
    return [
        job_pb2.JobState.Value(f"JOB_STATE_{one.value}")
        for one in states
        if one is not JobState.UNKNOWN
    ]


def event(wire: job_pb2.JobEvent) -> Event | None:
    """Return the event, or None for a kind that this client does not know yet."""
    job_id = wire.job_id
    match wire.WhichOneof("event"):
        case "queued":
            return Queued(
                job_id=job_id,
                position=wire.queued.position,
                predicted_start_ms=wire.queued.predicted_start_ms,
                budget=_budget(wire.queued),
                prediction=_prediction(wire.queued),
            )
        case "started":
            return _started(job_id, wire.started)
        case "tokens":
            chunk = wire.tokens
            return Tokens(
                job_id=job_id,
                first_index=chunk.first_index,
                ids=tuple(chunk.ids),
                text=chunk.text,
                count=chunk.count,
            )
        case "progress":
            return Progress(
                job_id=job_id,
                stage=wire.progress.stage,
                fraction=wire.progress.fraction,
                position=wire.progress.position,
                message=wire.progress.message,
            )
        case "finished":
            return Finished(
                job_id=job_id,
                reason=_finish_reason(wire.finished.reason),
                usage=_usage(wire.finished.usage),
                timings=_timings(wire.finished.timings),
                budget=_budget(wire.finished),
            )
        case "failed":
            return _failed(job_id, wire.failed)
        case "cancelled":
            return Cancelled(job_id=job_id)
        case _:
            return None


def _budget(wire: job_pb2.JobQueued | job_pb2.JobFinished | job_pb2.Job) -> Budget | None:
    if not wire.HasField("budget"):
        return None
    left = wire.budget
    return Budget(
        tokens_remaining=left.tokens_remaining if left.HasField("tokens_remaining") else None,
        cost_units_remaining=left.cost_units_remaining
        if left.HasField("cost_units_remaining")
        else None,
    )


def _started(job_id: str, wire: job_pb2.JobStarted) -> Started:
    return Started(
        job_id=job_id,
        worker_id=wire.worker_id,
        worker_address=wire.worker_address,
        model=wire.model,
        device=wire.device,
        attempt=wire.attempt,
        policy_version=wire.policy_version,
        decision=wire.decision,
    )


def _failed(job_id: str, wire: job_pb2.JobFailed) -> Failed:
    return Failed(
        job_id=job_id,
        reason=wire.reason,
        retriable=wire.retriable,
        retry_after_ms=wire.retry_after_ms,
        message=wire.message,
    )


def _finish_reason(wire: int) -> FinishReason:
    match wire:
        case generation_pb2.FINISH_REASON_STOP:
            return FinishReason.STOP
        case generation_pb2.FINISH_REASON_LENGTH:
            return FinishReason.LENGTH
        case _:
            return FinishReason.UNKNOWN


def _usage(wire: generation_pb2.Usage) -> Usage:
    return Usage(
        prompt_tokens=wire.prompt_tokens,
        completion_tokens=wire.completion_tokens,
        cached_prompt_tokens=wire.cached_prompt_tokens,
    )


def _timings(wire: generation_pb2.Timings) -> Timings:
    return Timings(
        queue_ms=wire.queue_ms,
        prefill_ms=wire.prefill_ms,
        decode_ms=wire.decode_ms,
        first_token_ms=wire.first_token_ms,
        total_ms=wire.total_ms,
        tokens_per_s=wire.tokens_per_s,
    )


def moment(wire: Timestamp) -> datetime | None:
    """Return the moment in UTC, or None for a timestamp that is not set."""
    if not wire.seconds and not wire.nanos:
        return None
    return wire.ToDatetime(tzinfo=UTC)


def job(wire: job_pb2.Job) -> Job:
    """Return the job."""
    return Job(
        job_id=wire.job_id,
        request_id=wire.request_id,
        tenant_id=wire.tenant_id,
        session_id=wire.session_id,
        model=wire.model,
        priority=priority(wire.priority),
        state=_job_state(wire.state),
        create_time=moment(wire.create_time),
        start_time=moment(wire.start_time),
        end_time=moment(wire.end_time),
        expire_time=moment(wire.expire_time),
        attempt=wire.attempt,
        max_attempts=wire.max_attempts,
        worker_id=wire.worker_id,
        position=wire.position,
        next_index=wire.next_index,
        finish_reason=_finish_reason(wire.finish_reason) if wire.finish_reason else None,
        failure=_failed(wire.job_id, wire.failure) if wire.HasField("failure") else None,
        usage=_usage(wire.usage) if wire.HasField("usage") else None,
        timings=_timings(wire.timings) if wire.HasField("timings") else None,
        labels=dict(wire.labels),
        max_tokens=wire.max_tokens,
        seed=wire.seed,
        policy_version=wire.policy_version,
        trace_id=wire.trace_id,
        budget=_budget(wire),
        prediction=_prediction(wire),
    )


def priority(wire: "job_pb2.Priority.ValueType") -> Priority:
    """Return a class; one that only a newer queen knows is taken for NORMAL."""
    # An open enum: a queen may know more classes than this client.
    name = job_pb2.Priority.Name(wire) if wire in job_pb2.Priority.values() else ""
    word = name.removeprefix("PRIORITY_")
    return Priority(word) if word in set(Priority) else Priority.NORMAL


def _job_state(wire: "job_pb2.JobState.ValueType") -> JobState:
    name = job_pb2.JobState.Name(wire) if wire in job_pb2.JobState.values() else ""
    word = name.removeprefix("JOB_STATE_")
    return JobState(word) if word in set(JobState) else JobState.UNKNOWN


def explanation(wire: inference_service_pb2.JobExplanation) -> Explanation:
    """Return the explanation."""
    return Explanation(
        job=job(wire.job),
        summary=wire.summary,
        candidates=tuple(map(candidate, wire.candidates)),
        remedy=_remedy(wire.remedy) if wire.HasField("remedy") else None,
        leases=tuple(_lease(one) for one in wire.leases),
        held_ms=wire.held_ms,
        other_remedies=tuple(_remedy(one) for one in wire.other_remedies),
    )


def candidate(wire: inference_service_pb2.Candidate) -> Candidate:
    """Return one worker that was looked at."""
    return Candidate(
        worker_id=wire.worker_id,
        pool_id=wire.pool_id,
        chosen=wire.chosen,
        excluded_by=wire.excluded_by,
        detail=wire.detail,
        predicted_end_ms=wire.predicted_end_ms,
        slot_wait_ms=wire.slot_wait_ms,
        first_token_ms=wire.first_token_ms,
        answer_ms=wire.answer_ms,
        answer_tokens=wire.answer_tokens,
        answer_measured=wire.answer_measured,
        cached_prompt_tokens=wire.cached_prompt_tokens,
    )


def _remedy(wire: inference_service_pb2.Remedy) -> Remedy:
    kinds = inference_service_pb2.Remedy.Kind
    known = wire.kind in kinds.values()
    return Remedy(
        kind=kinds.Name(wire.kind).removeprefix("KIND_").lower() if known else "unknown",
        amount=wire.amount,
        target_id=wire.target_id,
        pool_id=wire.pool_id,
        demand=wire.demand,
        message=wire.message,
    )


def _lease(wire: inference_service_pb2.LeaseRecord) -> LeaseRecord:
    return LeaseRecord(
        lease_id=wire.lease_id,
        worker_id=wire.worker_id,
        pool_id=wire.pool_id,
        attempt=wire.attempt,
        ending=wire.ending,
        was_revoked=wire.was_revoked,
        lease_time=moment(wire.lease_time),
        end_time=moment(wire.end_time),
    )


def _prediction(wire: job_pb2.JobQueued | job_pb2.Job) -> Prediction | None:
    return history_wire.prediction(wire.prediction) if wire.HasField("prediction") else None


def job_timeline(wire: inference_service_pb2.JobTimeline) -> JobTimeline:
    """Return a timeline out of its message."""
    return JobTimeline(job=job(wire.job), spans=tuple(_span(one) for one in wire.spans))


def _span(wire: inference_service_pb2.JobSpan) -> JobSpan:
    return JobSpan(
        name=wire.name,
        attempt=wire.attempt,
        begin_time=wire.begin_time.ToDatetime(tzinfo=UTC),
        end_time=moment(wire.end_time) if wire.HasField("end_time") else None,
        attributes=dict(wire.attributes),
    )
