"""The gateway's composition root: every part is made here, handed its neighbours, started and stopped in order."""

import asyncio
import uuid
from importlib.metadata import PackageNotFoundError, version

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.lifecycle import Stop, announce
from beeyard_runtime.log import get_log
from beeyard_runtime.security.dialing import Dialing, token_source
from beeyard_runtime.security.protection import protect
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.telemetry import Telemetry, setup_telemetry

from beeyard_gateway.cancelling import Cancellations
from beeyard_gateway.config import GatewaySettings
from beeyard_gateway.doors import compare_doors
from beeyard_gateway.edge import Edge
from beeyard_gateway.entrance import Entrance, passed_on
from beeyard_gateway.event_stream import OpenStreams
from beeyard_gateway.exchange import dump
from beeyard_gateway.faults import Fault
from beeyard_gateway.history import History
from beeyard_gateway.http_server import HttpServer
from beeyard_gateway.jobs import Jobs
from beeyard_gateway.live import Live
from beeyard_gateway.live_feed import LiveFeed
from beeyard_gateway.metrics import GatewayMetrics
from beeyard_gateway.openai.completions import Completions, Services
from beeyard_gateway.openai.models import Models
from beeyard_gateway.openapi import document
from beeyard_gateway.probes import Probes
from beeyard_gateway.queen_link import QueenLink
from beeyard_gateway.routes import history_rows, job_rows, openai_rows, probe_rows, scheduler_rows
from beeyard_gateway.routing import RouteRow, router_of
from beeyard_gateway.scheduler import Scheduler

_log = get_log("gateway")


async def main(stop: Stop, settings: GatewaySettings) -> None:
    """Run the gateway until `stop`.

    Raises:
        StartFailed: The address cannot be had; the message says what to do.
    """
    instance = uuid.uuid4().hex[:8]
    telemetry = setup_telemetry("gateway", otlp_endpoint=settings.otlp_endpoint, instance=instance)
    try:
        await Gateway(settings, SystemClock(), telemetry).run(stop)
    finally:
        await asyncio.to_thread(telemetry.shutdown)


class Gateway:
    """One running gateway. Made by `main`; tests make one with a clock of their own."""

    def __init__(self, settings: GatewaySettings, clock: Clock, telemetry: Telemetry) -> None:
        """Put the parts together; nothing listens yet."""
        self._settings = settings
        self._clock = clock
        tls = TlsFiles(settings, clock)
        protection = protect(settings, tls, clock)
        self._guard = protection.guard
        dialing = Dialing(tls, passed_on(token_source(settings.token, settings.token_file)))
        self.link = QueenLink(settings.queen, telemetry, dialing)
        self.metrics = GatewayMetrics()
        self.streams = OpenStreams(clock)
        self._cancellations = Cancellations(self.link, self.metrics)
        self._live = LiveFeed(self.link, clock)
        self._probes = Probes(self.link, self.metrics, lambda: self.document)
        self.rows = self._rows(telemetry)
        self.document = dump(document(self.rows, _version()))
        edge = Edge(
            router_of(self.rows, Live(self._live).show, Entrance(self._guard)),
            telemetry=telemetry,
            public_hosts=frozenset(one.lower() for one in settings.public_hosts),
            is_closed=self._guard.is_closed,
        )
        self.server = HttpServer(
            edge,
            edge.overloaded,
            listen=settings.listen,
            protection=protection,
            connections_max=settings.connections_max,
            # What is left after the drain gets an answer, and a moment to read it.
            grace_ms=settings.drain_grace_ms + limits.DRAIN_DELIVERY_MS,
        )

    def _rows(self, telemetry: Telemetry) -> list[RouteRow]:
        services = Services(
            link=self.link,
            clock=self._clock,
            streams=self.streams,
            cancellations=self._cancellations,
            metrics=self.metrics,
            telemetry=telemetry,
        )
        return [
            *openai_rows(Completions(services), Models(self.link)),
            *job_rows(Jobs(self.link, self._clock, self.streams, self.metrics)),
            *history_rows(History(self.link)),
            *scheduler_rows(Scheduler(self.link, self._clock, self.streams)),
            *probe_rows(self._probes),
        ]

    async def run(self, stop: Stop) -> None:
        """Serve until `stop`, then drain: nothing new, what runs may end, the rest is told to come back."""
        await self.server.start()
        _log.info("listening", address=self.server.address, queen=self._settings.queen)
        announce("gateway", self.server.address)
        keepers = [asyncio.create_task(one.keep()) for one in (self.streams, self._guard)]
        looking = compare_doors(self.link, self._clock, is_closed=self._guard.is_closed)
        keepers.append(asyncio.create_task(looking))
        try:
            await stop.wait()
            await self._drain()
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self.server.stop()
            await self._cancellations.settled()
            await self.link.close()

    async def _drain(self) -> None:
        self._probes.is_draining = True
        if self._settings.drain_lead_ms:
            # Whoever spreads requests over gateways learns of it before one of them meets a closed door.
            await self._clock.sleep_ms(self._settings.drain_lead_ms)
        await self._live.close()
        stopping = asyncio.create_task(self.server.stop())
        grace = asyncio.create_task(self._clock.sleep_ms(self._settings.drain_grace_ms))
        await asyncio.wait({stopping, grace}, return_when=asyncio.FIRST_COMPLETED)
        grace.cancel()
        self.streams.end_all(
            Fault(
                Refusal.DRAINING,
                "the gateway is shutting down; go on with Last-Event-ID in a moment",
                retry_after_ms=limits.RECONNECT_MAX_MS,
            )
        )
        await stopping


def _version() -> str:
    try:
        return version("beeyard")
    except PackageNotFoundError:
        return "0"
