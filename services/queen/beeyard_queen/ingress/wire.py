"""Between the messages of the inference service and the core's values."""

import hashlib
import math

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import generation_pb2
from beeyard_core import limits
from beeyard_core.ids import ModelName, PoolId, TenantId
from beeyard_core.job import (
    Job,
    JobSpec,
    JobState,
    PlacementWish,
    Priority,
    Requirements,
    timings_of,
)
from beeyard_core.prediction import Prediction
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState
from beeyard_core.stream import Frame
from google.protobuf.timestamp_pb2 import Timestamp

from beeyard_queen.egress.feed import AttemptStarted
from beeyard_queen.ingress.history_wire import prediction_message
from beeyard_queen.ingress.pool_wire import capability_of
from beeyard_queen.ingress.request import JobRequest, JobSchema, PlacementSchema, RequirementsSchema
from beeyard_queen.ingress.worker_wire import WIRE_FINISH_REASONS

WIRE_JOB_STATES = {
    JobState.QUEUED: job_pb2.JOB_STATE_QUEUED,
    JobState.LEASED: job_pb2.JOB_STATE_LEASED,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.COMPLETED: job_pb2.JOB_STATE_COMPLETED,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.EXPIRED: job_pb2.JOB_STATE_EXPIRED,
    JobState.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
}
JOB_STATES = {number: state for state, number in WIRE_JOB_STATES.items()}
PRIORITIES: dict[int, Priority] = {
    job_pb2.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    job_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    job_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    job_pb2.PRIORITY_BATCH: Priority.BATCH,
    job_pb2.PRIORITY_BACKGROUND: Priority.BACKGROUND,
}
WIRE_PRIORITIES = {
    Priority.INTERACTIVE: job_pb2.PRIORITY_INTERACTIVE,
    Priority.NORMAL: job_pb2.PRIORITY_NORMAL,
    Priority.BATCH: job_pb2.PRIORITY_BATCH,
    Priority.BACKGROUND: job_pb2.PRIORITY_BACKGROUND,
}
_ANY_DEVICE = Requirements()
_ANYWHERE = PlacementWish()
#: English text averages a little over four bytes a token in the vocabularies of today's models.
_BYTES_PER_TOKEN = 4


def digest_of(request: JobRequest) -> bytes:
    """Return a hash of everything that a request asks, so that a repeated request id can be told from a reused one."""
    body = pb.InferRequest()
    # The two requests are field for field the same, which a test asserts; so is what they ask.
    body.ParseFromString(request.SerializeToString(deterministic=True))
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def spec_of(schema: JobSchema) -> JobSpec:
    """Return what decisions need of a checked request."""
    return JobSpec(
        model=ModelName(schema.model),
        prompt_tokens=math.ceil(schema.prompt_bytes / _BYTES_PER_TOKEN),
        max_tokens=schema.max_tokens or limits.MAX_TOKENS_DEFAULT,
        priority=PRIORITIES[schema.priority],
        tenant_id=TenantId(schema.tenant_id or "default"),
        session_id=schema.session_id,
        deadline_ms=schema.deadline_ms or None,
        engine=schema.engine,
        requirements=_requirements_of(schema.requirements) if schema.requirements else _ANY_DEVICE,
        placement=_wish_of(schema.placement) if schema.placement else _ANYWHERE,
        labels=tuple(sorted(schema.labels.items())),
        cost_units=schema.cost_units or 1,
        max_attempts=schema.max_attempts or limits.ATTEMPTS_DEFAULT,
        seed=schema.seed,
        is_seeded=schema.is_seeded,
    )


def _requirements_of(need: RequirementsSchema) -> Requirements:
    return Requirements(
        min_vram_bytes=need.min_vram_bytes,
        quantizations=tuple(need.quantizations),
        min_compute_capability=capability_of(need.min_compute_capability),
        min_context_tokens=need.min_context_tokens,
        extensions=tuple(sorted(set(need.extensions))),
    )


def _wish_of(wish: PlacementSchema) -> PlacementWish:
    return PlacementWish(
        pin_pool_id=PoolId(wish.pin_pool_id) if wish.pin_pool_id else None,
        prefer_pool_ids=tuple(PoolId(pool_id) for pool_id in wish.prefer_pool_ids),
        avoid_pool_ids=tuple(PoolId(pool_id) for pool_id in wish.avoid_pool_ids),
    )


def generate_request_of(schema: JobSchema) -> engine_pb.GenerateRequest:
    """Return what a worker needs of a checked request: the prompt and how to sample."""
    return engine_pb.GenerateRequest(
        prompt=schema.prompt,
        messages=[
            generation_pb2.ChatMessage(role=turn.role, content=turn.content)
            for turn in schema.messages
        ],
        max_tokens=schema.max_tokens or limits.MAX_TOKENS_DEFAULT,
        temperature=schema.temperature,
        top_p=schema.top_p,
        top_k=schema.top_k,
        seed=schema.seed,
        stop=schema.stop,
    )


def timestamp_of(wall_ms: int) -> Timestamp:
    """Return a wall time in milliseconds as a protobuf timestamp."""
    stamp = Timestamp()
    stamp.FromMilliseconds(wall_ms)
    return stamp


def failure_of(refused: Refused) -> job_pb2.JobFailed:
    """Return why a job did not finish."""
    return job_pb2.JobFailed(
        reason=refused.reason.value,
        retriable=refused.reason.is_transient or refused.reason is Refusal.DEADLINE_EXCEEDED,
        retry_after_ms=refused.retry_after_ms or 0,
        message=refused.message,
    )


