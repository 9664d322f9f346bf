"""How evenly tenants were served while they had to share: what Jain's index is taken of.

Tokens over a whole run say nothing about a policy: once every job has run, each tenant got what it asked for. So only
the time counts in which a tenant had jobs waiting from one look to the next, together with at least one other: what it
was granted meanwhile, a second, is its share.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

#: A tenant that was in contention for less than this part of the longest contender says nothing about fairness.
_PRESENCE_MIN: Final = 0.05


@dataclass(slots=True)
class _Tenant:
    waiting: int = 0
    granted: int = 0
    # As of the last look.
    waited: bool = False
    granted_then: int = 0
    contended_tokens: int = 0
    contended_ms: int = 0


@dataclass(slots=True)
class Contention:
    """Waiting jobs and granted tokens by tenant."""

    _tenants: dict[str, _Tenant] = field(default_factory=dict)
    _looked_ms: int = 0

    def _of(self, tenant: str) -> _Tenant:
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = _Tenant()
        return found

    def waits(self, tenant: str) -> None:
        """One more of its jobs waits."""
        self._of(tenant).waiting += 1

    def leaves(self, tenant: str) -> None:
        """One of its waiting jobs ends unserved."""
        self._of(tenant).waiting -= 1

    def is_served(self, tenant: str, tokens: int) -> None:
        """One of its waiting jobs starts; it will take so many tokens of prompt and answer."""
        found = self._of(tenant)
        found.waiting -= 1
        found.granted += tokens

    def look(self, now_ms: int) -> None:
        """Note who had to wait since the last look."""
        span_ms = now_ms - self._looked_ms
        self._looked_ms = now_ms
        contenders = [one for one in self._tenants.values() if one.waited and one.waiting]
        if len(contenders) > 1:
            for one in contenders:
                one.contended_tokens += one.granted - one.granted_then
                one.contended_ms += span_ms
        for one in self._tenants.values():
            one.waited, one.granted_then = one.waiting > 0, one.granted

    def shares(self) -> dict[str, float]:
        """Return what each tenant that had to share was granted, in tokens a second of contention."""
        longest_ms = max((one.contended_ms for one in self._tenants.values()), default=0)
        return {
            name: one.contended_tokens * 1_000 / one.contended_ms
            for name, one in sorted(self._tenants.items())
            if one.contended_ms and one.contended_ms >= _PRESENCE_MIN * longest_ms
        }


def jain(shares: Iterable[float]) -> float:
    """Return Jain's index: 1 if all are equal, 1/n if one has everything; 1 for nobody."""
    values = list(shares)
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
