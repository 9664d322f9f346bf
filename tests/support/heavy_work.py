"""A queen's core with nothing but hosts and heavy work: asks, answers, a clock, a restart. No I/O and no chance.

Every step is checked: the yard's invariants hold, and no answer promises what the batch does not first make durable.
"""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace

from beeyard_core import limits
from beeyard_core.effect import AnswerWork, Effect, SaveWork
from beeyard_core.event import ApiMeasured, Event, PoolReported, Ticked, WorkAsked
from beeyard_core.fleet import HostLoad
from beeyard_core.governor import ApiLoad
from beeyard_core.ids import Epoch, LeaseId, PoolId, WorkerId, WorkId
from beeyard_core.instant import Instant
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.restore import restore
from beeyard_core.state import QueenState, Settings
from beeyard_core.step import step
from beeyard_core.work import Work, WorkLease, WorkSpec, WorkState
from beeyard_core.work_ask import (
    Claim,
    Denied,
    Granted,
    LeaseWanted,
    Submission,
    Told,
    WorkAnswer,
    WorkAsk,
)
from beeyard_core.work_restore import restore_work
from beeyard_core.work_yard import CapacitySettings

from tests.support.core_values import START, pool_of

IDLE_HOST = HostLoad(cpu_percent=10.0, memory_percent=20.0)
IDLE_API = ApiLoad(latency_p95_ms=5.0, error_percent=0.0, calls_inflight=3)


def work_spec(kind: str = "backup", **changes: object) -> WorkSpec:
    """Work of ten units."""
    return replace(WorkSpec(kind=kind, units=10), **changes)  # type: ignore[arg-type]


def claim_of(lease: WorkLease) -> Claim:
    """What the holder of a lease says."""
    return Claim(lease.lease_id, lease.epoch, lease.holder)


def wanted(holder: str = "w1", **changes: object) -> LeaseWanted:
    """Somebody who can do anything."""
    return replace(LeaseWanted(holder=WorkerId(holder)), **changes)  # type: ignore[arg-type]


