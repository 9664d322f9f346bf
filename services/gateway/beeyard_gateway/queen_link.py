"""The gateway's connection to the queen: one channel, its stubs, and what a failed call means to an HTTP client.

A queen that is away for a moment (a restart takes about one second) is waited for, before a request is sent and not
after: what was never sent can wait, and what was sent is sent again only where that cannot do harm.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

import grpc
from beeyard.queen.v1 import (
    fleet_service_pb2_grpc,
    history_service_pb2_grpc,
    inference_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.rpc_errors import from_error, is_judged
from beeyard_runtime.security.dialing import PLAIN, Dialing
from beeyard_runtime.telemetry import Telemetry
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from beeyard_gateway.faults import Fault, HttpReason, of_refused

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
Ask: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT]"
OpenStream: TypeAlias = "grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT]"

_READY: Final = grpc.ChannelConnectivity.READY


class QueenLink:
    """One channel to one queen.

    Attributes:
        inference: Jobs.
        fleet: Hosts, workers, models.
        policy: Scheduling policies.
    """

    def __init__(self, address: str, telemetry: Telemetry, dialing: Dialing = PLAIN) -> None:
        """Open the channel; it connects by itself, and again when it breaks."""
        self._channel = open_channel(address, telemetry=telemetry, dialing=dialing)
        self.inference = inference_service_pb2_grpc.InferenceServiceStub(self._channel)
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(self._channel)
        self.history = history_service_pb2_grpc.HistoryServiceStub(self._channel)
        self.policy = policy_service_pb2_grpc.PolicyServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def connected(self, patience_ms: int = limits.QUEEN_PATIENCE_MS) -> None:
        """Return once the channel is connected: at once if it is.

        Raises:
            Fault: QUEEN_UNREACHABLE: it was not within `patience_ms` milliseconds.
        """
        if self._channel.get_state(try_to_connect=True) is _READY:
            return
        try:
            async with asyncio.timeout(patience_ms / 1_000):
                await self._channel.channel_ready()
        except TimeoutError:
            raise _unreachable() from None

    async def ask(
        self,
        method: "Ask[RequestT, ResponseT]",
        request: RequestT,
        *,
        timeout_ms: int = limits.RPC_DEADLINE_MS,
    ) -> ResponseT:
        """Return the queen's answer to one call.

        Raises:
            Fault: The queen refused, or is not to be reached.
        """
        await self.connected()
        try:
            return await method(request, timeout=timeout_ms / 1_000)
        except grpc.aio.AioRpcError as error:
            raise fault_of(error) from None

    async def is_serving(self) -> bool:
        """Whether the queen is there and takes calls."""
        request = health_pb2.HealthCheckRequest()
        try:
            answer = await self._health.Check(request, timeout=limits.READY_PROBE_MS / 1_000)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel, and every call on it."""
        await self._channel.close(None)


def fault_of(error: grpc.aio.AioRpcError) -> Fault:
    """Return what a failed call means to an HTTP client, in words of ours where gRPC spoke and not the queen."""
    if is_judged(error):
        return of_refused(from_error(error))
    return _WITHOUT_REASON.get(error.code(), _broken)()


def _unreachable() -> Fault:
    return Fault(
        HttpReason.QUEEN_UNREACHABLE, "no queen answers; send the request again in a moment"
    )


def _broken() -> Fault:
    return Fault(
        HttpReason.QUEEN_UNREACHABLE,
        "the link to the queen broke; the request may have been accepted, send it again with an Idempotency-Key",
    )


_WITHOUT_REASON: Final[dict[grpc.StatusCode, Callable[[], Fault]]] = {
    grpc.StatusCode.UNAVAILABLE: _broken,
    grpc.StatusCode.DEADLINE_EXCEEDED: lambda: Fault(
        Refusal.DEADLINE_EXCEEDED, "the queen did not answer in time"
    ),
    grpc.StatusCode.UNIMPLEMENTED: lambda: Fault(
        HttpReason.NOT_IMPLEMENTED, "the queen of this version does not offer that"
    ),
    grpc.StatusCode.INVALID_ARGUMENT: lambda: Fault(
        Refusal.INVALID_REQUEST, "the queen could not read the request"
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: lambda: Fault(
        HttpReason.REQUEST_TOO_LARGE, "the request or its answer is too large"
    ),
}
