"""The client half of gRPC as `grpc.aio` offers it, over the simulated network.

Only what the services use, and with the traits that they have to live with: a call that nobody reads any more is not
cancelled by itself, a cancelled `read` or `write` cancels its call, a channel whose connection failed refuses calls for
a while, and a write may block until the other end has read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from tests.simulation.network import Connection, Kind, Network
from tests.simulation.world import Process

Metadata = tuple[tuple[str, str | bytes], ...]
Status = tuple[grpc.StatusCode, str, Metadata]
_BACKOFF_US: Final = 100_000
#: Missing in the stubs.
EOF: Final[object] = getattr(grpc.aio, "EOF")  # noqa: B009


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens a call."""

    path: str
    metadata: Metadata
    timeout_s: float | None
    request: bytes | None
    is_repetition: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of method is called."""

    path: str
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]
    streams_request: bool
    streams_response: bool


class SimChannel:
    """A channel to one address; it connects when first used, and again when that broke."""

    def __init__(self, network: Network, process: Process, address: str) -> None:
        self.network = network
        self.process = process
        self._address = address
        self._connection: Connection | None = None
        self._waiting: list[ClientCall] = []
        self._is_connecting = False
        self._refuses_until_us = 0
        self._calls: dict[ClientCall, None] = {}
        self._is_closed = False

    # --- As generated code uses it ---

    def unary_unary(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> "Method":
        return Method(self, Shape(path, request_serializer, response_deserializer, False, False))

    def unary_stream(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> "Method":
        return Method(self, Shape(path, request_serializer, response_deserializer, False, True))

    def stream_stream(
        self, path: str, request_serializer: Any, response_deserializer: Any, **_: Any
    ) -> "Method":
        return Method(self, Shape(path, request_serializer, response_deserializer, True, True))

    async def close(self, grace: float | None = None) -> None:
        """Cancel every call and hang up."""
        self._is_closed = True
        for call in list(self._calls):
            call.cancel()
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_up[self.process]:
            connection.is_up[self.process] = False
            connection.reset(self.process)

    async def __aenter__(self) -> "SimChannel":
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.close()

    # --- For its calls ---

    def begin(self, call: "ClientCall") -> None:
        """Send a call on its way, now or once there is a connection."""
        self._calls[call] = None
        connection = self._connection
        if connection is not None and connection.is_up[self.process]:
            call.opened(connection)
            return
        if self.network.world.now_us < self._refuses_until_us:
            self.process.loop.call_soon(call.fail, "the last attempt to connect failed")
            return
        self._waiting.append(call)
        if not self._is_connecting:
            self._is_connecting = True
            self.network.connect(self.process, self._address, self._connected)

    def _connected(self, connection: Connection | None) -> None:
        self._is_connecting = False
        waiting, self._waiting = self._waiting, []
        if connection is None:
            self._refuses_until_us = self.network.world.now_us + _BACKOFF_US
            for call in waiting:
                call.fail("failed to connect")
            return
        self._connection = connection
        for call in waiting:
            if not call.done():
                call.opened(connection)

    def ended(self, call: "ClientCall") -> None:
        """Forget a call that is over."""
        self._calls.pop(call, None)


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a stub."""

    channel: SimChannel
    shape: Shape

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        **_: Any,
    ) -> "ClientCall":
        call = ClientCall(self.channel, self.shape, request, timeout, tuple(metadata or ()))
        call.begin()
        return call


