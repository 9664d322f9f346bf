"""Between the messages of the lease service and the core's values."""

import hashlib

from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.capacity import Room, rooms
from beeyard_core.governor import BUSY_MAX, Factor, Measured, rate
from beeyard_core.ids import TenantId
from beeyard_core.instant import Instant
from beeyard_core.state import QueenState
from beeyard_core.work import Work, WorkLease, WorkSpec, WorkState
from beeyard_core.work_ask import DenialReason, Denied

from beeyard_queen.ingress.wire import PRIORITIES, WIRE_PRIORITIES, timestamp_of
from beeyard_queen.ingress.work_request import WorkSchema

WIRE_WORK_STATES = {
    WorkState.QUEUED: pb.WORK_STATE_QUEUED,
    WorkState.LEASED: pb.WORK_STATE_LEASED,
    WorkState.RUNNING: pb.WORK_STATE_RUNNING,
    WorkState.COMPLETED: pb.WORK_STATE_COMPLETED,
    WorkState.FAILED: pb.WORK_STATE_FAILED,
    WorkState.EXPIRED: pb.WORK_STATE_EXPIRED,
}
WORK_STATES = {number: state for state, number in WIRE_WORK_STATES.items()}
_WIRE_REASONS = {
    DenialReason.NO_WORK: pb.LeaseDenied.REASON_NO_WORK,
    DenialReason.TOO_LARGE: pb.LeaseDenied.REASON_TOO_LARGE,
    DenialReason.NO_CAPACITY: pb.LeaseDenied.REASON_NO_CAPACITY,
    DenialReason.CAPACITY_GATED: pb.LeaseDenied.REASON_CAPACITY_GATED,
    DenialReason.DRAINING: pb.LeaseDenied.REASON_DRAINING,
}
assert set(WIRE_WORK_STATES) == set(WorkState)
assert set(_WIRE_REASONS) == set(DenialReason)


def work_digest_of(request: pb.SubmitWorkRequest) -> bytes:
    """Return a hash of everything that a submission asks, so that a repeated request id can be told from a reused."""
    body = pb.SubmitWorkRequest()
    body.CopyFrom(request)
    body.ClearField("request_id")
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()


def work_spec_of(schema: WorkSchema) -> WorkSpec:
    """Return what decisions need of a checked submission."""
    return WorkSpec(
        kind=schema.kind,
        units=schema.capacity_units or 1,
        priority=PRIORITIES[schema.priority],
        tenant_id=TenantId(schema.tenant_id or "default"),
        labels=tuple(sorted(schema.labels.items())),
        unique_key=schema.unique_key,
        deadline_ms=schema.deadline_ms or None,
        max_attempts=schema.max_attempts or limits.ATTEMPTS_DEFAULT,
    )


def wire_work_of(work: Work, now: Instant, *, payload: bytes = b"", result: bytes = b"") -> pb.Work:
    """Return a piece of work, with those of its bodies that the caller is sent."""
    spec = work.spec
    wire = pb.Work(
        work_id=work.work_id,
        request_id=work.request_id,
        kind=spec.kind,
        priority=WIRE_PRIORITIES[spec.priority],
        capacity_units=spec.units,
        tenant_id=spec.tenant_id,
        state=WIRE_WORK_STATES[work.state],
        labels=dict(spec.labels),
        create_time=timestamp_of(work.accepted_at.wall_ms),
        attempt=work.attempt,
        max_attempts=spec.max_attempts,
        progress=work.progress,
        message=work.message,
        failure=work.failure,
        measurements=dict(work.measurements),
    )
    if payload:
        wire.payload.ParseFromString(payload)
    if result:
        wire.result.ParseFromString(result)
    if work.leased_at is not None:
        wire.start_time.CopyFrom(timestamp_of(work.leased_at.wall_ms))
    if work.ended_at is not None:
        wire.end_time.CopyFrom(timestamp_of(work.ended_at.wall_ms))
    if spec.deadline_ms is not None:
        wire.expire_time.CopyFrom(timestamp_of(work.accepted_at.wall_ms + spec.deadline_ms))
    if work.lease is not None:
        wire.lease.CopyFrom(wire_lease_of(work.lease, now))
    return wire


