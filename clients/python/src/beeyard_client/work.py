"""Heavy work as a client sees it: pieces of work, leases, capacity. Values without wire types."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, unique
from typing import TypedDict

from beeyard_client.errors import BeeyardError
from beeyard_client.job import Priority

#: What a payload or a result is: a JSON object.
Json = Mapping[str, object]


@unique
class WorkState(StrEnum):
    """Where in its life a piece of work is."""

    QUEUED = "QUEUED"
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    # Sent by a queen that knows more states than this client.
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the work."""
        return self in _FINAL


_FINAL = frozenset({WorkState.COMPLETED, WorkState.FAILED, WorkState.EXPIRED})


class WorkOptions(TypedDict, total=False):
    """The keyword arguments of `submit_work` and `lease`; see `WorkRequest` for each."""

    capacity_units: int
    priority: Priority | str | None
    payload: Json
    tenant_id: str
    labels: Mapping[str, str]
    unique_key: str
    deadline_ms: int
    max_attempts: int
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRequest:
    """One piece of work to queue. What is left out is decided by the queen.

    Attributes:
        kind: The word by which those who can do it find it.
        capacity_units: Units that it costs, 1 to 100.
        priority: How urgent it is; None: NORMAL.
        payload: What to do; a JSON object of at most 256 KiB.
        tenant_id: Whose work it is; empty: `default`.
        labels: Free labels.
        unique_key: While work with this key has not ended, that work is returned instead.
        deadline_ms: How long it may take with its waiting, milliseconds; 0: as long as it takes.
        max_attempts: How often it may be leased; 0: 3.
        request_id: Idempotency key; empty: one is drawn.
    """

    kind: str
    capacity_units: int = 1
    priority: Priority | str | None = None
    payload: Json = field(default_factory=dict)
    tenant_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    unique_key: str = ""
    deadline_ms: int = 0
    max_attempts: int = 0
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A permission to use units of one host for one piece of work, for a while.

    Attributes:
        epoch: What every call about the lease carries.
        worker_id: Who holds it.
        pool_id: The host whose units it uses.
        ttl_ms: How long it lives after its grant and after each heartbeat.
        heartbeat_interval_ms: How often its holder should heartbeat.
    """

    lease_id: str
    epoch: int
    work_id: str
    worker_id: str
    pool_id: str
    capacity_units: int
    create_time: datetime | None
    expire_time: datetime | None
    last_heartbeat_time: datetime | None
    ttl_ms: int
    heartbeat_interval_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of heavy work.

    Attributes:
        payload: What to do; sent to its holder only, so empty everywhere else.
        result: What came of it; empty unless COMPLETED.
        failure: Why it did not complete, or why its last attempt did not.
        lease: The lease that counts; None unless LEASED or RUNNING.
    """

    work_id: str
    request_id: str
    kind: str
    priority: Priority
    capacity_units: int
    tenant_id: str
    state: WorkState
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    attempt: int
    max_attempts: int
    progress: float
    message: str
    failure: str
    lease: Lease | None
    payload: Json = field(default_factory=dict)
    result: Json = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease and its work, with the payload."""

    lease: Lease
    work: Work


@dataclass(frozen=True, slots=True)
class Denial:
    """Not now: `NO_WORK`, `TOO_LARGE`, `NO_CAPACITY`, `CAPACITY_GATED` or `DRAINING`, and when to ask again."""

    reason: str
    message: str
    retry_after_ms: int


@dataclass(frozen=True, slots=True)
class BusyFactor:
    """One measurement that a busy rating is made of; `value` is None if it is missing or stale."""

    name: str
    value: float | None
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapacity:
    """How much heavy work one host can take now."""

    pool_id: str
    units_total: int
    units_usable: int
    units_leased: int
    units_inference: int
    busy_rating: int
    fresh: bool
    factors: tuple[BusyFactor, ...]


@dataclass(frozen=True, slots=True)
class QueuedWork:
    """How much work of one class waits."""

    priority: Priority
    count: int
    capacity_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much heavy work all hosts can take now, together and each."""

    units_total: int
    units_usable: int
    units_leased: int
    units_inference: int
    busy_rating: int
    fresh: bool
    factors: tuple[BusyFactor, ...]
    queued: tuple[QueuedWork, ...]
    hosts: tuple[HostCapacity, ...]
    update_time: datetime | None


class LeaseLostError(BeeyardError):
    """The lease is over and nothing of the work counts any more: stop it. `reason` is the queen's, or `LEASE_LOST`."""


class LeaseDeniedError(BeeyardError):
    """No lease was granted within the patience; `reason` is that of the last denial."""
