"""One connection to a queen: how every method of the client makes its calls."""

import uuid
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

import grpc

from beeyard_client import limits
from beeyard_client.access import NOBODY, Access
from beeyard_client.errors import BeeyardError, LinkBrokenError, from_rpc_error
from beeyard_client.resume import Patience, Pauses, SystemPauses, is_ending_queen
from beeyard_client.tracing import Metadata

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

DEFAULT_QUEEN: Final = "127.0.0.1:7700"

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class QueenConnection:
    """A channel to one queen, opened by `async with`, and calls on it."""

    def __init__(
        self,
        queen: str = DEFAULT_QUEEN,
        *,
        access: Access = NOBODY,
        tracer_provider: "TracerProvider | None" = None,
        connect_patience_ms: int = limits.CONNECT_PATIENCE_MS,
        pauses: Pauses | None = None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Remember how to reach the queen; nothing is opened before the `async with` block.

        Args:
            queen: HOST:PORT.
            access: Who the client is, and how it knows the queen; by default nobody, over a plain link.
            tracer_provider: Where the root span of each job goes; None: jobs are not traced from here.
            connect_patience_ms: How long a request is tried again while no queen answers, milliseconds.
            pauses: Clock and chance of the retries; None: the real ones.
            new_id: Draws an idempotency key.
        """
        self.queen = queen
        self._access = access
        self._tracer_provider = tracer_provider
        self._connect_patience_ms = connect_patience_ms
        self._pauses = pauses or SystemPauses()
        self._new_id = new_id
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Open the channel; the connection itself is made by the first request."""
        self._channel = self._access.open_channel(self.queen, _CHANNEL_OPTIONS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the channel and every stream on it; jobs go on."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(grace=None)

    async def _ask(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        metadata: Metadata = (),
        *,
        deadline_ms: int = limits.RPC_DEADLINE_MS,
        once: bool = False,
    ) -> _Response:
        """Make one call; again while the link is broken, unless it may be carried out `once` only.

        A queen that is shutting down carries nothing out: what it turns away waits for the next one.
        """
        patience = Patience(self._pauses, quiet_ms=self._connect_patience_ms)
        while True:
            try:
                return await method(request, timeout=deadline_ms / 1000, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                fault = from_rpc_error(error, address=self.queen)
                is_passing = is_ending_queen(fault) or (
                    isinstance(fault, LinkBrokenError) and not once
                )
                if not is_passing:
                    raise fault from error
                await patience.pause(fault)

    async def _follow(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[_Request, _Response]",
        request: _Request,
    ) -> AsyncGenerator[_Response, None]:
        """Yield what a stream brings for as long as the connection holds; a break raises."""
        call = method(request, timeout=limits.STREAM_DEADLINE_MS / 1000)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address=self.queen) from error
        finally:
            call.cancel()

    def _open_channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            reason = "the client is not open; use it as `async with BeeyardClient(...) as client:`"
            raise BeeyardError("CLIENT_CLOSED", reason)
        return self._channel


_CHANNEL_OPTIONS: Final = (
    # A half-open link is noticed within eight seconds instead of never.
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    # Without this, only a peer whose kernel is gone is noticed so soon, and not one that is frozen.
    ("grpc.http2.ping_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC would wait up to two minutes between two attempts to connect.
    ("grpc.initial_reconnect_backoff_ms", limits.RECONNECT_MIN_MS),
    ("grpc.min_reconnect_backoff_ms", limits.RECONNECT_MIN_MS),
    ("grpc.max_reconnect_backoff_ms", limits.RECONNECT_MAX_MS),
    # A program that reads slowly holds back the queen, instead of filling this process's memory.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", limits.STREAM_AHEAD_BYTES),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
)
