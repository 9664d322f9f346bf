"""By how much a quota or budget was too small for a request that it kept out, or how long it keeps it out.

A sum (jobs, memory, a budget) would have to be so much larger; a rate lets the request in when its bucket has filled.
Either is tried before it is told: with the quota so, or at that time, nothing else stands in the way. Where something
does, there is no single remedy, and none is told.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from beeyard_core.ids import ModelName
from beeyard_core.job import JobSpec
from beeyard_core.quota import Demand, Excess, Limit, Quota, Usage, excess, refill
from beeyard_core.refusal import Refused
from beeyard_core.sessions import Sessions

#: What fills up again by itself.
_RATES = (Limit.TOKENS_PER_MINUTE, Limit.REQUESTS_PER_SECOND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that was kept out, and all that decides whether it would be let in.

    Attributes:
        spec: The job; None: heavy work, which has no session.
        usage: What its tenant has.
        bytes_of: What a worker of a model needs, in bytes; 0: unknown.
    """

    spec: JobSpec | None
    demand: Demand
    usage: Usage
    sessions: Sessions
    bytes_of: Callable[[ModelName], int]
    now_ms: int

    def excess(self, quota: Quota, after_ms: int = 0) -> Excess | None:
        """Return the first limit that would stand in the way with such a quota, so much later."""
        now_ms, usage = self.now_ms + after_ms, self.usage
        over = None if self.spec is None else self.sessions.excess(self.spec, quota, now_ms)
        later = replace(
            usage,
            tokens=usage.tokens and replace(usage.tokens),
            requests=usage.requests and replace(usage.requests),
        )
        refill(later, quota, now_ms)
        return over or excess(later, quota, self.demand, self.bytes_of)


def with_remedy(refused: Refused, asked: Asked, quota: Quota) -> Refused:
    """Return a refusal that says what would have been enough, if one thing would."""
    found = asked.excess(quota)
    assert found is not None, "what was refused has something in its way"
    if found.limit in _RATES:
        wait_ms = found.retry_after_ms
        if asked.excess(quota, wait_ms) is not None:
            return refused
        return replace(refused, message=f"{refused.message}; it would be let in after {wait_ms} ms")
    missing = _missing(found, asked)
    raised = replace(quota, **{found.limit.value: int(found.quota) + missing})
    if asked.excess(raised) is not None:
        return refused
    return replace(
        refused,
        message=f"{refused.message}; {missing} more would have been enough",
        metadata={**refused.metadata, "missing": str(missing)},
    )


def _missing(found: Excess, asked: Asked) -> int:
    """Return by how much a sum is too small."""
    need = {Limit.CONCURRENT_JOBS: 1, Limit.VRAM_BYTES: 0}.get(found.limit)
    if need is None:
        assert asked.spec is not None, "heavy work has no session"
        is_tokens = found.limit is Limit.SESSION_TOKENS
        need = asked.spec.kv_tokens if is_tokens else asked.spec.cost_units
    return int(found.used) + need - int(found.quota)
