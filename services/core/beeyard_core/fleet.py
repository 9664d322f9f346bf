"""What the queen knows of hosts and workers: their reports, and the indexes that make a decision cheap.

Reports say what *is* and replace each other; nothing here depends on a message that must arrive exactly once. Every
derived figure (leases held, KV tokens promised, which workers are open) is kept up to date at each change, so that a
decision costs no walk over the fleet.
"""

from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final, TypeVar

from beeyard_core import limits
from beeyard_core.ids import LeaseId, ModelName, PoolId, WorkerId
from beeyard_core.job import Priority
from beeyard_core.speeds import Speeds

#: The extension of a worker whose engine keeps what it computed of a prompt for the prompts after it.
PREFIX_CACHE: Final = "prefix_cache"


@unique
class WorkerState(Enum):
    """Where in its life a worker process is."""

    __hash__ = object.__hash__  # see `job.JobState`

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    FAILED = "failed"


#: A worker that is in one of these has its model loaded and takes jobs.
SERVING: Final = (WorkerState.READY, WorkerState.BUSY)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What a worker says of itself.

    Attributes:
        slots_total: Answers that it generates at once.
        kv_tokens_total: KV memory that its slots share, in tokens.
        context_tokens: Longest prompt plus answer of one job, in tokens.
        load_progress: How much of the model is loaded, 0 to 1.
        tokens_per_s: Measured decode speed of one slot; 0: nothing measured yet.
        extensions: What it can do beyond generating, in words such as `PREFIX_CACHE`.
    """

    worker_id: WorkerId
    pool_id: PoolId
    model: ModelName
    engine: str
    state: WorkerState
    slots_total: int
    kv_tokens_total: int
    context_tokens: int
    address: str = ""
    device: str = ""
    engine_version: str = ""
    quantization: str = ""
    deterministic: bool = False
    token_ids: bool = False
    load_progress: float = 0.0
    tokens_per_s: float = 0.0
    uptime_s: float = 0.0
    failure: str = ""
    extensions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device that can hold a model; memory in bytes, `vram_free_bytes` as measured by the host."""

    uuid: str
    kind: str
    name: str
    vram_total_bytes: int
    vram_free_bytes: int
    compute_capability: tuple[int, int] | None = None
    utilization: float = 0.0
    temperature_c: float = 0.0
    power_w: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """A model that a host can load.

    Attributes:
        required_bytes: What a worker of it would need; 0: unknown.
        context_tokens: Longest prompt plus answer that a worker of it would take; 0: unknown.
    """

    model: ModelName
    engine: str
    required_bytes: int = 0
    quantization: str = ""
    context_tokens: int = 0
    size_bytes: int = 0
    architecture: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessReport:
    """A worker process as its host sees it.

    Attributes:
        exited: It has ended.
        was_killed: By a signal from outside, as far as anybody can know: that says little about its model.
        by_hand: An operator started it on the host; no queen stops it.
        failure: Why it ended, in words for an operator; empty while it runs, and when it was asked to.
    """

    worker_id: WorkerId
    model: ModelName
    state: WorkerState
    load_progress: float = 0.0
    reserved_bytes: int = 0
    device: str = ""
    exited: bool = False
    was_killed: bool = False
    by_hand: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLoad:
    """A host's processors and memory: their share in use, in percent. None: the host did not say."""

    cpu_percent: float | None
    memory_percent: float | None


@dataclass(frozen=True, slots=True)
class Traits:
    """What an operator says of a host, for policies.

    Attributes:
        cost_per_token: In any unit that all hosts share; 0: nothing said.
        latitude: Degrees north; None: nobody knows.
        longitude: Degrees east.
        capability: What it is good for; empty: nothing special.
    """

    cost_per_token: float = 0.0
    latitude: float | None = None
    longitude: float | None = None
    capability: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One host's snapshot, as far as decisions need it."""

    pool_id: PoolId
    incarnation: str = ""
    devices: tuple[Device, ...] = ()
    models: tuple[CachedModel, ...] = ()
    processes: tuple[ProcessReport, ...] = ()
    inventory_fault: str = ""
    traits: Traits = Traits()
    load: HostLoad | None = None


