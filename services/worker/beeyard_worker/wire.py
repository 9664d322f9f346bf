"""Between the wire and the engine's values. The only file of the worker that reads a GenerateRequest.

A request comes from a queen that checked it, or from anybody with grpcurl; so all of it is checked here,
and what is left unset gets its default, before an engine sees it.
"""

from collections.abc import Sequence
from typing import Final

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import generation_pb2, worker_service_pb2
from beeyard_core import limits
from beeyard_core.job import Priority
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.stream import Frame

from beeyard_worker.engine.port import Finish, Generation, Token

_ROLES: Final = frozenset({"system", "user", "assistant"})
_PRIORITIES: Final = frozenset(Priority)
_REASONS: Final = {
    "stop": generation_pb2.FINISH_REASON_STOP,
    "length": generation_pb2.FINISH_REASON_LENGTH,
}


def generation_from(
    request: engine_pb.GenerateRequest,
    *,
    default_max_tokens: int,
    default_seed: int,
    priority: int = 0,
) -> Generation | Refused:
    """Return the generation that a request asks for, or why it is not valid.

    Args:
        request: As it came from the wire.
        default_max_tokens: Stands for `max_tokens` 0; if it is 0 as well, such a request is refused.
        default_seed: Stands for an unset seed, 0 to `limits.SEED_MAX`.
        priority: The number of the job's class; what is no such number stands for NORMAL.
    """
    refused = _prompt_fault(request) or _sampling_fault(request) or _resume_fault(request)
    if refused is not None:
        return refused
    max_tokens = request.max_tokens or default_max_tokens
    if not 1 <= max_tokens <= limits.MAX_TOKENS_LIMIT:
        return _invalid("max_tokens", f"must be 1 to {limits.MAX_TOKENS_LIMIT}")
    if request.resume_count > max_tokens:
        return _invalid("resume_count", "must not exceed max_tokens")
    return Generation(
        prompt=request.prompt,
        messages=tuple((message.role, message.content) for message in request.messages),
        max_tokens=max_tokens,
        temperature=(
            request.temperature if request.HasField("temperature") else limits.TEMPERATURE_DEFAULT
        ),
        top_p=request.top_p if request.HasField("top_p") else limits.TOP_P_DEFAULT,
        top_k=request.top_k if request.HasField("top_k") else limits.TOP_K_DEFAULT,
        seed=request.seed if request.HasField("seed") else default_seed,
        stop=tuple(request.stop),
        resume_ids=tuple(request.resume_ids),
        resume_text=request.resume_text,
        resume_count=request.resume_count,
        rank=priority if priority in _PRIORITIES else Priority.NORMAL,
    )


def finished_to_wire(
    finish: Finish, *, resume_count: int, total_ms: float
) -> engine_pb.GenerationFinished:
    """Return how a generation ended.

    Args:
        finish: As the engine says it.
        resume_count: Tokens that earlier attempts had delivered.
        total_ms: From the acceptance to the end, milliseconds.
    """
    decoded = finish.completion_tokens - resume_count - 1
    speed = decoded / finish.decode_ms * 1_000 if decoded > 0 and finish.decode_ms > 0 else 0.0
    return engine_pb.GenerationFinished(
        reason=_REASONS[finish.reason],
        usage=generation_pb2.Usage(
            prompt_tokens=finish.prompt_tokens,
            completion_tokens=finish.completion_tokens,
            cached_prompt_tokens=finish.cached_prompt_tokens,
        ),
        timings=generation_pb2.Timings(
            prefill_ms=finish.prefill_ms,
            decode_ms=finish.decode_ms,
            first_token_ms=finish.prefill_ms,
            total_ms=total_ms,
            tokens_per_s=speed,
        ),
    )


def chunk_to_wire(first_index: int, tokens: Sequence[Token]) -> generation_pb2.TokenChunk:
    """Return some tokens as one chunk whose first one has this index."""
    return generation_pb2.TokenChunk(
        first_index=first_index,
        ids=ids_of(tokens),
        text="".join([token.text for token in tokens]),
        count=len(tokens),
    )


def add_frame(report: worker_service_pb2.Report, frame: Frame) -> None:
    """Add a frame to a report that is about to be sent."""
    report.frames.add(
        lease_id=frame.lease_id,
        epoch=frame.epoch,
        first_index=frame.first_index,
        ids=frame.ids,
        text=frame.text,
        text_lengths=frame.text_lengths,
    )


def ids_of(tokens: Sequence[Token]) -> list[int]:
    """Return the ids of the tokens; empty if the engine reveals none."""
    return [token.id for token in tokens if token.id is not None]


def _prompt_fault(request: engine_pb.GenerateRequest) -> Refused | None:
    if bool(request.prompt) == bool(request.messages):
        return _invalid("prompt", "exactly one of prompt and messages must be set")
    if len(request.messages) > limits.MESSAGES_MAX:
        return _invalid("messages", f"at most {limits.MESSAGES_MAX} are taken")
    size = len(request.prompt.encode())
    for place, message in enumerate(request.messages):
        size += len(message.content.encode())
        if message.role not in _ROLES:
            return _invalid(f"messages[{place}].role", "must be system, user or assistant")
    if size > limits.PROMPT_BYTES_MAX:
        field = "prompt" if request.prompt else "messages"
        return _invalid(field, f"must not exceed {limits.PROMPT_BYTES_MAX} bytes")
    return None


def _sampling_fault(request: engine_pb.GenerateRequest) -> Refused | None:
    # Written so that a NaN is refused, too.
    if not 0 <= request.temperature <= limits.TEMPERATURE_MAX:
        return _invalid("temperature", f"must be 0 to {limits.TEMPERATURE_MAX}")
    if request.HasField("top_p") and not 0 < request.top_p <= 1:
        return _invalid("top_p", "must be above 0 and at most 1")
    if not 0 <= request.top_k <= limits.TOP_K_MAX:
        return _invalid("top_k", f"must be 0 to {limits.TOP_K_MAX}")
    if not 0 <= request.seed <= limits.SEED_MAX:
        return _invalid("seed", f"must be 0 to {limits.SEED_MAX}")
    if len(request.stop) > limits.STOP_COUNT_MAX:
        return _invalid("stop", f"at most {limits.STOP_COUNT_MAX} strings are taken")
    for place, text in enumerate(request.stop):
        if not 0 < len(text.encode()) <= limits.STOP_BYTES_MAX:
            return _invalid(f"stop[{place}]", f"must be 1 to {limits.STOP_BYTES_MAX} bytes")
    return None


def _resume_fault(request: engine_pb.GenerateRequest) -> Refused | None:
    count = request.resume_count
    if count < 0:
        return _invalid("resume_count", "must not be negative")
    if request.resume_ids and len(request.resume_ids) != count:
        return _invalid("resume_ids", "must be as many as resume_count says")
    return None


def _invalid(field: str, what: str) -> Refused:
    return Refused(reason=Refusal.INVALID_REQUEST, message=f"{field}: {what}", field=field)
