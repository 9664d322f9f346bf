"""Cuts a `Job` of the core into a `JobRow` of the store, and builds it up again after a restart.

A row holds wall times, because monotonic clocks start anew with every boot; `job_of` places them on the monotonic clock
of the queen that reads them. The JSON columns leave out whatever has its default and ignore keys that they do not
know, so that a row of yesterday's version, or of tomorrow's with the same schema, can be read.
"""

import json
import sys
from array import array
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Final, NamedTuple

from beeyard_core.ids import Epoch, JobId, ModelName, TenantId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import (
    Decision,
    Finish,
    Job,
    JobSpec,
    JobState,
    PlacementWish,
    Priority,
    Requirements,
)
from beeyard_core.refusal import Refusal, Refused
from pydantic_core import from_json

from beeyard_queen.store.port import JobRow

# `array` has no fixed width by contract; everywhere Python runs today "I" is 32 bits.
assert array("I").itemsize == 4

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

#: What a JSON column holds.
Json = dict[str, Any]

# A full queue is read back while clients wait, a hundred thousand rows at a time: looking a member up is cheaper than
# making it out of its value.
_STATES: Final = {state.value: state for state in JobState}
_PRIORITIES: Final = {int(priority): priority for priority in Priority}


def row_of(job: Job, trace_id: str = "") -> JobRow:
    """Return the job as it is remembered.

    Args:
        job: The job as it is now.
        trace_id: 32 hexadecimal digits; empty: not traced.
    """
    spec = job.spec
    return JobRow(
        job_id=job.job_id,
        sequence=job.sequence,
        tenant_id=spec.tenant_id,
        session_id=spec.session_id,
        request_id=job.request_id,
        digest=job.digest,
        model=spec.model,
        priority=int(spec.priority),
        state=job.state.value,
        spec=_encode(_spec_json(spec)),
        created_ms=job.accepted_at.wall_ms,
        expires_ms=_expires_ms(job),
        attempt=job.attempt,
        epoch=job.epoch,
        worker_id=job.worker_id or "",
        next_index=job.next_index,
        leased_ms=_wall_ms(job.leased_at),
        first_token_ms=_wall_ms(job.first_token_at),
        ended_ms=_wall_ms(job.ended_at),
        result=_encode(_result_json(job)),
        trace_id=trace_id,
        is_ended=job.is_ended,
    )


def job_of(row: JobRow, now: Instant) -> Job:
    """Return the job that a row remembers.

    Args:
        row: The row, of this or another version.
        now: The present on both clocks; times of the row are placed before it by their wall time.

    Raises:
        ValueError: The row names a state or a priority that this version does not know.
    """
    spec = _spec_of(row)
    job = Job(
        job_id=JobId(row.job_id),
        spec=spec,
        sequence=row.sequence,
        accepted_at=past(row.created_ms, now),
        request_id=row.request_id,
        digest=row.digest,
        deadline_at_ms=_deadline_at_ms(row.expires_ms, spec.deadline_ms, now),
        state=_STATES.get(row.state) or JobState(row.state),
        attempt=row.attempt,
        epoch=Epoch(row.epoch),
        worker_id=WorkerId(row.worker_id) if row.worker_id else None,
        next_index=row.next_index,
        leased_at=past(row.leased_ms, now) if row.leased_ms else None,
        first_token_at=past(row.first_token_ms, now) if row.first_token_ms else None,
        ended_at=past(row.ended_ms, now) if row.ended_ms else None,
    )
    result = _decode(row.result)
    if result:
        job.preemptions = result.get("preemptions", 0)
        job.finish = _finish_of(result.get("finish"))
        job.failure = _refused_of(result.get("failure"))
        job.decision = _decision_of(result.get("decision"))
    return job


