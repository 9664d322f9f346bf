"""The server half of gRPC as `grpc.aio` offers it, over the simulated network.

Each call is a task of the server's process. A caller that hangs up, or whose connection broke, cancels it; a handler
that goes on writing to such a call gets an internal error, as from the real library.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import grpc

from tests.simulation.network import Connection, Kind, Network
from tests.simulation.rpc_client import EOF, Metadata, Opening
from tests.simulation.world import Process


class _Details(NamedTuple):
    """What a generic handler is asked by."""

    method: str
    invocation_metadata: Metadata


class Wrote(NamedTuple):
    """A message that a server wrote, for whoever watches."""

    path: str
    process: Process
    message: Any


class SimServer:
    """A server of one process."""

    def __init__(
        self, network: Network, process: Process, on_write: Callable[[Wrote], None]
    ) -> None:
        self.network = network
        self.process = process
        self.on_write = on_write
        self._rooms: list[Any] = []
        self._addresses: list[str] = []
        self._methods: dict[str, Any] = {}
        self._is_open = False
        self.calls: dict[ServerCall, None] = {}
        self._connections: dict[Connection, None] = {}

    def add_generic_rpc_handlers(self, rooms: Sequence[Any]) -> None:
        self._rooms += rooms

    def add_registered_method_handlers(self, service: str, methods: dict[str, Any]) -> None:
        """What the services do not use."""

    def add_insecure_port(self, address: str) -> int:
        host, _, port = address.rpartition(":")
        bound = int(port) or self.network.new_port()
        self._addresses.append(f"{host}:{bound}")
        return bound

    async def start(self) -> None:
        self._is_open = True
        for address in self._addresses:
            self.network.listen(address, self)

    async def stop(self, grace: float | None) -> None:
        """Take no new calls, wait for those that run, end them, hang up."""
        self._is_open = False
        for address in self._addresses:
            self.network.close(address, self)
        tasks = [call.task for call in self.calls if call.task is not None]
        if tasks and grace:
            await asyncio.wait(tasks, timeout=grace)
        for call in list(self.calls):
            call.cut_off()
        if tasks:
            await asyncio.wait(tasks)
        for connection in list(self._connections):
            connection.drop(self.process)
            connection.reset(self.process)

    def accept(self, connection: Connection, call_id: int, opening: Any) -> None:
        """Begin to serve a call, in the process's next turn."""
        self._connections[connection] = None
        call = ServerCall(self, connection, call_id, opening)
        method = self._find(opening) if self._is_open else None
        if method is None:
            code = grpc.StatusCode.UNIMPLEMENTED if self._is_open else grpc.StatusCode.UNAVAILABLE
            call.finish(code, "the server takes no such call now")
            return
        connection.server_calls[call_id] = call
        self.calls[call] = None
        self.process.loop.call_soon(call.begin, method)

    def _find(self, opening: Opening) -> Any:
        method = self._methods.get(opening.path)
        if method is None:
            details = _Details(opening.path, opening.metadata)
            found = (room.service(details) for room in self._rooms)
            method = self._methods[opening.path] = next((m for m in found if m), None)
        return method


