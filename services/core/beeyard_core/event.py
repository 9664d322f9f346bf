"""Everything that can happen to the queen, as values. Events are past participles: they report, they do not ask.

The shell turns each wire message, timer and request into one of these and hands it to `step`. Ids, sessions and the
moment come with the event, so the core draws nothing by itself.
"""

from dataclasses import dataclass

from beeyard_core.fleet import PoolReport, WorkerReport
from beeyard_core.governor import ApiLoad
from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, PoolId, WorkerId
from beeyard_core.job import Finish, JobSpec
from beeyard_core.refusal import Refusal
from beeyard_core.scaling import Scale
from beeyard_core.work_ask import WorkAsk


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    """A client asked for a job.

    Attributes:
        digest: A hash of the request body, for the idempotency key.
        prefix: The hashes of its prompt's blocks; see `prefix_index.py`.
    """

    job_id: JobId
    spec: JobSpec
    request_id: str = ""
    digest: bytes = b""
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A client wants a job stopped."""

    job_id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClaim:
    """A lease that a worker says it still holds."""

    lease_id: LeaseId
    epoch: Epoch
    next_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAttached:
    """A worker opened its stream. `session` numbers the streams of this queen process."""

    session: int
    report: WorkerReport
    incarnation: str = ""
    claims: tuple[LeaseClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerDetached:
    """A worker's stream ended. The worker itself may live on."""

    worker_id: WorkerId
    session: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReported:
    """A heartbeat arrived; it renews every lease of the worker."""

    session: int
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class OfferAccepted:
    """A worker took an offer."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class OfferRefused:
    """A worker did not take an offer."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch
    reason: Refusal


@dataclass(frozen=True, slots=True)
class FirstTokenArrived:
    """The first token of an attempt reached the queen."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class LeaseFinished:
    """A worker ended a generation and the queen has every token before `next_index`."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch
    next_index: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """A worker could not end a generation. Tokens before `next_index` were delivered."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch
    next_index: int
    reason: Refusal
    message: str


@dataclass(frozen=True, slots=True)
class LeaseStopped:
    """A worker stopped on an order."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class PoolReported:
    """A host's snapshot arrived; the first of a stream is answered with the desired workers."""

    report: PoolReport
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStartRequested:
    """An operator wants one more worker. `call_id` names the caller's answer slot."""

    call_id: int
    model: ModelName
    pool_id: PoolId | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStopRequested:
    """An operator wants a worker drained, and stopped unless `keep`."""

    call_id: int
    worker_id: WorkerId
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScaleRequested:
    """An operator says how many workers of a model there should be; None: what the file says again."""

    call_id: int
    model: ModelName
    scale: Scale | None


@dataclass(frozen=True, slots=True)
class WorkAsked:
    """Somebody asks about heavy work. `call_id` names the caller's answer slot."""

    call_id: int
    ask: WorkAsk


@dataclass(frozen=True, slots=True)
class ApiMeasured:
    """The queen measured its own calls."""

    load: ApiLoad


@dataclass(frozen=True, slots=True)
class DrainBegun:
    """The queen itself is shutting down: it accepts and places nothing more."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """A tick interval passed."""


Event = (
    JobSubmitted
    | CancelRequested
    | WorkerAttached
    | WorkerDetached
    | WorkerReported
    | OfferAccepted
    | OfferRefused
    | FirstTokenArrived
    | LeaseFinished
    | LeaseFailed
    | LeaseStopped
    | PoolReported
    | WorkerStartRequested
    | WorkerStopRequested
    | ModelScaleRequested
    | WorkAsked
    | ApiMeasured
    | DrainBegun
    | Ticked
)
