"""The closed list of reasons for which Beeyard says no, and whether asking again can help.

A refusal is a value: the core returns it, the edge turns it into a gRPC status or a problem document. Nobody parses
messages. Refused (never queued), failed (ran, or could never run) and expired (too late) are different words
everywhere. The reasons and their codes are part of the external contract; `beeyard_runtime.rpc_errors` holds the one
table that maps them to gRPC.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum, unique


@unique
class Refusal(Enum):
    """Why something was refused or failed; the value is the `google.rpc.ErrorInfo.reason`."""

    # Bad input: the caller must change the request.
    INVALID_REQUEST = "INVALID_REQUEST"
    POLICY_INVALID = "POLICY_INVALID"
    REQUEST_ID_CONFLICT = "REQUEST_ID_CONFLICT"
    # Who asks.
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    # Nothing of that name.
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    LEASE_NOT_FOUND = "LEASE_NOT_FOUND"
    WORKER_NOT_FOUND = "WORKER_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    POLICY_NOT_FOUND = "POLICY_NOT_FOUND"
    # What is there can never run it.
    NO_CAPACITY_INCOMPATIBLE_MODEL = "NO_CAPACITY_INCOMPATIBLE_MODEL"
    NO_CAPACITY_INCOMPATIBLE_ENGINE = "NO_CAPACITY_INCOMPATIBLE_ENGINE"
    NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK = "NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK"
    NO_CAPACITY_INCOMPATIBLE_VRAM = "NO_CAPACITY_INCOMPATIBLE_VRAM"
    NO_CAPACITY_INCOMPATIBLE_CONTEXT = "NO_CAPACITY_INCOMPATIBLE_CONTEXT"
    NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY = "NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY"
    NO_CAPACITY_INCOMPATIBLE_QUANTIZATION = "NO_CAPACITY_INCOMPATIBLE_QUANTIZATION"
    POLICY_IMMUTABLE = "POLICY_IMMUTABLE"
    POLICY_DENIED = "POLICY_DENIED"
    # Too much for now.
    QUEUE_FULL_REJECT = "QUEUE_FULL_REJECT"
    QUEUE_FULL_DROP_LRU = "QUEUE_FULL_DROP_LRU"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    CAPACITY_GATED = "CAPACITY_GATED"
    POOL_UNREADY = "POOL_UNREADY"
    NO_WORKERS_AVAILABLE = "NO_WORKERS_AVAILABLE"
    DRAINING = "DRAINING"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    # Too late.
    DEADLINE_UNMET = "DEADLINE_UNMET"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    RESUME_OFFSET_GONE = "RESUME_OFFSET_GONE"
    READER_STALLED = "READER_STALLED"
    # Somebody else holds it.
    WORKER_BUSY = "WORKER_BUSY"
    LEASE_HOLDER_MISMATCH = "LEASE_HOLDER_MISMATCH"
    STALE_EPOCH = "STALE_EPOCH"
    STALE_POLICY_VERSION = "STALE_POLICY_VERSION"
    # It broke.
    WORKER_COMMUNICATION_FAILED = "WORKER_COMMUNICATION_FAILED"
    WORKER_ERROR = "WORKER_ERROR"
    WORKER_RESET = "WORKER_RESET"
    STREAM_READ_ERROR = "STREAM_READ_ERROR"
    PARSE_ERROR = "PARSE_ERROR"
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"
    VRAM_OOM = "VRAM_OOM"
    ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"
    INTERNAL = "INTERNAL"

    @property
    def is_transient(self) -> bool:
        """Whether the same request, sent again later, could be accepted."""
        return self in _TRANSIENT


# Everything not listed here needs another request, another fleet, or another caller.
_TRANSIENT = frozenset(
    {
        Refusal.QUEUE_FULL_REJECT,
        Refusal.QUEUE_FULL_DROP_LRU,
        Refusal.QUOTA_EXCEEDED,
        Refusal.BUDGET_EXCEEDED,
        Refusal.CAPACITY_GATED,
        Refusal.POOL_UNREADY,
        Refusal.NO_WORKERS_AVAILABLE,
        Refusal.DRAINING,
        Refusal.STORE_UNAVAILABLE,
        Refusal.READER_STALLED,
        Refusal.WORKER_BUSY,
        Refusal.WORKER_COMMUNICATION_FAILED,
        Refusal.WORKER_ERROR,
        Refusal.WORKER_RESET,
        Refusal.STREAM_READ_ERROR,
        Refusal.VRAM_OOM,
        Refusal.ATTEMPTS_EXHAUSTED,
        Refusal.INTERNAL,
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One refusal with everything the caller needs to act on it.

    Attributes:
        reason: Which of the closed list.
        message: One sentence for a person; says what to do. No class name, path or prompt text.
        field: The request field at fault, as a path such as `requirements.min_vram_bytes`; empty if none is.
        retry_after_ms: When to ask again, milliseconds; None when the reason is not transient.
        metadata: Further facts, such as what was needed and what the best pool has.
    """

    reason: Refusal
    message: str
    field: str = ""
    retry_after_ms: int | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
