"""What a client asks and what it is told about a job, without wire types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, unique
from typing import Self, TypedDict

from beeyard_client.errors import invalid
from beeyard_client.events import Budget, Failed, FinishReason, Timings, Usage
from beeyard_client.prediction import Prediction


@unique
class Priority(StrEnum):
    """How urgent a job is. Classes are served in this order."""

    INTERACTIVE = "INTERACTIVE"
    NORMAL = "NORMAL"
    BATCH = "BATCH"
    BACKGROUND = "BACKGROUND"

    @classmethod
    def parse(cls, word: str) -> Self:
        """Return the class that `word` names, in any case; `high` and `low` are aliases.

        Raises:
            BeeyardError: `INVALID_REQUEST` if there is no such class.
        """
        name = {"HIGH": "INTERACTIVE", "LOW": "BATCH"}.get(word.upper(), word.upper())
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(one.value.lower() for one in cls)
            raise invalid("priority", f"priority is one of {known}, high, low") from None


@unique
class JobState(StrEnum):
    """Where in its life a job is."""

    QUEUED = "QUEUED"
    LEASED = "LEASED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    # Sent by a queen that knows more states than this client.
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to the job."""
        return self in _FINAL


_FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What the device and the model must offer; what is left out demands nothing."""

    min_vram_bytes: int = 0
    quantizations: Sequence[str] = ()
    min_compute_capability: str = ""
    min_context_tokens: int = 0
    extensions: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the job should or should not run, by pool id."""

    pin_pool_id: str = ""
    prefer_pool_ids: Sequence[str] = ()
    avoid_pool_ids: Sequence[str] = ()


class JobOptions(TypedDict, total=False):
    """The keyword arguments of `infer` and `submit`; see `JobRequest` for each."""

    model: str
    max_tokens: int
    seed: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    stop: Sequence[str]
    priority: Priority | str | None
    tenant_id: str
    session_id: str
    deadline_ms: int
    request_id: str
    engine: str
    requirements: Requirements | None
    placement: Placement | None
    labels: Mapping[str, str]
    cost_units: int
    max_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One job to run. What is left out is decided by the queen.

    Attributes:
        prompt: The text to continue; exactly one of `prompt` and `messages` is set.
        messages: The conversation to answer.
        model: The model; empty: the queen's default.
        max_tokens: Most tokens to generate; 0: 256.
        seed: Seed of the sampler; None: drawn by the queen.
        temperature: 0 (always the likeliest token) to 2; None: 0.8.
        top_p: Above 0 to 1; None: 0.95.
        top_k: 0: all tokens are candidates; None: 40.
        stop: Strings that end the answer.
        priority: The class; None: NORMAL.
        tenant_id: Whose job it is.
        session_id: The conversation that it belongs to.
        deadline_ms: How long it may take from acceptance to end, milliseconds; 0: as long as it takes.
        request_id: Idempotency key; empty: one is drawn.
        engine: Only workers of this engine.
        requirements: What the device and the model must offer.
        placement: Where it should or should not run.
        labels: Free labels for listings and policies.
        cost_units: What it counts against budgets; 0: 1.
        max_attempts: How often it may be tried; 0: 3.
    """

    prompt: str | None = None
    messages: Sequence[Message] = ()
    model: str = ""
    max_tokens: int = 0
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: Sequence[str] = ()
    priority: Priority | str | None = None
    tenant_id: str = ""
    session_id: str = ""
    deadline_ms: int = 0
    request_id: str = ""
    engine: str = ""
    requirements: Requirements | None = None
    placement: Placement | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    cost_units: int = 0
    max_attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the queen knows it; prompts are never part of it.

    Times are in UTC; None means not yet, or never for `expire_time`. `position` counts the jobs before it and means
    something while it is QUEUED; `next_index` is the number of tokens delivered so far. `prediction` counts
    from now while the job is QUEUED, and from `create_time` later on, for as long as the queen remembers it.
    """

    job_id: str
    request_id: str
    tenant_id: str
    session_id: str
    model: str
    priority: Priority
    state: JobState
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    attempt: int
    max_attempts: int
    worker_id: str
    position: int
    next_index: int
    finish_reason: FinishReason | None
    failure: Failed | None
    usage: Usage | None
    timings: Timings | None
    labels: Mapping[str, str]
    max_tokens: int
    seed: int
    policy_version: str
    trace_id: str
    budget: Budget | None = None
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One worker that was looked at; `excluded_by` is the first constraint that excluded it, empty if none did.

    `predicted_end_ms` is when the job would end on it, milliseconds from then; 0: unknown. It is the sum of the wait
    for a slot, the time to the first token and that of the answer. That is taken to have `answer_tokens`: as many as
    answers were measured to have (`answer_measured`), or the most that the job may.
    """

    worker_id: str
    pool_id: str
    chosen: bool
    excluded_by: str
    detail: str
    predicted_end_ms: float = 0.0
    slot_wait_ms: float = 0.0
    first_token_ms: float = 0.0
    answer_ms: float = 0.0
    answer_tokens: int = 0
    answer_measured: bool = False
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """The smallest single change found by which a waiting job could be placed; `message` is it in words.

    `kind` is one of report, loaded, slots, kv_tokens, gate, undrain, worker, fewer_tokens, demand, vram, later and
    earlier; `amount` is in slots, tokens, bytes or milliseconds, 0 where there is nothing to count.
    """

    kind: str
    amount: int
    target_id: str
    pool_id: str
    demand: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A lease that has ended: `released` by its worker, or `expired` with it."""

    lease_id: str
    worker_id: str
    pool_id: str
    attempt: int
    ending: str
    was_revoked: bool
    lease_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job waits, or why it ran where it ran."""

    job: Job
    summary: str
    candidates: tuple[Candidate, ...]
    remedy: Remedy | None = None
    leases: tuple[LeaseRecord, ...] = ()
    held_ms: int = 0
    other_remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpan:
    """One phase of a job.

    Attributes:
        name: As in traces: queue.wait, policy.decide, lease, prefill, decode.
        attempt: The attempt that it belongs to, from 1.
        end_time: None: it goes on.
        attributes: What is known of it, such as `beeyard.worker.id`.
    """

    name: str
    attempt: int
    begin_time: datetime
    end_time: datetime | None
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimeline:
    """A job with its phases, in the order in which they began."""

    job: Job
    spans: tuple[JobSpan, ...]
