"""The fleet, the queue and the decisions as they change, read once from the queen for every live view.

However many views are open, the queen has one follower of each kind, and each message becomes text once. A view that
reads slowly gets the newest picture of fleet and queue and misses those in between; of the decisions it misses the
oldest, and sees the gap in their numbers. Nobody watches: nothing is read.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Final

import grpc
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import policy_service_pb2 as policy_pb
from beeyard_core import limits
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_channel import stream

from beeyard_gateway.exchange import dump
from beeyard_gateway.faults import Fault, HttpReason
from beeyard_gateway.message_json import to_json
from beeyard_gateway.queen_link import QueenLink, fault_of

TOPICS: Final = frozenset({"fleet", "queue", "decisions"})
_STREAM_TIMEOUT_S: Final = limits.DEADLINE_MS_MAX / 1_000


class LiveView:
    """What one view has not been sent yet."""

    def __init__(self, topics: frozenset[str]) -> None:
        """Begin with nothing to send of these topics."""
        self._topics = topics
        self._newest: dict[str, str] = {}
        self._decisions: deque[str] = deque(maxlen=limits.LIVE_DECISIONS_KEPT_MAX)
        self._changed = asyncio.Event()
        self.is_closed = False

    def put(self, topic: str, text: str) -> None:
        """Take a message in; one that is not wanted is dropped."""
        if topic in TOPICS and topic not in self._topics:
            return
        if topic == "decisions":
            self._decisions.append(text)
        else:
            self._newest[topic] = text
        self._changed.set()

    async def next(self) -> list[str]:
        """Return what is to be sent, as soon as there is something; nothing once the feed is closed."""
        await self._changed.wait()
        self._changed.clear()
        texts = [*self._newest.values(), *self._decisions]
        self._newest.clear()
        self._decisions.clear()
        return texts

    def close(self) -> None:
        """Send nothing any more."""
        self.is_closed = True
        self._changed.set()


class LiveFeed:
    """The views that are open, and what feeds them."""

    def __init__(self, link: QueenLink, clock: Clock) -> None:
        """Begin with no view, so with nothing to read."""
        self._link = link
        self._clock = clock
        self._views: set[LiveView] = set()
        self._newest: dict[str, str] = {}
        self._readers: list[asyncio.Task[None]] = []

    def open(self, topics: frozenset[str]) -> LiveView:
        """Return a new view, which is told at once what is known; the first one starts the reading.

        Raises:
            Fault: TOO_MANY_VIEWS.
        """
        if len(self._views) >= limits.LIVE_SOCKETS_MAX:
            raise Fault(HttpReason.TOO_MANY_VIEWS, "too many live views are open on this gateway")
        view = LiveView(topics)
        for topic, text in self._newest.items():
            view.put(topic, text)
        self._views.add(view)
        if not self._readers:
            # In a context of their own: they read for everybody, not as the caller who came first.
            self._readers = [
                asyncio.create_task(self._again_and_again(read), context=Context())
                for read in (self._read_fleet, self._read_decisions)
            ]
        return view

    async def leave(self, view: LiveView) -> None:
        """Forget a view; the last one ends the reading."""
        self._views.discard(view)
        if not self._views:
            await self._stop_reading()

    async def close(self) -> None:
        """Close every view and stop reading."""
        for view in self._views:
            view.close()
        await self._stop_reading()

    async def _stop_reading(self) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        self._newest.clear()

    async def _again_and_again(self, read: Callable[[], Awaitable[None]]) -> None:
        """Read for ever, over restarts of the queen; end only if the queen does not offer it."""
        failures = 0
        while True:
            try:
                await self._link.connected()
                failures = 0
                await read()
            except grpc.aio.AioRpcError as error:
                fault = fault_of(error)
            except Fault as known:
                fault = known
            else:
                continue
            if fault.reason == HttpReason.NOT_IMPLEMENTED.value:
                return
            self._publish("status", _text({"type": "status", "queen": fault.reason}))
            wait_ms = min(limits.RECONNECT_MIN_MS << min(failures, 8), limits.RECONNECT_MAX_MS)
            failures += 1
            await self._clock.sleep_ms(wait_ms)

    async def _read_fleet(self) -> None:
        request = fleet_pb.WatchFleetRequest(min_interval_ms=limits.LIVE_INTERVAL_MS)
        async with stream(self._link.fleet.WatchFleet(request, timeout=_STREAM_TIMEOUT_S)) as call:
            async for snapshot in call:
                models = await self._link.ask(
                    self._link.fleet.ListModels, fleet_pb.ListModelsRequest()
                )
                # Beside the loop, on which tokens are written: a large fleet takes some time.
                messages = await asyncio.to_thread(_told, snapshot, models)
                self._publish("status", _CONNECTED)
                for topic, text in messages:
                    self._publish(topic, text)

    async def _read_decisions(self) -> None:
        request = policy_pb.WatchDecisionsRequest(include_waits=True)
        call = self._link.policy.WatchDecisions(request, timeout=_STREAM_TIMEOUT_S)
        async with stream(call):
            async for decision in call:
                self._publish("decisions", _text({"type": "decision"} | to_json(decision)))

    def _publish(self, topic: str, text: str) -> None:
        if topic != "decisions":
            self._newest[topic] = text
        for view in self._views:
            view.put(topic, text)


def _told(
    snapshot: fleet_pb.FleetSnapshot, models: fleet_pb.ListModelsResponse
) -> list[tuple[str, str]]:
    """Return what a snapshot has to say, by topic."""
    fleet = to_json(snapshot)
    queue = {
        "type": "queue",
        "version": snapshot.version,
        "jobs_queued": fleet.pop("jobs_queued"),
        "jobs_running": fleet.pop("jobs_running"),
        "models": to_json(models)["models"],
    }
    return [("fleet", _text({"type": "fleet"} | fleet)), ("queue", _text(queue))]


def _text(message: dict[str, Any]) -> str:
    return dump(message).decode()


_CONNECTED: Final = _text({"type": "status", "queen": "connected"})
