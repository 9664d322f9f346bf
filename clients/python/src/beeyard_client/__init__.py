"""The Python client of Beeyard: typed, async, and patient.

It imports generated code, gRPC and nothing of the services, so that it can be published alone.
"""

from beeyard_client.client import DEFAULT_QUEEN, BeeyardClient
from beeyard_client.errors import (
    BeeyardError,
    JobCancelledError,
    JobFailedError,
    LinkBrokenError,
    QueenUnreachableError,
)
from beeyard_client.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    FinishReason,
    Progress,
    Queued,
    Started,
    Timings,
    Tokens,
    Usage,
)
from beeyard_client.fleet import Device, Fleet, Model, Pool, Worker, WorkerState
from beeyard_client.held_lease import HeldLease
from beeyard_client.job import (
    Candidate,
    Explanation,
    Job,
    JobRequest,
    JobState,
    Message,
    Placement,
    Priority,
    Requirements,
)
from beeyard_client.stream import JobStream
from beeyard_client.work import (
    BusyFactor,
    Capacity,
    Denial,
    Grant,
    HostCapacity,
    Lease,
    LeaseDeniedError,
    LeaseLostError,
    QueuedWork,
    Work,
    WorkRequest,
    WorkState,
)

__all__ = [
    "DEFAULT_QUEEN",
    "BeeyardClient",
    "BeeyardError",
    "BusyFactor",
    "Cancelled",
    "Candidate",
    "Capacity",
    "Denial",
    "Device",
    "Event",
    "Explanation",
    "Failed",
    "FinishReason",
    "Finished",
    "Fleet",
    "Grant",
    "HeldLease",
    "HostCapacity",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobRequest",
    "JobState",
    "JobStream",
    "Lease",
    "LeaseDeniedError",
    "LeaseLostError",
    "LinkBrokenError",
    "Message",
    "Model",
    "Placement",
    "Pool",
    "Priority",
    "Progress",
    "QueenUnreachableError",
    "Queued",
    "QueuedWork",
    "Requirements",
    "Started",
    "Timings",
    "Tokens",
    "Usage",
    "Work",
    "WorkRequest",
    "WorkState",
    "Worker",
    "WorkerState",
]
