"""Server-sent events to one client, and the watch over all of them: who is silent, who does not read, who hung up.

Status and headers wait for the first thing worth telling, so that a job that fails before its first token is answered
with an error status and not with an error inside a 200. Whoever waits longer is told so by comments, which keep proxies
from closing the connection.

One write is one call of the server's socket: what the queen joined while a client was busy leaves in one piece. What a
client does not take stays in the queen, which keeps it once for everybody; here at most one write waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from beeyard_core import limits
from beeyard_runtime.clock import Clock

from beeyard_gateway.exchange import EVENT_STREAM, Exchange, HungUp
from beeyard_gateway.faults import Fault

ResultT = TypeVar("ResultT")
Settle: TypeAlias = Callable[[asyncio.Task[Any]], Awaitable[None]]


class EventStream:
    """The answer to one request as server-sent events.

    Attributes:
        has_begun: Whether status and headers are sent, so that an error can only be told inside.
    """

    def __init__(self, exchange: Exchange, clock: Clock) -> None:
        """Send nothing yet."""
        self._exchange = exchange
        self._clock = clock
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._wrote_at_ms = clock.now().mono_ms
        self._is_writing = False
        self._has_ended = False
        self.has_begun = False

    def add_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Say what the headers tell besides, while they are not sent."""
        self._headers = (*self._headers, *headers)

    async def write(self, part: bytes) -> None:
        """Send whole events; returns when the client takes more."""
        self._is_writing = True
        self._wrote_at_ms = self._clock.now().mono_ms
        if not self.has_begun:
            await self._begin()
        await self._exchange.write(part)
        self._is_writing = False

    async def end(self, part: bytes = b"") -> None:
        """Send the last events."""
        self._has_ended = True
        if not self.has_begun:
            await self._begin()
        await self._exchange.end(part)

    async def _begin(self) -> None:
        self.has_begun = True
        headers = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"), *self._headers)
        await self._exchange.begin(200, EVENT_STREAM, headers)

    def is_stalled(self, now_ms: int) -> bool:
        """Whether the client has taken nothing of a write for too long."""
        return self._is_writing and now_ms - self._wrote_at_ms >= limits.HTTP_STALL_MS

    def is_silent(self, now_ms: int) -> bool:
        """Whether there was nothing to tell for a while."""
        is_idle = not (self._is_writing or self._has_ended)
        return is_idle and now_ms - self._wrote_at_ms >= limits.HTTP_SILENCE_MS


class OpenStreams:
    """Every answer that is under way: streams are kept awake and given up, and a drain ends them all."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._open: dict[EventStream, asyncio.Future[None]] = {}
        self._whole: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        """How many streams there are."""
        return len(self._open)

    async def keep(self) -> None:
        """Watch over all streams, until cancelled."""
        while True:
            await self._clock.sleep_ms(limits.HTTP_SILENCE_MS // 2)
            now_ms = self._clock.now().mono_ms
            for stream, stop in tuple(self._open.items()):
                if stream.is_stalled(now_ms):
                    _end(stop, HungUp())
                elif stream.is_silent(now_ms):
                    # Nothing waits in its buffer, so this does not wait for the client either.
                    await stream.write(b": waiting\n\n")

    def end_all(self, why: Fault) -> None:
        """End every answer; its client is told why."""
        for stop in (*self._open.values(), *self._whole):
            _end(stop, why)

    async def run(
        self,
        stream: EventStream,
        exchange: Exchange,
        work: Coroutine[None, None, None],
        settle: Settle | None = None,
    ) -> None:
        """Do the work of a stream while its client is there and reads; the rest is as for `while_connected`."""
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open[stream] = stop
        try:
            await while_connected(exchange, work, settle, stop)
        finally:
            del self._open[stream]
            _forget(stop)

    async def run_whole(
        self,
        exchange: Exchange,
        work: Coroutine[None, None, ResultT],
        settle: Settle | None = None,
    ) -> ResultT:
        """Do the work of an answer that is sent at its end; the rest is as for `while_connected`."""
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._whole.add(stop)
        try:
            return await while_connected(exchange, work, settle, stop)
        finally:
            self._whole.discard(stop)
            _forget(stop)


async def while_connected(
    exchange: Exchange,
    work: Coroutine[None, None, ResultT],
    settle: Settle | None = None,
    stop: "asyncio.Future[None] | None" = None,
) -> ResultT:
    """Do some work while the client is there; what is not done when it hangs up is cancelled.

    Args:
        exchange: The client, whose request was read.
        work: What to do.
        settle: What the work may still come to before it is cancelled.
        stop: Another reason to give up: the exception that is set here.

    Raises:
        HungUp: The client is gone.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(exchange.hung_up())
    try:
        waits: set[asyncio.Future[Any]] = {task, gone} if stop is None else {task, gone, stop}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if settle is not None:
            await settle(task)
        why = stop.exception() if stop is not None and stop.done() else None
        raise why or HungUp
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _end(stop: "asyncio.Future[None]", why: Exception) -> None:
    if not stop.done():
        stop.set_exception(why)


def _forget(stop: "asyncio.Future[None]") -> None:
    """Let nobody miss the exception of a stop that came when all was done."""
    stop.cancel()
    if not stop.cancelled():
        stop.exception()
