"""Hosts `PoolService.Synchronize`: one stream for each host.

Streams are written with `context.write`, which is why their methods return nothing; the generated base class only knows
generators.
"""

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc
from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard.pool.v1 import pool_service_pb2_grpc, snapshot_pb2
from beeyard_core import limits
from beeyard_core.event import Event, PoolReported
from beeyard_core.ids import PoolId
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import refuse

from beeyard_queen.egress.hosts import HostLink, Hosts
from beeyard_queen.ingress.identity import HomeOf, check_pool, keep_own_workers
from beeyard_queen.ingress.opening import converse, first_message
from beeyard_queen.ingress.pool_wire import pool_report_of

_log = get_log("pool_service")

Context: TypeAlias = "grpc.aio.ServicerContext[pb.SynchronizeRequest, pb.SynchronizeResponse]"


class PoolServicer(pool_service_pb2_grpc.PoolServiceServicer):
    """Every host's stream."""

    def __init__(
        self, hosts: Hosts, clock: Clock, post: Callable[[Event], None], home_of: HomeOf
    ) -> None:
        """Serve pool managers.

        Args:
            hosts: Their links.
            clock: The time.
            post: Hands an event to the writer loop.
            home_of: Knows the pools of workers.
        """
        self._hosts = hosts
        self._home_of = home_of
        self._clock = clock
        self._post = post

    async def Synchronize(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.SynchronizeRequest], context: Context
    ) -> None:
        """Serve one host until its stream ends."""
        requests = aiter(request_iterator)
        first = await first_message(requests)
        if first is None:
            return
        pool_id = self._pool_id(first.snapshot)
        check_pool(pool_id)
        link = self._hosts.open(pool_id)
        _log.info("pool_connected", pool_id=link.pool_id)
        self._take(first.snapshot, is_first=True)
        try:
            await converse(self._read(link, requests), _write(link, context), link.close)
        finally:
            self._hosts.drop(link)
            _log.info("pool_disconnected", pool_id=link.pool_id)

    async def _read(self, link: HostLink, requests: AsyncIterator[pb.SynchronizeRequest]) -> None:
        async for request in requests:
            if self._pool_id(request.snapshot) != link.pool_id:
                message = "a stream speaks for one pool only"
                raise refuse(Refusal.INVALID_REQUEST, message, field="snapshot.pool_id")
            self._take(request.snapshot, is_first=False)

    def _pool_id(self, snapshot: snapshot_pb2.HostSnapshot) -> PoolId:
        if not snapshot.pool_id or len(snapshot.pool_id.encode()) > limits.ID_BYTES_MAX:
            message = f"snapshot.pool_id must be 1 to {limits.ID_BYTES_MAX} bytes"
            raise refuse(Refusal.INVALID_REQUEST, message, field="snapshot.pool_id")
        return PoolId(snapshot.pool_id)

    def _take(self, snapshot: snapshot_pb2.HostSnapshot, *, is_first: bool) -> None:
        pool_id = PoolId(snapshot.pool_id)
        keep_own_workers(snapshot, self._home_of)
        if pool_id in self._hosts.snapshots or len(self._hosts.snapshots) < limits.POOLS_MAX:
            self._hosts.snapshots[pool_id] = (snapshot, self._clock.now().wall_ms)
        self._post(PoolReported(pool_report_of(snapshot), is_first=is_first))


async def _write(link: HostLink, context: Context) -> None:
    while (response := await link.response()) is not None:
        await context.write(response)
