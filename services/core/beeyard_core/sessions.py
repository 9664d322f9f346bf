"""What a session may use in all, what it has used, and what is left.

A budget is a sum and not a rate: it does not fill up again. A job is charged the most that it may use when it is
accepted, and what it did not use is given back when it ends, so a session never uses more than its budget; what is left
tells a client by how much to ask for less. Cost units come back only from a job that never began.

Sessions are remembered only where there is a budget for them, and not for ever: one that was idle for
`SESSION_KEPT_MS` begins anew, and beyond `SESSIONS_KEPT_MAX` of them the longest idle is forgotten. What ended jobs
used is durable with the end of each of them. A queen that starts anew goes on with that, and with what it charges for
the unfinished jobs that it finds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from beeyard_core import limits
from beeyard_core.ids import TenantId
from beeyard_core.job import Job, JobSpec
from beeyard_core.quota import Excess, Limit, Quota
from beeyard_core.refusal import Refusal, Refused

#: Sessions that are asked whether they are idle when there are too many; those that are not come last from then on.
_ASKED = 8


SessionKey: TypeAlias = tuple[TenantId, str]


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of a session's budget; None: there is no limit."""

    tokens: int | None
    cost_units: int | None


@dataclass(slots=True)
class Spending:
    """What one session was charged.

    Attributes:
        tokens: What its ended jobs used and what its unfinished ones may use.
        jobs: Its unfinished jobs.
        used_at_ms: When a job of it was last accepted or ended, in monotonic milliseconds.
        ended_tokens: What its ended jobs used alone; the next likewise. That is what is durable.
    """

    tokens: int = 0
    cost_units: int = 0
    jobs: int = 0
    used_at_ms: int = 0
    ended_tokens: int = 0
    ended_cost_units: int = 0

    @classmethod
    def of_ended(cls, tokens: int, cost_units: int, used_at_ms: int) -> "Spending":
        """Return what a session was charged of which only ended jobs are known."""
        return cls(tokens, cost_units, 0, used_at_ms, tokens, cost_units)


@dataclass(slots=True)
class Sessions:
    """What every session was charged that has a budget, the longest unused first.

    Attributes:
        spent: By tenant and session.
        unsaved: Those of which a job ended since they were last made durable.
    """

    spent: dict[SessionKey, Spending] = field(default_factory=dict)
    unsaved: dict[SessionKey, None] = field(default_factory=dict)

    def restore(self, spent: Mapping[SessionKey, Spending]) -> None:
        """Go on with what an earlier queen made durable, the longest unused first."""
        self.spent.update(spent)

    def take_unsaved(self) -> list[tuple[SessionKey, Spending]]:
        """Return what must be durable with the ends of jobs, and forget that it must."""
        taken = [(key, self.spent[key]) for key in self.unsaved if key in self.spent]
        self.unsaved.clear()
        return taken

    def spending_of(self, spec: JobSpec, now_ms: int) -> Spending:
        """Return what a job's session was charged; one that is new, or was idle for long, nothing."""
        found = self.spent.get((spec.tenant_id, spec.session_id))
        if found is None or (
            not found.jobs and now_ms - found.used_at_ms >= limits.SESSION_KEPT_MS
        ):
            return Spending()
        return found

    def excess(self, spec: JobSpec, quota: Quota, now_ms: int) -> Excess | None:
        """Return the budget that one more job would exceed, or None."""
        if not _has_budget(spec, quota):
            return None
        spent = self.spending_of(spec, now_ms)
        retry_ms = limits.QUOTA_RETRY_MS
        if not spent.jobs:
            # Nothing will be given back, so it takes until the session begins anew.
            retry_ms = max(spent.used_at_ms + limits.SESSION_KEPT_MS - now_ms, retry_ms)
        tokens, units = quota.session_tokens, quota.session_cost_units
        if tokens is not None and spent.tokens + spec.kv_tokens > tokens:
            return Excess(Limit.SESSION_TOKENS, tokens, spent.tokens, retry_ms)
        if units is not None and spent.cost_units + spec.cost_units > units:
            return Excess(Limit.SESSION_COST_UNITS, units, spent.cost_units, retry_ms)
        return None

    def remaining(self, spec: JobSpec, quota: Quota, now_ms: int) -> Remaining | None:
        """Return what is left to the session of a job; None: it has no budget."""
        if not _has_budget(spec, quota):
            return None
        spent = self.spending_of(spec, now_ms)
        return Remaining(
            _left(quota.session_tokens, spent.tokens),
            _left(quota.session_cost_units, spent.cost_units),
        )

    def charge(self, spec: JobSpec, quota: Quota, now_ms: int) -> None:
        """Charge an accepted job to its session."""
        if not _has_budget(spec, quota):
            return
        spent = self.spending_of(spec, now_ms)
        spent.tokens += spec.kv_tokens
        spent.cost_units += spec.cost_units
        spent.jobs += 1
        self._touch((spec.tenant_id, spec.session_id), spent, now_ms)

    def end_job(self, job: Job, unused_tokens: int, now_ms: int) -> None:
        """Give back to a session what its job, which is over, did not use."""
        key = (job.spec.tenant_id, job.spec.session_id)
        spent = self.spent.get(key)
        if spent is None:
            return
        spent.tokens -= unused_tokens
        spent.ended_tokens += job.spec.kv_tokens - unused_tokens
        if job.attempt:
            spent.ended_cost_units += job.spec.cost_units
        else:
            spent.cost_units -= job.spec.cost_units
        spent.jobs -= 1
        self.unsaved[key] = None
        self._touch(key, spent, now_ms)

    def _touch(self, key: tuple[TenantId, str], spent: Spending, now_ms: int) -> None:
        """Put a session last, and forget an idle one if there are too many."""
        spent.used_at_ms = max(spent.used_at_ms, now_ms)
        self.spent.pop(key, None)
        self.spent[key] = spent
        for _ in range(_ASKED):
            if len(self.spent) <= limits.SESSIONS_KEPT_MAX:
                return
            oldest = next(iter(self.spent))
            found = self.spent.pop(oldest)
            if found.jobs:
                self.spent[oldest] = found


def _has_budget(spec: JobSpec, quota: Quota) -> bool:
    limited = quota.session_tokens is not None or quota.session_cost_units is not None
    return limited and bool(spec.session_id)


def _left(budget: int | None, used: int) -> int | None:
    return None if budget is None else max(budget - used, 0)


def over_budget(spec: JobSpec, found: Excess, left: Remaining) -> Refused:
    """Refuse a job that its session cannot pay for, and say what it could."""
    what, need = ("tokens", spec.kv_tokens)
    if found.limit is Limit.SESSION_COST_UNITS:
        what, need = ("cost units", spec.cost_units)
    rest = max(found.quota - found.used, 0)
    return Refused(
        reason=Refusal.BUDGET_EXCEEDED,
        message=f"the session has {rest:.0f} of {found.quota:.0f} {what} left and this job may use {need}",
        retry_after_ms=found.retry_after_ms,
        metadata={
            "subject": f"session:{spec.session_id}",
            "quota": found.limit.value,
            "limit": f"{found.quota:.0f}",
            "used": f"{found.used:.0f}",
            **remaining_facts(left),
        },
    )


def remaining_facts(left: Remaining) -> dict[str, str]:
    """Return what is left under the names that a refusal's metadata uses."""
    facts = {
        "budget_tokens_remaining": left.tokens,
        "budget_cost_units_remaining": left.cost_units,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}
