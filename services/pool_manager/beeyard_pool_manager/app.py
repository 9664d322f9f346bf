"""Puts one pool manager together; the only place where its parts meet."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

from beeyard.pool.v1 import pool_manager_service_pb2_grpc as rpc
from beeyard_core import limits
from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.lifecycle import Stop, announce
from beeyard_runtime.log import get_log, setup_log
from beeyard_runtime.metrics import Figures
from beeyard_runtime.metrics_server import MetricsServer
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.dialing import Dialing, TokenSource, token_source
from beeyard_runtime.security.protection import Protection, protect
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.security.tls import NO_TLS, Tls, TlsSource
from beeyard_runtime.telemetry import setup_telemetry

from beeyard_pool_manager.catalogue import Catalogue
from beeyard_pool_manager.config import PoolManagerSettings
from beeyard_pool_manager.gpus.choose import choose_inventory
from beeyard_pool_manager.gpus.reader import InventoryReader
from beeyard_pool_manager.host import Changes, Host
from beeyard_pool_manager.metrics import HostMetrics
from beeyard_pool_manager.pool_service import PoolService
from beeyard_pool_manager.report_loop import ReportLoop
from beeyard_pool_manager.snapshot import HostIdentity
from beeyard_pool_manager.work_dir import hold_work_dir
from beeyard_pool_manager.workers.engine_link import GrpcEngineLink
from beeyard_pool_manager.workers.local_process import LocalLauncher, WorkerCommand
from beeyard_pool_manager.workers.reconciler import Reconciler
from beeyard_pool_manager.workers.starter import WorkerStarter
from beeyard_pool_manager.workers.supervisor import Supervisor

_log = get_log("app")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a pool manager consists of beside its server."""

    clock: Clock
    tls: TlsFiles
    token: TokenSource | None
    protection: Protection
    changes: Changes
    inventory: InventoryReader
    catalogue: Catalogue
    engines: GrpcEngineLink
    supervisor: Supervisor
    starter: WorkerStarter
    reconciler: Reconciler


async def main(stop: Stop, settings: PoolManagerSettings) -> None:
    """Run one pool manager until it is asked to stop.

    Raises:
        StartFailed: The work folder, the port or a file cannot be had.
    """
    setup_log("pool_manager", fmt=settings.log_format, level=settings.log_level)
    with hold_work_dir(settings.work_dir):
        incarnation = uuid.uuid4().hex
        parts = _assemble(settings, incarnation)
        try:
            await _serve(stop, settings, parts, incarnation)
        finally:
            await parts.supervisor.close()
            await parts.catalogue.close()
            await parts.engines.close()
            parts.inventory.close()


def _assemble(settings: PoolManagerSettings, incarnation: str) -> _Parts:
    clock, changes = SystemClock(), Changes()
    tls = TlsFiles(settings, clock)
    token = token_source(settings.token, settings.token_file)
    inventory = InventoryReader(choose_inventory(settings.inventory))
    catalogue = Catalogue(
        models_dir=settings.models_dir,
        models=settings.models(),
        cache_dir=settings.cache_dir or settings.work_dir / "models",
        slots=settings.slots,
        context_tokens=settings.context_tokens,
        on_change=changes.mark,
    )
    shared = _shared_with_workers(tls)
    own = shared.now().own
    engines = GrpcEngineLink(
        f"{settings.pool_id}/{incarnation}",
        # On whatever address they listen, what our own workers show is our own certificate.
        Dialing(shared if own else NO_TLS, token, own.name if own else ""),
    )
    supervisor = Supervisor(
        launcher=LocalLauncher(settings.work_dir, command=_command(settings, shared), clock=clock),
        engines=engines,
        clock=clock,
        on_change=changes.mark,
        start_timeout_ms=settings.worker_start_timeout_ms,
        status_interval_ms=min(settings.report_interval_ms, limits.SUPERVISOR_INTERVAL_MS),
    )
    starter = WorkerStarter(
        catalogue=catalogue,
        inventory=inventory,
        supervisor=supervisor,
        clock=clock,
        slots=settings.slots,
        context_tokens=settings.context_tokens,
    )
    reconciler = Reconciler(
        supervisor=supervisor,
        starter=starter,
        clock=clock,
        stop_grace_ms=settings.worker_stop_grace_ms,
    )
    return _Parts(
        clock=clock,
        tls=tls,
        token=token,
        protection=protect(settings, tls, clock, own_token=token, pool_id=settings.pool_id),
        changes=changes,
        inventory=inventory,
        catalogue=catalogue,
        engines=engines,
        supervisor=supervisor,
        starter=starter,
        reconciler=reconciler,
    )


