"""What the lease service makes of bad input: each method, each field, and fields that it does not know."""

import pytest
from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard_core import limits
from google.protobuf.message import Message

from tests.support.lease_requests import INVALID, struct, submission, told
from tests.support.running_queen import RunningQueen
from tests.support.told import refusal

LONG = "x" * (limits.ID_BYTES_MAX + 1)
HELD = {"lease_id": "lease-1", "epoch": 1, "worker_id": "w"}
BAD: list[tuple[str, Message, str]] = [
    ("SubmitWork", pb.SubmitWorkRequest(), "kind"),
    ("SubmitWork", submission(kind=LONG), "kind"),
    ("SubmitWork", submission(request_id=LONG), "request_id"),
    ("SubmitWork", submission(unique_key=LONG), "unique_key"),
    ("SubmitWork", submission(tenant_id=LONG), "tenant_id"),
    ("SubmitWork", submission(capacity_units=101), "capacity_units"),
    ("SubmitWork", submission(capacity_units=-1), "capacity_units"),
    ("SubmitWork", submission(priority=9), "priority"),
    ("SubmitWork", submission(deadline_ms=-1), "deadline_ms"),
    ("SubmitWork", submission(max_attempts=11), "max_attempts"),
    ("SubmitWork", submission(labels={LONG: ""}), "labels"),
    ("SubmitWork", submission(payload=struct(x="y" * limits.WORK_BODY_BYTES_MAX)), "payload"),
    ("SubmitWork", submission(payload=struct(x=float("nan"))), "payload"),
    ("GetWork", pb.GetWorkRequest(), "work_id"),
    ("ListWork", pb.ListWorkRequest(page_size=-1), "page_size"),
    ("ListWork", pb.ListWorkRequest(page_token="?"), "page_token"),
    ("ListWork", pb.ListWorkRequest(states=[99]), "states"),  # type: ignore[list-item]
    ("CancelWork", pb.CancelWorkRequest(), "work_id"),
    ("CancelWork", pb.CancelWorkRequest(work_id="w", reason="x" * 1_025), "reason"),
    ("RequestLease", pb.RequestLeaseRequest(), "worker_id"),
    ("RequestLease", pb.RequestLeaseRequest(worker_id=LONG), "worker_id"),
    ("RequestLease", pb.RequestLeaseRequest(worker_id="w", kinds=["a", ""]), "kinds[1]"),
    ("RequestLease", pb.RequestLeaseRequest(worker_id="w", kinds=["a"] * 65), "kinds"),
    (
        "RequestLease",
        pb.RequestLeaseRequest(worker_id="w", capacity_units_max=101),
        "capacity_units_max",
    ),
    ("RequestLease", pb.RequestLeaseRequest(worker_id="w", pool_id=LONG), "pool_id"),
    ("Heartbeat", pb.HeartbeatRequest(), "lease_id"),
    ("Heartbeat", pb.HeartbeatRequest(lease_id="lease-1", worker_id="w"), "epoch"),
    ("Heartbeat", pb.HeartbeatRequest(lease_id="lease-1", epoch=-1, worker_id="w"), "epoch"),
    ("Heartbeat", pb.HeartbeatRequest(lease_id="lease-1", epoch=1), "worker_id"),
    ("ReportProgress", pb.ReportProgressRequest(**HELD, progress=1.1), "progress"),  # type: ignore[arg-type]
    ("ReportProgress", pb.ReportProgressRequest(**HELD, progress=float("nan")), "progress"),  # type: ignore[arg-type]
    ("ReportProgress", pb.ReportProgressRequest(**HELD, message="x" * 1_025), "message"),  # type: ignore[arg-type]
    (
        "ReportProgress",
        pb.ReportProgressRequest(**HELD, measurements={"a": float("inf")}),  # type: ignore[arg-type]
        "measurements.a",
    ),
    ("ReleaseLease", pb.ReleaseLeaseRequest(**HELD), "outcome"),  # type: ignore[arg-type]
    (
        "ReleaseLease",
        pb.ReleaseLeaseRequest(**HELD, failed=pb.WorkFailed(message="x" * 1_025)),  # type: ignore[arg-type]
        "failed.message",
    ),
    (
        "ReleaseLease",
        pb.ReleaseLeaseRequest(
            **HELD,  # type: ignore[arg-type]
            completed=pb.WorkCompleted(result=struct(x="y" * limits.WORK_BODY_BYTES_MAX)),
        ),
        "completed.result",
    ),
    ("RevokeLease", pb.RevokeLeaseRequest(), "lease_id"),
    ("RevokeLease", pb.RevokeLeaseRequest(lease_id="lease-1", epoch=-1), "epoch"),
    ("RevokeLease", pb.RevokeLeaseRequest(lease_id="l", reason="x" * 1_025), "reason"),
]


@pytest.mark.parametrize(
    ("method", "bad", "field"),
    BAD,
    ids=[f"{number}-{method}-{field}" for number, (method, _, field) in enumerate(BAD)],
)
async def test_bad_input_is_refused_with_its_field(
    queen: RunningQueen, method: str, bad: Message, field: str
) -> None:
    found = await refusal(getattr(queen.leases, method)(bad))
    assert (found.code, found.reason, found.field.split("[")[0].split(".")[0]) == (
        *INVALID,
        field.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0],
    )
    assert field in found.message or field == "outcome"


@pytest.mark.parametrize(
    "method", [entry.name for entry in pb.DESCRIPTOR.services_by_name["LeaseService"].methods]
)
async def test_an_unknown_field_is_refused_by_every_method(
    queen: RunningQueen, method: str
) -> None:
    descriptor = pb.DESCRIPTOR.services_by_name["LeaseService"].methods_by_name[method]
    newer = getattr(pb, descriptor.input_type.name).FromString(b"\xb8\x3e\x01")
    found = await refusal(getattr(queen.leases, method)(newer))
    assert told(found) == INVALID
    assert "999" in found.message
