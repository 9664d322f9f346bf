"""The contract as written: its methods, their directions, and messages that must stay twins."""

import subprocess
import sys
from pathlib import Path

import pytest
from beeyard.pool.v1 import pool_manager_service_pb2, pool_service_pb2
from beeyard.queen.v1 import (
    fleet_service_pb2,
    history_service_pb2,
    inference_service_pb2,
    lease_service_pb2,
    policy_service_pb2,
)
from beeyard.worker.v1 import engine_service_pb2, worker_service_pb2
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor, MethodDescriptor

ROOT = Path(__file__).resolve().parents[2]
UNARY, DOWN, BOTH_WAYS = "unary", "server stream", "both stream"

# The methods of the contract and who streams. Adding one is free; changing or losing one breaks somebody's client.
CONTRACT = {
    "beeyard.queen.v1.InferenceService": {
        **dict.fromkeys(["SubmitJob", "GetJob", "ListJobs", "CancelJob", "ExplainJob"], UNARY),
        **dict.fromkeys(["Infer", "WatchJob"], DOWN),
    },
    "beeyard.queen.v1.FleetService": {
        **dict.fromkeys(["ListPools", "ListWorkers", "StartWorker", "StopWorker"], UNARY),
        "DrainWorker": UNARY,
        "WatchFleet": DOWN,
    },
    "beeyard.queen.v1.PolicyService": {
        **dict.fromkeys(["ValidatePolicy", "DeployPolicy", "ListPolicyVersions"], UNARY),
        **dict.fromkeys(["GetPolicyVersion", "RollbackPolicy", "GetPlatformSource"], UNARY),
        **dict.fromkeys(["CompilePolicy", "ListTemplates"], UNARY),
        # A simulation may run for minutes, so it tells its progress before its report.
        **dict.fromkeys(["SimulatePolicy", "WatchDecisions"], DOWN),
    },
    "beeyard.queen.v1.HistoryService": {"GetJobStatistics": UNARY, "GetForecastReport": UNARY},
    "beeyard.queen.v1.LeaseService": {
        **dict.fromkeys(["SubmitWork", "RequestLease", "Heartbeat", "ReportProgress"], UNARY),
        **dict.fromkeys(["ReleaseLease", "RevokeLease", "GetCapacity"], UNARY),
    },
    "beeyard.worker.v1.WorkerService": {"Attach": BOTH_WAYS},
    "beeyard.worker.v1.EngineService": {"GetStatus": UNARY, "Generate": DOWN, "Drain": UNARY},
    "beeyard.pool.v1.PoolService": {"Synchronize": BOTH_WAYS},
    "beeyard.pool.v1.PoolManagerService": {
        **dict.fromkeys(["GetSnapshot", "ListWorkers", "StartWorker", "StopWorker"], UNARY),
        "WatchSnapshots": DOWN,
    },
}
FILES: list[FileDescriptor] = [
    fleet_service_pb2.DESCRIPTOR,
    history_service_pb2.DESCRIPTOR,
    inference_service_pb2.DESCRIPTOR,
    lease_service_pb2.DESCRIPTOR,
    policy_service_pb2.DESCRIPTOR,
    engine_service_pb2.DESCRIPTOR,
    worker_service_pb2.DESCRIPTOR,
    pool_service_pb2.DESCRIPTOR,
    pool_manager_service_pb2.DESCRIPTOR,
]


def kind(method: MethodDescriptor) -> str:
    return {(False, False): UNARY, (False, True): DOWN, (True, True): BOTH_WAYS}.get(
        (method.client_streaming, method.server_streaming), "client stream"
    )


@pytest.mark.parametrize("service", CONTRACT)
def test_every_method_of_the_contract_exists_and_streams_as_promised(service: str) -> None:
    services = {s.full_name: s for file in FILES for s in file.services_by_name.values()}
    found = {method.name: kind(method) for method in services[service].methods}
    assert {name: found.get(name, "missing") for name in CONTRACT[service]} == CONTRACT[service]


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """Everything about a field that a client or the wire can see."""
    type_name = field.message_type.full_name if field.message_type is not None else ""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        # Each message has map entries of its own; what they hold is what counts.
        entry = field.message_type.fields_by_name
        type_name = f"map<{entry['key'].type},{entry['value'].type}>"
    if field.enum_type is not None:
        type_name = field.enum_type.full_name
    in_oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
    return (field.name, field.type, type_name, field.is_repeated, field.has_presence, in_oneof)


def test_infer_and_submit_take_the_same_request() -> None:
    infer, submit = (
        inference_service_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_number
        for name in ("InferRequest", "SubmitJobRequest")
    )
    assert {n: shape(f) for n, f in infer.items()} == {n: shape(f) for n, f in submit.items()}


@pytest.mark.parametrize(
    "command",
    # `lint` holds STANDARD and COMMENTS: an element without a comment is a failure.
    [["lint"], ["format", "--diff", "--exit-code"]],
    ids=["lint", "format"],
)
def test_buf_has_nothing_to_say(command: list[str]) -> None:
    buf = Path(sys.executable).parent / "buf"
    ran = subprocess.run(
        [buf, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_buf_judges_comments_too() -> None:
    # The control group of the test above: without COMMENTS the manual could go unwritten.
    assert "- COMMENTS" in (ROOT / "buf.yaml").read_text(encoding="utf-8")
