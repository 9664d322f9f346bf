"""The worker's composition root: what exists, who knows whom, and in which order it begins and ends.

The server comes up first and the model loads afterwards, so that an operator, the pool manager and the
queen see a worker that is STARTING instead of none. A model that cannot be loaded is told to whoever
listens before the process exits with 1.
"""

import asyncio
import random
import secrets
from collections.abc import Coroutine
from contextlib import AsyncExitStack

import grpc
from beeyard.worker.v1 import engine_service_pb2_grpc, worker_service_pb2_grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.lifecycle import StartFailed, Stop, announce
from beeyard_runtime.log import get_log, setup_log
from beeyard_runtime.metrics import Figures
from beeyard_runtime.metrics_server import MetricsServer
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.dialing import Dialing, token_source
from beeyard_runtime.security.protection import protect
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.telemetry import Telemetry, setup_telemetry

from beeyard_worker.config import WorkerSettings
from beeyard_worker.drain import Drain
from beeyard_worker.engine.port import Engine, EngineFacts, EngineFault
from beeyard_worker.engine_service import DirectCalls, EngineService
from beeyard_worker.engines import engine_from
from beeyard_worker.leases import Leases
from beeyard_worker.metrics import WorkerMetrics
from beeyard_worker.runner import Runner
from beeyard_worker.session import Session
from beeyard_worker.slots import Slots
from beeyard_worker.state_file import state_file
from beeyard_worker.status import Identity, WorkerStatus
from beeyard_worker.supervision import Supervision

_log = get_log("app")


async def main(stop: Stop, settings: WorkerSettings) -> None:
    """Serve until a signal, an order or missing supervision ends the worker.

    Raises:
        StartFailed: The model cannot be loaded, the port is taken, or a file cannot be used.
    """
    setup_log("worker", fmt=settings.log_format, level=settings.log_level)
    telemetry = setup_telemetry(
        "worker", otlp_endpoint=settings.otlp_endpoint, instance=settings.worker_id
    )
    worker = Worker(settings, telemetry)
    try:
        await worker.run(stop)
    finally:
        # Blocks while it sends what has gathered, so not on the loop.
        await asyncio.to_thread(telemetry.shutdown)


