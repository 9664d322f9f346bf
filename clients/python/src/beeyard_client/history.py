"""What became of jobs, and how good the predictions were, without wire types."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique


@unique
class GroupBy(StrEnum):
    """What jobs are told apart by."""

    TENANT = "tenant"
    MODEL = "model"
    PRIORITY = "priority"
    WORKER = "worker"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """How long something took, in milliseconds, of `n` that were measured; quantiles are right to within 2 %."""

    n: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobGroup:
    """Some jobs that have ended.

    `name` is what they have in common, empty for all of them. `success_rate` is the share that completed of those that
    were not cancelled; None: there were none. `wait` lasts from acceptance to the first lease, `total` to the end.
    """

    name: str
    jobs: int
    completed: int
    failed: int
    expired: int
    cancelled: int
    success_rate: float | None
    attempts: int
    preemptions: int
    tokens: int
    wait: Spans
    first_token: Spans
    total: Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatistics:
    """All jobs that were looked at, and the same in groups, the largest first.

    `is_truncated`: there were more, so that those that ended before `oldest_end_time` are missing.
    """

    everything: JobGroup
    groups: tuple[JobGroup, ...]
    is_truncated: bool
    oldest_end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastScore:
    """Predictions of one kind, held against what came.

    `coverage` is the share that fell into the interval; None: there were none. `shares` are those that came no later
    than the moment of each level. Width of the interval and error of its middle in milliseconds.
    """

    n: int
    coverage: float | None
    shares: tuple[float, ...]
    width_p50_ms: float
    error_p50_ms: float
    error_p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastReport:
    """How good the predictions were of jobs that completed; `start` and `waited_end` of those that had to wait."""

    promised_coverage: float
    levels: tuple[float, ...]
    end: ForecastScore
    waited_end: ForecastScore
    start: ForecastScore
    unpredicted: int
    is_truncated: bool
