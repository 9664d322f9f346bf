"""The queen's composition root: each part is made here, handed its neighbours, started in order, stopped in reverse."""

import asyncio
import uuid
from dataclasses import dataclass

from beeyard.pool.v1 import pool_service_pb2_grpc
from beeyard.queen.v1 import (
    fleet_service_pb2_grpc,
    history_service_pb2_grpc,
    inference_service_pb2_grpc,
    lease_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from beeyard.worker.v1 import worker_service_pb2_grpc
from beeyard_core import history_limits, limits
from beeyard_core.event import ApiMeasured, DrainBegun
from beeyard_core.governor import ApiLoad
from beeyard_core.ids import JobId, ModelName
from beeyard_core.job import Job
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.restore import restore
from beeyard_core.state import QueenState, Settings
from beeyard_core.work_restore import restore_work
from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.lifecycle import Stop, announce, uncollected
from beeyard_runtime.log import get_log
from beeyard_runtime.metrics import Figures
from beeyard_runtime.metrics_server import MetricsServer
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.protection import protect
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.telemetry import Telemetry, setup_telemetry

from beeyard_queen.actor import Answers, QueenActor
from beeyard_queen.config import QueenSettings
from beeyard_queen.egress.feed import Feeds
from beeyard_queen.egress.hosts import Hosts
from beeyard_queen.egress.links import Links
from beeyard_queen.egress.relay import Relay
from beeyard_queen.gauges import Gauges
from beeyard_queen.ingress.explaining import Explaining
from beeyard_queen.ingress.fleet_service import FleetServicer
from beeyard_queen.ingress.following import Following
from beeyard_queen.ingress.history_service import HistoryServicer
from beeyard_queen.ingress.identity import home_in
from beeyard_queen.ingress.inference_service import InferenceServicer
from beeyard_queen.ingress.lease_service import LeaseServicer
from beeyard_queen.ingress.policy_service import PolicyServicer
from beeyard_queen.ingress.pool_service import PoolServicer
from beeyard_queen.ingress.prefix_path import PrefixPaths
from beeyard_queen.ingress.reading import RefusingReader
from beeyard_queen.ingress.simulating import Simulating
from beeyard_queen.ingress.submission import Submissions
from beeyard_queen.ingress.waiting import Waiting
from beeyard_queen.ingress.work_looking import WorkLooking
from beeyard_queen.ingress.worker_service import WorkerServicer
from beeyard_queen.loop import WriterLoop, every
from beeyard_queen.metrics import QueenMetrics
from beeyard_queen.policy.desk import Desk
from beeyard_queen.policy.runtime import PolicyRuntime
from beeyard_queen.policy.sandbox import Sandbox
from beeyard_queen.prompts import Prompts
from beeyard_queen.store.history import HistoryFilter, HistoryReader
from beeyard_queen.store.port import JobReader, JobWriter, Restored, StoreRefused, StoreUnavailable
from beeyard_queen.store.rows import job_of
from beeyard_queen.store.scales import scales_of
from beeyard_queen.store.sessions import spendings_of
from beeyard_queen.store.sqlite import SqliteStore
from beeyard_queen.store.tokens import frame_of
from beeyard_queen.store.versions import PolicyVersions
from beeyard_queen.store.work import WorkReader
from beeyard_queen.store.work_rows import work_of
from beeyard_queen.tenants_file import read_tenants
from beeyard_queen.tracing import JobTraces
from beeyard_queen.work_calls import WorkCalls

_log = get_log("queen")


@dataclass(slots=True)
class _Store:
    """One store, seen through its ports."""

    writer: JobWriter
    reader: JobReader
    work: WorkReader
    versions: PolicyVersions
    history: HistoryReader


async def main(stop: Stop, settings: QueenSettings) -> None:
    """Run the queen until `stop`.

    Raises:
        StartFailed: The store, a file or the address cannot be had; the message says what to do.
    """
    clock = SystemClock()
    incarnation = uuid.uuid4().hex[:8]
    telemetry = setup_telemetry("queen", otlp_endpoint=settings.otlp_endpoint, instance=incarnation)
    sqlite = SqliteStore(settings.store)
    store = _Store(sqlite, sqlite, sqlite.work, sqlite.policies, sqlite.history)
    try:
        with uncollected():
            restored = await store.writer.open()
            queen = await _assemble(settings, store, restored, clock, telemetry, incarnation)
            del restored
    except StoreRefused as fault:
        raise StartFailed(str(fault)) from None
    try:
        await queen.run(stop)
    finally:
        await store.writer.close()
        await asyncio.to_thread(telemetry.shutdown)


async def _assemble(
    settings: QueenSettings,
    store: _Store,
    restored: Restored,
    clock: Clock,
    telemetry: Telemetry,
    incarnation: str,
) -> "Queen":
    quotas = read_tenants(settings.tenants, is_enforced=settings.policy_mode == "platform")
    scaling = settings.scaling()
    now = clock.now()
    jobs = [job_of(row, now) for row in restored.jobs]
    state = restore(
        Settings(
            incarnation=incarnation,
            default_model=ModelName(settings.default_model),
            lease_ttl_ms=settings.lease_ttl_ms,
            start_on_demand=settings.start_on_demand,
            hold_background=settings.hold_background,
            # Last, so that policies see what the core goes by.
            policy_config=(*settings.policy_values().items(), *scaling.policy_values()),
            scaling=scaling,
            capacity=settings.capacity(),
            quotas=quotas,
            queue=settings.queue(),
        ),
        jobs,
        epoch=restored.epoch,
        sequence=restored.sequence,
        models=restored.models,
        scales=scales_of(restored.scales),
        sessions=spendings_of(restored.sessions, now),
        now=now,
    )
    works = [work_of(row, now) for row in restored.work]
    restore_work(state, works, sequence=restored.work_sequence, now=now)
    await _recall(state, store.history)
    feeds = Feeds()
    await _restore_tokens(feeds, jobs, store.reader)
    if jobs:
        _log.info("jobs_restored", count=len(jobs))
    trace_ids = {JobId(row.job_id): row.trace_id for row in restored.jobs if row.trace_id}
    traces = JobTraces(telemetry, restored=trace_ids)
    return Queen(settings, store, state, feeds, clock, traces, incarnation)


async def _recall(state: QueenState, history: HistoryReader) -> None:
    """Let the forecast learn again from the last jobs of earlier queens, in the order in which they ended.

    Predictions are a help and no promise: a queen that cannot read them begins without.
    """
    wanted = HistoryFilter(limit=history_limits.HISTORY_RECALLED_MAX)
    try:
        records = await history.job_records(wanted)
    except StoreUnavailable as fault:
        _log.warning("history_unreadable", fault=str(fault))
        return
    for record in reversed(records):
        state.forecast.recall(record)


async def _restore_tokens(feeds: Feeds, jobs: list[Job], reader: JobReader) -> None:
    """Read back what was delivered of jobs that had begun: their next attempt, or their worker, goes on there.

    Raises:
        StartFailed: The store does not tell; to go on without would be to say tokens twice.
    """
    for job in jobs:
        if not job.attempt:
            continue
        try:
            rows = await reader.tokens(job.job_id)
        except StoreUnavailable as fault:
            raise StartFailed(
                f"the store does not give back what was delivered: {fault}"
            ) from fault
        if not rows:
            continue
        feed = feeds.open(JobId(job.job_id))
        for row in rows:
            feed.log.append(frame_of(row))
        feed.saved_index = feed.log.next_index


class Queen:
    """One running queen. Made by `main`; tests make one with a store and a clock of their own."""

    def __init__(
        self,
        settings: QueenSettings,
        store: _Store,
        state: QueenState,
        feeds: Feeds,
        clock: Clock,
        traces: JobTraces,
        incarnation: str,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._store = store
        self._state = state
        self._feeds, self._links, self._hosts = feeds, Links(), Hosts()
        self._answers = Answers()
        self.loop = WriterLoop(state, store.writer, clock)
        self._sandbox = Sandbox()
        self.policies = PolicyRuntime(
            state, clock, self.loop.poke, self._sandbox, settings.journal_folder()
        )
        self.desk = Desk(
            mode=settings.policy_mode,
            runtime=self.policies,
            versions=store.versions,
            sandbox=self._sandbox,
            clock=clock,
        )
        self.figures = Figures()
        metrics = QueenMetrics(self.figures)
        self.policies.on_decided = lambda record, outcome: metrics.decided(record, outcome, state)
        self._relay = Relay(
            state, feeds, clock, self.loop.post, self.loop.poke, metrics, traces.timelines
        )
        self._gauges = Gauges(
            self.figures, loop=self.loop, relay=self._relay, policies=self.policies, metrics=metrics
        )
        tls = TlsFiles(settings, clock)
        protection = protect(settings, tls, clock, audit=settings.audit_file())
        self._scrapes = MetricsServer(self.figures.registry, settings.metrics_listen, protection)
        self._actor = QueenActor(
            state=state,
            clock=clock,
            feeds=feeds,
            links=self._links,
            hosts=self._hosts,
            relay=self._relay,
            prompts=Prompts(store.reader),
            traces=traces,
            answers=self._answers,
            post=self.loop.post,
            welcome_incarnation=incarnation,
            work_calls=WorkCalls(self.loop.post),
            metrics=metrics,
        )
        self.server = RpcServer(
            "queen",
            listen=settings.listen,
            admin_listen=settings.admin_listen,
            telemetry=traces.telemetry,
            stall_ms=settings.reader_stall_ms,
            protection=protection,
        )
        self._register()

    def _register(self) -> None:
        """Register every service that the queen hosts."""
        fleet = FleetServicer(
            state=self._state,
            hosts=self._hosts,
            answers=self._answers,
            clock=self._clock,
            post=self.loop.post,
            stale_writes=lambda: self._relay.stale_epoch_writes_count,
        )
        home_of = home_in(self._state)
        workers = WorkerServicer(self._links, self._relay, self.loop.post, home_of)
        pools = PoolServicer(self._hosts, self._clock, self.loop.post, home_of)
        register = self.server.register
        register(
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server,
            self._inference_servicer(),
        )
        register(fleet_service_pb2_grpc.add_FleetServiceServicer_to_server, fleet)
        policies = PolicyServicer(
            self.desk, self.policies.decisions, Simulating(self.desk, self._state)
        )
        register(policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, policies)
        register(worker_service_pb2_grpc.add_WorkerServiceServicer_to_server, workers)
        register(pool_service_pb2_grpc.add_PoolServiceServicer_to_server, pools)
        leases = LeaseServicer(
            loop=self.loop,
            calls=self._actor.work_calls,
            looking=WorkLooking(self._state, self._store.work, self._clock),
            clock=self._clock,
        )
        register(lease_service_pb2_grpc.add_LeaseServiceServicer_to_server, leases)
        history = HistoryServicer(self._store.history)
        register(history_service_pb2_grpc.add_HistoryServiceServicer_to_server, history)

    def _inference_servicer(self) -> InferenceServicer:
        reader = RefusingReader(self._store.reader)
        submissions = Submissions(
            loop=self.loop,
            reader=reader,
            prompts=self._actor.prompts,
            answers=self._answers,
            traces=self._actor.traces,
            clock=self._clock,
            paths=PrefixPaths() if self._settings.prefix_affinity else None,
        )
        following = Following(
            state=self._state,
            feeds=self._feeds,
            reader=reader,
            clock=self._clock,
            settled=self.loop.settled,
            waiting=Waiting(self._state, self._clock),
        )
        return InferenceServicer(
            loop=self.loop,
            reader=reader,
            submissions=submissions,
            following=following,
            feeds=self._feeds,
            answers=self._answers,
            explaining=Explaining(
                state=self._state,
                history=self._store.history,
                pictures=self._actor.pictures,
                decisions=self.policies.decisions,
                clock=self._clock,
            ),
            clock=self._clock,
        )

    @property
    def metrics_address(self) -> str | None:
        """Where figures are read; None: nowhere, or not yet."""
        return self._scrapes.address

    async def run(self, stop: Stop) -> None:
        """Serve until `stop`, then drain: nothing new, followers told to come back, what was taken in made durable."""
        try:
            await self._open_desk()
            await self._serve(stop)
        finally:
            # Hosts of policies end with the queen, whatever it ends by.
            await self.desk.close()
            await self.policies.close()
            await self._sandbox.close()

    async def _open_desk(self) -> None:
        """Let the policy decide that decided last; the platform policy, if it cannot."""
        try:
            await self.desk.open()
        except StoreUnavailable as fault:
            raise StartFailed(f"the store does not tell which policy is active: {fault}") from fault

    async def _serve(self, stop: Stop) -> None:
        await self.server.start()
        self._scrapes.start()
        announce(
            "queen",
            self.server.address,
            admin_address=self.server.admin_address,
            metrics_address=self._scrapes.address,
        )
        writer = asyncio.create_task(self.loop.run(self._actor, self.policies))
        ticker = asyncio.create_task(self.loop.tick())
        keeper = asyncio.create_task(every(self._clock, limits.RETENTION_INTERVAL_MS, self._forget))
        meter = asyncio.create_task(self._measure())
        reader = asyncio.create_task(self._read_gauges())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((writer, ticker, stopping), return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            for task in (ticker, keeper, meter, reader, stopping):
                task.cancel()
            self.loop.stop()
            await asyncio.gather(ticker, keeper, meter, reader, stopping, return_exceptions=True)
            # The writer ends by itself; a fault in it ends the queen, and the restart takes up from the store.
            await writer
            await asyncio.to_thread(self._scrapes.stop)

    async def _measure(self) -> None:
        """Tell the governor how the queen's own calls are doing, for ever."""
        while True:
            figures = self.server.call_figures()
            self.loop.post(ApiMeasured(ApiLoad(**figures._asdict())))
            await self._clock.sleep_ms(limits.API_MEASURE_INTERVAL_MS)

    async def _read_gauges(self) -> None:
        """Show Prometheus how things are, for ever."""
        while True:
            self._gauges.read()
            await self._clock.sleep_ms(limits.METRICS_INTERVAL_MS)

    async def _drain(self) -> None:
        await self.server.drain()
        self.loop.post(DrainBegun())
        self._feeds.close_all(
            Refused(
                reason=Refusal.DRAINING,
                message="the queen is shutting down; resume with WatchJob in a moment",
                retry_after_ms=limits.RECONNECT_MAX_MS,
            )
        )
        self._links.close_all()
        self._hosts.close_all()
        self.policies.decisions.close()
        await self.server.stop(limits.RECONNECT_MAX_MS)

    async def _forget(self) -> None:
        """Delete jobs that ended longer ago than they are kept."""
        kept_ms = int(self._settings.retention_hours * 3_600_000)
        try:
            now_ms = self._clock.now().wall_ms
            count = await self._store.writer.forget(ended_before_ms=now_ms - kept_ms)
            await self._store.writer.forget_history(
                ended_before_ms=now_ms - int(self._settings.history_days * 24 * 3_600_000),
                rows_max=self._settings.history_rows,
            )
        except StoreUnavailable as fault:
            _log.warning("retention_failed", fault=str(fault))
            return
        if count:
            _log.info("jobs_forgotten", count=count)
