"""Simulations of a policy as values: what to try it on, and what was found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from beeyard_client.job import Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticLoad:
    """Load that is made up; the queen knows the ranges and what 0 and empty stand for.

    Attributes:
        jobs: Jobs to simulate.
        arrivals_per_s: Mean rate at which they come, a second of virtual time.
        models: Models that they ask for, in equal shares; empty: those of the fleet.
        prompt_tokens_mean: Mean length of a prompt; 0: 256.
        completion_tokens_mean: Mean length of an answer; 0: 128.
        tenants: Tenants that they belong to, in equal shares; 0: one.
        priorities: Weight of each class; empty: all are NORMAL.
    """

    jobs: int
    arrivals_per_s: float
    models: tuple[str, ...] = ()
    prompt_tokens_mean: int = 0
    completion_tokens_mean: int = 0
    tenants: int = 0
    priorities: Mapping[Priority, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """A model that a simulated host could start a worker of; 0: 8 slots, 50 tokens/s."""

    model: str
    vram_bytes: int
    load_ms: int = 0
    slots: int = 0
    tokens_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPool:
    """A host that is made up.

    Attributes:
        workers: Workers on it, all of `model`.
        tokens_per_s: Decode speed of one slot.
        vram_bytes: Memory of the device.
        prefill_tokens_per_s: Speed at which a prompt is read; 0: 20 times `tokens_per_s`.
        context_tokens: Longest prompt plus answer; 0: 8192.
        kv_tokens: KV memory of each worker; 0: the context for each slot.
        loadable: Models that it can start a worker of, besides.
    """

    pool_id: str
    workers: int
    model: str
    slots: int
    tokens_per_s: float
    vram_bytes: int
    prefill_tokens_per_s: float = 0.0
    context_tokens: int = 0
    kv_tokens: int = 0
    loadable: tuple[SimulatedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class SimulationProgress:
    """How far a simulation is; virtual time in milliseconds since its start."""

    jobs_ended: int
    jobs_total: int
    virtual_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """A distribution of times, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationGroup:
    """What became of the jobs of one class, tenant or model.

    Attributes:
        kind: `priority`, `tenant_id` or `model`.
        name: Which.
        queue_wait: Time in the queue; the largest is how long one of them starved.
        deadlines_met: Share of those with a deadline that met it; None if none had one.
    """

    kind: str
    name: str
    jobs: int
    jobs_completed: int
    queue_wait: LatencySummary
    first_token: LatencySummary
    total: LatencySummary
    deadlines_met: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What a simulation found. The same request gives the same report, but for what is measured.

    Attributes:
        virtual_ms: Virtual time that it took.
        wall_ms: Real time that it took; measured.
        utilization: Share of the slots that were taken, 0 to 1.
        fairness: Jain's index over what tenants were granted while they had to share, 0 to 1.
        decisions: By action.
        intents_refused: By reason.
        fallbacks: Calls of the policy that failed, by how.
        suspension: Why the policy was given up; empty if it was not.
        decision_us_p50: Real time of one decision, microseconds; measured, like the p99.
        digest: Of what became of every job.
        notes: What was assumed because the queen does not know it.
    """

    policy: str
    jobs_completed: int
    jobs_refused: int
    jobs_failed: int
    jobs_unfinished: int
    virtual_ms: int
    wall_ms: int
    queue_wait: LatencySummary
    first_token: LatencySummary
    total: LatencySummary
    utilization: float
    fairness: float
    deadlines_met: float | None
    groups: tuple[SimulationGroup, ...]
    evictions: int
    preemptions: int
    worker_starts: int
    decisions: Mapping[str, int]
    intents_refused: Mapping[str, int]
    fallbacks: Mapping[str, int]
    suspension: str
    decision_us_p50: float
    decision_us_p99: float
    digest: str
    notes: tuple[str, ...]