def _usage_of(job: Job) -> generation_pb2.Usage:
    finish = job.finish
    return generation_pb2.Usage(
        prompt_tokens=finish.prompt_tokens if finish else 0,
        completion_tokens=job.next_index,
        cached_prompt_tokens=finish.cached_prompt_tokens if finish else 0,
    )


def budget_of(state: QueenState, spec: JobSpec) -> job_pb2.SessionBudget | None:
    """Return what is left to the session of a job; None: it has no budget."""
    quota = state.settings.quotas.of(spec.tenant_id)
    left = state.quotas.sessions.remaining(spec, quota, state.now_ms)
    if left is None:
        return None
    return job_pb2.SessionBudget(tokens_remaining=left.tokens, cost_units_remaining=left.cost_units)


def wire_job_of(
    job: Job,
    *,
    position: int = 0,
    next_index: int = 0,
    trace_id: str = "",
    budget: job_pb2.SessionBudget | None = None,
    prediction: Prediction | None = None,
) -> job_pb2.Job:
    """Return a job as clients see it.

    Args:
        job: The core's job.
        position: Jobs before it, while it is queued.
        next_index: Tokens delivered so far, if that is more than the core was told.
        trace_id: 32 hexadecimal digits, or empty.
        budget: What is left to its session.
        prediction: What is expected of it from now while it is queued; of others, what was said at acceptance counts.
    """
    spec = job.spec
    wire = job_pb2.Job(
        job_id=job.job_id,
        request_id=job.request_id,
        tenant_id=spec.tenant_id,
        session_id=spec.session_id,
        model=spec.model,
        priority=WIRE_PRIORITIES[spec.priority],
        state=WIRE_JOB_STATES[job.state],
        create_time=timestamp_of(job.accepted_at.wall_ms),
        attempt=job.attempt,
        max_attempts=spec.max_attempts,
        worker_id=job.worker_id or "",
        position=position,
        next_index=max(job.next_index, next_index),
        labels=dict(spec.labels),
        max_tokens=spec.max_tokens,
        seed=spec.seed,
        policy_version=job.decision.policy_version if job.decision else "",
        trace_id=trace_id,
        budget=budget,
    )
    if job.leased_at is not None:
        wire.start_time.CopyFrom(timestamp_of(job.leased_at.wall_ms))
    if spec.deadline_ms is not None:
        wire.expire_time.CopyFrom(timestamp_of(job.accepted_at.wall_ms + spec.deadline_ms))
    if prediction is None and job.state is not JobState.QUEUED and job.estimate is not None:
        prediction = job.estimate.prediction
    if prediction is not None:
        wire.prediction.CopyFrom(prediction_message(prediction))
    if job.is_ended:
        _add_ending(wire, job)
    return wire


def _add_ending(wire: job_pb2.Job, job: Job) -> None:
    if job.ended_at is not None:
        wire.end_time.CopyFrom(timestamp_of(job.ended_at.wall_ms))
    if job.finish is not None:
        wire.finish_reason = WIRE_FINISH_REASONS[job.finish.reason]
    if job.failure is not None:
        wire.failure.CopyFrom(failure_of(job.failure))
    wire.usage.CopyFrom(_usage_of(job))
    wire.timings.CopyFrom(generation_pb2.Timings(**timings_of(job)))


def queued_event(
    job_id: str,
    position: int,
    predicted_start_ms: int,
    budget: job_pb2.SessionBudget | None = None,
    prediction: Prediction | None = None,
) -> job_pb2.JobEvent:
    """Return the first event of every follower."""
    queued = job_pb2.JobQueued(
        position=position, predicted_start_ms=predicted_start_ms, budget=budget
    )
    if prediction is not None:
        queued.prediction.CopyFrom(prediction_message(prediction))
    return job_pb2.JobEvent(job_id=job_id, queued=queued)


def started_event(job_id: str, started: AttemptStarted) -> job_pb2.JobEvent:
    """Return the event that an attempt began."""
    return job_pb2.JobEvent(
        job_id=job_id,
        started=job_pb2.JobStarted(
            worker_id=started.worker_id,
            worker_address=started.worker_address,
            model=started.model,
            device=started.device,
            attempt=started.attempt,
            policy_version=started.policy_version,
            decision=started.decision,
        ),
    )


def tokens_event(job_id: str, frame: Frame) -> job_pb2.JobEvent:
    """Return the event that brings tokens."""
    chunk = generation_pb2.TokenChunk(
        first_index=frame.first_index, ids=frame.ids, text=frame.text, count=frame.count
    )
    return job_pb2.JobEvent(job_id=job_id, tokens=chunk)


def ending_event(job: Job, budget: job_pb2.SessionBudget | None = None) -> job_pb2.JobEvent:
    """Return the one terminal event of an ended job."""
    if job.state is JobState.CANCELLED:
        return job_pb2.JobEvent(job_id=job.job_id, cancelled=job_pb2.JobCancelled())
    if job.failure is not None:
        return job_pb2.JobEvent(job_id=job.job_id, failed=failure_of(job.failure))
    finish = job.finish
    return job_pb2.JobEvent(
        job_id=job.job_id,
        finished=job_pb2.JobFinished(
            reason=WIRE_FINISH_REASONS[finish.reason if finish else "stop"],
            usage=_usage_of(job),
            timings=generation_pb2.Timings(**timings_of(job)),
            budget=budget,
        ),
    )
