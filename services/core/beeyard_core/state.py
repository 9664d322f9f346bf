"""Everything that the queen decides by. The loop owns it, `step` updates it in place, nothing else writes it."""

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, unique

from beeyard_core import history_limits, limits
from beeyard_core.backpressure import QueueSettings
from beeyard_core.fleet import DesiredState, DesiredWorker, Fleet
from beeyard_core.forecast import Forecast
from beeyard_core.history import LeaseRecord
from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, PoolId, TenantId, WorkerId
from beeyard_core.job import Job, Priority
from beeyard_core.lease import Lease
from beeyard_core.prefix_index import PrefixIndex
from beeyard_core.queue import JobQueue
from beeyard_core.quota import QuotaSettings
from beeyard_core.scaling import Scale, Scales, ScaleSettings
from beeyard_core.tenants import Tenants
from beeyard_core.turns import Turns
from beeyard_core.work_yard import CapacitySettings, WorkYard


@unique
class TimerKind(Enum):
    """What a timer is for."""

    __hash__ = object.__hash__  # see `job.JobState`

    DEADLINE = "deadline"
    SILENCE = "silence"
    OFFER = "offer"
    REVOCATION = "revocation"
    REST = "rest"
    HOLD = "hold"


@dataclass(slots=True)
class Wish:
    """A worker that should be, and where. `device` is empty: the pool manager chooses."""

    pool_id: PoolId
    desired: DesiredWorker
    wished_at_ms: int
    #: The host reported the process at least once.
    is_seen: bool = False
    #: Its model was loaded: whatever ends it now, the model can be.
    has_loaded: bool = False


@dataclass(slots=True)
class LoadFailures:
    """How often in a row a model could not be loaded, why, and when it may be tried again.

    Attributes:
        tries: Those that ended without success; workers that were started side by side are one.
        kills: Those of them in which a worker was killed from outside.
        counted_at_ms: When the last of them ended.
        was_killed: Whether a worker of the last of them was killed.
        retry_at_ms: No worker of the model is wished for before.
        message: What the last worker that ended by a fault left behind.
    """

    tries: int = 0
    kills: int = 0
    counted_at_ms: int = -1
    was_killed: bool = False
    retry_at_ms: int = 0
    message: str = ""

    def count(self, wished_at_ms: int, now_ms: int, *, was_killed: bool) -> None:
        """Count the end of a worker that had not loaded, unless it is of a try that was counted before."""
        if wished_at_ms > self.counted_at_ms:
            self.tries, self.counted_at_ms, self.was_killed = self.tries + 1, now_ms, False
        if was_killed and not self.was_killed:
            self.kills, self.was_killed = self.kills + 1, True

    @property
    def is_hopeless(self) -> bool:
        """Whether trying on helps nobody who waits. Of kills it takes more, since whoever kills may stop."""
        failed = self.tries - self.kills
        return failed >= limits.LOAD_FAILURES_MAX or self.tries >= limits.LOAD_KILLS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator chose.

    Attributes:
        incarnation: Drawn at each start; part of the names of workers that this queen asks for.
        default_model: What a job without a model gets; empty: the only model there is.
        lease_ttl_ms: How long a worker may be silent before its leases expire.
        start_on_demand: Whether a worker is started for a model that nobody serves although no policy asked for it.
        hold_background: Whether background work steps aside before hours that are usually full of urgent work.
        policy_config: What policies find in `context.config`.
        capacity: Units for heavy work, and what inference has to do with them.
        quotas: What each tenant may have.
        queue: How many jobs may wait, and what happens when more come.
        scaling: How many workers each model should have, and when one makes room for another.
    """

    incarnation: str = "q"
    default_model: ModelName = ModelName("")
    lease_ttl_ms: int = limits.LEASE_TTL_MS
    start_on_demand: bool = True
    hold_background: bool = False
    policy_config: tuple[tuple[str, str | float | bool], ...] = ()
    capacity: CapacitySettings = field(default_factory=CapacitySettings)
    quotas: QuotaSettings = field(default_factory=QuotaSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    scaling: ScaleSettings = field(default_factory=ScaleSettings)


@dataclass(slots=True)
class Touched:
    """What changed since a policy's mirror was last brought up to date: keys only, each once, in the order of the
    changes. Fleet and policy read the present state by them, so that a change and its opposite cost nothing.

    Attributes:
        jobs: Jobs that joined or left the queue.
        runs: Jobs whose lease began, was taken back, or ended.
        pools: Hosts that reported.
        tenants: Tenants that were served, or of whom more or fewer jobs run.
    """

    jobs: dict[JobId, None] = field(default_factory=dict)
    runs: dict[JobId, None] = field(default_factory=dict)
    pools: dict[PoolId, None] = field(default_factory=dict)
    tenants: dict[TenantId, None] = field(default_factory=dict)


@dataclass(slots=True)
class Counts:
    """What happened since the queen's start and can be seen from no present state.

    Attributes:
        leases_expired: Leases that ended since nothing was heard of their holder, heavy work included.
        preemptions: Attempts that were taken back for more urgent jobs.
    """

    leases_expired: int = 0
    preemptions: int = 0


@dataclass(slots=True)
class Tenant:
    """What a tenant has of the fleet.

    Attributes:
        tokens_served: The virtual token counter of fair share: tokens generated for it, prompt tokens included.
        jobs_running: Its jobs that hold a lease which counts.
        jobs_waiting: Its jobs in the queue.
        turns: Whose turn it is of its sessions, by class and model.
    """

    tokens_served: int = 0
    jobs_running: int = 0
    jobs_waiting: int = 0
    turns: dict[tuple[Priority, ModelName], Turns] = field(default_factory=dict)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits or runs."""
        return not (self.jobs_waiting or self.jobs_running)


