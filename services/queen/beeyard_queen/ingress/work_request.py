"""What may be asked of the lease service: the schema of each request, checked before anything else sees it.

As in `request.py`, every rule answers with INVALID_REQUEST and the field, and unknown fields are refused.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar

from beeyard_core import limits
from beeyard_core.ids import Epoch, LeaseId, WorkerId
from beeyard_core.refusal import Refusal
from beeyard_core.work_ask import Claim
from beeyard_runtime.rpc_errors import refuse
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from beeyard_queen.ingress.request import Label, Short, first_violation, refuse_unknown_fields

_EPOCH_MAX: Final = 2**63 - 1
# What pydantic does not take as it comes from protobuf.
_CONTAINERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "labels": dict,
    "measurements": dict,
    "kinds": list,
}


def _name(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _sentence(text: str) -> str:
    if len(text.encode()) > limits.WORK_TEXT_BYTES_MAX:
        raise ValueError(f"must be at most {limits.WORK_TEXT_BYTES_MAX} bytes")
    return text


Name = Annotated[Short, AfterValidator(_name)]
Sentence = Annotated[str, AfterValidator(_sentence)]


class _Schema(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)


class WorkSchema(_Schema):
    """A submission that obeys every limit."""

    request_id: Short = ""
    kind: Name
    priority: int = Field(default=0, ge=0, le=4)
    capacity_units: int = Field(default=0, ge=0, le=limits.WORK_UNITS_MAX)
    tenant_id: Short = ""
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=limits.LABEL_COUNT_MAX)
    unique_key: Short = ""
    deadline_ms: int = Field(default=0, ge=0, le=limits.DEADLINE_MS_MAX)
    max_attempts: int = Field(default=0, ge=0, le=limits.ATTEMPTS_MAX)


class LeaseSchema(_Schema):
    """A request for a lease."""

    request_id: Short = ""
    worker_id: Name
    kinds: list[Name] = Field(default_factory=list, max_length=limits.WORK_KINDS_MAX)
    capacity_units_max: int = Field(default=0, ge=0, le=limits.WORK_UNITS_MAX)
    pool_id: Short = ""
    work_id: Short = ""


class ClaimSchema(_Schema):
    """Who speaks for which lease."""

    lease_id: Name
    epoch: int = Field(ge=1, le=_EPOCH_MAX)
    worker_id: Name

    @property
    def claim(self) -> Claim:
        """The same as the core knows it."""
        return Claim(LeaseId(self.lease_id), Epoch(self.epoch), WorkerId(self.worker_id))


class ProgressSchema(ClaimSchema):
    """How far the work is."""

    progress: FiniteFloat = Field(default=0.0, ge=0, le=1)
    message: Sentence = ""
    measurements: dict[Label, FiniteFloat] = Field(
        default_factory=dict, max_length=limits.WORK_MEASUREMENTS_MAX
    )


class FailureSchema(_Schema):
    """How the work broke."""

    message: Sentence = ""
    retriable: bool = False


class RevocationSchema(_Schema):
    """A lease to take away."""

    lease_id: Name
    epoch: int = Field(default=0, ge=0, le=_EPOCH_MAX)
    reason: Sentence = ""
    requeue: bool = False


class WorkNameSchema(_Schema):
    """A piece of work, and why it shall not run if that is asked."""

    work_id: Name
    reason: Sentence = ""


SchemaT = TypeVar("SchemaT", bound=_Schema)


def check(schema: type[SchemaT], request: Message, *, path: str = "") -> SchemaT:
    """Return a request as checked values, with defaults filled in; fields that the schema does not name are left out.

    Args:
        schema: What the request must be.
        request: As it came over the wire.
        path: Where in a larger request this one is.

    Raises:
        RpcRefusal: INVALID_REQUEST with the field at fault.
    """
    refuse_unknown_fields(request, path)
    values: dict[str, object] = {
        field.name: _CONTAINERS[field.name](value) if field.name in _CONTAINERS else value
        for field, value in request.ListFields()
        if field.name in schema.model_fields
    }
    # Protobuf does not tell an empty name from one that is not given; the message should.
    for name in ("kind", "worker_id", "lease_id", "work_id"):
        if name in schema.model_fields and schema.model_fields[name].is_required():
            values.setdefault(name, "")
    if "epoch" in schema.model_fields and schema.model_fields["epoch"].is_required():
        values.setdefault("epoch", 0)
    try:
        return schema.model_validate(values)
    except ValidationError as fault:
        raise first_violation(fault, path) from None


def check_body(body: Struct, field: str) -> bytes:
    """Return a payload or a result as it is kept.

    Raises:
        RpcRefusal: INVALID_REQUEST: it is too large, or no JSON.
    """
    if not body.fields:
        return b""
    try:
        size = len(MessageToJson(body, indent=None, ensure_ascii=False).encode())
    except ValueError:
        message = f"{field}: numbers must be finite"
        raise refuse(Refusal.INVALID_REQUEST, message, field=field) from None
    if size > limits.WORK_BODY_BYTES_MAX:
        message = f"{field} is {size} bytes as JSON, at most {limits.WORK_BODY_BYTES_MAX} are taken"
        raise refuse(Refusal.INVALID_REQUEST, message, field=field)
    return body.SerializeToString(deterministic=True)
