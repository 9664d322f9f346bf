"""`GET /v2/live`: a WebSocket that shows the fleet, the queue and the decisions as they change.

Every message is one JSON object with a `type`: `status`, `fleet`, `queue` or `decision`. `?topics=fleet,queue` asks for
some of them. What the client sends is not read for meaning, only for its end.
"""

import asyncio
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from beeyard_gateway.entrance import SUBPROTOCOL
from beeyard_gateway.faults import Fault, invalid
from beeyard_gateway.live_feed import TOPICS, LiveFeed, LiveView

_GOING_AWAY: Final = 1001
_POLICY_VIOLATION: Final = 1008
_TRY_AGAIN_LATER: Final = 1013


class Live:
    """The sockets of one gateway."""

    def __init__(self, feed: LiveFeed) -> None:
        """Show this."""
        self._feed = feed

    async def show(self, socket: WebSocket) -> None:
        """Send to one socket until either side ends it."""
        try:
            view = self._feed.open(_topics_of(socket))
        except Fault as fault:
            await _accept(socket)
            code = _TRY_AGAIN_LATER if fault.is_retriable else _POLICY_VIOLATION
            await socket.close(code, fault.message)
            return
        try:
            await _accept(socket)
            sending = asyncio.create_task(_send(socket, view))
            reading = asyncio.create_task(_read_away(socket))
            try:
                await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, reading):
                    task.cancel()
                await asyncio.gather(sending, reading, return_exceptions=True)
        finally:
            await self._feed.leave(view)
        if socket.client_state is WebSocketState.CONNECTED:
            await socket.close(_GOING_AWAY, "the gateway is shutting down")


async def _accept(socket: WebSocket) -> None:
    offered = socket.scope.get("subprotocols", ())
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)


async def _send(socket: WebSocket, view: LiveView) -> None:
    while not view.is_closed:
        for text in await view.next():
            await socket.send_text(text)


async def _read_away(socket: WebSocket) -> None:
    try:
        while True:
            await socket.receive()
    except (WebSocketDisconnect, RuntimeError):
        return


def _topics_of(socket: WebSocket) -> frozenset[str]:
    text = socket.query_params.get("topics", "")
    topics = frozenset(one for one in text.split(",") if one)
    if not topics <= TOPICS:
        raise invalid(f"topics: must be some of {', '.join(sorted(TOPICS))}", field="topics")
    return topics or TOPICS
