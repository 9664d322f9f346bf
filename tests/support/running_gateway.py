"""A gateway in the test's own process over a queen that the test runs, and an HTTP client that knows nothing of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from beeyard_gateway.app import Gateway
from beeyard_gateway.config import GatewaySettings
from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.lifecycle import Stop
from beeyard_runtime.telemetry import Telemetry

from tests.support.eventually import eventually

LOOPBACK = "127.0.0.1:0"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "bee"}], "max_tokens": 4}
TEXT = {"model": "tiny", "prompt": "bee", "max_tokens": 4}


@dataclass
class RunningGateway:
    """One gateway, and a client of it."""

    gateway: Gateway
    client: httpx.AsyncClient
    stop: Stop
    running: "asyncio.Task[None]"

    @property
    def address(self) -> str:
        return self.gateway.server.address

    async def figures(self) -> dict[str, float]:
        """Return what `/metrics` says, each series under its name and labels."""
        text = (await self.client.get("/metrics")).text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@asynccontextmanager
async def running_gateway(
    queen: str, *, clock: Clock | None = None, telemetry: Telemetry | None = None, **changes: Any
) -> AsyncIterator[RunningGateway]:
    """Run a gateway until the block ends, then drain it."""
    settings = GatewaySettings(
        **{"listen": LOOPBACK, "queen": queen, "drain_lead_ms": 0, "drain_grace_ms": 0, **changes}
    )
    gateway = Gateway(settings, clock or SystemClock(), telemetry or Telemetry())
    stop = Stop()
    running = asyncio.create_task(gateway.run(stop))
    await eventually(lambda: gateway.server.is_ready or running.done(), "the gateway listens")
    if running.done():
        await running
    url = f"http://{gateway.server.address}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as client:
            yield RunningGateway(gateway, client, stop, running)
    finally:
        stop.set()
        await running


@dataclass(frozen=True)
class SentEvent:
    """One server-sent event."""

    id: str
    event: str
    data: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found


async def sent_events(response: httpx.Response) -> AsyncIterator[SentEvent]:
    """Yield the events of a stream as they come; a comment has the event `:`."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            yield SentEvent("", ":", line[1:].strip())
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield SentEvent(fields.get("id", ""), fields.get("event", ""), fields.get("data", ""))
            fields = {}


@asynccontextmanager
async def asking(
    client: httpx.AsyncClient, path: str, body: object, **headers: str
) -> "AsyncIterator[asyncio.Task[httpx.Response]]":
    """Send a request in the background and hang up at the end of the block; the task is done when headers came.

    Args:
        client: Who asks.
        path: What.
        body: As JSON.
        **headers: With underscores for hyphens.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = client.build_request("POST", path, json=body, headers=named)
    task = asyncio.create_task(client.send(request, stream=True))
    try:
        yield task
    finally:
        task.cancel()
        (response,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(response, httpx.Response):
            await response.aclose()
