"""The life of one piece of heavy work, as a table, and the lease without which it does not run.

Work is what is costly and not inference: a backup, an index to rebuild, a test run. The queen never runs it. Somebody's
process asks for a lease, runs the work while it heartbeats, and says how it ended.

Rule 1: every transition that work can make is in `TRANSITIONS`, and only `Work.move` assigns `Work.state`.
Rule 2: a lease carries an epoch out of the same row as those of inference, so it is never given twice. Whoever speaks
for a lease names its epoch; one that is not current is refused and changes nothing.
Rule 3: payloads and results never enter the core.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

from beeyard_core import limits
from beeyard_core.ids import Epoch, LeaseId, PoolId, TenantId, WorkerId, WorkId
from beeyard_core.instant import Instant
from beeyard_core.job import IllegalMove, Priority


@unique
class WorkState(Enum):
    """Where in its life a piece of work is."""

    #: Accepted, durable, waiting for somebody who asks.
    QUEUED = "queued"
    #: Somebody holds the lease and has not heartbeated yet.
    LEASED = "leased"
    #: The holder heartbeats.
    RUNNING = "running"
    #: Released as completed.
    COMPLETED = "completed"
    #: Released as failed, revoked for good, or withdrawn.
    FAILED = "failed"
    #: The heartbeats stopped, or the deadline passed.
    EXPIRED = "expired"


@unique
class WorkVerb(Enum):
    """What can happen to a piece of work."""

    LEASE = "lease"
    START = "start"
    REQUEUE = "requeue"
    COMPLETE = "complete"
    FAIL = "fail"
    EXPIRE = "expire"


_BREAKS = {WorkVerb.FAIL: WorkState.FAILED, WorkVerb.EXPIRE: WorkState.EXPIRED}

TRANSITIONS: dict[WorkState, dict[WorkVerb, WorkState]] = {
    WorkState.QUEUED: {WorkVerb.LEASE: WorkState.LEASED, **_BREAKS},
    WorkState.LEASED: {
        WorkVerb.START: WorkState.RUNNING,
        WorkVerb.REQUEUE: WorkState.QUEUED,
        # Short work is done before its first heartbeat.
        WorkVerb.COMPLETE: WorkState.COMPLETED,
        **_BREAKS,
    },
    WorkState.RUNNING: {
        WorkVerb.REQUEUE: WorkState.QUEUED,
        WorkVerb.COMPLETE: WorkState.COMPLETED,
        **_BREAKS,
    },
    WorkState.COMPLETED: {},
    WorkState.FAILED: {},
    WorkState.EXPIRED: {},
}
#: States that nothing leaves; derived, never an ordering.
TERMINAL = frozenset(state for state, moves in TRANSITIONS.items() if not moves)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSpec:
    """What its submitter asked.

    Attributes:
        kind: The word by which those who can do it find it.
        units: Capacity units that it costs while it is leased.
        unique_key: While work of this tenant with this key has not ended, there is no other; empty: not unique.
        deadline_ms: Milliseconds from acceptance to the end; None: as long as it takes.
    """

    kind: str
    units: int = 1
    priority: Priority = Priority.NORMAL
    tenant_id: TenantId = TenantId("default")
    labels: tuple[tuple[str, str], ...] = ()
    unique_key: str = ""
    deadline_ms: int | None = None
    max_attempts: int = limits.ATTEMPTS_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLease:
    """A permission to use units of one host for one piece of work, for a while.

    Attributes:
        holder: Who asked for it, in its own words.
        pool_id: The host whose units it uses.
        expires_at_ms: Monotonic time at which it lapses unless a heartbeat comes.
        heartbeat_at: When the last one came; None: none yet.
        request_id: The idempotency key that it was asked with.
    """

    lease_id: LeaseId
    epoch: Epoch
    work_id: WorkId
    holder: WorkerId
    pool_id: PoolId
    units: int
    granted_at: Instant
    expires_at_ms: int
    ttl_ms: int
    heartbeat_at: Instant | None = None
    request_id: str = ""


@dataclass(slots=True, kw_only=True)
class Work:
    """One piece of work and everything that became of it. Mutable; only the rooms of `step` touch it.

    Attributes:
        sequence: Order of acceptance, which is the order within a class; kept over re-attempts.
        deadline_at_ms: Monotonic milliseconds at which it expires; None: never.
        attempt: Leases granted so far.
        epoch: Epoch of the current or last lease; 0 before the first.
        lease: The lease that counts; None while nobody holds one.
        is_released: Its last lease was given back by its holder, in so many words.
        failure: Why it did not complete, in a sentence; empty unless FAILED or EXPIRED, or queued after a break.
    """

    work_id: WorkId
    spec: WorkSpec
    sequence: int
    accepted_at: Instant
    request_id: str = ""
    digest: bytes = b""
    deadline_at_ms: int | None = None
    state: WorkState = WorkState.QUEUED
    attempt: int = 0
    epoch: Epoch = Epoch(0)
    lease: WorkLease | None = None
    is_released: bool = False
    leased_at: Instant | None = None
    ended_at: Instant | None = None
    progress: float = 0.0
    message: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in TERMINAL

    @property
    def has_attempts_left(self) -> bool:
        """Whether it may be leased again."""
        return self.attempt < self.spec.max_attempts

    def move(self, verb: WorkVerb) -> None:
        """Make one transition of the table.

        Raises:
            IllegalMove: The table has no such move; the work is unchanged.
        """
        target = TRANSITIONS[self.state].get(verb)
        if target is None:
            raise IllegalMove(f"work that is {self.state.value} cannot {verb.value}")
        self.state = target
