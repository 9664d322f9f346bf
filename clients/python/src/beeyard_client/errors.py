"""What can go wrong, as one family of exceptions with a reason that programs can compare.

Every error of the queen carries `google.rpc.ErrorInfo{reason, domain: "beeyard"}`. Here it becomes a `BeeyardError`
whose `reason` is that word; nobody needs to parse a message. Three reasons are the client's own and never sent by a
queen: `QUEEN_UNREACHABLE` (nobody answered), `CANCELLED` (the job was cancelled, so it has no text) and `INSECURE_LINK`
(a token was not sent, since anybody could have read it).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it ships no types
from grpc_status import rpc_status

ERROR_DOMAIN: Final = "beeyard"
QUEEN_UNREACHABLE: Final = "QUEEN_UNREACHABLE"
STREAM_READ_ERROR: Final = "STREAM_READ_ERROR"
CANCELLED: Final = "CANCELLED"
DRAINING: Final = "DRAINING"
INSECURE_LINK: Final = "INSECURE_LINK"

# The words for a status that came without details: from a proxy, from a broken link, or from gRPC itself.
_REASONS_WITHOUT_DETAILS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAVAILABLE: QUEEN_UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED: "PERMISSION_DENIED",
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_REQUEST",
    grpc.StatusCode.CANCELLED: STREAM_READ_ERROR,
    grpc.StatusCode.UNKNOWN: STREAM_READ_ERROR,
    grpc.StatusCode.INTERNAL: STREAM_READ_ERROR,
    grpc.StatusCode.UNIMPLEMENTED: "UNIMPLEMENTED",
}


class BeeyardError(Exception):
    """The request was refused or the job failed; `reason` says which way, `message` says it to a person.

    Attributes:
        reason: A reason of the contract's closed list, such as `MODEL_NOT_FOUND`.
        message: One sentence for a person.
        code: The gRPC status code; None when no call failed, as for a job that failed.
        field: The request field at fault, such as `max_tokens`; empty if none is.
        retry_after_ms: When to ask again, milliseconds; None if the queen did not say.
        metadata: Further facts, such as what was needed and what the best pool has.
        job_id: The job, once it is known; empty before.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        field: str = "",
        retry_after_ms: int | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        job_id: str = "",
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.code = code
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.metadata = dict(metadata)
        self.job_id = job_id


class LinkBrokenError(BeeyardError):
    """The link broke and nobody judged the request; the client tried again for as long as it may. Try later."""


class QueenUnreachableError(LinkBrokenError):
    """Nobody answered at the address. Check it, and that a queen runs there."""


class JobFailedError(BeeyardError):
    """The job is FAILED or EXPIRED; `retriable` says whether the same request, sent again, could succeed."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retriable: bool,
        retry_after_ms: int | None,
        job_id: str,
    ) -> None:
        super().__init__(reason, message, retry_after_ms=retry_after_ms, job_id=job_id)
        self.retriable = retriable


class JobCancelledError(BeeyardError):
    """The job was cancelled by request, so it has no complete text."""

    def __init__(self, job_id: str) -> None:
        super().__init__(CANCELLED, "the job was cancelled", job_id=job_id)


def invalid(field: str, message: str) -> BeeyardError:
    """Return the error for a request that cannot be sent at all, in the same words as the queen's own."""
    return BeeyardError(
        "INVALID_REQUEST", message, code=grpc.StatusCode.INVALID_ARGUMENT, field=field
    )


def from_rpc_error(error: grpc.aio.AioRpcError, *, address: str = "") -> BeeyardError:
    """Decode the details of a failed call.

    Args:
        error: What grpc.aio raised.
        address: The queen's address, for the message when nobody answered there.

    Returns:
        The error with everything that the queen said about it.
    """
    reason, metadata = "", dict[str, str]()
    field, retry_after_ms = "", None
    for detail in _details(error):
        match detail:
            case error_details_pb2.ErrorInfo() if detail.domain == ERROR_DOMAIN:
                reason, metadata = detail.reason, dict(detail.metadata)
            case error_details_pb2.RetryInfo():
                retry_after_ms = detail.retry_delay.ToMilliseconds()
            case error_details_pb2.BadRequest() if detail.field_violations:
                field = detail.field_violations[0].field
            case _:
                pass
    message = error.details() or error.code().name
    if not reason:
        return _without_reason(error.code(), message, address)
    return BeeyardError(
        reason,
        message,
        code=error.code(),
        field=field,
        retry_after_ms=retry_after_ms,
        metadata=metadata,
    )


def _without_reason(code: grpc.StatusCode, message: str, address: str) -> BeeyardError:
    reason = _REASONS_WITHOUT_DETAILS.get(code, "INTERNAL")
    match reason:
        case "QUEEN_UNREACHABLE":
            at = f" at {address}" if address else ""
            # gRPC's own text is long and about sockets; it is kept in `__cause__`.
            return QueenUnreachableError(reason, f"no queen{at}", code=code)
        case "STREAM_READ_ERROR":
            return LinkBrokenError(reason, f"the connection broke ({message})", code=code)
        case "DEADLINE_EXCEEDED":
            message = "the queen did not answer in time"
        case "UNIMPLEMENTED":
            message = "the server there does not know this call; is it a queen of this version?"
        case _:
            pass
    return BeeyardError(reason, message, code=code)


def _details(
    error: grpc.aio.AioRpcError,
) -> list[error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.BadRequest]:
    try:
        # The stubs know the synchronous API only; what is read (code, details, trailing metadata) is the same.
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
    except (ValueError, DecodeError):
        # Somebody between us and the queen wrote another status: it has no details that can be believed.
        return []
    if status is None:
        return []
    found: list[
        error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo | error_details_pb2.BadRequest
    ] = []
    for packed in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.RetryInfo,
            error_details_pb2.BadRequest,
        ):
            detail = kind()
            if packed.Is(detail.DESCRIPTOR) and packed.Unpack(detail):
                found.append(detail)
    return found
