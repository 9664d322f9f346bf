"""What happens to a job, as the client's program sees it.

Order: `Queued`, then for each attempt `Started` and `Tokens` with `Progress` in between, then exactly one of
`Finished`, `Failed` and `Cancelled`. A re-attempt is another `Started`; token indexes go on over attempts and over
broken connections: none is missing, none is repeated.
"""

from dataclasses import dataclass
from enum import StrEnum, unique

from beeyard_client.prediction import Prediction


@unique
class FinishReason(StrEnum):
    """Why a generation ended by itself, in the words that OpenAI's clients know."""

    STOP = "stop"
    LENGTH = "length"
    # Sent by a queen that knows more reasons than this client.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How many tokens a job used."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a job's time went, in milliseconds as measured; 0 where a phase did not happen."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    first_token_ms: float
    total_ms: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is left to a session at a moment; None: there is no limit. It does not fill up again."""

    tokens_remaining: int | None
    cost_units_remaining: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The job is accepted and durable; `predicted_start_ms` is 0 and `prediction` None when nothing is known."""

    job_id: str
    position: int
    predicted_start_ms: int
    budget: Budget | None = None
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker took the job; `decision` says why this one, `policy_version` is `name@version`."""

    job_id: str
    worker_id: str
    worker_address: str
    model: str
    device: str
    attempt: int
    policy_version: str
    decision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Some more tokens; `ids` is empty when the engine does not reveal them."""

    job_id: str
    first_index: int
    ids: tuple[int, ...]
    text: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is going on while nothing comes; `stage` is `queued`, `loading_model` or `retrying`, `fraction` 0 to 1."""

    job_id: str
    stage: str
    fraction: float
    position: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job is COMPLETED."""

    job_id: str
    reason: FinishReason
    usage: Usage
    timings: Timings
    budget: Budget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The job is FAILED or EXPIRED; `retry_after_ms` is 0 when it says nothing."""

    job_id: str
    reason: str
    retriable: bool
    retry_after_ms: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The job is CANCELLED."""

    job_id: str


Event = Queued | Started | Tokens | Progress | Finished | Failed | Cancelled
Ending = Finished | Failed | Cancelled
