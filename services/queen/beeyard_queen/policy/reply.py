"""What a host answered, read with suspicion: whoever broke out of Lua could write these bytes.

A reply is MessagePack `[status, text, line, decisions, logs, metrics, state, instructions]` for a policy's call and
`[status, value]` for anything else. Sizes are bounded before unpacking, each field's type after it; a reply that is not
exactly so is a fault of the host, and the host is killed for it.
"""

from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final

import msgpack
from beeyard_core import limits

# Fields of a decision that are text, and the one that is a number.
_TEXT_FIELDS: Final = frozenset(
    {"action", "job_id", "worker_id", "evict_worker_id", "for_job_id", "reason"}
)
_START_FIELDS: Final = frozenset({"model_ref", "pool_id", "gpu_id"})

DecisionValue = str | int | dict[str, str]
Decision = dict[str, DecisionValue]
# What a reply to a call of a policy has, and the size of the last of it, the instructions.
_CALL_FIELDS: Final = 8
_INSTRUCTIONS_BYTES: Final = 9


class ReplyInvalid(Exception):
    """A host answered something that it never would by itself. Kill it."""


@unique
class Status(Enum):
    """How a call of a policy ended, as its host says."""

    OK = "ok"
    REJECTED = "rejected"
    """The text does not load."""
    FAILED = "failed"
    """It raised an error."""
    MALFORMED = "malformed"
    """It returned something that is no decision."""
    KILLED = "killed"
    """It spent its budget; the host is spent with it."""
    MEMORY = "memory"
    """It spent its memory; the same."""


_STATUSES: Final = {status.value: status for status in Status}


@dataclass(frozen=True)
class Reply:
    """How a call of a policy ended.

    Attributes:
        status: In one word.
        text: What went wrong, for the policy's author; empty if nothing did.
        line: The line of the policy where it did, if known.
        decisions: What the policy decided, in its order: fields by name, `start_worker` nested.
        logs: (level, text), in order.
        metrics: (name, value), in order.
        state: What `context.state` holds now, packed; None: what it held before.
        instructions: What the call used, to the thousand. The first to look something up pays for its index.
        decided: The host's own bytes of all but the instructions: the same question gives the same bytes anywhere.
    """

    status: Status
    text: str = ""
    line: int | None = None
    decisions: tuple[Decision, ...] = ()
    logs: tuple[tuple[str, str], ...] = ()
    metrics: tuple[tuple[str, float], ...] = field(default=())
    state: bytes | None = None
    instructions: int = 0
    decided: bytes = field(default=b"", repr=False, compare=False)


def read_reply(body: bytes) -> Reply:
    """Read the reply to a call of a policy.

    Raises:
        ReplyInvalid: It is none.
    """
    value = unpack(body)
    if not isinstance(value, list):
        raise ReplyInvalid("no list")
    # By hand and not by a pattern, which would take longer than the rest: this is read for every decision.
    if len(value) == _CALL_FIELDS:
        return _call_reply(value, body)
    match value:
        case ["memory", str(text)]:
            return Reply(Status.MEMORY, text)
        case ["broken", str(text)]:
            raise ReplyInvalid(text)
        case _:
            raise ReplyInvalid("not eight fields")


def _call_reply(value: list[object], body: bytes) -> Reply:
    status, text, line, decisions, logs, metrics, state, instructions = value
    if not (text is None or isinstance(text, str)) or not (line is None or isinstance(line, int)):
        raise ReplyInvalid("text or line is of another type")
    if not isinstance(logs, list) or not isinstance(metrics, list):
        raise ReplyInvalid("logs or metrics are no list")
    if not isinstance(instructions, int):
        raise ReplyInvalid("the instructions are no number")
    return Reply(
        _status(status),
        text or "",
        line,
        _decisions(decisions),
        tuple(map(_log, logs)) if logs else (),
        tuple(map(_metric, metrics)) if metrics else (),
        _state(state),
        instructions,
        body[:-_INSTRUCTIONS_BYTES],
    )


def read_value(body: bytes) -> object:
    """Return the value of a reply that is not about a call of the policy.

    Raises:
        ReplyInvalid: The host says that it is broken, or says nothing sensible.
    """
    match unpack(body):
        case ["ok" | "ready", value]:
            return value
        case [str(status), str(text)]:
            raise ReplyInvalid(f"{status}: {text}")
        case _:
            raise ReplyInvalid("not two fields")


def unpack(body: bytes) -> object:
    """Unpack a message within bounds; bytes that are no UTF-8 become U+FFFD.

    Raises:
        ReplyInvalid: It is not MessagePack, or beyond the bounds.
    """
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            unicode_errors="replace",
            max_str_len=limits.POLICY_REPLY_BYTES_MAX,
            max_bin_len=limits.POLICY_REPLY_BYTES_MAX,
            max_array_len=limits.POLICY_DECISIONS_MAX,
            max_map_len=64,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as fault:
        raise ReplyInvalid(f"not MessagePack: {fault}") from fault


def _status(word: object) -> Status:
    status = _STATUSES.get(word) if isinstance(word, str) else None
    if status is None:
        raise ReplyInvalid("unknown status")
    return status


def _decisions(value: object) -> tuple[Decision, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ReplyInvalid("decisions are no list")
    return tuple(map(_decision, value))


def _decision(entry: object) -> Decision:
    if not isinstance(entry, dict) or "action" not in entry:
        raise ReplyInvalid("a decision is no map with an action")
    for name, value in entry.items():
        if name in _TEXT_FIELDS and isinstance(value, str) and _is_short(value):
            continue
        if name == "retry_after_ms" and type(value) is int and value >= 0:
            continue
        if name == "start_worker" and _is_start(value):
            continue
        raise ReplyInvalid("a decision has a field that none has")
    return entry


def _is_start(value: object) -> bool:
    return isinstance(value, dict) and all(
        name in _START_FIELDS and isinstance(text, str) for name, text in value.items()
    )


def _state(state: object) -> bytes | None:
    if state is None or (isinstance(state, bytes) and len(state) <= limits.POLICY_STATE_BYTES_MAX):
        return state
    raise ReplyInvalid("the state is no bytes, or too many")


def _log(entry: object) -> tuple[str, str]:
    match entry:
        case [str(level), str(text)] if _is_short(level) and _is_short(text):
            return level, text
    raise ReplyInvalid("a log line is no level and text")


def _metric(entry: object) -> tuple[str, float]:
    match entry:
        case [str(name), int() | float() as value] if _is_short(name):
            return name, value
    raise ReplyInvalid("a metric is no name and number")


def _is_short(text: str) -> bool:
    return len(text) <= limits.POLICY_LOG_BYTES_MAX