class Worker:
    """Everything of one worker process, wired."""

    def __init__(self, settings: WorkerSettings, telemetry: Telemetry) -> None:
        """Make the parts; nothing runs yet."""
        self._settings = settings
        self._telemetry = telemetry
        self._clock = SystemClock()
        self._tls = TlsFiles(settings, self._clock)
        self._token = token_source(settings.token, settings.token_file)
        self._protection = protect(
            settings, self._tls, self._clock, own_token=self._token, pool_id=settings.pool_id
        )
        self._chance = random.Random()  # noqa: S311 - spreads load and seeds; keeps no secret
        self._engine: Engine = engine_from(settings, self._clock)
        self.status = WorkerStatus(
            Identity(
                worker_id=settings.worker_id,
                pool_id=settings.pool_id,
                model=settings.model,
                engine=settings.engine,
                device=settings.device,
                incarnation=secrets.token_hex(8),
                extensions=tuple(settings.extensions),
            ),
            slots=_slots(settings, settings.slots, settings.context_tokens),
            context_tokens=settings.context_tokens,
            clock=self._clock,
        )
        figures = Figures()
        self._metrics = WorkerMetrics(figures, engine=settings.engine, model=settings.model)
        self._scrapes = MetricsServer(figures.registry, settings.metrics_listen, self._protection)
        self._engine.watch_slots(self.status.open_slots)
        self._runner = Runner(
            engine=self._engine,
            status=self.status,
            clock=self._clock,
            telemetry=telemetry,
            metrics=self._metrics,
        )
        self._leases = Leases(
            runner=self._runner, status=self.status, clock=self._clock, telemetry=telemetry
        )
        self._direct = DirectCalls()
        self._drain = Drain(status=self.status, clock=self._clock, grace_ms=settings.drain_grace_ms)
        self._supervision = Supervision(
            grace_ms=settings.supervisor_grace_ms, clock=self._clock, on_abandoned=self._drain.begin
        )
        self._leases.watch_rest(self._drain.nudge)
        self._direct.watch_rest(self._drain.nudge)

    async def run(self, stop: Stop) -> None:
        """Listen, load, serve, drain."""
        server = RpcServer(
            "worker",
            listen=self._settings.listen,
            admin_listen=self._settings.admin_listen,
            telemetry=self._telemetry,
            protection=self._protection,
        )
        server.register(
            engine_service_pb2_grpc.add_EngineServiceServicer_to_server, self._engine_service()
        )
        server.set_serving(False)
        await server.start()
        self._scrapes.start()
        try:
            with state_file(self._settings.state_file, self.status.identity, server.address):
                if not self._is_lone:
                    self._announce(server)
                await self._serve(stop, server)
        finally:
            # What ran has ended; the last word of a direct call may be on its way still.
            await server.stop(limits.DRAIN_DELIVERY_MS)
            await asyncio.to_thread(self._scrapes.stop)
            await self._engine.close()

    async def _serve(self, stop: Stop, server: RpcServer) -> None:
        """Run everything side by side until the drain is over or something breaks."""
        async with AsyncExitStack() as stack:
            background = [self._begin_drain_on(stop), self._load(server), self._read_gauges()]
            if self._settings.queen:
                dialing = Dialing(self._tls, self._token)
                opened = open_channel(self._settings.queen, dialing=dialing)
                channel = await stack.enter_async_context(opened)
                background.append(self._session(channel, server.address).run())
            if self._settings.supervised:
                background.append(self._supervision.watch())
            await until(self._live(server), *background)

    async def _live(self, server: RpcServer) -> None:
        await self._drain.requested()
        await server.drain()
        await self._drain.finish(self._is_idle, self._fail_running)

    async def _load(self, server: RpcServer) -> None:
        try:
            facts = await self._engine.load(self.status.loading)
        except EngineFault as fault:
            _log.error("model_load_failed", reason=fault.reason.value, message=fault.message)
            self.status.failed(fault.message)
            # The heartbeat with the sentence is on its way; without a queen nobody waits for it.
            if self._settings.queen:
                await self._clock.sleep_ms(limits.DRAIN_DELIVERY_MS)
            raise StartFailed(f"{self._settings.model}: {fault.message}") from None
        self.status.loaded(facts, _slots_of(self._settings, facts))
        server.set_serving(True)
        if self._is_lone:
            self._announce(server)
        _log.info("model_loaded", model=self._settings.model, engine=facts.engine)

    async def _read_gauges(self) -> None:
        while True:
            self._metrics.read(self.status)
            await self._clock.sleep_ms(limits.METRICS_INTERVAL_MS)

    async def _begin_drain_on(self, stop: Stop) -> None:
        await stop.wait()
        self._drain.begin()

    @property
    def _is_lone(self) -> bool:
        """Whether nobody watches the worker load.

        A pool manager and a queen want its address while the model loads; whoever starts a worker by
        hand waits for the ready line to generate something, so that line has to wait for the model.
        """
        return not (self._settings.queen or self._settings.supervised)

    def _announce(self, server: RpcServer) -> None:
        announce(
            "worker",
            server.address,
            admin_address=server.admin_address or None,
            metrics_address=self._scrapes.address,
            worker_id=self._settings.worker_id,
        )

    def _is_idle(self) -> bool:
        return self._leases.is_idle and self._direct.is_idle

    def _fail_running(self, reason: Refusal, message: str) -> None:
        self._leases.fail_running(reason, message)
        self._direct.fail_running(reason, message)

    def _engine_service(self) -> EngineService:
        return EngineService(
            runner=self._runner,
            status=self.status,
            direct=self._direct,
            clock=self._clock,
            chance=self._chance,
            on_supervisor=self._supervision.heard,
            on_drain=self._drain.begin,
        )

    def _session(self, channel: grpc.aio.Channel, address: str) -> Session:
        return Session(
            stub=worker_service_pb2_grpc.WorkerServiceStub(channel),
            leases=self._leases,
            status=self.status,
            address=address,
            clock=self._clock,
            chance=self._chance,
            on_drain=self._drain.begin,
        )


async def until(
    main_work: Coroutine[object, object, None], *background: Coroutine[object, object, None]
) -> None:
    """Run `main_work` to its end and the rest beside it; what breaks in any of them ends all.

    Args:
        main_work: When it returns, the others are cancelled.
        background: May return early; that ends nothing.

    Raises:
        BaseException: What the first of them raised.
    """
    leading = asyncio.create_task(main_work)
    tasks = {leading, *(asyncio.create_task(work) for work in background)}
    pending = tasks
    try:
        while not leading.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)


def _slots_of(settings: WorkerSettings, facts: EngineFacts) -> Slots:
    """Return the slots of a loaded engine, with the KV tokens that may be promised to their jobs."""
    if not facts.kv_tokens:
        return _slots(settings, facts.slots, facts.context_tokens)
    return Slots(facts.slots, facts.kv_tokens * settings.kv_promised_percent // 100)


def _slots(settings: WorkerSettings, count: int, context_tokens: int) -> Slots:
    return Slots(count, settings.kv_tokens or count * context_tokens)
