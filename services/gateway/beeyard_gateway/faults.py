"""What goes wrong, as HTTP: the one table from reason to status, and the two shapes in which clients read it.

Under `/v1` an error has OpenAI's shape, so that OpenAI's own clients raise what their users expect; everywhere else it
is a problem document (RFC 9457). Both carry the reason of the closed list, whether asking again helps, and when.
"""

import math
from collections.abc import Mapping
from enum import StrEnum, unique
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.backpressure import Overflow
from beeyard_core.refusal import Refusal, Refused

Headers = list[tuple[bytes, bytes]]


@unique
class HttpReason(StrEnum):
    """Why the gateway itself says no, where no queen was asked or none answered."""

    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    FOREIGN_ORIGIN = "FOREIGN_ORIGIN"
    TOO_MANY_VIEWS = "TOO_MANY_VIEWS"
    TOO_MANY_CONNECTIONS = "TOO_MANY_CONNECTIONS"
    QUEEN_UNREACHABLE = "QUEEN_UNREACHABLE"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    # The end of a job that somebody else cancelled while its answer was awaited.
    CANCELLED = "CANCELLED"


STATUSES: Final[Mapping[str, HTTPStatus]] = MappingProxyType(
    {
        Refusal.INVALID_REQUEST.value: HTTPStatus.BAD_REQUEST,
        Refusal.POLICY_INVALID.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.REQUEST_ID_CONFLICT.value: HTTPStatus.CONFLICT,
        Refusal.UNAUTHENTICATED.value: HTTPStatus.UNAUTHORIZED,
        Refusal.PERMISSION_DENIED.value: HTTPStatus.FORBIDDEN,
        Refusal.JOB_NOT_FOUND.value: HTTPStatus.NOT_FOUND,
        Refusal.LEASE_NOT_FOUND.value: HTTPStatus.NOT_FOUND,
        Refusal.WORKER_NOT_FOUND.value: HTTPStatus.NOT_FOUND,
        Refusal.MODEL_NOT_FOUND.value: HTTPStatus.NOT_FOUND,
        Refusal.POLICY_NOT_FOUND.value: HTTPStatus.NOT_FOUND,
        # Well formed, and nothing in this fleet can do it. A prompt that is too long is a 400 with OpenAI, too.
        Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT.value: HTTPStatus.BAD_REQUEST,
        Refusal.NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.POLICY_IMMUTABLE.value: HTTPStatus.CONFLICT,
        # The operator's program looked at the job and does not want it.
        Refusal.POLICY_DENIED.value: HTTPStatus.FORBIDDEN,
        Refusal.QUEUE_FULL_REJECT.value: HTTPStatus.TOO_MANY_REQUESTS,
        Refusal.QUEUE_FULL_DROP_LRU.value: HTTPStatus.TOO_MANY_REQUESTS,
        Refusal.QUOTA_EXCEEDED.value: HTTPStatus.TOO_MANY_REQUESTS,
        Refusal.BUDGET_EXCEEDED.value: HTTPStatus.TOO_MANY_REQUESTS,
        Refusal.CAPACITY_GATED.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.POOL_UNREADY.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.NO_WORKERS_AVAILABLE.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.DRAINING.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.STORE_UNAVAILABLE.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.DEADLINE_UNMET.value: HTTPStatus.UNPROCESSABLE_ENTITY,
        Refusal.DEADLINE_EXCEEDED.value: HTTPStatus.GATEWAY_TIMEOUT,
        Refusal.RESUME_OFFSET_GONE.value: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        Refusal.READER_STALLED.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.WORKER_BUSY.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.LEASE_HOLDER_MISMATCH.value: HTTPStatus.CONFLICT,
        Refusal.STALE_EPOCH.value: HTTPStatus.CONFLICT,
        Refusal.STALE_POLICY_VERSION.value: HTTPStatus.CONFLICT,
        Refusal.WORKER_COMMUNICATION_FAILED.value: HTTPStatus.BAD_GATEWAY,
        Refusal.WORKER_ERROR.value: HTTPStatus.BAD_GATEWAY,
        Refusal.WORKER_RESET.value: HTTPStatus.BAD_GATEWAY,
        Refusal.STREAM_READ_ERROR.value: HTTPStatus.BAD_GATEWAY,
        Refusal.VRAM_OOM.value: HTTPStatus.SERVICE_UNAVAILABLE,
        Refusal.ATTEMPTS_EXHAUSTED.value: HTTPStatus.BAD_GATEWAY,
        Refusal.PARSE_ERROR.value: HTTPStatus.INTERNAL_SERVER_ERROR,
        Refusal.MODEL_LOAD_FAILED.value: HTTPStatus.INTERNAL_SERVER_ERROR,
        Refusal.INTERNAL.value: HTTPStatus.INTERNAL_SERVER_ERROR,
        HttpReason.ROUTE_NOT_FOUND.value: HTTPStatus.NOT_FOUND,
        HttpReason.METHOD_NOT_ALLOWED.value: HTTPStatus.METHOD_NOT_ALLOWED,
        HttpReason.REQUEST_TOO_LARGE.value: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HttpReason.REQUEST_TIMEOUT.value: HTTPStatus.REQUEST_TIMEOUT,
        HttpReason.UNSUPPORTED_MEDIA_TYPE.value: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HttpReason.FOREIGN_ORIGIN.value: HTTPStatus.FORBIDDEN,
        HttpReason.TOO_MANY_VIEWS.value: HTTPStatus.SERVICE_UNAVAILABLE,
        HttpReason.TOO_MANY_CONNECTIONS.value: HTTPStatus.SERVICE_UNAVAILABLE,
        HttpReason.QUEEN_UNREACHABLE.value: HTTPStatus.SERVICE_UNAVAILABLE,
        HttpReason.NOT_IMPLEMENTED.value: HTTPStatus.NOT_IMPLEMENTED,
        HttpReason.CANCELLED.value: HTTPStatus.CONFLICT,
    }
)
assert set(STATUSES) == {one.value for one in Refusal} | {one.value for one in HttpReason}

