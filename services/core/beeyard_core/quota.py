"""What a tenant may have, what it has, and whether it may have one more.

Rates are token buckets that may be overdrawn: a request is let in while something is left and is charged whole, and the
next one waits until the debt is paid. So nothing is ever too large to be let in, and over time no more flows than the
quota says. Generated tokens are charged at admission by what the job may use, and what it did not use is given back
when it ends.

In lab mode nothing is refused: what would have been is counted, so that an operator can see what a quota would do.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

from beeyard_core import limits
from beeyard_core.ids import ModelName, TenantId
from beeyard_core.refusal import Refusal, Refused


@unique
class Limit(Enum):
    """What a quota limits, under the names that operators and errors use."""

    CONCURRENT_JOBS = "concurrent_jobs"
    VRAM_BYTES = "vram_bytes"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    REQUESTS_PER_SECOND = "requests_per_second"
    SESSION_TOKENS = "session_tokens"
    SESSION_COST_UNITS = "session_cost_units"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one tenant may have; None: as much as there is.

    Attributes:
        concurrent_jobs: Jobs and pieces of heavy work that have not ended.
        vram_bytes: Device memory of the models that its unfinished jobs need, each model once.
        tokens_per_minute: Tokens of prompts and answers together.
        requests_per_second: Jobs and heavy work submitted; a second's worth may come at once.
        session_tokens: Tokens of prompts and answers together that each of its sessions may use in all (`sessions.py`).
        session_cost_units: Cost units that each of its sessions may use in all.
    """

    concurrent_jobs: int | None = None
    vram_bytes: int | None = None
    tokens_per_minute: int | None = None
    requests_per_second: float | None = None
    session_tokens: int | None = None
    session_cost_units: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSettings:
    """What the operator chose: a quota for each tenant, one for all others, and whether they are enforced."""

    by_tenant: Mapping[TenantId, Quota] = field(default_factory=dict)
    otherwise: Quota = Quota()
    is_enforced: bool = False

    def of(self, tenant_id: TenantId) -> Quota:
        """Return the quota of a tenant."""
        return self.by_tenant.get(tenant_id, self.otherwise)


@dataclass(slots=True)
class Bucket:
    """So much is left of a rate; negative while it is overdrawn. It starts full."""

    level: float
    filled_at_ms: int

    def refill(self, per_ms: float, most: float, now_ms: int) -> None:
        """Let time pass."""
        self.level = min(self.level + per_ms * (now_ms - self.filled_at_ms), most)
        self.filled_at_ms = now_ms


@dataclass(slots=True)
class Usage:
    """What one tenant has now, and what it was refused.

    Attributes:
        jobs: Its jobs and pieces of heavy work that have not ended.
        models: Its unfinished jobs, by model.
        tokens_total: Tokens charged since this queen began, less what was given back.
        exceeded: How often each limit stood in the way: a refusal in platform mode, a note in lab mode.
    """

    jobs: int = 0
    models: Counter[ModelName] = field(default_factory=Counter)
    tokens_total: int = 0
    requests_total: int = 0
    tokens: Bucket | None = None
    requests: Bucket | None = None
    exceeded: Counter[Limit] = field(default_factory=Counter)

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it is unfinished."""
        return not self.jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one more request needs.

    Attributes:
        tokens: The most that it may use.
        model: Its model; None for heavy work.
    """

    tokens: int = 0
    model: ModelName | None = None


@dataclass(frozen=True, slots=True)
class Excess:
    """Which limit stands in the way, what it is, what the tenant has, and when to ask again."""

    limit: Limit
    quota: float
    used: float
    retry_after_ms: int


def refill(usage: Usage, quota: Quota, now_ms: int) -> None:
    """Bring the buckets of a tenant up to date."""
    if quota.tokens_per_minute is not None:
        most = float(quota.tokens_per_minute)
        usage.tokens = usage.tokens or Bucket(most, now_ms)
        usage.tokens.refill(most / 60_000, most, now_ms)
    if quota.requests_per_second is not None:
        most = max(quota.requests_per_second, 1.0)
        usage.requests = usage.requests or Bucket(most, now_ms)
        usage.requests.refill(quota.requests_per_second / 1_000, most, now_ms)


def excess(
    usage: Usage, quota: Quota, demand: Demand, bytes_of: Callable[[ModelName], int]
) -> Excess | None:
    """Return the first limit that one more request would break, or None. Buckets must be up to date.

    Args:
        usage: What the tenant has.
        quota: What it may have.
        demand: What the request needs.
        bytes_of: What a worker of a model needs, in bytes; 0: unknown. Asked only if there is a quota for it.
    """
    retry_ms = limits.QUOTA_RETRY_MS
    most = quota.concurrent_jobs
    if most is not None and usage.jobs >= most:
        return Excess(Limit.CONCURRENT_JOBS, most, usage.jobs, retry_ms)
    if quota.vram_bytes is not None and demand.model is not None:
        needed = sum(map(bytes_of, {*usage.models, demand.model}))
        if needed > quota.vram_bytes:
            return Excess(Limit.VRAM_BYTES, quota.vram_bytes, needed, retry_ms)
    if quota.requests_per_second is not None and usage.requests is not None:
        missing = 1.0 - usage.requests.level
        if missing > 0:
            wait_ms = _wait_ms(missing, quota.requests_per_second / 1_000)
            used = max(quota.requests_per_second, 1.0) - usage.requests.level
            return Excess(Limit.REQUESTS_PER_SECOND, quota.requests_per_second, used, wait_ms)
    rate, tokens = quota.tokens_per_minute, usage.tokens
    if rate is not None and tokens is not None and demand.tokens and tokens.level <= 0:
        wait_ms = _wait_ms(1.0 - tokens.level, rate / 60_000)
        return Excess(Limit.TOKENS_PER_MINUTE, rate, rate - tokens.level, wait_ms)
    return None


def _wait_ms(missing: float, per_ms: float) -> int:
    """Return how long a bucket takes to fill by so much; a quota of nothing is asked again after an hour."""
    if per_ms <= 0:
        return limits.QUOTA_RETRY_MS_MAX
    return min(max(math.ceil(missing / per_ms), 1), limits.QUOTA_RETRY_MS_MAX)


def exceeded(tenant_id: TenantId, found: Excess) -> Refused:
    """Refuse a request that would break a quota."""
    name = found.limit.value
    return Refused(
        reason=Refusal.QUOTA_EXCEEDED,
        message=f"the tenant's quota of {found.quota:.10g} {name} is used up",
        retry_after_ms=found.retry_after_ms,
        metadata={
            "subject": f"tenant:{tenant_id}",
            "quota": name,
            "limit": f"{found.quota:.10g}",
            "used": f"{found.used:.0f}",
        },
    )
