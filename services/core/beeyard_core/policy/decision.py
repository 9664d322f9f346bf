"""What a policy may decide, as values, and the check of every field against the live state.

A policy's answer is hearsay: it may be out of date, impossible or a lie. So each intent is read field by field and held
against the world as it is now; what does not hold is dropped whole, with the reason, and nothing is ever half applied.
The intents of one answer are judged in order, each after the ones before it: two jobs cannot take the same last slot.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    Reject,
    StartWorker,
    Wait,
)
from beeyard_core.policy.judging import Judge, PolicyWorld
from beeyard_core.refusal import Refusal, Refused

_REQUIRED = {
    "dispatch": ("job_id", "worker_id"),
    "wait": (),
    "start_worker": ("start_worker",),
    "evict": ("evict_worker_id",),
    "preempt": ("job_id", "for_job_id"),
    "reject": ("job_id",),
    "batch": ("actions",),
}
_IDS = ("job_id", "worker_id", "evict_worker_id", "for_job_id")
_FIELDS = {"action", "reason", "retry_after_ms", "start_worker", "actions", *_IDS}
_START_FIELDS = {"model_ref", "pool_id", "gpu_id"}


@dataclass(frozen=True, slots=True)
class DroppedIntent:
    """One intent that was not applied.

    Attributes:
        at: Its place in the flattened answer, from 0.
        action: What it wanted to be.
        refused: Why it was dropped, with the field at fault.
    """

    at: int
    action: str
    refused: Refused


@dataclass(frozen=True, slots=True)
class Decided:
    """A policy's answer after the check: what is to be applied, in order, and what was dropped."""

    intents: tuple[Intent, ...] = ()
    dropped: tuple[DroppedIntent, ...] = field(default_factory=tuple)


class _Unreadable(Exception):
    """An intent that says nothing that could be applied; carries the refusal."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(message)
        self.refused = Refused(reason=Refusal.POLICY_INVALID, message=message, field=field_name)


def judge(answer: object, world: PolicyWorld) -> Decided:
    """Read a policy's answer and check it against a world of rows.

    Args:
        answer: A mapping, or a sequence of mappings; with plain values, as they came over the border.
        world: The state.

    Returns:
        What holds, in order, and what was dropped and why. At most `POLICY_DECISIONS_MAX` intents are looked at.
    """
    judges, intents, dropped = Judge(world), list[Intent](), list[DroppedIntent]()
    for at, intent in enumerate(read_answer(answer)):
        if isinstance(intent, DroppedIntent):
            dropped.append(intent)
            continue
        why = judges.refusal(intent)
        if why is None:
            intents.append(intent)
        else:
            dropped.append(DroppedIntent(at, intent.action, why))
    return Decided(tuple(intents), tuple(dropped))


def read_answer(answer: object) -> Iterator[Intent | DroppedIntent]:
    """Yield each intent of an answer, or why it says nothing that could be applied."""
    for at, plain in enumerate(_flattened(answer)):
        if at >= limits.POLICY_DECISIONS_MAX:
            refused = Refused(
                reason=Refusal.POLICY_INVALID,
                message=f"more than {limits.POLICY_DECISIONS_MAX} intents; the rest was not read",
            )
            yield DroppedIntent(at, "batch", refused)
            return
        try:
            yield read(plain)
        except _Unreadable as unreadable:
            yield DroppedIntent(at, _action_of(plain), unreadable.refused)


def _action_of(plain: object) -> str:
    action = plain.get("action") if isinstance(plain, Mapping) else None
    return action if isinstance(action, str) and action in _REQUIRED else ""


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _flattened(answer: object) -> Iterator[object]:
    """Each intent of an answer; a batch stands for what is in it. One within a batch is left for `read` to refuse."""
    outer = answer if isinstance(answer, Sequence) and _is_list(answer) else (answer,)
    for each in outer:
        inner = each.get("actions") if isinstance(each, Mapping) else None
        is_batch = isinstance(each, Mapping) and each.get("action") == "batch"
        if is_batch and isinstance(inner, Sequence) and _is_list(inner):
            yield from inner
        else:
            yield each


def read(plain: object) -> Intent:
    """Return one intent.

    Raises:
        _Unreadable: It is no mapping, names no action, lacks a field, or a field holds what it cannot.
    """
    if not isinstance(plain, Mapping):
        raise _Unreadable("", "an intent is a table")
    action = _action_of(plain)
    if not action:
        raise _Unreadable("action", f"no such action; there are {', '.join(_REQUIRED)}")
    unknown = sorted(str(name) for name in plain if name not in _FIELDS)
    if unknown:
        raise _Unreadable(unknown[0], f"no intent has a field {unknown[0]}")
    missing = [name for name in _REQUIRED[action] if plain.get(name) is None]
    if missing:
        raise _Unreadable(missing[0], f"{action} needs {missing[0]}")
    ids = {name: _id(plain, name) for name in _IDS}
    reason, retry_after_ms = _reason(plain), _retry_after_ms(plain)
    match action:
        case "dispatch":
            return Dispatch(job_id=ids["job_id"], worker_id=ids["worker_id"], reason=reason)
        case "wait":
            return Wait(reason=reason, retry_after_ms=retry_after_ms)
        case "start_worker":
            return _start_worker(plain["start_worker"], reason)
        case "evict":
            return Evict(evict_worker_id=ids["evict_worker_id"], reason=reason)
        case "preempt":
            return Preempt(job_id=ids["job_id"], for_job_id=ids["for_job_id"], reason=reason)
        case "reject":
            return Reject(job_id=ids["job_id"], reason=reason)
        case _:
            raise _Unreadable("actions", "a batch holds intents, and no batch")


def _id(plain: Mapping[object, object], name: str) -> str:
    value = plain.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value.encode()) <= limits.ID_BYTES_MAX:
        raise _Unreadable(name, f"{name} is a text of 1 to {limits.ID_BYTES_MAX} bytes")
    return value


def _reason(plain: Mapping[object, object]) -> str:
    reason = plain.get("reason") or ""
    if not isinstance(reason, str):
        raise _Unreadable("reason", "reason is a text")
    return reason[: limits.POLICY_TEXT_BYTES_MAX]


def _retry_after_ms(plain: Mapping[object, object]) -> int:
    value = plain.get("retry_after_ms") or 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unreadable("retry_after_ms", "retry_after_ms is a number")
    # Not a number compares with nothing, so it is refused here, too.
    if not 0 <= value <= limits.DEADLINE_MS_MAX:
        raise _Unreadable("retry_after_ms", f"retry_after_ms is 0 to {limits.DEADLINE_MS_MAX}")
    return int(value)


def _start_worker(plain: object, reason: str) -> StartWorker:
    if not isinstance(plain, Mapping):
        raise _Unreadable("start_worker", "start_worker is a table")
    unknown = sorted(str(name) for name in plain if name not in _START_FIELDS)
    if unknown:
        raise _Unreadable(f"start_worker.{unknown[0]}", "start_worker has no such field")
    gpu = plain.get("gpu_id")
    if isinstance(gpu, int | float) and not isinstance(gpu, bool) and gpu == gpu // 1:
        gpu = str(int(gpu))
    model, pool = _id(plain, "model_ref"), _id(plain, "pool_id")
    if not model:
        raise _Unreadable("start_worker.model_ref", "start_worker needs model_ref")
    return StartWorker.at(model, pool, _id({"gpu_id": gpu}, "gpu_id"), reason=reason)