@dataclass(eq=False)
class ServerCall:
    """One call as its servicer sees it: the context."""

    server: SimServer
    connection: Connection
    call_id: int
    opening: Opening
    task: asyncio.Task[None] | None = None
    _inbox: deque[bytes] = field(default_factory=deque)
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)
    _deserialize: Callable[[bytes], Any] | None = None
    _serialize: Callable[[Any], bytes] | None = None
    _has_ended: bool = False
    _is_half_closed: bool = False
    _caller_is_gone: bool = False
    _was_aborted: bool = False
    _code: grpc.StatusCode = grpc.StatusCode.OK
    _details: str = ""
    _trailing: Metadata = ()
    _credit: int = 0
    _consumed: int = 0
    _began_s: float = 0.0

    # --- From the network ---

    def take(self, kind: Kind, payload: Any) -> None:
        """Take what the caller sent."""
        match kind:
            case Kind.DATA:
                self._inbox.append(payload)
            case Kind.HALF_CLOSE:
                self._is_half_closed = True
            case Kind.CREDIT:
                self._credit += payload
            case Kind.CANCEL:
                self.broke()
            case _:
                pass
        self._wake()

    def broke(self) -> None:
        """The caller hung up, or nobody can reach it any more."""
        self._caller_is_gone = True
        self._wake()
        if self.task is not None:
            self.task.cancel()

    def cut_off(self) -> None:
        """The server stops."""
        if self.task is not None:
            self.task.cancel()

    # --- Its life ---

    def begin(self, method: Any) -> None:
        """Serve it in a task of its own."""
        self.task = self.server.process.loop.create_task(self.serve(method))
        if self._caller_is_gone:
            self.task.cancel()

    async def serve(self, method: Any) -> None:
        """Let the servicer answer, and send the status."""
        self._credit = self.server.network.window_bytes
        self._began_s = self.server.process.loop.time()
        self._deserialize, self._serialize = method.request_deserializer, method.response_serializer
        timer = None
        if self.opening.timeout_s is not None:
            loop = self.server.process.loop
            timer = loop.call_later(self.opening.timeout_s, self.broke)
        try:
            await self._run(method)
        except asyncio.CancelledError:
            self._code, self._details = grpc.StatusCode.CANCELLED, "the call was cancelled"
        except grpc.aio.AbortError:
            pass
        except Exception as fault:  # noqa: BLE001 - as grpc.aio answers it
            self._code, self._details = grpc.StatusCode.UNKNOWN, f"Unexpected {type(fault)}"
            self.server.process.world.breaks(f"{self.opening.path} raised {fault!r}")
        finally:
            if timer is not None:
                timer.cancel()
            self.server.calls.pop(self, None)
            self.finish(self._code, self._details)

    async def _run(self, method: Any) -> None:
        behaviour = (
            method.unary_unary or method.unary_stream or method.stream_unary or method.stream_stream
        )
        request: Any = self._requests() if method.request_streaming else self._decoded()
        result = behaviour(request, self)
        if inspect.isasyncgen(result):
            async for message in result:
                await self.write(message)
            return
        answer = await result
        if not method.response_streaming:
            await self.write(answer)

    def _decoded(self) -> Any:
        data = self.opening.request or b""
        return self._deserialize(data) if self._deserialize else data

    def finish(self, code: grpc.StatusCode, details: str) -> None:
        """Send the status; once."""
        if self._has_ended:
            return
        self._has_ended = True
        self.connection.server_calls.pop(self.call_id, None)
        status = (code, details, self._trailing)
        self.connection.send(self.server.process, self.call_id, Kind.STATUS, status)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _changed(self) -> None:
        waiter = self.server.process.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    # --- As grpc.aio offers it ---

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    async def read(self) -> Any:
        while not self._inbox:
            if self._is_half_closed or self._caller_is_gone:
                return EOF
            await self._changed()
        data = self._inbox.popleft()
        self._consumed += len(data)
        if self._consumed >= self.server.network.window_bytes // 2:
            self.connection.send(self.server.process, self.call_id, Kind.CREDIT, self._consumed)
            self._consumed = 0
        return self._deserialize(data) if self._deserialize else data

    async def write(self, message: Any) -> None:
        while self._credit <= 0 and not self._caller_is_gone:
            await self._changed()
        if self._caller_is_gone or self._has_ended:
            raise grpc.aio.InternalError("the message could not be sent")
        data = self._serialize(message) if self._serialize else message
        self._credit -= len(data)
        if not self.opening.is_repetition:
            self.server.on_write(Wrote(self.opening.path, self.server.process, message))
        self.connection.send(self.server.process, self.call_id, Kind.DATA, data)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        self._code, self._details, self._trailing = code, details, tuple(trailing_metadata)
        self._was_aborted = True
        self.finish(code, details)
        raise grpc.aio.AbortError("Locally aborted.")

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def invocation_metadata(self) -> Metadata:
        return self.opening.metadata

    def peer(self) -> str:
        return f"sim:{self.connection.client.name}"

    def cancelled(self) -> bool:
        return self._caller_is_gone

    def done(self) -> bool:
        return self._has_ended

    def time_remaining(self) -> float | None:
        if self.opening.timeout_s is None:
            return None
        passed_s = self.server.process.loop.time() - self._began_s
        return max(0.0, self.opening.timeout_s - passed_s)
