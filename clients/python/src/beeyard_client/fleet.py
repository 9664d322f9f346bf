"""The fleet as the queen sees it: hosts, devices, workers, models; without wire types."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique


@unique
class WorkerState(StrEnum):
    """Where in its life a worker process is."""

    STARTING = "STARTING"
    READY = "READY"
    BUSY = "BUSY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"
    # Not reported yet, or by a queen that knows more states than this client.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU, or a host's processors; `utilization` is 0 to 1, None where something cannot be read."""

    uuid: str
    kind: str
    name: str
    index: int
    vram_total_bytes: int
    vram_used_bytes: int
    vram_free_bytes: int
    utilization: float
    temperature_c: float | None
    power_w: float | None
    ecc_errors_uncorrected: int | None
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """A model that a host has; `fault` says why it cannot be loaded, empty if it can."""

    model: str
    size_bytes: int
    quantization: str
    context_tokens: int
    architecture: str
    engine: str
    required_bytes: int
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One host; nothing new is placed on it unless its reports are `fresh`."""

    pool_id: str
    address: str
    fresh: bool
    report_time: datetime | None
    inventory: str
    inventory_fault: str
    cpu_count: int
    cpu_utilization: float
    memory_total_bytes: int
    memory_available_bytes: int
    devices: tuple[Device, ...]
    cached_models: tuple[CachedModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker; `attached` while its stream to the queen is open, `exit_code` None while it lives or if unknown."""

    worker_id: str
    pool_id: str
    address: str
    model: str
    engine: str
    engine_version: str
    device: str
    state: WorkerState
    load_progress: float
    slots_total: int
    slots_free: int
    kv_tokens_total: int
    kv_tokens_free: int
    context_tokens: int
    deterministic: bool
    token_ids: bool
    failure: str
    tokens_per_s: float
    uptime_s: float
    quantization: str
    attached: bool
    leases: int
    pid: int
    exit_code: int | None
    log_tail: str

    @property
    def is_ready(self) -> bool:
        """Whether the queen can give it work, now or when a slot is free."""
        return self.attached and self.state in (WorkerState.READY, WorkerState.BUSY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model that some pool or worker offers."""

    model: str
    pool_ids: tuple[str, ...]
    workers_ready: int
    workers_starting: int
    jobs_queued: int
    size_bytes: int
    quantization: str
    context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The whole fleet at one moment.

    Attributes:
        version: Counts up with every change.
        stale_epoch_writes: What workers sent for leases that were no longer theirs, refused since the queen's start.
    """

    version: int
    pools: tuple[Pool, ...]
    workers: tuple[Worker, ...]
    jobs_queued: int
    jobs_running: int
    stale_epoch_writes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a tenant may have; None does not limit.

    Attributes:
        concurrent_jobs: Jobs and pieces of heavy work that have not ended.
        vram_bytes: Device memory of the models that its unfinished jobs need, each model once.
        tokens_per_minute: Tokens of prompts and answers together.
        requests_per_second: Jobs and heavy work submitted.
        session_tokens: Tokens that each of its sessions may use in all.
        session_cost_units: Cost units that each of its sessions may use in all.
    """

    concurrent_jobs: int | None
    vram_bytes: int | None
    tokens_per_minute: int | None
    requests_per_second: float | None
    session_tokens: int | None = None
    session_cost_units: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """What one tenant may have and has now.

    Attributes:
        enforced: Whether a request beyond the quota is refused; otherwise it is only counted.
        exceeded: How often each limit stood in the way, by its name in `Quota`.
    """

    tenant_id: str
    quota: Quota
    enforced: bool
    jobs_unfinished: int
    jobs_running: int
    models: tuple[str, ...]
    tokens_total: int
    requests_total: int
    exceeded: Mapping[str, int]
