"""How busy a host is, 0 to 10: a gate for new leases of heavy work, never a figure to optimise.

The rating is made of five measurements: the host's processors and memory, out of its pool manager's snapshots, and the
latency, failures and number of the queen's own calls, which the queen measures itself. Each gives points on a scale of
its own, and the *worst* of them is the rating: a host whose memory is full is not half busy because its processors
idle. Saturated processors alone stop at 7, since they slow work down where full memory ends it.

It fails closed. A measurement that is missing, stale or no number counts as 10 points, and so does a host whose reports
are stale or whose inventory is faulty: nothing new is leased there until it reports again, and then without help.

A rating rises at once and falls slowly (see `settle`), so that the pause between two bursts opens no gate.
"""

import math
from dataclasses import dataclass, field, replace
from enum import Enum, unique

from beeyard_core import limits
from beeyard_core.fleet import Fleet, HostLoad, Pool
from beeyard_core.ids import PoolId
from beeyard_core.instant import Instant
from beeyard_core.job import Priority

#: Nothing more.
BUSY_MAX = 10

#: The rating from which a class gets nothing new, whatever is free. Nobody gets anything at `BUSY_MAX`.
GATED_FROM = {
    Priority.INTERACTIVE: BUSY_MAX,
    Priority.NORMAL: 9,
    Priority.BATCH: 8,
    Priority.BACKGROUND: 5,
}
assert set(GATED_FROM) == set(Priority)


@unique
class Factor(Enum):
    """What a rating is made of, under the wire's names."""

    CPU = "cpu_percent"
    MEMORY = "memory_percent"
    LATENCY = "latency_p95_ms"
    ERRORS = "error_percent"
    CALLS = "calls_inflight"


@dataclass(frozen=True, slots=True)
class Scale:
    """From measurement to points: none up to `calm`, `most` from `full` on, in proportion and rounded up between."""

    calm: float
    full: float
    most: int = BUSY_MAX

    def points(self, value: float) -> int:
        """Return the points of a measurement, 0 to `most`."""
        share = (value - self.calm) / (self.full - self.calm)
        return math.ceil(self.most * min(max(share, 0.0), 1.0))


SCALES = {
    # Busy processors slow work down, which is no reason to run none of it.
    Factor.CPU: Scale(calm=50.0, full=100.0, most=7),
    # The last percents of memory are what the system itself lives on.
    Factor.MEMORY: Scale(calm=70.0, full=98.0),
    Factor.LATENCY: Scale(calm=250.0, full=5_000.0),
    Factor.ERRORS: Scale(calm=1.0, full=25.0),
    # The limit is the server's own: beyond it calls are turned away.
    Factor.CALLS: Scale(calm=limits.CONCURRENT_RPCS_MAX / 10, full=limits.CONCURRENT_RPCS_MAX),
}
assert set(SCALES) == set(Factor)
assert all(scale.calm < scale.full and scale.most <= BUSY_MAX for scale in SCALES.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLoad:
    """What the queen measures of its own calls: the slowest twentieth, failures in percent, calls in flight."""

    latency_p95_ms: float
    error_percent: float
    calls_inflight: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement and its points. `value` is None: missing or stale, which gives all points."""

    factor: Factor
    value: float | None
    points: int


@dataclass(frozen=True, slots=True)
class Rating:
    """How busy one host is.

    Attributes:
        busy: 0 (idle) to 10 (nothing more).
        is_fresh: Everything behind it is present and young.
        factors: What it is made of, one for each `Factor`, in that order.
        rated_at: When it was computed.
        fell_at_ms: Monotonic time from which the next fall counts.
    """

    busy: int
    is_fresh: bool
    factors: tuple[Measured, ...]
    rated_at: Instant
    fell_at_ms: int

    def gates(self, priority: Priority) -> bool:
        """Whether a class gets nothing new here, whatever is free."""
        return self.busy >= GATED_FROM[priority]

    @property
    def worst(self) -> str:
        """What makes the host so busy, in words for a person."""
        factor = max(self.factors, key=lambda measured: measured.points)
        seen = "missing or stale" if factor.value is None else f"{factor.value:.0f}"
        return f"{factor.factor.value} is {seen}"


def usable_units(total: int, busy: int, reserve: int) -> int:
    """Return how many units may be leased: the total, less what the rating takes away, less the reserve."""
    return max(total * (BUSY_MAX - busy) // BUSY_MAX - reserve, 0)


def rate(host: HostLoad | None, api: ApiLoad | None, now: Instant) -> Rating:
    """Return the rating that measurements give by themselves; None: there are none."""
    values = {
        Factor.CPU: host.cpu_percent if host else None,
        Factor.MEMORY: host.memory_percent if host else None,
        Factor.LATENCY: api.latency_p95_ms if api else None,
        Factor.ERRORS: api.error_percent if api else None,
        Factor.CALLS: api.calls_inflight if api else None,
    }
    factors = tuple(_measured(factor, values[factor]) for factor in Factor)
    return Rating(
        busy=max(factor.points for factor in factors),
        is_fresh=all(factor.value is not None for factor in factors),
        factors=factors,
        rated_at=now,
        fell_at_ms=now.mono_ms,
    )


def _measured(factor: Factor, value: float | None) -> Measured:
    # A report may hold anything that a float can be.
    if value is None or not math.isfinite(value) or value < 0:
        return Measured(factor, None, BUSY_MAX)
    return Measured(factor, value, SCALES[factor].points(value))


def settle(before: Rating | None, found: Rating) -> Rating:
    """Return the rating to go by: a rise counts at once, a fall by one point in `RATING_RELEASE_MS`.

    After measurements were missing there is nothing to fall from: what is measured now counts.
    """
    if before is None or not before.is_fresh or found.busy >= before.busy:
        return found
    waited_ms = found.rated_at.mono_ms - before.fell_at_ms
    fallen = waited_ms // limits.RATING_RELEASE_MS
    if before.busy - fallen <= found.busy:
        return found
    return replace(
        found,
        busy=before.busy - fallen,
        fell_at_ms=before.fell_at_ms + fallen * limits.RATING_RELEASE_MS,
    )


@dataclass(slots=True)
class Governor:
    """The rating of every host, brought up to date with each tick."""

    ratings: dict[PoolId, Rating] = field(default_factory=dict)
    api: ApiLoad | None = None
    api_at_ms: int = 0

    def take_api(self, load: ApiLoad, now: Instant) -> None:
        """Take in what the queen measured of its own calls."""
        self.api, self.api_at_ms = load, now.mono_ms

    def recalculate(self, fleet: Fleet, now: Instant) -> None:
        """Rate every host that ever reported."""
        self.ratings = {
            pool_id: settle(self.ratings.get(pool_id), self._rate(pool, now))
            for pool_id, pool in fleet.pools.items()
        }

    def rating_of(self, pool_id: PoolId, fleet: Fleet, now: Instant) -> Rating:
        """Return a host's rating as of now: one that went stale since the last tick is not trusted until the next."""
        pool = fleet.pools.get(pool_id)
        found = self._rate(pool, now)
        return found if pool is None else settle(self.ratings.get(pool_id), found)

    def _rate(self, pool: Pool | None, now: Instant) -> Rating:
        api = self.api if now.mono_ms - self.api_at_ms <= limits.API_STALE_MS else None
        host = pool.report.load if pool is not None and pool.is_fresh(now.mono_ms) else None
        return rate(host, api, now)