def pack_u32(values: Iterable[int]) -> bytes:
    """Return the numbers, 0 to 2^32-1 each, as little-endian unsigned 32-bit integers."""
    packed = array("I", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_u32(packed: bytes) -> list[int]:
    """Return the numbers that `pack_u32` packed.

    Raises:
        ValueError: The length is not a multiple of four bytes.
    """
    values = array("I")
    values.frombytes(packed)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


# --- Times ---


def _wall_ms(at: Instant | None) -> int:
    return at.wall_ms if at is not None else 0


def _expires_ms(job: Job) -> int:
    if job.deadline_at_ms is None:
        return 0
    return job.accepted_at.wall_ms + job.deadline_at_ms - job.accepted_at.mono_ms


def past(wall_ms: int, now: Instant) -> Instant:
    """Place a wall time of an earlier queen on the clocks of this one; never later than now."""
    # A wall clock that was set back since then must not put a past event into the future.
    age_ms = now.wall_ms - wall_ms if wall_ms < now.wall_ms else 0
    return Instant(now.mono_ms - age_ms, wall_ms)


def _deadline_at_ms(expires_ms: int, deadline_ms: int | None, now: Instant) -> int | None:
    if not expires_ms:
        return None
    left_ms = expires_ms - now.wall_ms
    # ... nor give a job more time than it had in the beginning.
    return now.mono_ms + (left_ms if deadline_ms is None else min(left_ms, deadline_ms))


# --- The columns of JSON ---

_Valued = JobSpec | Requirements | PlacementWish | Finish | Decision


#: The fields that a column holds, each with its default.
_Fields = tuple[tuple[str, object], ...]


def _fields_of(cls: type[NamedTuple], *, without: Iterable[str] = ()) -> _Fields:
    # A field without a default has an object here that equals no value, so it is always written.
    defaults, none = cls._field_defaults, object()
    return tuple((name, defaults.get(name, none)) for name in cls._fields if name not in without)


def _fields_of_class(cls: type[Finish | Decision]) -> _Fields:
    return tuple((f.name, f.default) for f in fields(cls))  # `MISSING` where there is no default


# What has a column of its own, or is made by hand below, is left out.
_SPEC: Final = _fields_of(
    JobSpec,
    without=(
        *("model", "tenant_id", "session_id", "priority"),
        *("requirements", "placement", "labels"),
    ),
)
_SPEC_NAMES: Final = frozenset(name for name, _ in _SPEC)
_REQUIREMENTS: Final = _fields_of(Requirements)
_WISH: Final = _fields_of(PlacementWish)
_FINISH: Final = _fields_of_class(Finish)
_DECISION: Final = _fields_of_class(Decision)

# What a row that lacks a required key is read as.
_UNKNOWN_SPEC: Final[Json] = {"prompt_tokens": 0, "max_tokens": 0}
_UNKNOWN_FINISH: Final[Json] = {"reason": ""}
_UNKNOWN_DECISION: Final[Json] = {
    "policy_version": "",
    "worker_id": "",
}

_NO_REQUIREMENTS: Final = Requirements()
_NO_WISH: Final = PlacementWish()


def _changed(value: _Valued, known: Iterable[tuple[str, object]]) -> Json:
    """Return the fields that differ from their defaults."""
    return {name: given for name, default in known if (given := getattr(value, name)) != default}


def _known(kept: Json, known: Iterable[tuple[str, object]]) -> Json:
    """Return those keys of a column that this version knows."""
    return {name: kept[name] for name, _ in known if name in kept}


def _spec_json(spec: JobSpec) -> Json:
    made = _changed(spec, _SPEC)
    if spec.labels:
        made["labels"] = spec.labels
    if spec.requirements != _NO_REQUIREMENTS:
        made["requirements"] = _changed(spec.requirements, _REQUIREMENTS)
    if spec.placement != _NO_WISH:
        made["placement"] = _changed(spec.placement, _WISH)
    return made


def _spec_of(row: JobRow) -> JobSpec:
    kept = _decode(row.spec)
    # Most jobs ask for nothing but tokens.
    if not kept.keys() <= _SPEC_NAMES:
        kept = _known(kept, _SPEC) | {
            "requirements": _requirements_of(kept.get("requirements")),
            "placement": _wish_of(kept.get("placement")),
            "labels": tuple((name, value) for name, value in kept.get("labels", ())),
        }
    return JobSpec(
        model=ModelName(row.model),
        tenant_id=TenantId(row.tenant_id),
        session_id=row.session_id,
        priority=_PRIORITIES.get(row.priority) or Priority(row.priority),
        **(_UNKNOWN_SPEC | kept),
    )


def _decode(column: str) -> Json:
    """Return what a JSON column holds; an empty one holds nothing."""
    kept: Json = from_json(column) if column else {}
    return kept


def _requirements_of(kept: Json | None) -> Requirements:
    if not kept:
        return _NO_REQUIREMENTS
    given = _known(kept, _REQUIREMENTS)
    given["quantizations"] = tuple(kept.get("quantizations", ()))
    capability = kept.get("min_compute_capability")
    given["min_compute_capability"] = tuple(capability) if capability else None
    return Requirements(**given)


def _wish_of(kept: Json | None) -> PlacementWish:
    if not kept:
        return _NO_WISH
    given = _known(kept, _WISH)
    given["prefer_pool_ids"] = tuple(kept.get("prefer_pool_ids", ()))
    given["avoid_pool_ids"] = tuple(kept.get("avoid_pool_ids", ()))
    return PlacementWish(**given)


def _result_json(job: Job) -> Json:
    made: Json = {}
    if job.finish is not None:
        made["finish"] = _changed(job.finish, _FINISH)
    if job.preemptions:
        made["preemptions"] = job.preemptions
    if job.decision is not None:
        made["decision"] = _changed(job.decision, _DECISION)
    if job.failure is not None:
        failure = job.failure
        made["failure"] = {
            "reason": failure.reason.value,
            "message": failure.message,
            "field": failure.field,
            "retry_after_ms": failure.retry_after_ms,
            "metadata": dict(failure.metadata),
        }
    return made


def _finish_of(kept: Json | None) -> Finish | None:
    return None if kept is None else Finish(**(_UNKNOWN_FINISH | _known(kept, _FINISH)))


def _decision_of(kept: Json | None) -> Decision | None:
    if kept is None:
        return None
    decision = Decision(**(_UNKNOWN_DECISION | _known(kept, _DECISION)))
    # What the reason was called before policies decided.
    earlier = kept.get("tie_breaker", "")
    return replace(decision, reason=earlier) if earlier and not decision.reason else decision


def _refused_of(kept: Json | None) -> Refused | None:
    if kept is None:
        return None
    try:
        reason = Refusal(kept.get("reason"))
    except ValueError:
        # A later version's reason: the message still tells a person.
        reason = Refusal.INTERNAL
    return Refused(
        reason=reason,
        message=kept.get("message", ""),
        field=kept.get("field", ""),
        retry_after_ms=kept.get("retry_after_ms"),
        metadata=kept.get("metadata", {}),
    )