@unique
class DesiredState(Enum):
    """What a worker should be doing."""

    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredWorker:
    """One worker that should be."""

    worker_id: WorkerId
    model: ModelName
    state: DesiredState
    device: str = ""


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker and what the queen has promised it.

    Attributes:
        session: The stream that it is attached by; 0 while it is detached.
        heard_at_ms: Monotonic time of the last sign of life.
        leases: Leases that occupy its slots, revoked ones included.
        kv_tokens_used: KV tokens promised to those leases.
        is_saturated: It refused an offer although it looked free; cleared by its next heartbeat.
        is_drained: The queen wants no new work on it.
        is_leaving: Besides, it is to end.
        last_used_at_ms: Monotonic time at which a lease last began or ended; 0: never.
        jobs_served: Leases that it ever got.
        resident_since_ms: Monotonic time at which it was first seen with its model loaded; 0: it still loads.
        served_class: The most urgent class that it served since then; None: it served nobody yet.
        counted: The model, pool and slots that the fleet's indexes count it with; None: not in them.
    """

    report: WorkerReport
    session: int
    heard_at_ms: int
    incarnation: str = ""
    leases: set[LeaseId] = field(default_factory=set)
    kv_tokens_used: int = 0
    is_saturated: bool = False
    is_drained: bool = False
    is_leaving: bool = False
    last_used_at_ms: int = 0
    jobs_served: int = 0
    resident_since_ms: int = 0
    served_class: Priority | None = None
    counted: tuple[ModelName, PoolId, int] | None = None

    @property
    def slots_free(self) -> int:
        """Slots not promised to anybody; never negative, even if the worker came back smaller."""
        return max(self.report.slots_total - len(self.leases), 0)

    @property
    def kv_tokens_free(self) -> int:
        """KV tokens not promised to anybody."""
        return max(self.report.kv_tokens_total - self.kv_tokens_used, 0)

    @property
    def unused_since_ms(self) -> int:
        """Since when it has been of no use to anybody, on the monotonic clock."""
        return max(self.last_used_at_ms, self.resident_since_ms)

    @property
    def load(self) -> float:
        """Share of its slots that are taken, 0 to 1."""
        return len(self.leases) / self.report.slots_total if self.report.slots_total > 0 else 1.0

    @property
    def is_open(self) -> bool:
        """Whether it could take some job now, as far as slots and its own state go."""
        return (
            self.session != 0
            and self.slots_free > 0
            and not self.is_saturated
            and not self.is_drained
            and self.report.state in SERVING
        )


@dataclass(slots=True)
class Pool:
    """One host: its last report and when it came."""

    report: PoolReport
    reported_at_ms: int

    def is_fresh(self, now_ms: int) -> bool:
        """Whether the report is young and complete enough to place something new on it."""
        young = now_ms - self.reported_at_ms <= limits.REPORT_STALE_MS
        return young and not self.report.inventory_fault


@dataclass(slots=True)
class Fleet:
    """Every pool and worker, with the index of open workers by model."""

    pools: dict[PoolId, Pool] = field(default_factory=dict)
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    #: Workers that could take a job now, by model. Derived; `reindex` keeps it.
    open_workers: dict[ModelName, set[WorkerId]] = field(default_factory=dict)
    #: Every worker of a model, open or not. Derived; `reindex` keeps it.
    by_model: dict[ModelName, set[WorkerId]] = field(default_factory=dict)
    #: Every worker of a pool. Derived; `reindex` keeps it.
    by_pool: dict[PoolId, set[WorkerId]] = field(default_factory=dict)
    #: Slots of all workers of a model. Derived; `reindex` keeps it.
    slots_total: dict[ModelName, int] = field(default_factory=dict)
    #: Models that were ever offered: jobs for them wait instead of being refused.
    known_models: set[ModelName] = field(default_factory=set)
    #: Counts up with every change that a watcher would want to see.
    version: int = 0
    #: Workers that changed since a policy's mirror was last brought up to date; see `state.Touched`.
    touched: dict[WorkerId, None] = field(default_factory=dict)
    #: What was measured of workers, for those that measured nothing yet.
    speeds: Speeds = field(default_factory=Speeds)
    #: Hosts that take no new inference jobs, since they are too busy or do not say how busy; see `inference_gate.py`.
    closed_pools: set[PoolId] = field(default_factory=set)

    def is_gated(self, pool_id: PoolId) -> bool:
        """Whether a host is too busy for new inference jobs. A worker without a pool manager stands for itself."""
        return pool_id in self.closed_pools

    def reindex(self, worker: Worker) -> None:
        """Bring every index up to date after any change of `worker`."""
        report = worker.report
        model, worker_id = report.model, report.worker_id
        self.version += 1
        self.touched[worker_id] = None
        # Of most changes, a lease that began or ended, only this can follow.
        is_open = worker.is_open
        counted = (model, report.pool_id, report.slots_total)
        if worker.counted != counted:
            self._uncount(worker)
            self.by_model.setdefault(model, set()).add(worker_id)
            self.by_pool.setdefault(report.pool_id, set()).add(worker_id)
            self.slots_total[model] = self.slots_total.get(model, 0) + report.slots_total
            worker.counted = counted
        if is_open:
            self.open_workers.setdefault(model, set()).add(worker_id)
        else:
            _discard(self.open_workers, model, worker_id)

    def _uncount(self, worker: Worker) -> None:
        """Take the worker out of every index, under the model and slots that it was last counted with."""
        if worker.counted is None:
            return
        model, pool_id, slots = worker.counted
        worker.counted = None
        worker_id = worker.report.worker_id
        self.slots_total[model] -= slots
        _discard(self.by_model, model, worker_id)
        _discard(self.open_workers, model, worker_id)
        _discard(self.by_pool, pool_id, worker_id)
        if model not in self.by_model:
            del self.slots_total[model]

    def remove(self, worker: Worker) -> None:
        """Forget a worker."""
        self.version += 1
        self.touched[worker.report.worker_id] = None
        self._uncount(worker)
        del self.workers[worker.report.worker_id]

    def device_of(self, worker: Worker) -> Device | None:
        """The device that a worker runs on, if its host reported it."""
        pool, uuid = self.pools.get(worker.report.pool_id), worker.report.device
        if pool is not None:
            for device in pool.report.devices:
                if device.uuid == uuid:
                    return device
        return None

    def is_fresh(self, worker: Worker, now_ms: int) -> bool:
        """Whether what is known of the worker is young enough to place something new on it.

        The worker's own heartbeats count, and its host's reports if the host has a pool manager: stale telemetry places
        nothing new, it is never guessed.
        """
        if now_ms - worker.heard_at_ms > 3 * limits.HEARTBEAT_INTERVAL_MS:
            return False
        pool = self.pools.get(worker.report.pool_id)
        return pool is None or pool.is_fresh(now_ms)


_Key = TypeVar("_Key", ModelName, PoolId)


def _discard(index: dict[_Key, set[WorkerId]], key: _Key, worker_id: WorkerId) -> None:
    """Take a worker out of an index that keeps no empty sets, if it is there."""
    ids = index.get(key)
    if ids is not None:
        ids.discard(worker_id)
        if not ids:
            del index[key]
