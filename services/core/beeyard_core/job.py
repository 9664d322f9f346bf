"""The life of one job, as a table.

Rule 1: every transition that a job can make is in `TRANSITIONS`, and only `Job.move` assigns `Job.state`.
Rule 2: this file knows no clock, store, stream or worker.

A *job* is what a client asked. An *attempt* is one try at it, numbered from 1. A *lease* is a worker's claim to one
attempt (see `lease.py`). Tokens are numbered over the whole job, so a second attempt goes on where the first one
stopped: that is why REQUEUE is legal from RUNNING.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from typing import NamedTuple

from beeyard_core import limits
from beeyard_core.ids import Epoch, JobId, ModelName, PoolId, TenantId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.prediction import Estimate
from beeyard_core.refusal import Refused


@unique
class JobState(Enum):
    """Where in its life a job is."""

    # Members are single objects: their identity serves as well as the hash of their name, at a tenth of the cost.
    __hash__ = object.__hash__

    #: Accepted, durable, waiting for a worker.
    QUEUED = "queued"
    #: Offered to a worker; no token yet.
    LEASED = "leased"
    #: Tokens are coming.
    RUNNING = "running"
    #: The generation ended by itself.
    COMPLETED = "completed"
    #: Every attempt broke, or the job can never run.
    FAILED = "failed"
    #: The deadline passed first.
    EXPIRED = "expired"
    #: Cancelled by request.
    CANCELLED = "cancelled"


@unique
class JobVerb(Enum):
    """What can happen to a job."""

    __hash__ = object.__hash__  # see `job.JobState`

    LEASE = "lease"
    START = "start"
    REQUEUE = "requeue"
    FINISH = "finish"
    FAIL = "fail"
    EXPIRE = "expire"
    CANCEL = "cancel"


_ENDINGS = {
    JobVerb.FAIL: JobState.FAILED,
    JobVerb.EXPIRE: JobState.EXPIRED,
    JobVerb.CANCEL: JobState.CANCELLED,
}

TRANSITIONS: dict[JobState, dict[JobVerb, JobState]] = {
    JobState.QUEUED: {JobVerb.LEASE: JobState.LEASED, **_ENDINGS},
    JobState.LEASED: {
        JobVerb.START: JobState.RUNNING,
        JobVerb.REQUEUE: JobState.QUEUED,
        # An answer may be empty: the model can end before its first token.
        JobVerb.FINISH: JobState.COMPLETED,
        **_ENDINGS,
    },
    JobState.RUNNING: {
        JobVerb.REQUEUE: JobState.QUEUED,
        JobVerb.FINISH: JobState.COMPLETED,
        **_ENDINGS,
    },
    JobState.COMPLETED: {},
    JobState.FAILED: {},
    JobState.EXPIRED: {},
    JobState.CANCELLED: {},
}
#: States that nothing leaves; derived, never an ordering.
TERMINAL = frozenset(state for state, moves in TRANSITIONS.items() if not moves)


class IllegalMove(AssertionError):
    """A bug in the caller: the table has no such move. Nothing was changed."""


class Priority(IntEnum):
    """How urgent a job is; smaller is served first, FIFO within a class."""

    INTERACTIVE = 1
    NORMAL = 2
    BATCH = 3
    BACKGROUND = 4


class Requirements(NamedTuple):
    """What the device and the model must offer; zero and empty demand nothing.

    Attributes:
        min_vram_bytes: Least memory of the device in bytes.
        quantizations: Accepted quantizations; empty: any.
        min_compute_capability: Least CUDA compute capability as (major, minor); None: any device.
        min_context_tokens: Least context window in tokens.
        extensions: What the worker must be able to do beyond generating: all of these words.
    """

    min_vram_bytes: int = 0
    quantizations: tuple[str, ...] = ()
    min_compute_capability: tuple[int, int] | None = None
    min_context_tokens: int = 0
    extensions: tuple[str, ...] = ()


class PlacementWish(NamedTuple):
    """Where a job should or should not run."""

    pin_pool_id: PoolId | None = None
    prefer_pool_ids: tuple[PoolId, ...] = ()
    avoid_pool_ids: tuple[PoolId, ...] = ()


#: What most jobs ask of a device, and of where they run.
ANY_DEVICE = Requirements()
ANYWHERE = PlacementWish()


class JobSpec(NamedTuple):
    """What a client asked, as far as decisions need it. The prompt itself never enters the core.

    Attributes:
        model: The model, already resolved to a name of the fleet unless the fleet does not know it.
        prompt_tokens: Estimate of the prompt's length in tokens; the worker counts exactly.
        max_tokens: Most tokens to generate.
        deadline_ms: Milliseconds from acceptance to the end; None: as long as it takes.
        engine: Only workers of this engine; empty: any.
        is_seeded: The client chose the seed, so it wants the answer to be repeatable.
    """

    model: ModelName
    prompt_tokens: int
    max_tokens: int
    priority: Priority = Priority.NORMAL
    tenant_id: TenantId = TenantId("default")
    session_id: str = ""
    deadline_ms: int | None = None
    engine: str = ""
    requirements: Requirements = ANY_DEVICE
    placement: PlacementWish = ANYWHERE
    labels: tuple[tuple[str, str], ...] = ()
    cost_units: int = 1
    max_attempts: int = 3
    seed: int = 0
    is_seeded: bool = False

    @property
    def kv_tokens(self) -> int:
        """KV memory that the job may need, in tokens."""
        return self.prompt_tokens + self.max_tokens

    @property
    def kv_tokens_min(self) -> int:
        """KV memory that the job needs even if its prompt is half as long as estimated, in tokens.

        Only what is certain may refuse a job for good; the worker, which has the tokenizer, decides the rest.
        """
        return self.prompt_tokens // 2 + self.max_tokens

    @property
    def is_plain(self) -> bool:
        """Whether it asks for a model and room, and for nothing else."""
        need, wish = self.requirements, self.placement
        return (
            not self.engine
            and (need is ANY_DEVICE or need == ANY_DEVICE)
            and (wish is ANYWHERE or wish == ANYWHERE)
        )

    @property
    def shape(self) -> "Shape":
        """Everything that decides which workers can take the job: jobs of one shape are interchangeable for that."""
        kind = Kind(self.model, self.engine, self.requirements, self.placement)
        return Shape(kind, self.kv_tokens_min // limits.SHAPE_TOKENS)


class Kind(NamedTuple):
    """The part of a job that feasibility depends on, apart from its size."""

    model: ModelName
    engine: str
    requirements: Requirements
    placement: PlacementWish


class Shape(NamedTuple):
    """A kind of job and its size, in steps of `SHAPE_TOKENS`."""

    kind: Kind
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How a generation ended by itself, as the worker measured it.

    Attributes:
        reason: `stop` or `length`.
        prompt_tokens: Tokens of the prompt.
        cached_prompt_tokens: Prompt tokens found in the prefix cache.
        prefill_ms: From the start of the attempt to its first token.
        decode_ms: From the first to the last token of the attempt.
    """

    reason: str
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why an attempt runs where it runs.

    Attributes:
        policy_version: The policy that chose, as `name@version`.
        worker_id: The worker that was chosen.
        reason: Why, in the policy's own words; empty: it gave none.
        considered: Workers of its model that could take some job at that moment.
        is_fallback: The active policy failed or was late, and the platform policy decided instead.
    """

    policy_version: str
    worker_id: WorkerId
    reason: str = ""
    considered: int = 0
    is_fallback: bool = False

    @property
    def summary(self) -> str:
        """One line for a person."""
        workers = "worker was" if self.considered == 1 else "workers were"
        told = f"{self.reason or 'no reason given'} ({self.considered} {workers} open)"
        return f"{told}; fallback to the platform policy" if self.is_fallback else told


@dataclass(slots=True, kw_only=True)
class Job:
    """One job and everything that became of it. Mutable; only `step` and its rooms touch it.

    Attributes:
        sequence: Order of acceptance, which is the order within a class; kept over re-attempts.
        accepted_at: When the job became durable.
        deadline_at_ms: Monotonic milliseconds at which it expires; None: never.
        place: Where it stands among its tenant's jobs of its class and model (`turns.py`); None: nowhere yet.
        was_next: Its last attempt began because it had waited for too long.
        is_next: It has waited for too long, and nothing else of its model should start before it (`overdue.py`).
        next_index: Tokens delivered so far, as far as the core was told; exact once the job has ended.
        preemptions: Attempts that were taken back for more urgent jobs, or because their worker was drained; they count
            against nothing.
        is_resting: The job is QUEUED and out of the queue for a while, since its attempts break.
        served_index: Tokens of the answer that were counted as served to its tenant.
        tokens_charged: What its tenant was charged for the running attempt in advance.
        expected_tokens: Tokens that its answer is expected to have, as known at acceptance; 0: unknown.
        expected_ms: Milliseconds that it is expected to need of a slot, likewise; 0: unknown.
        waited_ms: Milliseconds from acceptance to the first lease; None: there was none, or an earlier queen gave it.
        held_until_ms: Monotonic time until which no policy is told of it, see `holding.py`; None: it is not held.
        estimate: What was predicted when it was accepted; None: too little was known.
        epoch: Epoch of the current or last lease; 0 before the first.
    """

    job_id: JobId
    spec: JobSpec
    sequence: int
    accepted_at: Instant
    request_id: str = ""
    digest: bytes = b""
    deadline_at_ms: int | None = None
    place: int | None = None
    is_next: bool = False
    was_next: bool = False
    state: JobState = JobState.QUEUED
    attempt: int = 0
    preemptions: int = 0
    is_resting: bool = False
    epoch: Epoch = Epoch(0)
    worker_id: WorkerId | None = None
    next_index: int = 0
    served_index: int = 0
    tokens_charged: int = 0
    expected_tokens: int = 0
    expected_ms: int = 0
    waited_ms: int | None = None
    held_until_ms: int | None = None
    estimate: Estimate | None = None
    leased_at: Instant | None = None
    first_token_at: Instant | None = None
    ended_at: Instant | None = None
    finish: Finish | None = None
    failure: Refused | None = None
    decision: Decision | None = None

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self.state in TERMINAL

    @property
    def keeps_slot(self) -> bool:
        """Whether it is not to be taken back for a more urgent job: it was too often, or it waited for too long."""
        return self.was_next or self.preemptions >= limits.PREEMPTIONS_PER_JOB_MAX

    def move(self, verb: JobVerb) -> None:
        """Make one transition of the table.

        Raises:
            IllegalMove: The table has no such move; the job is unchanged.
        """
        target = TRANSITIONS[self.state].get(verb)
        if target is None:
            raise IllegalMove(f"a job that is {self.state.value} cannot {verb.value}")
        self.state = target


def timings_of(job: Job) -> Mapping[str, float]:
    """Where the job's time went, in milliseconds, under the names of the wire's `Timings`."""
    end = job.ended_at or job.accepted_at
    first = job.first_token_at
    finish = job.finish
    decode_ms = finish.decode_ms if finish else 0.0
    # n tokens span n - 1 gaps; one token has no decode time.
    gaps = max(job.next_index - 1, 0)
    return {
        "queue_ms": float(job.leased_at.mono_ms - job.accepted_at.mono_ms)
        if job.leased_at
        else 0.0,
        "prefill_ms": finish.prefill_ms if finish else 0.0,
        "decode_ms": decode_ms,
        "first_token_ms": float(first.mono_ms - job.accepted_at.mono_ms) if first else 0.0,
        "total_ms": float(end.mono_ms - job.accepted_at.mono_ms),
        "tokens_per_s": gaps * 1000.0 / decode_ms if decode_ms > 0 else 0.0,
    }
