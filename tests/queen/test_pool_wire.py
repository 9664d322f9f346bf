"""What a host says of its worker processes, as the core takes it."""

import signal

import pytest
from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_queen.ingress.pool_wire import pool_report_of

FAILED, STARTING = engine_pb.WORKER_STATE_FAILED, engine_pb.WORKER_STATE_STARTING


@pytest.mark.parametrize(
    ("state", "exit_code", "adopted", "exited", "was_killed"),
    [
        (STARTING, None, False, False, False),
        (STARTING, None, True, False, False),
        (FAILED, None, False, True, False),
        (FAILED, 1, False, True, False),
        (FAILED, -signal.SIGSEGV, False, True, False),
        (FAILED, -signal.SIGABRT, True, True, False),
        (FAILED, -signal.SIGKILL, False, True, True),
        (FAILED, -signal.SIGTERM, False, True, True),
        (FAILED, 0, False, True, True),
        # Its exit code went to a pool manager that is no more.
        (FAILED, None, True, True, True),
    ],
)
def test_whether_a_worker_was_killed(
    state: "engine_pb.WorkerState.ValueType",
    exit_code: int | None,
    adopted: bool,
    exited: bool,
    was_killed: bool,
) -> None:
    process = pb.WorkerProcess(state=state, exit_code=exit_code, adopted=adopted)
    (told,) = pool_report_of(pb.HostSnapshot(workers=[process])).processes
    assert (told.exited, told.was_killed) == (exited, was_killed)
