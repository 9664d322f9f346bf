"""Answers whoever speaks to this host directly, with grpcurl or a client."""

import uuid
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
from beeyard.pool.v1 import pool_manager_service_pb2 as pb
from beeyard.pool.v1 import snapshot_pb2
from beeyard.pool.v1.pool_manager_service_pb2_grpc import PoolManagerServiceServicer
from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from google.protobuf.message import Message

from beeyard_pool_manager.host import Host
from beeyard_pool_manager.snapshot import worker_message
from beeyard_pool_manager.workers.starter import WorkerStarter
from beeyard_pool_manager.workers.supervisor import Supervisor

# No method here answers through its context, so its message types do not matter.
_Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


class PoolService(PoolManagerServiceServicer):
    """The PoolManagerService of one host.

    Args:
        host: Takes snapshots.
        supervisor: The workers.
        starter: Places and starts new ones.
        interval_ms: Time between two snapshots of a watcher that names none, milliseconds.
    """

    def __init__(
        self, *, host: Host, supervisor: Supervisor, starter: WorkerStarter, interval_ms: int
    ) -> None:
        self._host = host
        self._supervisor = supervisor
        self._starter = starter
        self._interval_ms = interval_ms
        self._is_closing = False

    def close(self) -> None:
        """End the watchers' streams."""
        self._is_closing = True
        self._host.changes.mark()

    async def GetSnapshot(  # noqa: N802 - the wire's name
        self, request: pb.GetSnapshotRequest, context: _Context
    ) -> snapshot_pb2.HostSnapshot:
        """Return the host as it is now."""
        del request, context
        return await self._host.snapshot()

    async def WatchSnapshots(  # noqa: N802
        self, request: pb.WatchSnapshotsRequest, context: _Context
    ) -> AsyncIterator[snapshot_pb2.HostSnapshot]:
        """Send a snapshot at once, then every interval and at each change."""
        del context
        interval_ms = request.interval_ms or self._interval_ms
        low, high = limits.REPORT_INTERVAL_MS_MIN, limits.REPORT_INTERVAL_MS_MAX
        if not low <= interval_ms <= high:
            raise refuse(
                Refusal.INVALID_REQUEST,
                f"interval_ms must be 0 or from {low} to {high}",
                field="interval_ms",
            )
        while not self._is_closing:
            seen = self._host.changes.count
            yield await self._host.snapshot()
            await self._host.changes.wait_beyond(seen, timeout_ms=interval_ms)

    async def ListWorkers(  # noqa: N802
        self, request: pb.ListWorkersRequest, context: _Context
    ) -> pb.ListWorkersResponse:
        """List the worker processes, by id."""
        del request, context
        workers = self._supervisor.workers()
        return pb.ListWorkersResponse(workers=[worker_message(each) for each in workers])

    async def StartWorker(  # noqa: N802
        self, request: pb.StartWorkerRequest, context: _Context
    ) -> snapshot_pb2.WorkerProcess:
        """Start a worker that no queen stops; returns when its process runs."""
        del context
        _check_id("worker_id", request.worker_id)
        _check_id("device", request.device)
        if not request.model:
            raise refuse(Refusal.INVALID_REQUEST, "model must be set", field="model")
        _check_id("model", request.model)
        outcome = await self._starter.start(
            worker_id=request.worker_id or f"hand-{uuid.uuid4().hex[:12]}",
            model=request.model,
            device=request.device,
            by_hand=True,
        )
        if isinstance(outcome, Refused):
            raise RpcRefusal(outcome)
        return worker_message(outcome)

    async def StopWorker(  # noqa: N802
        self, request: pb.StopWorkerRequest, context: _Context
    ) -> snapshot_pb2.WorkerProcess:
        """Drain and stop a worker; returns when its process is gone."""
        del context
        if not request.worker_id:
            raise refuse(Refusal.INVALID_REQUEST, "worker_id must be set", field="worker_id")
        _check_id("worker_id", request.worker_id)
        if not 0 <= request.grace_ms <= limits.STOP_GRACE_MS_MAX:
            raise refuse(
                Refusal.INVALID_REQUEST,
                f"grace_ms must be from 0 to {limits.STOP_GRACE_MS_MAX}",
                field="grace_ms",
            )
        grace_ms = request.grace_ms or limits.WORKER_STOP_GRACE_MS
        stopped = await self._supervisor.stop(request.worker_id, grace_ms=grace_ms)
        if stopped is None:
            raise refuse(
                Refusal.WORKER_NOT_FOUND,
                "this host has no such worker; ListWorkers names them",
                field="worker_id",
            )
        return worker_message(stopped)


def _check_id(field: str, value: str) -> None:
    if len(value.encode()) > limits.ID_BYTES_MAX or not value.isprintable():
        raise refuse(
            Refusal.INVALID_REQUEST,
            f"{field} must be printable and at most {limits.ID_BYTES_MAX} bytes",
            field=field,
        )
