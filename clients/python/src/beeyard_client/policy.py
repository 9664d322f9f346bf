"""Scheduling policies as values: versions, what is wrong with one, and what one decided."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from beeyard_client.job import Candidate

#: What a policy is written in.
PolicyLanguage = Literal["lua", "yaml"]


class PolicyState(StrEnum):
    """Where in its life a version is."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    SUSPENDED = "SUSPENDED"
    """It failed too often and was replaced by the last good one."""
    UNKNOWN = "UNKNOWN"
    """A state that this client does not know."""


@dataclass(frozen=True, slots=True)
class PolicySource:
    """The text of a policy."""

    language: PolicyLanguage
    text: str


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One policy as it was deployed.

    Attributes:
        name: Its name.
        version: Its number, over all policies; 0 is the platform policy.
        digest: SHA-256 of language and text, in hexadecimal.
        state: Whether it decides now.
        source: Its text; None in listings.
        author: Who deployed it first, as that party said.
        note: What the author said about it.
        create_time: When it was first deployed; None for the platform policy.
        activate_time: When it last became active; None if it never was.
        suspension: Why it was suspended; empty otherwise.
    """

    name: str
    version: int
    digest: str
    state: PolicyState
    source: PolicySource | None
    author: str
    note: str
    create_time: datetime | None
    activate_time: datetime | None
    suspension: str

    @property
    def label(self) -> str:
        """What jobs and decisions call it: `name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """Something that is wrong with a policy.

    Attributes:
        is_error: Whether it keeps the policy from being deployed; otherwise somebody should look.
        message: What is wrong, without the place.
        line: Line of the source, from 1; 0: the policy as a whole.
        column: Column of that line, from 1; 0: the line as a whole.
        field: The rule or field at fault, as a path; empty if none is.
    """

    is_error: bool
    message: str
    line: int
    column: int
    field: str


@dataclass(frozen=True, slots=True)
class Validation:
    """What a check of a policy found.

    Attributes:
        problems: Errors first.
        lua: What would run; empty if it does not compile.
        states_tried: States on which it was run.
        decision_us_max: The longest of these runs, in microseconds of CPU.
    """

    problems: tuple[PolicyProblem, ...]
    lua: str
    states_tried: int
    decision_us_max: int

    @property
    def is_valid(self) -> bool:
        """Whether it can be deployed."""
        return not any(one.is_error for one in self.problems)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """What became of rules: the Lua that would run, or the problems that keep it from being made."""

    lua: str
    problems: tuple[PolicyProblem, ...]


@dataclass(frozen=True, slots=True)
class PolicyTemplate:
    """A policy to start from, and when to use it."""

    name: str
    summary: str
    source: PolicySource


@dataclass(frozen=True, slots=True)
class DispatchIntent:
    """Run a job on a worker."""

    job_id: str
    worker_id: str
    action: Literal["dispatch"] = field(default="dispatch", init=False)


@dataclass(frozen=True, slots=True)
class WaitIntent:
    """Do nothing now; `retry_after_ms` is when to ask again, 0 at the next change."""

    reason: str
    retry_after_ms: int
    action: Literal["wait"] = field(default="wait", init=False)


@dataclass(frozen=True, slots=True)
class StartWorkerIntent:
    """Start one more worker; an empty pool or GPU leaves the choice."""

    model: str
    pool_id: str
    gpu_id: str
    action: Literal["start_worker"] = field(default="start_worker", init=False)


@dataclass(frozen=True, slots=True)
class EvictIntent:
    """Stop a worker to make room."""

    worker_id: str
    reason: str
    action: Literal["evict"] = field(default="evict", init=False)


@dataclass(frozen=True, slots=True)
class PreemptIntent:
    """Take a job off its worker for another one."""

    job_id: str
    for_job_id: str
    action: Literal["preempt"] = field(default="preempt", init=False)


@dataclass(frozen=True, slots=True)
class RejectIntent:
    """Refuse a queued job."""

    job_id: str
    reason: str
    action: Literal["reject"] = field(default="reject", init=False)


Intent = (
    DispatchIntent | WaitIntent | StartWorkerIntent | EvictIntent | PreemptIntent | RejectIntent
)


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of a policy, and what became of it.

    Attributes:
        sequence: Counts up by one with every decision that was asked for; a gap is what was lost by reading slowly.
        create_time: When it was made.
        policy_version: The policy that made it, as `name@version`.
        state_version: Version of the state that it saw.
        intent: What the policy wants; None for a kind that this client does not know.
        applied: Whether the queen carried it out.
        refusal: Why it did not; empty if it did.
        fallback: Whether the policy failed and the platform policy decided instead.
        cpu_us: What the policy took, in microseconds of CPU.
        candidates: Of a dispatch: how workers of the model looked just before, the chosen one first.
    """

    sequence: int
    create_time: datetime | None
    policy_version: str
    state_version: int
    intent: Intent | None
    applied: bool
    refusal: str
    fallback: bool
    cpu_us: int
    candidates: tuple[Candidate, ...] = ()
