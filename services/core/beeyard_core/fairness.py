"""What each tenant has had of the fleet, so that a policy can give the next turn to whoever had least.

Source: the virtual token counter of "Fairness in Serving Large Language Models" (Sheng et al., 2024). A tenant that
comes back after a pause starts where the least served of those that wait stands: being idle earns no credit that could
later keep everybody else waiting.
"""

import heapq

from beeyard_core import limits
from beeyard_core.ids import TenantId
from beeyard_core.job import Job
from beeyard_core.state import QueenState, Tenant
from beeyard_core.turns import Turns

#: The heap of shares is not swept below this many entries.
_SWEEP_MIN = 64


def tenant_of(state: QueenState, tenant_id: TenantId) -> Tenant:
    """Return a tenant's figures; a new one has had nothing."""
    found = state.tenants.get(tenant_id)
    if found is None:
        found = state.tenants[tenant_id] = Tenant()
        state.touched.tenants[tenant_id] = None
        _forget_idle(state, tenant_id)
    return found


def _forget_idle(state: QueenState, but: TenantId) -> None:
    """Keep the number of tenants bounded: one that has nothing here goes, the longest known first."""
    if len(state.tenants) <= limits.TENANTS_KEPT_MAX:
        return
    idle = (i for i, tenant in state.tenants.items() if i != but and tenant.is_idle)
    found = next(idle, None)
    if found is not None:
        del state.tenants[found]
        state.touched.tenants[found] = None


def starts_waiting(state: QueenState, job: Job) -> None:
    """Count a job that joined the queue; a tenant that was idle begins no further back than the least served."""
    tenant_id = job.spec.tenant_id
    tenant = tenant_of(state, tenant_id)
    if tenant.is_idle:
        # None of its sessions waits for another.
        for turns in tenant.turns.values():
            turns.last.clear()
        least = _least_served(state)
        if tenant.tokens_served < least:
            tenant.tokens_served = least
            state.touched.tenants[tenant_id] = None
        tenant.jobs_waiting += 1
        _enter(state, tenant_id, tenant)
    else:
        tenant.jobs_waiting += 1
    _take_place(tenant, job)


def _enter(state: QueenState, tenant_id: TenantId, tenant: Tenant) -> None:
    """Add a tenant's present share to the heap; swept once most of it is out of date."""
    if len(state.shares) > 2 * len(state.tenants) + _SWEEP_MIN:
        state.shares = [(t.tokens_served, i) for i, t in state.tenants.items() if not t.is_idle]
        heapq.heapify(state.shares)
    else:
        heapq.heappush(state.shares, (tenant.tokens_served, tenant_id))


def _least_served(state: QueenState) -> int:
    """The tokens of the tenant that was served least, of those that wait or run; 0 if none does."""
    while state.shares:
        served, tenant_id = state.shares[0]
        tenant = state.tenants.get(tenant_id)
        if tenant is not None and not tenant.is_idle and tenant.tokens_served == served:
            return served
        heapq.heappop(state.shares)
    return 0


def stops_waiting(state: QueenState, job: Job) -> None:
    """Count a job that left the queue."""
    tenant_of(state, job.spec.tenant_id).jobs_waiting -= 1


def gets_place(state: QueenState, job: Job) -> None:
    """Let a job that has none yet have a place among its tenant's jobs, behind those of its session."""
    _take_place(tenant_of(state, job.spec.tenant_id), job)


def _take_place(tenant: Tenant, job: Job) -> None:
    if job.place is None:
        job.place = _turns_of(tenant, job).join(job.spec.session_id)


def takes_turn(state: QueenState, job: Job) -> None:
    """A waiting job is about to start: the turn goes on to the next session of its tenant."""
    _turns_of(tenant_of(state, job.spec.tenant_id), job).serve(job.place or 0)


def _turns_of(tenant: Tenant, job: Job) -> Turns:
    key = (job.spec.priority, job.spec.model)
    found = tenant.turns.get(key)
    if found is None:
        found = tenant.turns[key] = Turns()
    return found


def starts_running(state: QueenState, job: Job) -> None:
    """Count a job that was leased, and charge at once what it may use: a flood of jobs pays before it is served."""
    job.tokens_charged = job.spec.kv_tokens
    _charge(state, job, job.tokens_charged, jobs=1)


def stops_running(state: QueenState, job: Job) -> None:
    """Count a job whose lease no longer counts; what it was charged and did not use is given back."""
    used = job.spec.prompt_tokens + _newly_served(job)
    _charge(state, job, used - job.tokens_charged, jobs=-1)
    job.tokens_charged = 0


def was_served(state: QueenState, job: Job, prompt_tokens: int | None) -> None:
    """Count what an attempt that is over turns out to have used.

    Args:
        state: The queen's memory.
        job: The job, with the tokens that were delivered so far.
        prompt_tokens: The prompt as the worker counted it; None: as estimated.
    """
    more = 0 if prompt_tokens is None else prompt_tokens - job.spec.prompt_tokens
    _charge(state, job, more + _newly_served(job), jobs=0)


def _newly_served(job: Job) -> int:
    """Take the tokens that were delivered since they were last counted; one that counts backwards earns nothing."""
    fresh = max(job.next_index - job.served_index, 0)
    job.served_index += fresh
    return fresh


def _charge(state: QueenState, job: Job, tokens: int, *, jobs: int) -> None:
    tenant_id = job.spec.tenant_id
    tenant = tenant_of(state, tenant_id)
    tenant.jobs_running += jobs
    tenant.tokens_served += tokens
    state.touched.tenants[tenant_id] = None
    if not tenant.is_idle:
        _enter(state, tenant_id, tenant)
