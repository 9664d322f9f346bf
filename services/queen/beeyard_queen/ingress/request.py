"""What a client may ask: the schema of a job request, checked before anything else sees it.

Every rule answers with INVALID_REQUEST and the field, so that the client knows what to change. Fields that this queen
does not know are refused, too: a newer client's constraint must not be ignored in silence (docs/adr/0003).
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

JobRequest = pb.InferRequest | pb.SubmitJobRequest
_ROLES: Final = ("system", "user", "assistant")
# What pydantic does not take as it comes from protobuf.
_CONTAINERS: Final[tuple[tuple[str, Callable[[Any], object]], ...]] = (
    ("labels", dict),
    ("stop", list),
    ("messages", list),
)
_EXTENSION: Final = re.compile(r"[a-z0-9_.:-]+")
_ENGINES: Final = ("", "llamacpp", "openai_http", "synthetic")


def _short(text: str) -> str:
    if len(text.encode()) > limits.ID_BYTES_MAX:
        raise ValueError(f"must be at most {limits.ID_BYTES_MAX} bytes")
    return text


def _label(text: str) -> str:
    if len(text.encode()) > limits.LABEL_BYTES_MAX:
        raise ValueError(f"must be at most {limits.LABEL_BYTES_MAX} bytes")
    return text


def _stop(text: str) -> str:
    if not text or len(text.encode()) > limits.STOP_BYTES_MAX:
        raise ValueError(f"must be 1 to {limits.STOP_BYTES_MAX} bytes")
    return text


def _engine(text: str) -> str:
    if text not in _ENGINES:
        raise ValueError("must be llamacpp, openai_http or synthetic, or empty for any")
    return text


def _role(text: str) -> str:
    if text not in _ROLES:
        raise ValueError("must be system, user or assistant")
    return text


def _capability(text: str) -> str:
    parts = text.split(".")
    if text and not (len(parts) <= 2 and all(part.isdecimal() for part in parts)):
        raise ValueError("must look like 8.6")
    return text


def _extension(text: str) -> str:
    if not _EXTENSION.fullmatch(text):
        raise ValueError("must be words of a-z, 0-9, '_', '.', ':' and '-'")
    return text


Short = Annotated[str, AfterValidator(_short)]
Label = Annotated[str, AfterValidator(_label)]


class _Schema(BaseModel):
    model_config = ConfigDict(from_attributes=True, hide_input_in_errors=True)


class MessageSchema(_Schema):
    """One turn of a conversation."""

    role: Annotated[str, AfterValidator(_role)]
    content: str


class RequirementsSchema(_Schema):
    """What the device and the model must offer."""

    min_vram_bytes: int = Field(ge=0)
    quantizations: list[Short] = Field(max_length=limits.STOP_COUNT_MAX)
    min_compute_capability: Annotated[str, AfterValidator(_capability)]
    min_context_tokens: int = Field(ge=0)
    extensions: list[Annotated[Short, AfterValidator(_extension)]] = Field(
        max_length=limits.STOP_COUNT_MAX
    )


class PlacementSchema(_Schema):
    """Where the job should or should not run."""

    pin_pool_id: Short
    prefer_pool_ids: list[Short] = Field(max_length=limits.LABEL_COUNT_MAX)
    avoid_pool_ids: list[Short] = Field(max_length=limits.LABEL_COUNT_MAX)


class JobSchema(_Schema):
    """A job request that obeys every limit. A field that the client did not set has its default here."""

    request_id: Short = ""
    model: Short = ""
    prompt: str = ""
    messages: list[MessageSchema] = Field(default_factory=list, max_length=limits.MESSAGES_MAX)
    max_tokens: int = Field(default=0, ge=0, le=limits.MAX_TOKENS_LIMIT)
    temperature: float = Field(
        default=limits.TEMPERATURE_DEFAULT, ge=0, le=limits.TEMPERATURE_MAX, allow_inf_nan=False
    )
    top_p: float = Field(default=limits.TOP_P_DEFAULT, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(default=limits.TOP_K_DEFAULT, ge=0, le=limits.TOP_K_MAX)
    seed: int = Field(ge=0, le=limits.SEED_MAX)
    is_seeded: bool = True
    stop: list[Annotated[str, AfterValidator(_stop)]] = Field(
        default_factory=list, max_length=limits.STOP_COUNT_MAX
    )
    priority: int = Field(default=0, ge=0, le=4)
    tenant_id: Short = ""
    session_id: Short = ""
    deadline_ms: int = Field(default=0, ge=0, le=limits.DEADLINE_MS_MAX)
    engine: Annotated[str, AfterValidator(_engine)] = ""
    requirements: RequirementsSchema | None = None
    placement: PlacementSchema | None = None
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=limits.LABEL_COUNT_MAX)
    cost_units: int = Field(default=0, ge=0, le=limits.COST_UNITS_MAX)
    max_attempts: int = Field(default=0, ge=0, le=limits.ATTEMPTS_MAX)

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "JobSchema":
        if bool(self.prompt) == bool(self.messages):
            raise ValueError("prompt: give exactly one of prompt and messages, not empty")
        return self

    @property
    def prompt_bytes(self) -> int:
        """Size of everything that the model is to read, in bytes."""
        turns = sum(len(m.content.encode()) + len(m.role) for m in self.messages)
        return len(self.prompt.encode()) + turns


def check_request(request: JobRequest, *, seed: int) -> JobSchema:
    """Return the request as checked values, with defaults filled in.

    Args:
        request: As it came over the wire.
        seed: Drawn by the caller, used if the client gave none.

    Raises:
        RpcRefusal: INVALID_REQUEST with the field at fault.
    """
    refuse_unknown_fields(request)
    # Only what is set: looking up and checking twenty fields that are not took most of a submission.
    values: dict[str, object] = {field.name: value for field, value in request.ListFields()}
    values["is_seeded"] = "seed" in values
    values.setdefault("seed", seed)
    for name, plain in _CONTAINERS:
        if name in values:
            values[name] = plain(values[name])
    try:
        schema = JobSchema.model_validate(values)
    except ValidationError as fault:
        raise first_violation(fault) from None
    if schema.prompt_bytes > limits.PROMPT_BYTES_MAX:
        field = "prompt" if schema.prompt else "messages"
        message = (
            f"{field} is {schema.prompt_bytes} bytes, at most {limits.PROMPT_BYTES_MAX} are taken"
        )
        raise refuse(Refusal.INVALID_REQUEST, message, field=field)
    return schema


def first_violation(fault: ValidationError, path: str = "") -> RpcRefusal:
    """Turn the first error into a refusal that names the field; it never quotes what the client sent."""
    error = fault.errors(include_input=False, include_url=False)[0]
    for part in error["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if not path:
        path, _, message = message.partition(": ")
    return refuse(Refusal.INVALID_REQUEST, f"{path}: {message}", field=path)


def refuse_unknown_fields(message: Message, path: str = "") -> None:
    """Refuse a message that carries fields which this version does not know, at any depth.

    Raises:
        RpcRefusal: INVALID_REQUEST that names the field numbers.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        numbers = ", ".join(sorted({str(unknown[i].field_number) for i in range(len(unknown))}))
        field = f"{path}#{numbers}"
        text = f"unknown field number {numbers}{f' in {path}' if path else ''}: this queen is older than the client"
        raise refuse(Refusal.INVALID_REQUEST, text, field=field)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        inner = f"{path}.{descriptor.name}" if path else descriptor.name
        for nested in value if descriptor.is_repeated else (value,):
            refuse_unknown_fields(nested, inner)
