"""What a client says of a job in headers, the same on every route that starts one."""

import datetime as dt
from dataclasses import dataclass
from typing import Final

from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock

from beeyard_gateway.exchange import Exchange
from beeyard_gateway.faults import Fault, invalid
from beeyard_gateway.message_json import number_of

#: The last event's id, so that an `EventSource` that comes back after it is told to stop.
END_ID: Final = "end"
_TRUE: Final = ("true", "1")
_FALSE: Final = ("false", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """The headers of one request that concern its job.

    Attributes:
        request_id: `Idempotency-Key`; empty: every request is a new job.
        priority: `X-Beeyard-Priority`; 0: not said.
        tenant_id: `X-Beeyard-Tenant`; empty: not said.
        session_id: `X-Beeyard-Session`; empty: not said.
        deadline_ms: `X-Deadline`, from now; 0: none.
        detached: Whether the job goes on when the client hangs up.
        from_token: The token after `Last-Event-ID`; 0: from the beginning.
        has_seen_end: `Last-Event-ID` names the end.
    """

    request_id: str
    priority: "job_pb2.Priority.ValueType"
    tenant_id: str
    session_id: str
    deadline_ms: int
    detached: bool
    from_token: int
    has_seen_end: bool


def read_asking(exchange: Exchange, clock: Clock) -> Asking:
    """Return what the headers say.

    Raises:
        Fault: INVALID_REQUEST with the header at fault.
    """
    request_id = _text(exchange, "Idempotency-Key")
    last_id = exchange.header(b"last-event-id")
    return Asking(
        request_id=request_id,
        priority=_priority(exchange),
        tenant_id=_text(exchange, "X-Beeyard-Tenant"),
        session_id=_text(exchange, "X-Beeyard-Session"),
        deadline_ms=_deadline_ms(exchange, clock, is_repeatable=bool(request_id)),
        detached=_detached(exchange, request_id),
        from_token=_from_token(last_id),
        has_seen_end=last_id == END_ID,
    )


def _text(exchange: Exchange, name: str) -> str:
    raw = exchange.header(name.lower().encode())
    if not raw:
        return ""
    try:
        # Headers are bytes; whoever sends more than ASCII sends UTF-8.
        text = raw.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise invalid(f"{name}: must be UTF-8", field=name) from None
    if len(raw) > limits.ID_BYTES_MAX:
        raise invalid(f"{name}: must be at most {limits.ID_BYTES_MAX} bytes", field=name)
    return text


def _priority(exchange: Exchange) -> "job_pb2.Priority.ValueType":
    word = exchange.header(b"x-beeyard-priority")
    if not word:
        return job_pb2.PRIORITY_UNSPECIFIED
    number = number_of(job_pb2.Priority.DESCRIPTOR, word, "X-Beeyard-Priority")
    return job_pb2.Priority.ValueType(number)


def _detached(exchange: Exchange, request_id: str) -> bool:
    """Whether the job outlives the connection: as the client says, or because a key announces that it may come back."""
    word = exchange.header(b"x-beeyard-detach").lower()
    if not word:
        return bool(request_id)
    if word not in (*_TRUE, *_FALSE):
        raise invalid("X-Beeyard-Detach: must be true or false", field="X-Beeyard-Detach")
    return word in _TRUE


def _deadline_ms(exchange: Exchange, clock: Clock, *, is_repeatable: bool) -> int:
    """Return the milliseconds until the deadline, which is given as such or as a moment (RFC 3339)."""
    text = exchange.header(b"x-deadline").strip()
    if not text:
        return 0
    if text.isdecimal() and text.isascii():
        ms = int(text[:18])
        if not 1 <= ms <= limits.DEADLINE_MS_MAX:
            raise invalid(
                f"X-Deadline: must be 1 to {limits.DEADLINE_MS_MAX} ms", field="X-Deadline"
            )
        return ms
    moment = _moment(text)
    if is_repeatable:
        # The same request a second later would ask for less time, and be another request.
        raise invalid(
            "X-Deadline: give milliseconds together with an Idempotency-Key", field="X-Deadline"
        )
    ms = int(moment.timestamp() * 1_000) - clock.now().wall_ms
    if ms <= 0:
        raise Fault(Refusal.DEADLINE_UNMET, "X-Deadline: has passed already", field="X-Deadline")
    return min(ms, limits.DEADLINE_MS_MAX)


def _moment(text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid(
            "X-Deadline: must be milliseconds, or a moment such as 2026-01-31T12:00:00Z",
            field="X-Deadline",
        )
    return moment


def _from_token(last_id: str) -> int:
    if not last_id or last_id == END_ID:
        return 0
    if (
        not (last_id.isascii() and last_id.isdecimal())
        or int(last_id[:9]) > limits.MAX_TOKENS_LIMIT
    ):
        raise invalid("Last-Event-ID: must be the index of a token", field="Last-Event-ID")
    return int(last_id) + 1
