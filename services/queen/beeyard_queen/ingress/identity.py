"""Pools and workers speak for themselves: what a token or certificate binds, their messages cannot undo."""

from collections.abc import Callable

from beeyard.pool.v1 import snapshot_pb2
from beeyard_core.ids import PoolId, WorkerId
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import refuse
from beeyard_runtime.security.callers import current

_log = get_log("identity")
#: Returns the pool of a worker that the queen knows or wished for; None for a stranger.
HomeOf = Callable[[WorkerId], PoolId | None]


def home_in(state: QueenState) -> HomeOf:
    """Return who knows where workers belong: where they were wished for, before what they say themselves."""

    def home_of(worker_id: WorkerId) -> PoolId | None:
        wish = state.wishes.get(worker_id)
        if wish is not None:
            return wish.pool_id
        worker = state.fleet.workers.get(worker_id)
        return PoolId(worker.report.pool_id) if worker is not None else None

    return home_of


def check_pool(pool_id: PoolId) -> None:
    """Let a pool manager speak for its own pool.

    Raises:
        RpcRefusal: PERMISSION_DENIED.
    """
    call = current()
    if not call.is_pool(pool_id):
        message = f"this token or certificate is of the pool {call.pool_id}, not of {pool_id}"
        raise refuse(Refusal.PERMISSION_DENIED, message, field="snapshot.pool_id")


def check_worker(worker_id: WorkerId, pool_id: str, home_of: HomeOf) -> None:
    """Let a worker attach as itself, to the pool that it belongs to.

    Raises:
        RpcRefusal: PERMISSION_DENIED.
    """
    call = current()
    if call.pool_id is None:
        return
    if not call.is_pool(pool_id):
        message = f"this token or certificate is of the pool {call.pool_id or 'of none'}, not of {pool_id}"
        raise refuse(Refusal.PERMISSION_DENIED, message, field="hello.pool_id")
    if not call.is_worker(worker_id):
        message = f"this token or certificate is of the worker {call.caller.worker_id}"
        raise refuse(Refusal.PERMISSION_DENIED, message, field="hello.status.worker_id")
    if home_of(worker_id) not in (None, pool_id):
        message = "a worker of this id belongs to another pool"
        raise refuse(Refusal.PERMISSION_DENIED, message, field="hello.status.worker_id")


def keep_own_workers(snapshot: snapshot_pb2.HostSnapshot, home_of: HomeOf) -> None:
    """Drop what a bound pool says of other pools' workers: it could end their leases."""
    if current().pool_id is None:
        return
    own = [
        worker
        for worker in snapshot.workers
        if home_of(WorkerId(worker.worker_id)) in (None, snapshot.pool_id)
    ]
    if len(own) == len(snapshot.workers):
        return
    foreign = len(snapshot.workers) - len(own)
    _log.warning("foreign_workers_dropped", pool_id=snapshot.pool_id, count=foreign)
    kept = [snapshot_pb2.WorkerProcess.FromString(worker.SerializeToString()) for worker in own]
    del snapshot.workers[:]
    snapshot.workers.extend(kept)
