"""The world as a policy sees it, as plain rows.

One row is one delta: the fields stand in the order in which the mirror of `lua/mirror` takes them, so that encoding
is unpacking and a field cannot mean two things. Units: bytes, milliseconds, tokens. A row replaces the row of the same
key. Whoever keeps a mirror (the Lua files, the twin) hears of rows through the same calls and so holds the same world.

Rows are named tuples and not frozen dataclasses, since several are made for every event: a job's row takes a quarter of
the time to make and to compare. Name the fields all the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

#: Priority classes, the most urgent first; a class's rank is its place here.
CLASSES = ("interactive", "normal", "batch", "background")
RANK = {name: rank for rank, name in enumerate(CLASSES)}
#: A worker of these states can take a job if it has a free slot.
OPEN_STATUSES = ("ready", "busy")
#: A worker of these states serves its model, now or once it has loaded.
LIVE_STATUSES = ("starting", "ready", "busy", "away")


class WorkerRow(NamedTuple):
    """One worker.

    Attributes:
        status: `starting`, `ready`, `busy`, `away` (it was lost and may come back), `draining` (it gets nothing new),
            `leaving` (and will end, which frees its memory) or `failed`.
        vram_free: Free memory of its device in bytes.
        load: Share of its slots that are taken, 0 to 1.
        tokens_per_s: Measured decode speed of one slot, its own or that of its kind; 0: nothing measured yet.
        started_at: Milliseconds, on the clock of `now_ms`.
        kv_free_tokens: None: unknown, which excludes nothing.
        gpu_ids: The GPUs that it runs on, separated by commas.
        context_tokens: Longest prompt plus answer of one job; 0: the model's.
        prefill_speedup: How many prompt tokens it computes in the time of one token of an answer; 0: not measured.
        resident_at: Since when its model is loaded, on the clock of `now_ms`; 0: it loads, or nobody knows.
        served_class: The most urgent class that it served since then; empty: it served nobody yet.
        extensions: What it can do beyond generating, separated by commas.
    """

    worker_id: str
    pool_id: str
    status: str = "ready"
    model_ref: str = ""
    engine: str = ""
    slots_total: int = 1
    slots_free: int = 1
    vram_free: int = 0
    kv_free_tokens: int | None = None
    load: float = 0.0
    tokens_per_s: float = 0.0
    cost_per_token: float = 0.0
    geo_lat: float | None = None
    geo_lon: float | None = None
    capability: str = ""
    started_at: int = 0
    last_used_at: int = 0
    gpu_ids: str = ""
    jobs_served: int = 0
    context_tokens: int = 0
    quantization: str = ""
    prefill_speedup: float = 0.0
    resident_at: int = 0
    served_class: str = ""
    extensions: str = ""


class JobRow(NamedTuple):
    """One queued job.

    Attributes:
        seq: Order of acceptance; a job that is queued again keeps it.
        seed: None: the client gave none.
        deadline_at: Milliseconds, on the clock of `now_ms`; None: as long as it takes.
        estimated_vram_bytes: Memory that the job needs on its worker's device; 0: unknown, which excludes nothing.
        session_turn: Its place among its tenant's jobs of its class and model, by which sessions take turns.
        is_next: It has waited for too long: nothing else of its model should start before it.
        min_compute_capability: Such as `8.6`; empty: any device. This and what follows demand nothing by default.
        quantizations: Accepted quantizations, separated by commas, like the pools that follow.
        min_vram_bytes: Least memory of the device, free or not.
        extensions: What its worker must be able to do beyond generating, separated by commas.
    """

    job_id: str
    seq: int
    tenant_id: str = "default"
    session_id: str = ""
    priority: str = "normal"
    model_ref: str = ""
    prompt_hash: str = ""
    prompt_tokens: int = 0
    max_tokens: int = 0
    expected_tokens: int = 0
    seed: int | None = None
    created_at: int = 0
    queued_at: int = 0
    attempt: int = 1
    deadline_at: int | None = None
    estimated_vram_bytes: int = 0
    estimated_duration_ms: int = 0
    cost_units: int = 1
    type: str = ""
    session_turn: int = 0
    is_next: bool = False
    geo_lat: float | None = None
    geo_lon: float | None = None
    engine: str = ""
    min_context_tokens: int = 0
    min_compute_capability: str = ""
    quantizations: str = ""
    pin_pool_id: str = ""
    prefer_pool_ids: str = ""
    avoid_pool_ids: str = ""
    min_vram_bytes: int = 0
    extensions: str = ""
    labels: tuple[tuple[str, str], ...] = ()


class RunningRow(NamedTuple):
    """One job that holds a slot: what a policy may take back for somebody more urgent.

    Attributes:
        kv_tokens: KV memory promised to it.
        is_stopping: It was taken back already and its worker has not answered yet.
        is_kept: It cannot be taken back: it was too often, or it waited for too long.
    """

    job_id: str
    worker_id: str
    tenant_id: str = "default"
    priority: str = "normal"
    kv_tokens: int = 0
    started_at: int = 0
    is_stopping: bool = False
    is_kept: bool = False


class PrefixRow(NamedTuple):
    """That a worker holds the first `tokens` tokens of a prompt in its cache; 0: no longer."""

    worker_id: str
    prompt_hash: str
    tokens: int


class PoolRow(NamedTuple):
    """One host. `last_report_ms` is when its last report came, on the clock of `now_ms`."""

    pool_id: str
    status: str = "ready"
    last_report_ms: int = 0


class GpuRow(NamedTuple):
    """One device of a host; memory in bytes."""

    pool_id: str
    gpu_id: str
    name: str = ""
    vram_total: int = 0
    vram_allocated: int = 0
    vram_free: int = 0
    utilization: float = 0.0
    temperature_c: float = 0.0
    power_w: float = 0.0
    compute_capability: str = ""


class TenantRow(NamedTuple):
    """One tenant; a quota of None is not enforced.

    Attributes:
        tokens_served: The virtual token counter of fair share.
        weight: Share of the fleet relative to other tenants.
    """

    tenant_id: str
    quota_vram: int | None = None
    quota_used: int = 0
    quota_jobs: int | None = None
    jobs_running: int = 0
    tokens_served: int = 0
    tokens_per_minute: int | None = None
    weight: float = 1.0


class ModelRow(NamedTuple):
    """One model of the catalogue; sizes in bytes, 0: unknown.

    Attributes:
        pool_ids: The hosts that can load it, separated by commas; empty: any.
    """

    ref: str
    family: str = ""
    vram_required: int = 0
    size_bytes: int = 0
    context: int = 0
    quantization: str = ""
    pool_ids: str = ""


class HistoryRow(NamedTuple):
    """Measured durations of a model's jobs on a kind of device, and how busy its week usually is.

    Attributes:
        urgent_slots: Slots of the model that urgent work usually keeps busy in this hour of the week, on whatever
            device; None: the hour was never watched.
        urgent_slots_next: The same in the next hour.
    """

    model_ref: str
    device: str
    mean_ms: float = 0.0
    p95_ms: float = 0.0
    n: int = 0
    p50_ms: float = 0.0
    urgent_slots: float | None = None
    urgent_slots_next: float | None = None


Row = (
    WorkerRow
    | JobRow
    | RunningRow
    | PrefixRow
    | PoolRow
    | GpuRow
    | TenantRow
    | ModelRow
    | HistoryRow
)


@dataclass(slots=True)
class World:
    """All rows by key. Plain and slow on purpose: it is what mirrors are compared with."""

    workers: dict[str, WorkerRow] = field(default_factory=dict)
    jobs: dict[str, JobRow] = field(default_factory=dict)
    running: dict[str, RunningRow] = field(default_factory=dict)
    prefixes: dict[tuple[str, str], PrefixRow] = field(default_factory=dict)
    pools: dict[str, PoolRow] = field(default_factory=dict)
    gpus: dict[tuple[str, str], GpuRow] = field(default_factory=dict)
    tenants: dict[str, TenantRow] = field(default_factory=dict)
    models: dict[str, ModelRow] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, str | float | bool] = field(default_factory=dict)
    history: dict[tuple[str, str], HistoryRow] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """Every row, in the order in which a mirror can take them."""
        return chain(
            self.models.values(),
            self.pools.values(),
            self.gpus.values(),
            self.tenants.values(),
            self.workers.values(),
            self.running.values(),
            self.prefixes.values(),
            self.jobs.values(),
            self.history.values(),
        )
