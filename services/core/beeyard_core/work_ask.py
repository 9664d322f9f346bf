"""What is asked of the work yard, and what it answers, as values.

Asks are handed to `step` inside a `WorkAsked`; each gets exactly one answer, inside an `AnswerWork`, once everything
that it changed is durable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, unique

from beeyard_core.ids import Epoch, LeaseId, PoolId, TenantId, WorkerId, WorkId
from beeyard_core.refusal import Refused
from beeyard_core.work import Work, WorkLease, WorkSpec


# --- Asks ---
@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Queue a piece of work. `digest` is a hash of the request body, for the idempotency key."""

    work_id: WorkId
    spec: WorkSpec
    request_id: str = ""
    digest: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWanted:
    """Somebody has time.

    Attributes:
        pool_id: The host that the caller runs on; None: the queen chooses the one with the most room.
        kinds: What the caller can do; empty: anything.
        units_max: Most units that it wants to use; 0: any.
        work_id: Only this piece of work; None: the most urgent.
        tenant_id: Only work of this tenant; None: of any.
    """

    holder: WorkerId
    pool_id: PoolId | None = None
    kinds: frozenset[str] = frozenset()
    units_max: int = 0
    work_id: WorkId | None = None
    tenant_id: TenantId | None = None
    request_id: str = ""

    def takes(self, work: Work) -> bool:
        """Whether a piece of work is of a tenant that the caller works for."""
        return self.tenant_id in (None, work.spec.tenant_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """Who speaks for which lease."""

    lease_id: LeaseId
    epoch: Epoch
    holder: WorkerId


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The holder lives."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Progress:
    """The holder lives, and says how far it is: 0 to 1, a sentence, figures by name."""

    claim: Claim
    progress: float
    message: str = ""
    measurements: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completion:
    """The work is done."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Failure:
    """The work broke; another attempt may succeed if `is_retriable`."""

    claim: Claim
    message: str
    is_retriable: bool


@dataclass(frozen=True, slots=True)
class Revocation:
    """An operator takes a lease away; epoch 0: whatever it is."""

    lease_id: LeaseId
    epoch: Epoch
    reason: str
    is_requeued: bool


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """An operator, or its submitter, wants a piece of work not to run (any more)."""

    work_id: WorkId
    reason: str


WorkAsk = (
    Submission | LeaseWanted | Heartbeat | Progress | Completion | Failure | Revocation | Withdrawal
)


# --- Answers ---
@unique
class DenialReason(IntEnum):
    """Why nobody gets a lease now. Of several that apply, the last one is told."""

    NO_WORK = 1
    TOO_LARGE = 2
    NO_CAPACITY = 3
    CAPACITY_GATED = 4
    DRAINING = 5


@dataclass(frozen=True, slots=True)
class Denied:
    """Not now: an ordinary answer, and when to ask again, in milliseconds."""

    reason: DenialReason
    message: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class Granted:
    """Go ahead, and heartbeat."""

    lease: WorkLease


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease lives on."""

    lease: WorkLease


@dataclass(frozen=True, slots=True)
class Told:
    """The piece of work as it is now."""

    work_id: WorkId


WorkAnswer = Granted | Denied | Renewed | Told | Refused
