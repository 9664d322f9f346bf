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

__all__ = [
    "DEFAULT_QUEEN",
    "BeeyardClient",
    "BeeyardError",
    "Cancelled",
    "Candidate",
    "Device",
    "Event",
    "Explanation",
    "Failed",
    "FinishReason",
    "Finished",
    "Fleet",
    "Job",
    "JobCancelledError",
    "JobFailedError",
    "JobRequest",
    "JobState",
    "JobStream",
    "LinkBrokenError",
    "Message",
    "Model",
    "Placement",
    "Pool",
    "Priority",
    "Progress",
    "QueenUnreachableError",
    "Queued",
    "Requirements",
    "Started",
    "Timings",
    "Tokens",
    "Usage",
    "Worker",
    "WorkerState",
]
