"""Everything that `step` can ask of the shell, as values. Effects are imperatives.

The contract with the shell: it commits every `SaveJob` and `SaveWork` of a batch in one transaction, and only then
performs the other effects of that batch, in order. An effect that is lost with the process is repeated after the
restart by the same rules that produced it.
"""

from dataclasses import dataclass

from beeyard_core.fleet import DesiredWorker
from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, PoolId, WorkerId, WorkId
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.work_ask import WorkAnswer


@dataclass(frozen=True, slots=True)
class SaveJob:
    """Make the job's present state durable before anything else of this batch happens."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class SaveJobSoon:
    """Make the job's present state durable with the next commit; nothing waits for it."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class SaveWork:
    """Make the present state of a piece of heavy work durable before anything else of this batch happens."""

    work_id: WorkId


@dataclass(frozen=True, slots=True)
class SaveScale:
    """Make what is said of a model's workers at run time, or that nothing is any more, durable with this batch."""

    model: ModelName


@dataclass(frozen=True, slots=True)
class AnswerWork:
    """Answer what was asked about heavy work."""

    call_id: int
    answer: WorkAnswer


@dataclass(frozen=True, slots=True)
class Accept:
    """Tell the submitter that its job is accepted."""

    job_id: JobId
    position: int
    predicted_start_ms: int


@dataclass(frozen=True, slots=True)
class AcceptAgain:
    """Tell the submitter of `asked_id` that its request already is the job `job_id`."""

    asked_id: JobId
    job_id: JobId


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the submitter why not. Nothing was queued."""

    job_id: JobId
    refused: Refused


@dataclass(frozen=True, slots=True)
class Offer:
    """Send a lease to its worker."""

    worker_id: WorkerId
    lease_id: LeaseId


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell a worker to stop a lease, if it is attached."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class AcknowledgeResult:
    """Tell a worker that a lease is over and may be forgotten."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer a worker's hello: it goes on with these leases and drops all others."""

    worker_id: WorkerId
    session: int
    adopted: tuple[tuple[LeaseId, Epoch], ...]


@dataclass(frozen=True, slots=True)
class RefuseWorker:
    """Close a worker's stream with a refusal."""

    worker_id: WorkerId
    session: int
    refused: Refused


@dataclass(frozen=True, slots=True)
class DrainWorker:
    """Tell a worker to take no new work."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class AnnounceRequeued:
    """Tell followers that the job waits for another attempt.

    Attributes:
        why: What ended the last one; None: it made way for a more urgent job.
    """

    job_id: JobId
    why: Refusal | None


@dataclass(frozen=True, slots=True)
class AnnounceEnded:
    """Tell followers how the job ended; nothing follows."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class ForgetJob:
    """The core no longer keeps this ended job in memory; the store still has it."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class SendDesired:
    """Tell a pool manager which workers should run on its host."""

    pool_id: PoolId
    workers: tuple[DesiredWorker, ...]


@dataclass(frozen=True, slots=True)
class AnswerCall:
    """Answer an operator's request: the worker it concerns, or why not."""

    call_id: int
    worker_id: WorkerId | None
    pool_id: PoolId | None
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class RemoveWorker:
    """Close the worker's stream, if one is open: its process is gone, or it was silent for too long."""

    worker_id: WorkerId
    session: int


@dataclass(frozen=True, slots=True)
class CountStaleEpoch:
    """A worker spoke for a lease that it no longer holds, or never held."""

    worker_id: WorkerId
    lease_id: LeaseId
    epoch: Epoch


Effect = (
    SaveJob
    | SaveJobSoon
    | SaveWork
    | SaveScale
    | AnswerWork
    | Accept
    | AcceptAgain
    | Refuse
    | Offer
    | Revoke
    | AcknowledgeResult
    | Welcome
    | RefuseWorker
    | DrainWorker
    | AnnounceRequeued
    | AnnounceEnded
    | ForgetJob
    | SendDesired
    | AnswerCall
    | RemoveWorker
    | CountStaleEpoch
)