@dataclass(slots=True)
class QueenState:
    """The queen's whole memory.

    Attributes:
        now_ms: Monotonic time of the event that was taken in last.
        touched: What a policy's mirror must still be told; `policy/projection.py` takes it out.
        shares: Heap of (tokens served, tenant) of those that wait or run; entries may be out of date (`fairness.py`).
        starts: Jobs of each model that started since one was last chosen that waited for too long.
        next_jobs: The job that should start next, by model, where one waited for too long (`overdue.py`).
        ask_at_ms: When the policy wants to be asked again although nothing changed; None: it does not.
        jobs: Every job that has not ended, and the youngest ended ones.
        leases: Every lease that occupies a slot, by id.
        requests: Job by idempotency key.
        ended: Ended jobs still kept, oldest first.
        ended_leases: What is to be remembered of leases that ended, until whoever drives the core takes it; of too many
            the oldest are lost.
        timers: Heap of (due in monotonic ms, number, kind, id); `armed` has the kind and id of each.
        trials: Of the jobs that were lost with one worker, twice and more, the one that is tried now; by that worker.
        wishes: Workers that should be, by id.
        drained: Incarnations of workers that are to take no new work, by worker; they may come and go meanwhile.
        answered: Worker and pool by the idempotency key of the operator's request.
    """

    settings: Settings = Settings()
    counts: Counts = field(default_factory=Counts)
    now_ms: int = 0
    touched: Touched = field(default_factory=Touched)
    ask_at_ms: int | None = None
    tenants: dict[TenantId, Tenant] = field(default_factory=dict)
    shares: list[tuple[int, TenantId]] = field(default_factory=list)
    jobs: dict[JobId, Job] = field(default_factory=dict)
    leases: dict[LeaseId, Lease] = field(default_factory=dict)
    queue: JobQueue = field(default_factory=JobQueue)
    starts: dict[ModelName, int] = field(default_factory=dict)
    next_jobs: dict[ModelName, JobId] = field(default_factory=dict)
    fleet: Fleet = field(default_factory=Fleet)
    forecast: Forecast = field(default_factory=Forecast)
    requests: dict[tuple[TenantId, str], JobId] = field(default_factory=dict)
    ended: deque[JobId] = field(default_factory=deque)
    ended_leases: deque[LeaseRecord] = field(
        default_factory=lambda: deque(maxlen=history_limits.ENDED_LEASES_KEPT_MAX)
    )
    timers: list[tuple[int, int, TimerKind, str]] = field(default_factory=list)
    timer_count: int = 0
    armed: set[tuple[TimerKind, str]] = field(default_factory=set)
    trials: dict[WorkerId, JobId] = field(default_factory=dict)
    wishes: dict[WorkerId, Wish] = field(default_factory=dict)
    answered: dict[str, tuple[WorkerId, PoolId]] = field(default_factory=dict)
    drained: dict[WorkerId, str] = field(default_factory=dict)
    failures: dict[ModelName, LoadFailures] = field(default_factory=dict)
    desired_sent: dict[PoolId, tuple[DesiredWorker, ...]] = field(default_factory=dict)
    worker_count: int = 0
    work: WorkYard = field(default_factory=WorkYard)
    quotas: Tenants = field(default_factory=Tenants)
    scales: Scales = field(default_factory=Scales)
    prefixes: PrefixIndex = field(default_factory=PrefixIndex)
    sequence: int = 0
    epoch: Epoch = Epoch(0)
    is_draining: bool = False

    def scale_of(self, model: ModelName) -> Scale:
        """How many workers of a model there should be."""
        said, settings = self.scales.by_model.get(model), self.settings.scaling
        return said or settings.by_model.get(model, settings.otherwise)

    def note_loaded(self, model: ModelName, worker_id: WorkerId) -> None:
        """Remember that a worker has its model loaded: whatever failed before, it can be."""
        self.failures.pop(model, None)
        if (wish := self.wishes.get(worker_id)) is not None:
            wish.has_loaded = True

    def is_given_up(self, model: ModelName) -> bool:
        """Whether a model cannot be loaded: it was tried often enough, and nobody has it or is about to load it."""
        failures = self.failures.get(model)
        if failures is None or not failures.is_hopeless or model in self.fleet.by_model:
            return False
        coming = (wish.desired for wish in self.wishes.values())
        return not any(d.model == model and d.state is DesiredState.RUNNING for d in coming)

    def next_epoch(self) -> Epoch:
        """Return an epoch that no lease ever had."""
        self.epoch = Epoch(self.epoch + 1)
        return self.epoch

    def next_sequence(self) -> int:
        """Return the next number in the order of acceptance."""
        self.sequence += 1
        return self.sequence

    def set_timer(self, due_ms: int, kind: TimerKind, key: str) -> None:
        """Ask to be reminded at a monotonic time, unless a reminder of that kind and key is pending already.

        A timer is never cancelled; what it finds when it fires decides, and may set it anew.
        """
        if (kind, key) in self.armed:
            return
        self.armed.add((kind, key))
        self.timer_count += 1
        heapq.heappush(self.timers, (due_ms, self.timer_count, kind, key))

    def due_timers(self, now_ms: int) -> list[tuple[TimerKind, str]]:
        """Take out every timer that is due, in order."""
        due = []
        while self.timers and self.timers[0][0] <= now_ms:
            _, _, kind, key = heapq.heappop(self.timers)
            self.armed.discard((kind, key))
            due.append((kind, key))
        return due
