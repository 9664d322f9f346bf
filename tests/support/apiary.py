"""A queen's core with a little world round it: streams, heartbeats, a clock, a restart. No I/O, no chance of its own.

The platform policy decides, by its twin in Python. Every step is checked: the state's invariants hold, the policy's
mirror equals the state, and no effect promises what the batch does not first make durable.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace

from beeyard_core import limits
from beeyard_core.effect import (
    Accept,
    AnnounceEnded,
    AnnounceRequeued,
    Effect,
    Offer,
    Revoke,
    SaveJob,
    SaveScale,
    Welcome,
)
from beeyard_core.event import (
    Event,
    LeaseClaim,
    PoolReported,
    Ticked,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
)
from beeyard_core.fleet import PoolReport, WorkerReport
from beeyard_core.ids import JobId, ModelName, PoolId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Job
from beeyard_core.policy.projection import Projection, world_of
from beeyard_core.policy.schedule import schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.policy.world import World
from beeyard_core.restore import restore
from beeyard_core.scaling import Scale
from beeyard_core.sessions import SessionKey, Spending
from beeyard_core.state import QueenState, Settings
from beeyard_core.step import step

from tests.support.core_values import START, check_invariants, check_quotas

Timed = tuple[int, Effect]


def holders_in(world: World) -> dict[str, dict[str, int]]:
    """Return who has which prompt in a world, as the twin keeps it."""
    holders: dict[str, dict[str, int]] = {}
    for row in world.prefixes.values():
        holders.setdefault(row.prompt_hash, {})[row.worker_id] = row.tokens
    return holders


@dataclass(slots=True)
class Link:
    """One worker's stream; a worker that is mute keeps it open and says nothing."""

    report: WorkerReport
    session: int
    is_mute: bool = False


