"""The only file of the client that knows both its own and the wire's types of heavy work."""

from collections.abc import Sequence
from typing import Final

from beeyard.queen.v1 import lease_service_pb2 as pb
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from beeyard_client.errors import invalid
from beeyard_client.wire import moment, priority, priority_to_wire
from beeyard_client.work import (
    BusyFactor,
    Capacity,
    Denial,
    Grant,
    HostCapacity,
    Json,
    Lease,
    QueuedWork,
    Work,
    WorkRequest,
    WorkState,
)

_NUMBERS: Final = (
    ("capacity_units", (1 << 31) - 1),
    ("max_attempts", (1 << 31) - 1),
    ("deadline_ms", (1 << 63) - 1),
)


def submit_request(work: WorkRequest) -> pb.SubmitWorkRequest:
    """Return the message of `SubmitWork`.

    Raises:
        BeeyardError: `INVALID_REQUEST`, with the field, for what no message can carry.
    """
    for name, most in _NUMBERS:
        if not -most <= getattr(work, name) <= most:
            raise invalid(name, f"{name} is out of range")
    try:
        return pb.SubmitWorkRequest(
            request_id=work.request_id,
            kind=work.kind,
            priority=priority_to_wire(work.priority),
            capacity_units=work.capacity_units,
            tenant_id=work.tenant_id,
            payload=struct_of(work.payload, "payload"),
            labels=dict(work.labels),
            unique_key=work.unique_key,
            deadline_ms=work.deadline_ms,
            max_attempts=work.max_attempts,
        )
    except UnicodeEncodeError as error:
        raise invalid("", "a field of the request is not valid Unicode") from error


def struct_of(value: Json, field: str) -> Struct | None:
    """Return a JSON object as the wire has it; None for an empty one.

    Raises:
        BeeyardError: `INVALID_REQUEST`: it holds something that JSON has not.
    """
    if not value:
        return None
    try:
        return json_format.ParseDict(dict(value), Struct())
    except (json_format.ParseError, UnicodeEncodeError, TypeError, ValueError) as error:
        raise invalid(field, f"{field} is not a JSON object") from error


def json_of(wire: Struct) -> Json:
    """Return a JSON object; whole numbers as int, as they were before the wire made them double."""
    found = json_format.MessageToDict(wire)
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def states_to_wire(states: Sequence[WorkState]) -> "list[pb.WorkState.ValueType]":
    """Return the states of a listing's filter; `UNKNOWN` is no state to ask for."""
    return [
        pb.WorkState.Value(f"WORK_STATE_{one.value}")
        for one in states
        if one is not WorkState.UNKNOWN
    ]


def work(wire: pb.Work) -> Work:
    """Return a piece of work."""
    return Work(
        work_id=wire.work_id,
        request_id=wire.request_id,
        kind=wire.kind,
        priority=priority(wire.priority),
        capacity_units=wire.capacity_units,
        tenant_id=wire.tenant_id,
        state=_state(wire.state),
        create_time=moment(wire.create_time),
        start_time=moment(wire.start_time),
        end_time=moment(wire.end_time),
        expire_time=moment(wire.expire_time),
        attempt=wire.attempt,
        max_attempts=wire.max_attempts,
        progress=wire.progress,
        message=wire.message,
        failure=wire.failure,
        lease=lease(wire.lease) if wire.HasField("lease") else None,
        payload=json_of(wire.payload),
        result=json_of(wire.result),
        labels=dict(wire.labels),
        measurements=dict(wire.measurements),
    )


def _state(wire: "pb.WorkState.ValueType") -> WorkState:
    name = pb.WorkState.Name(wire) if wire in pb.WorkState.values() else ""
    word = name.removeprefix("WORK_STATE_")
    return WorkState(word) if word in set(WorkState) else WorkState.UNKNOWN


def lease(wire: pb.Lease) -> Lease:
    """Return a lease."""
    return Lease(
        lease_id=wire.lease_id,
        epoch=wire.epoch,
        work_id=wire.work_id,
        worker_id=wire.worker_id,
        pool_id=wire.pool_id,
        capacity_units=wire.capacity_units,
        create_time=moment(wire.create_time),
        expire_time=moment(wire.expire_time),
        last_heartbeat_time=moment(wire.last_heartbeat_time),
        ttl_ms=wire.ttl_ms,
        heartbeat_interval_ms=wire.heartbeat_interval_ms,
    )


def outcome(wire: pb.RequestLeaseResponse) -> Grant | Denial:
    """Return what a request for a lease came to."""
    if wire.HasField("granted"):
        return Grant(lease(wire.granted.lease), work(wire.granted.work))
    denied = wire.denied
    reasons = pb.LeaseDenied.Reason
    name = reasons.Name(denied.reason) if denied.reason in reasons.values() else "REASON_UNKNOWN"
    return Denial(name.removeprefix("REASON_"), denied.message, denied.retry_after_ms)


def capacity(wire: pb.Capacity) -> Capacity:
    """Return how much heavy work the hosts can take now."""
    return Capacity(
        units_total=wire.units_total,
        units_usable=wire.units_usable,
        units_leased=wire.units_leased,
        units_inference=wire.units_inference,
        busy_rating=wire.busy_rating,
        fresh=wire.fresh,
        factors=tuple(_factor(one) for one in wire.factors),
        queued=tuple(
            QueuedWork(priority(one.priority), one.count, one.capacity_units) for one in wire.queued
        ),
        hosts=tuple(_host(one) for one in wire.hosts),
        update_time=moment(wire.update_time),
    )


def _host(wire: pb.HostCapacity) -> HostCapacity:
    return HostCapacity(
        pool_id=wire.pool_id,
        units_total=wire.units_total,
        units_usable=wire.units_usable,
        units_leased=wire.units_leased,
        units_inference=wire.units_inference,
        busy_rating=wire.busy_rating,
        fresh=wire.fresh,
        factors=tuple(_factor(one) for one in wire.factors),
    )


def _factor(wire: pb.BusyFactor) -> BusyFactor:
    value = wire.value if wire.HasField("value") else None
    return BusyFactor(wire.name, value, wire.points)
