"""Everything that the queen knows of heavy work: pieces, queue, leases, and who has which units.

Only `leasing.py` and its neighbours change it. What is derived (units in use, indexes) is kept up to date at each
change.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, unique

from beeyard_core import limits
from beeyard_core.governor import Governor
from beeyard_core.ids import LeaseId, PoolId, TenantId, WorkerId, WorkId, lease_id_of
from beeyard_core.work import Work, WorkLease
from beeyard_core.work_queue import WorkQueue


@unique
class InferenceShare(Enum):
    """What inference has to do with capacity units."""

    #: Nothing: units and ratings are for heavy work alone.
    IGNORED = "ignored"
    #: A job that runs takes its `cost_units` from what heavy work may get. It waits only while its host says that it
    #: has no room at all, or does not say.
    COUNTED = "counted"
    #: The same, and it waits while its host is rated 10 for whatever reason, or has no unit free.
    GATED = "gated"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySettings:
    """What the operator chose.

    Attributes:
        units_per_host: Units of a host when it is idle.
        reserve_units: Units of each host that are never leased.
        lease_ttl_ms: How long a lease lives after its grant and after each heartbeat.
    """

    units_per_host: int = limits.CAPACITY_UNITS_DEFAULT
    reserve_units: int = 0
    inference: InferenceShare = InferenceShare.COUNTED
    lease_ttl_ms: int = limits.WORK_LEASE_TTL_MS

    @property
    def units_leasable(self) -> int:
        """Most units that a host ever gives out."""
        return max(self.units_per_host - self.reserve_units, 0)


@dataclass(slots=True)
class WorkYard:
    """The memory of heavy work.

    Attributes:
        works: Every piece that has not ended, and the youngest ended ones.
        leases: The work of every lease that counts.
        lingering: Leases that were taken back, whose holder does not know it yet: it may still be computing, so their
            units count as used until it speaks again or its time to live is over.
        last_leases: Work in memory by its last lease, whether that counts or not.
        at_door: Work that somebody who could do it asked for and could not get, for want of units: when, and for which
            host (None: any).
        grants: The lease that an idempotency key was answered with, by holder and key, while it counts.
        ended: Ended work still in memory, oldest first.
        unsaved: Work whose progress is not durable yet; the next tick saves it.
        units_used: Units in use, by host. Derived; `occupy` and `vacate` keep it.
    """

    works: dict[WorkId, Work] = field(default_factory=dict)
    queue: WorkQueue = field(default_factory=WorkQueue)
    governor: Governor = field(default_factory=Governor)
    leases: dict[LeaseId, WorkId] = field(default_factory=dict)
    lingering: dict[LeaseId, WorkLease] = field(default_factory=dict)
    last_leases: dict[LeaseId, WorkId] = field(default_factory=dict)
    at_door: dict[WorkId, tuple[int, PoolId | None]] = field(default_factory=dict)
    by_request: dict[tuple[TenantId, str], WorkId] = field(default_factory=dict)
    by_unique_key: dict[tuple[TenantId, str], WorkId] = field(default_factory=dict)
    grants: dict[tuple[WorkerId, str], LeaseId] = field(default_factory=dict)
    ended: deque[WorkId] = field(default_factory=deque)
    unsaved: dict[WorkId, None] = field(default_factory=dict)
    units_used: dict[PoolId, int] = field(default_factory=dict)
    sequence: int = 0
    alarms: list[tuple[int, int, str]] = field(default_factory=list)
    alarms_count: int = 0

    def next_sequence(self) -> int:
        """Return the next number in the order of acceptance."""
        self.sequence += 1
        return self.sequence

    # --- Alarms ---

    def wake(self, due_ms: int, key: WorkId | LeaseId) -> None:
        """Ask to look again at a piece of work, or a lingering lease; what is found then decides."""
        self.alarms_count += 1
        heapq.heappush(self.alarms, (due_ms, self.alarms_count, key))

    def due(self, now_ms: int) -> Iterator[str]:
        """Take out whatever is to be looked at, in order."""
        while self.alarms and self.alarms[0][0] <= now_ms:
            yield heapq.heappop(self.alarms)[2]

    # --- The queue ---

    def enqueue(self, work: Work) -> None:
        """Let a piece of work wait, at the place of its acceptance."""
        self.queue.push(work)

    def dequeue(self, work: Work) -> None:
        """Take a waiting piece of work out of the queue."""
        self.queue.remove(work)
        self.at_door.pop(work.work_id, None)

    # --- Leases ---

    def occupy(self, work: Work, lease: WorkLease) -> None:
        """Let a lease count, and its units with it."""
        self.last_leases.pop(lease_id_of(work.epoch), None)
        work.lease, work.epoch, work.is_released = lease, lease.epoch, False
        self.leases[lease.lease_id] = work.work_id
        self.last_leases[lease.lease_id] = work.work_id
        self._add_units(lease.pool_id, lease.units)
        if lease.request_id:
            self.grants[lease.holder, lease.request_id] = lease.lease_id
        self.wake(lease.expires_at_ms, work.work_id)

    def vacate(self, work: Work, *, is_known_to_holder: bool) -> None:
        """Let the lease of a piece of work count no more; its units are free once its holder knows."""
        lease = work.lease
        assert lease is not None, "only a lease that counts can be taken back"
        work.lease = None
        del self.leases[lease.lease_id]
        self.grants.pop((lease.holder, lease.request_id), None)
        if is_known_to_holder:
            self._add_units(lease.pool_id, -lease.units)
        else:
            self.lingering[lease.lease_id] = lease
            self.wake(lease.expires_at_ms, lease.lease_id)

    def dismiss(self, lease_id: LeaseId) -> None:
        """Free the units of a lingering lease: its holder knows, or has been silent for too long."""
        lease = self.lingering.pop(lease_id)
        self._add_units(lease.pool_id, -lease.units)

    def _add_units(self, pool_id: PoolId, units: int) -> None:
        left = self.units_used.get(pool_id, 0) + units
        assert left >= 0, "units were given back twice"
        if left:
            self.units_used[pool_id] = left
        else:
            self.units_used.pop(pool_id, None)

    # --- Pieces of work ---

    def remember(self, work: Work) -> None:
        """Take a piece of work into memory, under every name that it is looked up by."""
        tenant_id = work.spec.tenant_id
        self.works[work.work_id] = work
        if work.request_id:
            self.by_request[tenant_id, work.request_id] = work.work_id
        if work.spec.unique_key:
            self.by_unique_key[tenant_id, work.spec.unique_key] = work.work_id
        if work.epoch:
            self.last_leases[lease_id_of(work.epoch)] = work.work_id
        if work.deadline_at_ms is not None:
            self.wake(work.deadline_at_ms, work.work_id)

    def forget_oldest(self) -> None:
        """Drop ended work from memory beyond what is kept; the store still has it."""
        while len(self.ended) > limits.ENDED_WORK_KEPT_MAX:
            work = self.works.pop(self.ended.popleft())
            self.by_request.pop((work.spec.tenant_id, work.request_id), None)
            self.last_leases.pop(lease_id_of(work.epoch), None)