_TRANSIENT: Final = frozenset({one.value for one in Refusal if one.is_transient}) | {
    HttpReason.QUEEN_UNREACHABLE.value,
    HttpReason.REQUEST_TIMEOUT.value,
    HttpReason.TOO_MANY_VIEWS.value,
    HttpReason.TOO_MANY_CONNECTIONS.value,
}
# Codes that OpenAI's own clients, and what is built on them, look for.
_OPENAI_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT.value: "context_length_exceeded",
        Refusal.UNAUTHENTICATED.value: "invalid_api_key",
        Refusal.BUDGET_EXCEEDED.value: "insufficient_quota",
    }
)
# ... and words: LiteLLM and others do not look at the code, and find out only by these that a model with more context
# would do.
_OPENAI_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT.value: "the prompt is too long: "}
)
_OPENAI_TYPES: Final[Mapping[HTTPStatus, str]] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: "authentication_error",
        HTTPStatus.FORBIDDEN: "permission_error",
        HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    }
)


class Fault(Exception):
    """A request that is answered with an error. Raise it from an endpoint; the edge writes the answer.

    Attributes:
        reason: Of the closed list, or an `HttpReason`.
        message: One sentence for a person; never a class name, a path or what the client sent.
        field: What of the request is at fault, as a path; empty if nothing is.
        retry_after_ms: When to ask again, milliseconds; None if asking again does not help.
        metadata: Further facts.
        is_retriable: Whether the same request, sent again, could succeed.
    """

    def __init__(
        self,
        reason: Refusal | HttpReason | str,
        message: str,
        *,
        field: str = "",
        retry_after_ms: int | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        is_retriable: bool | None = None,
    ) -> None:
        """Describe what went wrong; `is_retriable` follows from the reason unless the queen said otherwise."""
        super().__init__(f"{reason}: {message}")
        self.reason = reason.value if isinstance(reason, Refusal | HttpReason) else reason
        self.message = message
        self.field = field
        self.metadata = metadata
        self.is_retriable = self.reason in _TRANSIENT if is_retriable is None else is_retriable
        self.retry_after_ms = retry_after_ms
        if self.is_retriable and not retry_after_ms:
            self.retry_after_ms = limits.RETRY_DELAY_MS

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status; a reason that a newer queen made up is somebody else's fault."""
        return STATUSES.get(self.reason, HTTPStatus.BAD_GATEWAY)

    def headers(self) -> Headers:
        """Return the headers that tell a client when to come back, without reading the body."""
        # OpenAI's clients try 409 and every 5xx again unless told otherwise.
        headers = [(b"x-should-retry", b"true" if self.is_retriable else b"false")]
        if self.retry_after_ms is not None:
            backoff = str(self.retry_after_ms).encode()
            seconds = str(max(1, math.ceil(self.retry_after_ms / 1_000))).encode()
            headers += [
                (b"retry-after", seconds),
                (b"retry-after-ms", backoff),
                (b"x-backoff-ms", backoff),
            ]
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b'Bearer realm="beeyard"'))
        for name, fact in (
            (b"x-queue-position", "queue_position"),
            (b"x-queue-eta-ms", "queue_eta_ms"),
            (b"x-budget-tokens-remaining", "budget_tokens_remaining"),
            (b"x-budget-cost-remaining", "budget_cost_units_remaining"),
        ):
            value = self.metadata.get(fact, "")
            if value.isdecimal():
                headers.append((name, value.encode()))
        return headers

    def advice(self) -> dict[str, Any]:
        """Return what both shapes say alike: the reason, and whether and when to ask again."""
        told: dict[str, Any] = {"reason": self.reason, "retriable": self.is_retriable}
        if self.retry_after_ms is not None:
            told["retry_after_ms"] = self.retry_after_ms
        if "policy_label" in self.metadata:
            told["policy_label"] = self.metadata["policy_label"]
        return told

    def openai(self) -> dict[str, Any]:
        """Return the body that OpenAI's clients read."""
        fallback = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": _OPENAI_WORDS.get(self.reason, "") + self.message,
            "type": _OPENAI_TYPES.get(self.status, fallback),
            "param": self.field or None,
            "code": _OPENAI_CODES.get(self.reason, self.reason.lower()),
        }
        return {"error": error | self.advice()}

    def problem(self, correlation_id: str) -> dict[str, Any]:
        """Return the problem document."""
        words = self.reason.replace("_", " ").lower()
        told: dict[str, Any] = {
            "type": f"urn:beeyard:problem:{words.replace(' ', '-')}",
            "title": words.capitalize(),
            "status": self.status.value,
            "detail": self.message,
            "instance": f"urn:beeyard:request:{correlation_id}",
        } | self.advice()
        if self.field:
            told["field"] = self.field
        if self.metadata:
            told["metadata"] = dict(self.metadata)
        return told


class JobFault(Fault):
    """A job that was accepted and did not finish: the request was not refused."""


def of_refused(refused: Refused) -> Fault:
    """Return what the queen refused."""
    return Fault(
        refused.reason,
        refused.message,
        field=refused.field,
        retry_after_ms=refused.retry_after_ms,
        metadata=refused.metadata,
    )


def of_failed(failed: job_pb2.JobFailed) -> JobFault:
    """Return how a job ended that was accepted and did not finish."""
    is_dropped = failed.reason == Refusal.QUEUE_FULL_DROP_LRU.value
    return JobFault(
        failed.reason or Refusal.INTERNAL,
        failed.message or "the job failed",
        retry_after_ms=failed.retry_after_ms or None,
        metadata={"policy_label": Overflow.DROP_LRU.value} if is_dropped else {},
        is_retriable=failed.retriable,
    )


def invalid(message: str, *, field: str = "") -> Fault:
    """Return the fault of a request that must be changed before it is sent again."""
    return Fault(Refusal.INVALID_REQUEST, message, field=field)


def internal() -> Fault:
    """Return what a client is told of a bug: nothing."""
    return Fault(Refusal.INTERNAL, "internal error")
