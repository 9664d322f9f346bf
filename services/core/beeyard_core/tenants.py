"""Quotas of tenants, held against every job and every piece of heavy work that is submitted (see `quota.py`)."""

from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.fleet import Fleet
from beeyard_core.ids import ModelName, TenantId
from beeyard_core.job import Job, JobSpec
from beeyard_core.quota import Demand, QuotaSettings, Usage, exceeded, excess, refill
from beeyard_core.quota_remedy import Asked, with_remedy
from beeyard_core.refusal import Refused
from beeyard_core.sessions import Sessions, over_budget


@dataclass(slots=True)
class Tenants:
    """What every tenant has, bounded in number: one that has nothing here is forgotten, the longest known first."""

    usages: dict[TenantId, Usage] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)

    def usage_of(self, tenant_id: TenantId) -> Usage:
        """Return what a tenant has; a new one has nothing."""
        found = self.usages.get(tenant_id)
        if found is None:
            if len(self.usages) >= limits.TENANTS_KEPT_MAX:
                self._forget_idle()
            found = self.usages[tenant_id] = Usage()
        return found

    def _forget_idle(self) -> None:
        idle = next((i for i, usage in self.usages.items() if usage.is_idle), None)
        if idle is not None:
            del self.usages[idle]

    def admit_job(
        self, spec: JobSpec, quotas: QuotaSettings, fleet: Fleet, now_ms: int
    ) -> Refused | None:
        """Charge one more job to its tenant and session, or say which quota or budget stands in the way."""
        demand = Demand(tokens=spec.kv_tokens, model=spec.model)
        refused = self._over_budget(spec, quotas, now_ms)
        refused = refused or self._admit(spec.tenant_id, demand, quotas, fleet, now_ms)
        if refused is None:
            self.sessions.charge(spec, quotas.of(spec.tenant_id), now_ms)
            return None
        return self._advise(refused, spec.tenant_id, spec, demand, quotas, fleet, now_ms)

    def _advise(
        self,
        refused: Refused,
        tenant_id: TenantId,
        spec: JobSpec | None,
        demand: Demand,
        quotas: QuotaSettings,
        fleet: Fleet,
        now_ms: int,
    ) -> Refused:
        """Say with a refusal what would have been enough."""
        asked = Asked(
            spec=spec,
            demand=demand,
            usage=self.usage_of(tenant_id),
            sessions=self.sessions,
            bytes_of=lambda model: _model_bytes(fleet, model),
            now_ms=now_ms,
        )
        return with_remedy(refused, asked, quotas.of(tenant_id))

    def _over_budget(self, spec: JobSpec, quotas: QuotaSettings, now_ms: int) -> Refused | None:
        """Say whether a job is more than its session may use, if that is enforced."""
        quota = quotas.of(spec.tenant_id)
        found = self.sessions.excess(spec, quota, now_ms)
        left = self.sessions.remaining(spec, quota, now_ms)
        if found is None or left is None:
            return None
        self.usage_of(spec.tenant_id).exceeded[found.limit] += 1
        return over_budget(spec, found, left) if quotas.is_enforced else None

    def admit_work(
        self, tenant_id: TenantId, quotas: QuotaSettings, fleet: Fleet, now_ms: int
    ) -> Refused | None:
        """Charge one more piece of heavy work to its tenant, or say which quota stands in the way."""
        refused = self._admit(tenant_id, Demand(), quotas, fleet, now_ms)
        if refused is None:
            return None
        return self._advise(refused, tenant_id, None, Demand(), quotas, fleet, now_ms)

    def _admit(
        self, tenant_id: TenantId, demand: Demand, quotas: QuotaSettings, fleet: Fleet, now_ms: int
    ) -> Refused | None:
        usage, quota = self.usage_of(tenant_id), quotas.of(tenant_id)
        refill(usage, quota, now_ms)
        found = excess(usage, quota, demand, lambda model: _model_bytes(fleet, model))
        if found is not None:
            usage.exceeded[found.limit] += 1
            if quotas.is_enforced:
                return exceeded(tenant_id, found)
        usage.requests_total += 1
        usage.tokens_total += demand.tokens
        if usage.requests is not None:
            usage.requests.level -= 1
        if usage.tokens is not None:
            usage.tokens.level -= demand.tokens
        self._begin(usage, demand.model)
        return None

    def _begin(self, usage: Usage, model: ModelName | None) -> None:
        usage.jobs += 1
        if model is not None:
            usage.models[model] += 1

    def restore_job(self, job: Job, quotas: QuotaSettings) -> None:
        """Count a job of an earlier queen. The rate of tokens begins anew, so only its total is charged."""
        spec = job.spec
        # As of its acceptance: that is when its session was idle for long, or was not.
        self.sessions.charge(spec, quotas.of(spec.tenant_id), job.accepted_at.mono_ms)
        usage = self.usage_of(spec.tenant_id)
        usage.tokens_total += spec.kv_tokens
        self._begin(usage, spec.model)

    def restore_work(self, tenant_id: TenantId) -> None:
        """Count a piece of heavy work of an earlier queen."""
        self._begin(self.usage_of(tenant_id), None)

    def end_job(self, job: Job, now_ms: int) -> None:
        """A job is over: it no longer counts, and what it did not use is given back."""
        spec = job.spec
        usage = self.usage_of(spec.tenant_id)
        prompt_tokens = job.finish.prompt_tokens if job.finish else spec.prompt_tokens
        used = (prompt_tokens if job.attempt else 0) + job.next_index
        unused = spec.kv_tokens - used
        self.sessions.end_job(job, unused, now_ms)
        usage.tokens_total -= unused
        if usage.tokens is not None:
            usage.tokens.level += unused
        usage.jobs -= 1
        usage.models[spec.model] -= 1
        if not usage.models[spec.model]:
            del usage.models[spec.model]

    def end_work(self, tenant_id: TenantId) -> None:
        """A piece of heavy work is over."""
        self.usage_of(tenant_id).jobs -= 1


def _model_bytes(fleet: Fleet, model: ModelName) -> int:
    """Return what a worker of a model needs on the host where it needs least, in bytes; 0: nobody knows."""
    known = (
        cached.required_bytes
        for pool in fleet.pools.values()
        for cached in pool.report.models
        if cached.model == model and cached.required_bytes
    )
    return min(known, default=0)
