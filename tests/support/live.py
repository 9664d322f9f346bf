"""A client of the gateway's live view."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin


class Addressed(Protocol):
    """A gateway, in this process or in one of its own."""

    @property
    def address(self) -> str:
        """Its HOST:PORT."""
        ...


@asynccontextmanager
async def watching(
    gateway: Addressed, query: str = "", origin: str | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """Hold a WebSocket until the block ends; `options` are those of `connect`."""
    url = f"ws://{gateway.address}/v2/live{query}"
    named = Origin(origin) if origin else None
    async with connect(url, origin=named, proxy=None, **options) as socket:
        yield socket


async def next_of(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next message of one type; others are skipped."""
    while True:
        message: dict[str, Any] = json.loads(await socket.recv())
        if message["type"] == kind:
            return message
