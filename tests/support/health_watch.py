"""What a service's health says while it ends: NOT_SERVING, if it drains, before its connections break."""

import asyncio

import grpc
from beeyard_runtime.rpc_channel import open_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthWatch:
    """Follows one service's `grpc.health.v1.Health/Watch` until it breaks.

    Attributes:
        said: Every state, in order.
    """

    def __init__(self, address: str) -> None:
        """Prepare to watch the service at this address."""
        self._channel = open_channel(address)
        self._is_watching = asyncio.Event()
        self._task = asyncio.create_task(self._watch())
        self.said: list[int] = []

    async def began(self) -> None:
        """Return once the first state came."""
        await self._is_watching.wait()

    async def ended(self) -> list[int]:
        """Return what was said, once the service is gone."""
        await self._task
        await self._channel.close(None)
        return self.said

    async def _watch(self) -> None:
        call = health_pb2_grpc.HealthStub(self._channel).Watch(health_pb2.HealthCheckRequest())
        try:
            async for answer in call:
                self.said.append(answer.status)
                self._is_watching.set()
        except grpc.aio.AioRpcError:
            pass
        finally:
            call.cancel()
