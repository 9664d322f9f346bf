"""What a policy may want, as values: one class an action, under the names of the policy's own language."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Run a waiting job on a worker, now."""

    action: ClassVar[str] = "dispatch"
    job_id: str
    worker_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Do nothing. `retry_after_ms` is when to ask again if nothing changes; 0: whenever something does."""

    action: ClassVar[str] = "wait"
    reason: str = ""
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartWorker:
    """Start a worker of a model. An empty pool or GPU leaves the choice to the queen or the host."""

    action: ClassVar[str] = "start_worker"
    model_ref: str
    pool_id: str = ""
    gpu_id: str = ""
    reason: str = ""

    @classmethod
    def at(cls, model_ref: str, pool_id: str, gpu_id: str, *, reason: str) -> "StartWorker":
        """Return the intent to start a worker at a place."""
        return cls(model_ref=model_ref, pool_id=pool_id, gpu_id=gpu_id, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Drain a worker and end it, so that its memory is free."""

    action: ClassVar[str] = "evict"
    evict_worker_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preempt:
    """Take a running job back into the queue for a more urgent one."""

    action: ClassVar[str] = "preempt"
    job_id: str
    for_job_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """End a waiting job as refused."""

    action: ClassVar[str] = "reject"
    job_id: str
    reason: str = ""


Intent = Dispatch | Wait | StartWorker | Evict | Preempt | Reject
