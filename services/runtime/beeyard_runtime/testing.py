"""What tests of the shells need: a clock moved by hand, and a server with a channel to it in this process."""

import asyncio
import dataclasses
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from beeyard_core import limits
from beeyard_core.instant import Instant

from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.rpc_server import AddToServer, RpcServer
from beeyard_runtime.telemetry import Telemetry

# Turns of the event loop that a woken sleeper gets before time moves on: enough for a chain of tasks and queues.
_SETTLE_TURNS = 32


class ManualClock:
    """A clock that stands still until `advance` is called."""

    def __init__(self, mono_ms: int = 1_000_000, wall_ms: int = 1_700_000_000_000) -> None:
        """Stand at this moment."""
        self._now = Instant(mono_ms, wall_ms)
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now(self) -> Instant:
        """Return where the clock stands."""
        return self._now

    @property
    def sleepers(self) -> int:
        """How many are asleep."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def sleep_ms(self, ms: int) -> None:
        """Sleep until the clock has been advanced by `ms`."""
        if ms <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now.mono_ms + ms, next(self._order), woken))
        await woken

    async def advance(self, ms: int) -> None:
        """Move on by `ms`, stopping at each sleeper on the way: it wakes at its own moment and runs until it waits.

        Sleepers due at the same moment wake in the order in which they fell asleep.
        """
        end = self._now.later(ms)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end.mono_ms:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = self._now.later(due - self._now.mono_ms)
            if not woken.done():
                woken.set_result(None)
                await _settle()
        self._now = end


async def _settle() -> None:
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """A running server and an open channel to it."""

    server: RpcServer
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        """Where the server listens, `host:port`."""
        return self.server.address


@asynccontextmanager
async def serving(
    *services: tuple[AddToServer[Any], object],
    telemetry: Telemetry | None = None,
    admin_listen: str | None = None,
    stall_ms: int = limits.STREAM_STALL_MS,
) -> AsyncIterator[Served]:
    """Serve on a free loopback port, with a channel to it, until the block ends.

    Args:
        services: Pairs of a generated `add_XServicer_to_server` and its servicer.
        telemetry: Used by both sides; None: off.
        admin_listen: As for `RpcServer`, like `stall_ms`.
        stall_ms: After so many milliseconds a peer is cut that reads nothing of a stream.
    """
    shared = telemetry or Telemetry()
    server = RpcServer(
        "test",
        listen="127.0.0.1:0",
        admin_listen=admin_listen,
        telemetry=shared,
        stall_ms=stall_ms,
    )
    for add_to_server, servicer in services:
        server.register(add_to_server, servicer)
    await server.start()
    channel = open_channel(server.address, telemetry=shared)
    try:
        yield Served(server, channel)
    finally:
        await channel.close(None)
        await server.stop(0)