def wire_lease_of(lease: WorkLease, now: Instant) -> pb.Lease:
    """Return a lease; `now` places its expiry, which counts on the other clock, on the wall's."""
    wire = pb.Lease(
        lease_id=lease.lease_id,
        epoch=lease.epoch,
        work_id=lease.work_id,
        worker_id=lease.holder,
        capacity_units=lease.units,
        create_time=timestamp_of(lease.granted_at.wall_ms),
        expire_time=timestamp_of(now.wall_ms + lease.expires_at_ms - now.mono_ms),
        ttl_ms=lease.ttl_ms,
        heartbeat_interval_ms=lease.ttl_ms // limits.WORK_HEARTBEATS_PER_TTL,
        pool_id=lease.pool_id,
    )
    if lease.heartbeat_at is not None:
        wire.last_heartbeat_time.CopyFrom(timestamp_of(lease.heartbeat_at.wall_ms))
    return wire


def wire_denied_of(denied: Denied) -> pb.LeaseDenied:
    """Return why there is no lease now."""
    return pb.LeaseDenied(
        reason=_WIRE_REASONS[denied.reason],
        retry_after_ms=denied.retry_after_ms,
        message=denied.message,
    )


# --- Capacity ---


def capacity_of(state: QueenState, now: Instant) -> pb.Capacity:
    """Return how much heavy work the hosts can take now, together and each."""
    every = rooms(state, now)
    fresh = [room for room in every if room.rating.is_fresh]
    settings = state.settings.capacity
    total = sum(room.total for room in fresh) or settings.units_per_host
    free_of_load = sum(room.total * (BUSY_MAX - room.rating.busy) for room in fresh)
    factors = _worst_factors(fresh) if fresh else _missing_factors(state, now)
    return pb.Capacity(
        units_total=total,
        units_usable=sum(room.usable for room in fresh),
        units_leased=sum(state.work.units_used.values()),
        units_inference=sum(room.inference for room in every),
        # Rounded up, in whole numbers.
        busy_rating=-(-(BUSY_MAX * total - free_of_load) // total),
        fresh=bool(fresh),
        factors=[_factor_of(factor) for factor in factors],
        update_time=timestamp_of(now.wall_ms),
        queued=[
            pb.QueuedWork(
                priority=WIRE_PRIORITIES[priority], count=depth.pieces, capacity_units=depth.units
            )
            for priority, depth in state.work.queue.depths().items()
        ],
        hosts=[_host_of(room) for room in every],
    )


def _worst_factors(fresh: list[Room]) -> list[Measured]:
    columns = zip(*(room.rating.factors for room in fresh), strict=True)
    return [max(column, key=lambda each: (each.points, each.value or 0.0)) for column in columns]


def _missing_factors(state: QueenState, now: Instant) -> tuple[Measured, ...]:
    governor = state.work.governor
    is_measured = now.mono_ms - governor.api_at_ms <= limits.API_STALE_MS
    return rate(None, governor.api if is_measured else None, now).factors


def _host_of(room: Room) -> pb.HostCapacity:
    return pb.HostCapacity(
        pool_id=room.pool_id,
        units_total=room.total,
        units_usable=room.usable,
        units_leased=room.leased,
        units_inference=room.inference,
        busy_rating=room.rating.busy,
        fresh=room.rating.is_fresh,
        factors=[_factor_of(factor) for factor in room.rating.factors],
    )


def _factor_of(measured: Measured) -> pb.BusyFactor:
    wire = pb.BusyFactor(name=measured.factor.value, points=measured.points)
    if measured.value is not None:
        wire.value = measured.value
    return wire


assert [factor.value for factor in Factor] == [
    "cpu_percent",
    "memory_percent",
    "latency_p95_ms",
    "error_percent",
    "calls_inflight",
], "the proto names these"
