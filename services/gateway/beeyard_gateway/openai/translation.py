"""The only file that knows both OpenAI's requests and the queen's."""

from typing import Final

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.worker.v1 import generation_pb2
from beeyard_core import limits

from beeyard_gateway.asking import Asking
from beeyard_gateway.faults import invalid
from beeyard_gateway.openai.schema import ChatRequest, CompletionRequest, TextRequest, text_of

#: `developer` is what newer models call the system's voice.
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


def chat_job(request: ChatRequest, asking: Asking) -> pb.InferRequest:
    """Return the job of a conversation."""
    job = _job(request, asking)
    for index, message in enumerate(request.messages):
        path = f"messages[{index}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise invalid(f"{path}.role: must be one of {', '.join(_ROLES)}", field=f"{path}.role")
        job.messages.append(generation_pb2.ChatMessage(role=role, content=text_of(message, path)))
    return job


def text_job(request: TextRequest, asking: Asking) -> pb.InferRequest:
    """Return the job of a text to continue."""
    job = _job(request, asking)
    job.prompt = request.text
    if not job.prompt:
        raise invalid("prompt: must not be empty", field="prompt")
    return job


def _job(request: CompletionRequest, asking: Asking) -> pb.InferRequest:
    if len(request.model) > limits.ID_BYTES_MAX:
        raise invalid(f"model: must be at most {limits.ID_BYTES_MAX} bytes", field="model")
    return pb.InferRequest(
        request_id=asking.request_id,
        model=request.model,
        max_tokens=request.tokens_max,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        # OpenAI's seeds are any integer of 64 bits; engines take 32.
        seed=None if request.seed is None else request.seed & limits.SEED_MAX,
        stop=request.stops,
        priority=asking.priority,
        tenant_id=asking.tenant_id,
        session_id=asking.session_id,
        deadline_ms=asking.deadline_ms,
        labels=request.metadata or {},
    )
