"""What Prometheus is told of the queen's state: read off it every few seconds, on the event loop, in one go.

A scrape finds the last reading. Nothing here walks the queue; hosts and workers are walked once a reading.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from beeyard_core.governor import usable_units
from beeyard_core.job import Priority
from beeyard_core.state import QueenState
from beeyard_runtime.metrics import Family, Figures, Sampled

from beeyard_queen.egress.relay import Relay
from beeyard_queen.loop import WriterLoop
from beeyard_queen.metrics import QueenMetrics
from beeyard_queen.policy.runtime import PolicyRuntime

QUEUE_DEPTH: Final = Family("queue_depth", "Jobs that wait.", ("priority",))
LEASES: Final = Family("leases_active", "Leases that occupy a slot or units.")
LEASES_EXPIRED: Final = Family(
    "lease_expired", "Leases that ended since nothing was heard of their holder.", kind="counter"
)
STALE: Final = Family(
    "stale_epoch_writes", "Writes refused since their lease no longer counted.", kind="counter"
)
PREEMPTIONS: Final = Family(
    "preemptions", "Attempts taken back for more urgent jobs.", kind="counter"
)
BUSY: Final = Family("busy_rating", "How busy a host is, 0 to 10.", ("pool_id",))
UNITS_USABLE: Final = Family(
    "capacity_units_usable", "Units that may be leased, as busy as the host is.", ("pool_id",)
)
UNITS_LEASED: Final = Family(
    "capacity_units_leased", "Units that leases of heavy work use.", ("pool_id",)
)
WORKERS: Final = Family("model_state", "Workers of a model in a state.", ("model_id", "state"))
KV: Final = Family(
    "kv_cache_usage_ratio",
    "KV memory promised to jobs, of what the workers of a model have, 0 to 1.",
    ("model_id",),
)
DEADLINES: Final = Family(
    "deadlines_met_ratio", "Of jobs with a deadline that ended, those that met it.", ("priority",)
)
DECISIONS: Final = Family(
    "scheduler_decisions", "Decisions of policies.", ("action", "outcome"), kind="counter"
)
FALLBACKS: Final = Family(
    "scheduler_fallback",
    "Times that the platform policy decided in another's place.",
    ("reason",),
    kind="counter",
)
ERRORS: Final = Family("scheduler_error", "Calls of a policy that failed.", kind="counter")
TIMEOUTS: Final = Family("scheduler_timeout", "Calls of a policy that were late.", kind="counter")
EMITTED: Final = Family("policy_metric", "What a policy emitted last.", ("policy", "name"))
COMMITS: Final = Family("store_commits", "Batches made durable.", kind="counter")
HEALTHY: Final = Family("store_healthy", "Whether the last write to the store succeeded, 0 or 1.")

_Values = Iterable[tuple[tuple[str, ...], float]]


def _one(value: float) -> _Values:
    return [((), float(value))]


class Gauges:
    """Reads the queen's state for Prometheus."""

    def __init__(
        self,
        figures: Figures,
        *,
        loop: WriterLoop,
        relay: Relay,
        policies: PolicyRuntime,
        metrics: QueenMetrics,
    ) -> None:
        """Read from these; nothing is changed."""
        self._sampled = Sampled(figures)
        self._loop, self._relay = loop, relay
        self._policies, self._metrics = policies, metrics

    def read(self) -> None:
        """Replace what a scrape finds by how things are now."""
        loop, counts = self._loop, self._policies.counts
        state = loop.state
        depths = zip(Priority, state.queue.depths(), strict=True)
        self._sampled.replace(
            {
                QUEUE_DEPTH: [((each.name,), float(depth)) for each, depth in depths],
                LEASES: _one(len(state.leases) + len(state.work.leases)),
                LEASES_EXPIRED: _one(state.counts.leases_expired),
                STALE: _one(self._relay.stale_epoch_writes_count),
                PREEMPTIONS: _one(state.counts.preemptions),
                **_hosts(state),
                **_workers(state),
                DEADLINES: [
                    ((each,), met / count) for each, (met, count) in self._metrics.deadlines.items()
                ],
                DECISIONS: [(key, float(count)) for key, count in counts.decisions.items()],
                FALLBACKS: [((why,), float(count)) for why, count in counts.fallbacks.items()],
                ERRORS: _one(counts.errors),
                TIMEOUTS: _one(counts.timeouts),
                EMITTED: list(counts.metrics.items()),
                COMMITS: _one(loop.commits_count),
                HEALTHY: _one(loop.is_store_healthy),
            }
        )


def _hosts(state: QueenState) -> dict[Family, _Values]:
    capacity, yard = state.settings.capacity, state.work
    ratings = yard.governor.ratings
    return {
        BUSY: [((each,), float(rating.busy)) for each, rating in ratings.items()],
        UNITS_USABLE: [
            (
                (each,),
                float(usable_units(capacity.units_per_host, rating.busy, capacity.reserve_units)),
            )
            for each, rating in ratings.items()
        ],
        UNITS_LEASED: [((each,), float(yard.units_used.get(each, 0))) for each in ratings],
    }


def _workers(state: QueenState) -> dict[Family, _Values]:
    """Return how many workers of each model are in which state, and how full their KV memory is."""
    states: Counter[tuple[str, str]] = Counter()
    used: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for worker in state.fleet.workers.values():
        report = worker.report
        states[report.model, report.state.value] += 1
        used[report.model] += worker.kv_tokens_used
        total[report.model] += report.kv_tokens_total
    return {
        WORKERS: [(key, float(count)) for key, count in states.items()],
        KV: [((model,), used[model] / count) for model, count in total.items() if count],
    }