@dataclass(slots=True)
class HeavyWork:
    """One queen after another over one durable memory, with hosts that report every second unless they are mute."""

    settings: Settings = field(default_factory=Settings)
    now: Instant = START
    state: QueenState = field(default_factory=QueenState)
    durable: dict[WorkId, Work] = field(default_factory=dict)
    hosts: dict[str, HostLoad | None] = field(default_factory=lambda: {"p1": IDLE_HOST})
    api: ApiLoad | None = IDLE_API
    grants: list[WorkLease] = field(default_factory=list)
    calls_count: int = 0
    works_count: int = 0
    twin: Twin = field(default_factory=Twin)
    projection: Projection = field(default_factory=Projection)

    def __post_init__(self) -> None:
        """Give the first queen its settings and measurements."""
        self.state.settings = self.settings
        self.report()

    # --- The world ---

    def happen(self, event: Event) -> list[Effect]:
        """Let one event happen now; return its effects."""
        effects = step(self.state, event, self.now)
        schedule(self.state, self.projection, self.twin, self.now, effects)
        check_yard(self.state)
        for effect in effects:
            if isinstance(effect, SaveWork):
                self.durable[effect.work_id] = deepcopy(self.state.work.works[effect.work_id])
        return effects

    def report(self) -> None:
        """Let every host report, and the queen measure its calls; then the tick that rates them."""
        for pool_id, load in self.hosts.items():
            self.happen(PoolReported(pool_of(pool_id, load=load)))
        if self.api is not None:
            self.happen(ApiMeasured(self.api))
        self.happen(Ticked())

    def load(self, cpu: float = 10.0, memory: float = 20.0, host: str = "p1") -> None:
        """Let a host report how busy it is."""
        self.hosts[host] = HostLoad(cpu_percent=cpu, memory_percent=memory)
        self.report()

    def advance(self, ms: int, *, mute: bool = False) -> None:
        """Let time pass, tick by tick; hosts report once a second unless they are mute."""
        end = self.now.later(ms)
        while self.now.mono_ms < end.mono_ms:
            step_ms = min(limits.TICK_INTERVAL_MS, end.mono_ms - self.now.mono_ms)
            self.now = self.now.later(step_ms)
            if self.now.mono_ms % 1_000 < step_ms and not mute:
                self.report()
            else:
                self.happen(Ticked())

    def restart(self, away_ms: int = 0) -> None:
        """Kill the queen; another starts with what was durable."""
        self.now = self.now.later(away_ms)
        works = [deepcopy(work) for work in self.durable.values() if not work.is_ended]
        epoch = max((work.epoch for work in self.durable.values()), default=0)
        self.state = restore(self.settings, [], epoch=epoch, sequence=0, models=(), now=self.now)
        sequence = max((work.sequence for work in self.durable.values()), default=0)
        restore_work(self.state, works, sequence=sequence, now=self.now)
        self.twin, self.projection = Twin(), Projection()
        check_yard(self.state)
        self.report()

    # --- Asks ---

    def ask(self, ask: WorkAsk) -> WorkAnswer:
        """Ask, and return the one answer; whatever it tells of is durable."""
        self.calls_count += 1
        effects = self.happen(WorkAsked(self.calls_count, ask))
        answers = [effect for effect in effects if isinstance(effect, AnswerWork)]
        assert [answer.call_id for answer in answers] == [self.calls_count]
        assert effects[-1] is answers[0], "the answer comes after what must be saved"
        answer = answers[0].answer
        if isinstance(answer, Granted):
            self.grants.append(answer.lease)
            self._check_grant(answer.lease)
        if isinstance(answer, Told):
            assert answer.work_id in self.durable
        return answer

    def _check_grant(self, lease: WorkLease) -> None:
        saved = self.durable[lease.work_id].lease
        assert saved is not None
        assert (saved.lease_id, saved.epoch) == (lease.lease_id, lease.epoch)

    def submit(self, kind: str = "backup", *, request_id: str = "", **changes: object) -> WorkId:
        """Queue work that is accepted."""
        answer = self.ask(self.submission(kind, request_id=request_id, digest=b"", **changes))
        assert isinstance(answer, Told), answer
        return answer.work_id

    def submission(
        self, kind: str = "backup", *, request_id: str = "", digest: bytes = b"", **changes: object
    ) -> Submission:
        """A new piece of work."""
        self.works_count += 1
        return Submission(
            work_id=WorkId(f"work-{self.works_count}"),
            spec=work_spec(kind, **changes),
            request_id=request_id,
            digest=digest,
        )

    def lease(self, holder: str = "w1", **changes: object) -> WorkLease:
        """Ask for a lease that is granted."""
        answer = self.ask(wanted(holder, **changes))
        assert isinstance(answer, Granted), answer
        return answer.lease

    def denial(self, holder: str = "w1", **changes: object) -> Denied:
        """Ask for a lease that is not."""
        answer = self.ask(wanted(holder, **changes))
        assert isinstance(answer, Denied), answer
        return answer

    def work(self, work_id: str) -> Work:
        """Look at a piece of work."""
        return self.state.work.works[WorkId(work_id)]

    def state_of(self, work_id: str) -> WorkState:
        """Return the state of a piece of work."""
        return self.work(work_id).state

    def used(self, pool_id: str = "p1") -> int:
        """Return the units in use on a host."""
        return self.state.work.units_used.get(PoolId(pool_id), 0)


def yard_with(**changes: object) -> HeavyWork:
    """A yard whose operator chose these settings of capacity."""
    capacity = CapacitySettings(**changes)  # type: ignore[arg-type]
    return HeavyWork(settings=Settings(capacity=capacity))


def check_yard(state: QueenState) -> None:
    """Assert what must be true of heavy work between any two events."""
    yard = state.work
    units: Counter[PoolId] = Counter()
    for work in yard.works.values():
        is_held = work.state in (WorkState.LEASED, WorkState.RUNNING)
        assert (work.lease is not None) == is_held
        assert (work.work_id in yard.queue) == (work.state is WorkState.QUEUED)
        assert (work.ended_at is not None) == work.is_ended == (work.work_id in yard.ended)
        assert work.attempt <= work.spec.max_attempts
        assert work.epoch <= state.epoch
        if work.lease is not None:
            assert (work.lease.epoch, work.lease.work_id) == (work.epoch, work.work_id)
            assert yard.leases[work.lease.lease_id] == work.work_id
            units[work.lease.pool_id] += work.lease.units
    held = [work for work in yard.works.values() if work.lease is not None]
    assert len(yard.leases) == len(held), "a lease that is nobody's"
    for lease in yard.lingering.values():
        assert lease.lease_id not in yard.leases
        units[lease.pool_id] += lease.units
    assert yard.units_used == dict(units)
    assert len(yard.queue) == sum(depth.pieces for depth in yard.queue.depths().values())
    for key, lease_id in yard.grants.items():
        granted = yard.works[yard.leases[lease_id]].lease
        assert granted is not None
        assert (granted.holder, granted.request_id) == key
    for work_id in yard.at_door:
        assert work_id in yard.queue


def lease_named(epoch: int, holder: str = "w1") -> Claim:
    """A claim out of thin air."""
    return Claim(LeaseId(f"lease-{epoch}"), Epoch(epoch), WorkerId(holder))