@dataclass(slots=True)
class Apiary:
    """One queen after another over one durable memory.

    Attributes:
        links: Workers whose stream is open.
        pools: The last report of every host that has not gone silent.
        durable: The jobs as the store has them.
        effects: Everything that the queens ever asked for, with the monotonic time.
        checks: Whether each step is checked, and everything kept for a restart; it takes most of the time.
        scales: What was said of models at run time, as the store has it.
        budgets: What ended jobs used of the budgets of their sessions, as the store has it.
    """

    settings: Settings = field(default_factory=Settings)
    now: Instant = START
    state: QueenState = field(default_factory=QueenState)
    links: dict[WorkerId, Link] = field(default_factory=dict)
    pools: dict[PoolId, PoolReport] = field(default_factory=dict)
    durable: dict[JobId, Job] = field(default_factory=dict)
    effects: list[Timed] = field(default_factory=list)
    scales: dict[ModelName, Scale] = field(default_factory=dict)
    budgets: dict[SessionKey, Spending] = field(default_factory=dict)
    twin: Twin = field(default_factory=Twin)
    projection: Projection = field(default_factory=Projection)
    checks: bool = True
    sessions_count: int = 0
    ticked_at_ms: int = START.mono_ms

    def __post_init__(self) -> None:
        """Give the first queen its settings."""
        self.state.settings = self.settings
        self.twin = self._new_twin()

    def _new_twin(self) -> Twin:
        scaling = self.settings.scaling
        return Twin(residence_ms=scaling.residence_ms, eviction=scaling.eviction)

    def happen(self, event: Event) -> list[Effect]:
        """Let one event happen now; return its effects."""
        effects = step(self.state, event, self.now)
        self.decide(effects)
        if self.checks:
            check_invariants(self.state)
            check_quotas(self.state)
            self._check_mirror()
            self._check_promises(effects)
        for effect in effects:
            if isinstance(effect, SaveJob) and self.checks:
                self.durable[effect.job_id] = deepcopy(self.state.jobs[effect.job_id])
            if isinstance(effect, SaveScale):
                self.scales = dict(self.state.scales.by_model)
        for key, spent in self.state.quotas.sessions.take_unsaved():
            used = (spent.ended_tokens, spent.ended_cost_units)
            self.budgets[key] = Spending.of_ended(*used, spent.used_at_ms)
        self.effects += [(self.now.mono_ms, effect) for effect in effects]
        return effects

    def decide(self, effects: list[Effect]) -> None:
        """Let the policy decide."""
        schedule(self.state, self.projection, self.twin, self.now, effects)

    def _check_mirror(self) -> None:
        """What the policy was told, change by change, is what there is."""
        self.twin.take(self.projection.drain(self.state, self.now.mono_ms))
        if self.projection.looked_at_ms != self.now.mono_ms:
            return  # who fell silent since the last tick is noticed with the next one
        world = world_of(self.state, self.now.mono_ms, self.projection)
        twin = self.twin
        assert twin.lines.jobs == world.jobs
        assert twin.yard.workers == world.workers
        assert twin.yard.runs == world.running
        assert twin.yard.pools == world.pools
        assert twin.yard.gpus == world.gpus
        assert twin.yard.models == world.models
        assert twin.yard.holders == holders_in(world)
        assert twin.tenants == world.tenants

    def _check_promises(self, effects: list[Effect]) -> None:
        """Whoever hears of a job's acceptance, offer, return or end hears what is durable."""
        saved = {effect.job_id for effect in effects if isinstance(effect, SaveJob)}
        for effect in effects:
            match effect:
                case Accept() | AnnounceEnded() | AnnounceRequeued():
                    assert effect.job_id in saved, effect
                case Offer():
                    assert self.state.leases[effect.lease_id].job_id in saved, effect
                case Welcome(worker_id, session, adopted):
                    # What a worker may go on with is what the queen counts on, and nothing else.
                    worker = self.state.fleet.workers[worker_id]
                    held = {each for each in worker.leases if self.state.leases[each].is_current}
                    ours = {lease_id for lease_id, _ in adopted}
                    offered = {e.lease_id for e in effects if isinstance(e, Offer)}
                    # Adopted, and taken back at once for somebody more urgent.
                    revoked = {e.lease_id for e in effects if isinstance(e, Revoke)}
                    assert worker.session == session
                    assert held - offered == ours - revoked
                case _:
                    pass

    def attach(
        self, report: WorkerReport, claims: tuple[LeaseClaim, ...] = (), incarnation: str = ""
    ) -> list[Effect]:
        """A worker opens a stream, or another one."""
        self.sessions_count += 1
        self.links[report.worker_id] = Link(report, self.sessions_count)
        return self.happen(
            WorkerAttached(
                session=self.sessions_count,
                report=report,
                incarnation=incarnation,
                claims=claims,
            )
        )

    def detach(self, worker_id: WorkerId) -> list[Effect]:
        """A worker's stream breaks."""
        link = self.links.pop(worker_id)
        return self.happen(WorkerDetached(worker_id, link.session))

    def heartbeat(self, worker_id: WorkerId) -> list[Effect]:
        """A worker says how it is."""
        link = self.links[worker_id]
        return self.happen(WorkerReported(session=link.session, report=link.report))

    def snapshot(self, report: PoolReport, *, is_first: bool = False) -> list[Effect]:
        """A host says how it is."""
        self.pools[report.pool_id] = report
        return self.happen(PoolReported(report, is_first))

    def advance(self, ms: int) -> list[Timed]:
        """Let time pass: ticks, and once a second a heartbeat of every worker and host that is not mute.

        Returns:
            What happened, each with the milliseconds since the beginning.
        """
        begin, end = self.now, self.now.later(ms)
        happened: list[Timed] = []
        while self.now.mono_ms < end.mono_ms:
            step_ms = min(limits.TICK_INTERVAL_MS, end.mono_ms - self.now.mono_ms)
            self.now = self.now.later(step_ms)
            effects: list[Effect] = []
            if self.now.mono_ms - self.ticked_at_ms >= limits.HEARTBEAT_INTERVAL_MS:
                self.ticked_at_ms = self.now.mono_ms
                effects += self._beat()
            effects += self.happen(Ticked())
            elapsed_ms = self.now.mono_ms - begin.mono_ms
            happened += [(elapsed_ms, effect) for effect in effects]
        return happened

    def _beat(self) -> list[Effect]:
        effects: list[Effect] = []
        for report in list(self.pools.values()):
            effects += self.happen(PoolReported(report))
        for worker_id, link in list(self.links.items()):
            if not link.is_mute:
                effects += self.heartbeat(worker_id)
        return effects

    def restart(self, away_ms: int = 0) -> None:
        """Kill the queen; another starts with what was durable, and every stream is broken."""
        self.now = self.now.later(away_ms)
        self.links.clear()
        models = set(self.state.fleet.known_models)
        self.settings = replace(self.settings, incarnation=self.settings.incarnation + "x")
        self.state = restore(
            self.settings,
            [deepcopy(job) for job in self.durable.values() if not job.is_ended],
            epoch=max((job.epoch for job in self.durable.values()), default=0),
            sequence=max((job.sequence for job in self.durable.values()), default=0),
            models=models,
            now=self.now,
            scales=self.scales,
            sessions=deepcopy(self.budgets),
        )
        self.twin, self.projection = self._new_twin(), Projection()
        check_invariants(self.state)
