"""The one table between the core's refusals and gRPC, and the details that travel with each.

A caller acts on `google.rpc.ErrorInfo.reason`, `RetryInfo` and `BadRequest`, never on the message. Both directions are
here, so that whoever adds a refusal sees the server's and the client's reading of it side by side.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, cast

import grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships none

DOMAIN: Final = "beeyard"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"

_QUOTA = frozenset(
    {
        Refusal.QUEUE_FULL_REJECT,
        Refusal.QUEUE_FULL_DROP_LRU,
        Refusal.QUOTA_EXCEEDED,
        Refusal.BUDGET_EXCEEDED,
    }
)

CODES: Final[Mapping[Refusal, grpc.StatusCode]] = MappingProxyType(
    {
        Refusal.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        Refusal.POLICY_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
        Refusal.REQUEST_ID_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
        Refusal.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        Refusal.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
        Refusal.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Refusal.LEASE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Refusal.WORKER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Refusal.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Refusal.POLICY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.POLICY_IMMUTABLE: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.POLICY_DENIED: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.QUEUE_FULL_REJECT: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Refusal.QUEUE_FULL_DROP_LRU: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Refusal.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Refusal.BUDGET_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Refusal.CAPACITY_GATED: grpc.StatusCode.UNAVAILABLE,
        Refusal.POOL_UNREADY: grpc.StatusCode.UNAVAILABLE,
        Refusal.NO_WORKERS_AVAILABLE: grpc.StatusCode.UNAVAILABLE,
        Refusal.DRAINING: grpc.StatusCode.UNAVAILABLE,
        Refusal.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        Refusal.DEADLINE_UNMET: grpc.StatusCode.FAILED_PRECONDITION,
        Refusal.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
        Refusal.RESUME_OFFSET_GONE: grpc.StatusCode.OUT_OF_RANGE,
        # The job is well: who reads again goes on, which clients do for what is UNAVAILABLE.
        Refusal.READER_STALLED: grpc.StatusCode.UNAVAILABLE,
        Refusal.WORKER_BUSY: grpc.StatusCode.ABORTED,
        Refusal.LEASE_HOLDER_MISMATCH: grpc.StatusCode.ABORTED,
        Refusal.STALE_EPOCH: grpc.StatusCode.ABORTED,
        Refusal.STALE_POLICY_VERSION: grpc.StatusCode.ABORTED,
        # What broke, but may well work elsewhere or later, is UNAVAILABLE; what will break again is INTERNAL.
        Refusal.WORKER_COMMUNICATION_FAILED: grpc.StatusCode.UNAVAILABLE,
        Refusal.WORKER_ERROR: grpc.StatusCode.UNAVAILABLE,
        Refusal.WORKER_RESET: grpc.StatusCode.UNAVAILABLE,
        Refusal.STREAM_READ_ERROR: grpc.StatusCode.UNAVAILABLE,
        Refusal.VRAM_OOM: grpc.StatusCode.UNAVAILABLE,
        Refusal.ATTEMPTS_EXHAUSTED: grpc.StatusCode.UNAVAILABLE,
        Refusal.PARSE_ERROR: grpc.StatusCode.INTERNAL,
        Refusal.MODEL_LOAD_FAILED: grpc.StatusCode.INTERNAL,
        Refusal.INTERNAL: grpc.StatusCode.INTERNAL,
    }
)
assert set(CODES) == set(Refusal)

# What a status without our details most likely means.
_REASONS_WITHOUT_DETAILS: Final[Mapping[grpc.StatusCode, Refusal]] = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: Refusal.WORKER_COMMUNICATION_FAILED,
        grpc.StatusCode.DEADLINE_EXCEEDED: Refusal.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAUTHENTICATED: Refusal.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED: Refusal.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT: Refusal.INVALID_REQUEST,
    }
)


class RpcRefusal(Exception):
    """A method says no. Raise it from a servicer by `raise refuse(...)`; the edge turns it into a rich status."""

    def __init__(self, refused: Refused) -> None:
        """Carry `refused` to the edge."""
        super().__init__(f"{refused.reason.value}: {refused.message}")
        self.refused = refused


def refuse(
    reason: Refusal,
    message: str,
    *,
    field: str = "",
    retry_after_ms: int | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> RpcRefusal:
    """Return the exception that a servicer raises to refuse a call.

    Args:
        reason: Which of the closed list.
        message: One sentence for a person that says what to do.
        field: The request field at fault, as a path; empty if none is.
        retry_after_ms: When to ask again, milliseconds.
        metadata: Further facts.
    """
    return RpcRefusal(
        Refused(
            reason=reason,
            message=message,
            field=field,
            retry_after_ms=retry_after_ms,
            metadata=metadata,
        )
    )


def to_status(refused: Refused) -> status_pb2.Status:
    """Return the refusal as a `google.rpc.Status` with its details.

    Texts are cut so that the status always fits the trailing metadata; a status that does not fit would reach the
    caller as a bare RESOURCE_EXHAUSTED, and the reason would be lost.
    """
    message = _cut(refused.message, limits.ERROR_MESSAGE_BYTES_MAX)
    status = status_pb2.Status(code=CODES[refused.reason].value[0], message=message)
    for detail in _details(refused, message):
        status.details.add().Pack(detail)
    return status


def from_error(error: grpc.aio.AioRpcError) -> Refused:
    """Return what a failed call means, read from its details, or from its code where the peer sent none."""
    status = _status_of(error)
    details = list(status.details) if status else []
    reason, metadata = _reason_of(details)
    code = error.code()
    return Refused(
        reason=reason or _REASONS_WITHOUT_DETAILS.get(code, Refusal.INTERNAL),
        message=error.details() or code.name,
        field=_field_of(details),
        retry_after_ms=_retry_after_ms_of(details),
        metadata=metadata,
    )


def is_judged(error: grpc.aio.AioRpcError) -> bool:
    """Whether a failed call was answered by one of our services, rather than by gRPC itself or somebody in between.

    What gRPC says of its own is about sockets and addresses, and is not for a client to read.
    """
    status = _status_of(error)
    return status is not None and _reason_of(list(status.details))[0] is not None


def _details(refused: Refused, message: str) -> Iterable[Message]:
    entries = list(refused.metadata.items())[: limits.ERROR_METADATA_ENTRIES_MAX]
    value_max = limits.ERROR_METADATA_BYTES_MAX
    yield error_details_pb2.ErrorInfo(
        reason=refused.reason.value,
        domain=DOMAIN,
        metadata={_cut(key, limits.ID_BYTES_MAX): _cut(value, value_max) for key, value in entries},
    )
    if refused.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(max(refused.retry_after_ms, 0))
        yield retry
    if refused.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(refused.field, value_max), description=message, reason=refused.reason.value
        )
        yield error_details_pb2.BadRequest(field_violations=[violation])
    if refused.reason in _QUOTA:
        subject = refused.metadata.get("subject", "queue")
        quota = error_details_pb2.QuotaFailure.Violation(
            subject=_cut(subject, value_max), description=message
        )
        yield error_details_pb2.QuotaFailure(violations=[quota])


def _cut(text: str, bytes_max: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= bytes_max else raw[: bytes_max - 3].decode("utf-8", "ignore") + "..."


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    # The stubs take the metadata for something that cannot be iterated.
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in trailing:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _reason_of(details: Iterable[AnyMessage]) -> tuple[Refusal | None, Mapping[str, str]]:
    found = error_details_pb2.ErrorInfo()
    for detail in details:
        if detail.Unpack(found) and found.domain == DOMAIN and found.reason in Refusal.__members__:
            return Refusal(found.reason), dict(found.metadata)
    return None, {}


def _retry_after_ms_of(details: Iterable[AnyMessage]) -> int | None:
    found = error_details_pb2.RetryInfo()
    for detail in details:
        if detail.Unpack(found):
            return int(found.retry_delay.ToMilliseconds())
    return None


def _field_of(details: Iterable[AnyMessage]) -> str:
    found = error_details_pb2.BadRequest()
    for detail in details:
        if detail.Unpack(found) and found.field_violations:
            return str(found.field_violations[0].field)
    return ""