@dataclass(eq=False)
class ClientCall:
    """One call as its caller holds it."""

    channel: SimChannel
    shape: Shape
    request: Any
    timeout_s: float | None
    metadata: Metadata
    next_index: int = 0
    _call_id: int = 0
    _connection: Connection | None = None
    _status: Status | None = None
    _is_cancelled: bool = False
    _half_closed: bool = False
    _inbox: deque[bytes] = field(default_factory=deque)
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)
    _credit: int = 0
    _consumed: int = 0
    _timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Send it on its way."""
        self._credit = self.channel.network.window_bytes
        if self.timeout_s is not None:
            loop = self.channel.process.loop
            self._timer = loop.call_later(self.timeout_s, self._too_late)
        self.channel.begin(self)

    def opened(self, connection: Connection) -> None:
        """There is a connection."""
        process, network = self.channel.process, self.channel.network
        if not connection.is_up[process]:
            self.fail("the connection broke as soon as it was made")
            return
        self._connection = connection
        self._call_id = call_id = process.loop.next_number()
        connection.client_calls[call_id] = self
        request = None if self.shape.streams_request else self.shape.serialize(self.request)
        opening = Opening(self.shape.path, self.metadata, self.timeout_s, request)
        connection.send(process, call_id, Kind.OPEN, opening)
        is_unary = not (self.shape.streams_request or self.shape.streams_response)
        if is_unary and network.world.chance.random() < network.repeats:
            again = Opening(self.shape.path, self.metadata, self.timeout_s, request, True)
            connection.send(process, process.loop.next_number(), Kind.OPEN, again)
        self._wake()

    # --- From the network ---

    def take(self, kind: Kind, payload: Any) -> None:
        """Take what the server sent."""
        if self._status is not None:
            return
        match kind:
            case Kind.DATA:
                self._inbox.append(payload)
                self._wake()
            case Kind.STATUS:
                self._end(payload)
            case Kind.CREDIT:
                self._credit += payload
                self._wake()
            case _:
                pass

    def broke(self) -> None:
        """The connection is gone."""
        self._end((grpc.StatusCode.UNAVAILABLE, "the connection broke", ()))

    def fail(self, why: str) -> None:
        """It could not even begin."""
        self._end((grpc.StatusCode.UNAVAILABLE, why, ()))

    def _too_late(self) -> None:
        self._hang_up()
        self._end((grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))

    def _hang_up(self) -> None:
        if self._connection is not None and self._status is None:
            self._connection.send(self.channel.process, self._call_id, Kind.CANCEL, None)

    def _end(self, status: Status) -> None:
        if self._status is not None:
            return
        self._status = status
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.client_calls.pop(self._call_id, None)
        self.channel.ended(self)
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- As grpc.aio offers it ---

    def cancel(self) -> bool:
        """End it from this side."""
        if self._status is not None:
            return False
        self._is_cancelled = True
        self._hang_up()
        self._end((grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ()))
        return True

    def cancelled(self) -> bool:
        return self._is_cancelled

    def done(self) -> bool:
        return self._status is not None

    async def code(self) -> grpc.StatusCode:
        while self._status is None:
            await self._changed()
        return self._status[0]

    async def write(self, request: Any) -> None:
        if self._status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")
        data = self.shape.serialize(request)
        try:
            while not self.done() and (self._connection is None or self._credit <= 0):
                await self._changed()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._status is not None:
            self._raise_for_status()
        assert self._connection is not None, "it was waited for"
        self._credit -= len(data)
        self._connection.send(self.channel.process, self._call_id, Kind.DATA, data)

    async def done_writing(self) -> None:
        if self._connection is not None and not self._half_closed:
            self._half_closed = True
            self._connection.send(self.channel.process, self._call_id, Kind.HALF_CLOSE, None)

    async def read(self) -> Any:
        message = await self._next()
        if message is None:
            self._raise_for_status()
            return EOF
        return message

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self._next()) is not None:
            yield message
        self._raise_for_status()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        message = await self._next()
        if message is not None:
            await self.code()
        self._raise_for_status()
        return message

    async def _next(self) -> Any | None:
        """Return the next message, or None once there is a status and nothing is left to read."""
        try:
            while not self._inbox and self._status is None:
                await self._changed()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not self._inbox or self._is_cancelled:
            return None
        data = self._inbox.popleft()
        self._give_credit(len(data))
        return self.shape.deserialize(data)

    def _give_credit(self, size: int) -> None:
        self._consumed += size
        if (
            self._consumed >= self.channel.network.window_bytes // 2
            and self._connection is not None
        ):
            self._connection.send(self.channel.process, self._call_id, Kind.CREDIT, self._consumed)
            self._consumed = 0

    async def _changed(self) -> None:
        waiter = self.channel.process.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _raise_for_status(self) -> None:
        assert self._status is not None, "it has ended"
        if self._is_cancelled:
            raise asyncio.CancelledError
        code, details, trailing = self._status
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details, None
            )
