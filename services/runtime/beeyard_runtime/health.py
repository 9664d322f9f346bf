"""`grpc.health.v1`, answered for the whole process and for each service.

The stock asyncio servicer sets a status under a lock that it also holds while it writes to a watcher; here setting is
a plain assignment, so a drain never waits for a slow watcher.
"""

import asyncio

import grpc
from beeyard_core.refusal import Refusal
from grpc_health.v1 import health_pb2, health_pb2_grpc

from beeyard_runtime.rpc_errors import refuse

Context = grpc.aio.ServicerContext[object, object]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # ships no types
    """Whether this process takes calls. Every service of it has the same state, since they drain together."""

    def __init__(self) -> None:
        """Begin not serving, with no service but the process itself."""
        self._services = {""}
        self._status = _NOT_SERVING
        self._is_draining = False
        self._is_closed = False
        self._changed = asyncio.Event()

    def add(self, service: str) -> None:
        """Answer for `service` too."""
        self._services.add(service)

    def set_serving(self, *, serving: bool) -> None:
        """Set the state of every service. Does nothing once a drain has begun."""
        if not self._is_draining:
            self._status = _SERVING if serving else _NOT_SERVING
            self._wake()

    def drain(self) -> None:
        """Answer NOT_SERVING from now on, for good."""
        self.set_serving(serving=False)
        self._is_draining = True

    def close(self) -> None:
        """End every watch, so that stopping the server need not wait for watchers."""
        self.drain()
        self._is_closed = True
        self._wake()

    async def Check(  # noqa: N802  # named by the protocol
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Answer the state of one service; NOT_FOUND if it is none of ours, as the health protocol asks."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status)

    async def List(  # noqa: N802  # named by the protocol
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """Answer the state of every service."""
        del request, context
        state = health_pb2.HealthCheckResponse(status=self._status)
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._services, state))

    async def Watch(  # noqa: N802  # named by the protocol
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """Send the state of one service now and whenever it changes; ends with UNAVAILABLE when the server stops."""
        last = None
        while True:
            # Taken before the state is read, so that no change falls between the two.
            changed = self._changed
            status = self._status if request.service in self._services else _UNKNOWN
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                last = status
            if self._is_closed:
                raise refuse(Refusal.DRAINING, "the server is stopping")
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
