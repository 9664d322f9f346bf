"""Requests to the lease service with everything filled in that they need, and a host that says how busy it is."""

import grpc
from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard_core.event import PoolReported
from beeyard_core.fleet import HostLoad
from google.protobuf.struct_pb2 import Struct

from tests.support.core_values import pool_of
from tests.support.heavy_work import IDLE_HOST
from tests.support.raw_calls import Outcome
from tests.support.running_queen import RunningQueen

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


async def report(queen: RunningQueen, load: HostLoad = IDLE_HOST, host: str = "p1") -> None:
    """Let a host say how busy it is, and the tick pass that rates it."""
    queen.queen.loop.post(PoolReported(pool_of(host, load=load)))
    await queen.tick()