async def _serve(
    stop: Stop, settings: PoolManagerSettings, parts: _Parts, incarnation: str
) -> None:
    telemetry = setup_telemetry(
        "pool_manager", otlp_endpoint=settings.otlp_endpoint, instance=settings.pool_id
    )
    server = RpcServer(
        "pool_manager",
        listen=settings.listen,
        admin_listen=settings.admin_listen,
        telemetry=telemetry,
        protection=parts.protection,
    )
    identity = HostIdentity(
        pool_id=settings.pool_id,
        address="",
        inventory=parts.inventory.name,
        incarnation=incarnation,
        cost_per_token=settings.cost_per_token,
        place=settings.place(),
        capability=settings.capability,
    )
    figures = Figures()
    scrapes = MetricsServer(figures.registry, settings.metrics_listen, parts.protection)
    host = Host(
        identity,
        inventory=parts.inventory,
        catalogue=parts.catalogue,
        supervisor=parts.supervisor,
        changes=parts.changes,
        clock=parts.clock,
        metrics=HostMetrics(figures),
    )
    service = PoolService(
        host=host,
        supervisor=parts.supervisor,
        starter=parts.starter,
        interval_ms=settings.report_interval_ms,
    )
    server.register(rpc.add_PoolManagerServiceServicer_to_server, service)
    await parts.catalogue.refresh()
    # The port comes before adopting: a process that cannot have it must not take over anybody's workers.
    await server.start()
    scrapes.start()
    host.settle(server.address)
    try:
        await parts.supervisor.adopt()
        parts.starter.open()
        async with _background(_duties(settings, parts, host)):
            announce(
                "pool_manager",
                server.address,
                admin_address=server.admin_address or None,
                metrics_address=scrapes.address,
            )
            await stop.wait()
            await _wind_down(settings, parts, server)
    finally:
        service.close()
        await asyncio.to_thread(scrapes.stop)
        await server.stop(limits.RPC_DEADLINE_MS)
        await asyncio.to_thread(telemetry.shutdown)


def _duties(
    settings: PoolManagerSettings, parts: _Parts, host: Host
) -> list[Coroutine[None, None, None]]:
    duties = [parts.reconciler.run(), parts.catalogue.run(parts.clock), _tidy(parts)]
    if settings.queen:
        duties.append(_report(settings, parts, host))
    return duties


async def _report(settings: PoolManagerSettings, parts: _Parts, host: Host) -> None:
    channel = open_channel(settings.queen, dialing=Dialing(parts.tls, parts.token))
    try:
        await ReportLoop(
            host,
            channel=channel,
            clock=parts.clock,
            jitter=random.Random(),  # noqa: S311 - spreads reconnects; guards nothing
            apply=parts.reconciler.apply,
            note_reported=parts.supervisor.note_reported,
            interval_ms=settings.report_interval_ms,
        ).run()
    finally:
        await channel.close(None)


async def _tidy(parts: _Parts) -> None:
    while True:
        await parts.clock.sleep_ms(limits.SUPERVISOR_INTERVAL_MS)
        await asyncio.to_thread(parts.supervisor.tidy)


async def _wind_down(settings: PoolManagerSettings, parts: _Parts, server: RpcServer) -> None:
    """Stop the workers unless they are to be left; the queen hears of it, since reports go on meanwhile."""
    _log.info("stopping", leave_workers=settings.leave_workers)
    parts.starter.close()
    await server.drain()
    if not settings.leave_workers:
        await parts.supervisor.stop_all(grace_ms=settings.worker_stop_grace_ms)


@asynccontextmanager
async def _background(duties: list[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """Run duties beside the block. One that ends by a fault ends the block with it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(duty) for duty in duties]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _shared_with_workers(files: TlsFiles) -> TlsSource:
    """Return the TLS that workers get: all of it, or just the authorities if they could not be spoken to with it."""
    tls = files.now()
    is_usable = tls.own is not None and tls.ca is not None and bool(tls.own.name)
    return files if is_usable else Tls(ca_path=tls.ca_path, ca=tls.ca)


def _command(settings: PoolManagerSettings, shared: TlsSource) -> WorkerCommand:
    endpoint = settings.otlp_endpoint
    environment = {"BEEYARD_OTLP_ENDPOINT": endpoint} if endpoint else {}
    token = settings.token.get_secret_value()
    if token:
        environment["BEEYARD_WORKER_TOKEN"] = token
    return WorkerCommand(
        program=settings.worker_program(),
        queen=settings.queen,
        pool_id=settings.pool_id,
        threads=settings.threads,
        supervisor_grace_ms=settings.supervisor_grace_ms,
        security=_security_flags(settings, shared.now()),
        environment=environment,
    )


def _security_flags(settings: PoolManagerSettings, shared: Tls) -> list[str]:
    files = {
        "--tls-ca": shared.ca_path,
        "--tls-cert": shared.own.cert_path if shared.own else None,
        "--tls-key": shared.own.key_path if shared.own else None,
        "--token-file": settings.token_file,
    }
    flags = [f"{flag}={path.absolute()}" for flag, path in files.items() if path is not None]
    return [*flags, "--tls-client-certs=required"] if shared.needs_client_cert else flags
