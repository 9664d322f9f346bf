"""The life of one lease, as a table: a worker's claim to one attempt of one job.

Rule 1: every transition that a lease can make is in `TRANSITIONS`, and only `Lease.move` assigns `Lease.state`.
Rule 2: a lease carries an epoch that no other lease ever has. Whoever speaks for a lease names the epoch; a stale one
is refused. That fence, not a timer, is what keeps a job from being completed twice.

A revoked lease still occupies its slot: the worker may go on computing until it hears of the revocation, so the slot
counts as free only when the worker says so (RELEASE) or has been silent for the lease's time to live (EXPIRE).
"""

from dataclasses import dataclass
from enum import Enum, unique

from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import IllegalMove


@unique
class LeaseState(Enum):
    """Where in its life a lease is."""

    # Members are single objects: their identity serves as well as the hash of their name, at a tenth of the cost.
    __hash__ = object.__hash__

    #: Sent to the worker, which has not answered yet.
    OFFERED = "offered"
    #: The worker works on it.
    ACTIVE = "active"
    #: Taken back; the worker may not have heard of it yet. Nothing that it sends counts any more.
    REVOKED = "revoked"
    #: The worker gave it back: finished, failed, refused or stopped.
    RELEASED = "released"
    #: The worker was silent for the time to live.
    EXPIRED = "expired"


@unique
class LeaseVerb(Enum):
    """What can happen to a lease."""

    __hash__ = object.__hash__  # see `job.JobState`

    ACCEPT = "accept"
    REVOKE = "revoke"
    RELEASE = "release"
    EXPIRE = "expire"


TRANSITIONS: dict[LeaseState, dict[LeaseVerb, LeaseState]] = {
    LeaseState.OFFERED: {
        LeaseVerb.ACCEPT: LeaseState.ACTIVE,
        LeaseVerb.REVOKE: LeaseState.REVOKED,
        LeaseVerb.RELEASE: LeaseState.RELEASED,
        LeaseVerb.EXPIRE: LeaseState.EXPIRED,
    },
    LeaseState.ACTIVE: {
        LeaseVerb.REVOKE: LeaseState.REVOKED,
        LeaseVerb.RELEASE: LeaseState.RELEASED,
        LeaseVerb.EXPIRE: LeaseState.EXPIRED,
    },
    LeaseState.REVOKED: {
        LeaseVerb.RELEASE: LeaseState.RELEASED,
        LeaseVerb.EXPIRE: LeaseState.EXPIRED,
    },
    LeaseState.RELEASED: {},
    LeaseState.EXPIRED: {},
}
TERMINAL = frozenset(state for state, moves in TRANSITIONS.items() if not moves)


@dataclass(slots=True, kw_only=True)
class Lease:
    """One worker's claim to one attempt.

    Attributes:
        model: The job's, which is its worker's.
        kv_tokens: KV memory counted against the worker while the lease lives, in tokens.
        offered_at: When it was placed.
    """

    lease_id: LeaseId
    epoch: Epoch
    job_id: JobId
    worker_id: WorkerId
    model: ModelName
    attempt: int
    kv_tokens: int
    offered_at: Instant
    state: LeaseState = LeaseState.OFFERED

    @property
    def is_current(self) -> bool:
        """Whether what the worker sends for this lease still counts."""
        return self.state in (LeaseState.OFFERED, LeaseState.ACTIVE)

    def move(self, verb: LeaseVerb) -> None:
        """Make one transition of the table.

        Raises:
            IllegalMove: The table has no such move; the lease is unchanged.
        """
        target = TRANSITIONS[self.state].get(verb)
        if target is None:
            raise IllegalMove(f"a lease that is {self.state.value} cannot {verb.value}")
        self.state = target
