"""Requests to the lease service, with everything filled in that they need."""

import grpc
from beeyard.queen.v1 import lease_service_pb2 as pb
from google.protobuf.struct_pb2 import Struct

from tests.support.raw_calls import Outcome

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def submission(**changes: object) -> pb.SubmitWorkRequest:
    """A backup of ten units."""
    request = pb.SubmitWorkRequest(kind="backup", capacity_units=10)
    request.MergeFrom(pb.SubmitWorkRequest(**changes))  # type: ignore[arg-type]
    return request


def struct(**values: object) -> Struct:
    """A JSON object."""
    made = Struct()
    made.update(values)  # type: ignore[arg-type]  # whatever JSON has
    return made


def told(found: Outcome) -> tuple[grpc.StatusCode, str]:
    """What a refused caller acts on."""
    return found.code, found.reason
