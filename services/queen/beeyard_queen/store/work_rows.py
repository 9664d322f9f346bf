"""Cuts a piece of `Work` of the core into a row of the store, and builds it up again after a restart.

As in `rows.py`: a row holds wall times, which `work_of` places on the monotonic clock of the queen that reads them, and
the JSON leaves out what has its default and ignores keys that it does not know.
"""

import json
from typing import Any

from beeyard_core import limits
from beeyard_core.ids import Epoch, PoolId, TenantId, WorkerId, WorkId, lease_id_of
from beeyard_core.instant import Instant
from beeyard_core.job import Priority
from beeyard_core.work import Work, WorkLease, WorkSpec, WorkState

from beeyard_queen.store.rows import past
from beeyard_queen.store.work import WorkRow

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

#: What the JSON column holds.
Json = dict[str, Any]


def work_row_of(work: Work, *, payload: bytes = b"", result: bytes = b"") -> WorkRow:
    """Return the work as it is remembered, with those bodies that are new."""
    return WorkRow(
        work_id=work.work_id,
        sequence=work.sequence,
        tenant_id=work.spec.tenant_id,
        request_id=work.request_id,
        digest=work.digest,
        kind=work.spec.kind,
        state=work.state.value,
        is_ended=work.is_ended,
        created_ms=work.accepted_at.wall_ms,
        ended_ms=work.ended_at.wall_ms if work.ended_at else 0,
        epoch=work.epoch,
        details=_encode(_details_of(work)),
        payload=payload,
        result=result,
    )


def _details_of(work: Work) -> Json:
    spec = work.spec
    made: Json = {
        "units": spec.units,
        "priority": int(spec.priority),
        "labels": spec.labels,
        "unique_key": spec.unique_key,
        "deadline_ms": spec.deadline_ms,
        "max_attempts": spec.max_attempts,
        "attempt": work.attempt,
        "is_released": work.is_released,
        "leased_ms": work.leased_at.wall_ms if work.leased_at else 0,
        "progress": work.progress,
        "message": work.message,
        "measurements": dict(work.measurements),
        "failure": work.failure,
        "lease": _lease_json(work.lease) if work.lease else None,
    }
    return {name: value for name, value in made.items() if value}


def _lease_json(lease: WorkLease) -> Json:
    return {
        "holder": lease.holder,
        "pool_id": lease.pool_id,
        "granted_ms": lease.granted_at.wall_ms,
        "ttl_ms": lease.ttl_ms,
        "request_id": lease.request_id,
    }


def work_of(row: WorkRow, now: Instant) -> Work:
    """Return the work that a row remembers.

    Args:
        row: The row, of this or another version.
        now: The present on both clocks; times of the row are placed before it by their wall time.

    Raises:
        ValueError: The row names a state or a priority that this version does not know.
    """
    kept: Json = json.loads(row.details)
    spec = _spec_of(row, kept)
    work = Work(
        work_id=WorkId(row.work_id),
        spec=spec,
        sequence=row.sequence,
        accepted_at=past(row.created_ms, now),
        request_id=row.request_id,
        digest=row.digest,
        state=WorkState(row.state),
        attempt=kept.get("attempt", 0),
        epoch=Epoch(row.epoch),
        is_released=kept.get("is_released", False),
        leased_at=past(leased_ms, now) if (leased_ms := kept.get("leased_ms", 0)) else None,
        ended_at=past(row.ended_ms, now) if row.ended_ms else None,
        progress=kept.get("progress", 0.0),
        message=kept.get("message", ""),
        measurements=kept.get("measurements", {}),
        failure=kept.get("failure", ""),
    )
    if spec.deadline_ms is not None:
        work.deadline_at_ms = work.accepted_at.mono_ms + spec.deadline_ms
    if "lease" in kept:
        work.lease = _lease_of(work, kept["lease"], now)
    return work


def _spec_of(row: WorkRow, kept: Json) -> WorkSpec:
    return WorkSpec(
        kind=row.kind,
        units=kept.get("units", 1),
        priority=Priority(kept.get("priority", Priority.NORMAL)),
        tenant_id=TenantId(row.tenant_id),
        labels=tuple((name, value) for name, value in kept.get("labels", ())),
        unique_key=kept.get("unique_key", ""),
        deadline_ms=kept.get("deadline_ms"),
        max_attempts=kept.get("max_attempts", limits.ATTEMPTS_DEFAULT),
    )


def _lease_of(work: Work, kept: Json, now: Instant) -> WorkLease:
    granted_at, ttl_ms = past(kept["granted_ms"], now), kept["ttl_ms"]
    return WorkLease(
        lease_id=lease_id_of(work.epoch),
        epoch=work.epoch,
        work_id=work.work_id,
        holder=WorkerId(kept["holder"]),
        pool_id=PoolId(kept["pool_id"]),
        units=work.spec.units,
        granted_at=granted_at,
        expires_at_ms=granted_at.mono_ms + ttl_ms,
        ttl_ms=ttl_ms,
        request_id=kept["request_id"],
    )
