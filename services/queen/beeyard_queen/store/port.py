"""What the queen needs remembered, and looked up again.

Two ports, because they have two callers. The single writer loop uses `JobWriter`: it opens the store, commits whole
batches and closes it. Ingress uses `JobReader` for what the loop no longer keeps in memory. A batch is all or nothing:
`commit` returns only when it is on disk (`synchronous=FULL`, or a database's own commit), and an accepted job is
acknowledged only after that.

The rows are plain values cut from the core's `Job` on the event loop (see `rows.py`), so that a writer thread never
sees an object that the loop is changing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from beeyard_core.history import JobRecord, LeaseRecord

from beeyard_queen.store.scales import ScaleRow
from beeyard_queen.store.sessions import SessionRow
from beeyard_queen.store.work import WorkRow


class StoreUnavailable(Exception):
    """The store cannot take or give anything now (full disk, I/O error). The message is for an operator's log.

    Nothing of the batch was kept. The same batch may be committed again later.
    """


class BatchInvalid(AssertionError):
    """A bug in the caller: the batch contradicts itself or what is stored. Nothing of it was kept.

    Tokens or a prompt of a job that the store does not know, a sequence or an idempotency key that another job has.
    """


class StoreRefused(Exception):
    """The store's file cannot be used at all: not ours, damaged, from a newer version, or not writable.

    The message is one sentence that says what to do; the queen prints it and exits.
    """


class JobRow(NamedTuple):
    """One job as it is remembered. Wall times in milliseconds since the epoch; 0 where not yet.

    Attributes:
        spec: The `JobSpec` as JSON, without the prompt.
        result: Finish, failure and decision as JSON; empty object while there is none.
        next_index: Tokens delivered at the time of the row; exact once the job has ended.
        expires_ms: When the job expires; 0: never.
        trace_id: 32 hexadecimal digits; empty: not traced.
        is_ended: Whether the state is final; the writer erases the prompt of an ended job in the same commit.
    """

    job_id: str
    sequence: int
    tenant_id: str
    session_id: str
    request_id: str
    digest: bytes
    model: str
    priority: int
    state: str
    spec: str
    created_ms: int
    expires_ms: int
    attempt: int
    epoch: int
    worker_id: str
    next_index: int
    leased_ms: int
    first_token_ms: int
    ended_ms: int
    result: str
    trace_id: str
    is_ended: bool


@dataclass(frozen=True, slots=True)
class TokensRow:
    """A run of delivered tokens of one job.

    `ids` and `text_lengths` are packed little-endian unsigned 32-bit integers; `ids` is empty when the engine reveals
    none. `count` is the number of tokens. Rows of a job are contiguous and start at index 0.
    """

    job_id: str
    first_index: int
    count: int
    ids: bytes
    text: str
    text_lengths: bytes


@dataclass(slots=True)
class Batch:
    """Everything that one commit makes durable.

    Attributes:
        jobs: Rows to insert or replace, by job id.
        prompts: Serialized requests of newly accepted jobs, by job id; erased when the job ends.
        tokens: Output to append.
        epoch: The highest lease epoch given out so far; 0: unchanged.
        models: Models seen for the first time.
        work: Rows of heavy work to insert or replace, by work id.
        scales: What is said of a model's workers at run time, by model; None: nothing any more.
        sessions: What sessions with a budget have used by now, to insert or replace.
        job_records: What is to be remembered of jobs that ended.
        lease_records: What is to be remembered of leases that ended.
    """

    jobs: dict[str, JobRow] = field(default_factory=dict)
    prompts: dict[str, bytes] = field(default_factory=dict)
    tokens: list[TokensRow] = field(default_factory=list)
    epoch: int = 0
    models: list[str] = field(default_factory=list)
    work: dict[str, WorkRow] = field(default_factory=dict)
    scales: dict[str, ScaleRow | None] = field(default_factory=dict)
    sessions: list[SessionRow] = field(default_factory=list)
    job_records: list[JobRecord] = field(default_factory=list)
    lease_records: list[LeaseRecord] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to make durable."""
        rows = (self.jobs, self.prompts, self.tokens, self.models, self.work, self.scales)
        records = (self.job_records, self.lease_records, self.sessions)
        return not (self.epoch or any(rows) or any(records))


@dataclass(frozen=True, slots=True)
class Restored:
    """What a starting queen finds: jobs and heavy work that have not ended (each by sequence), the last epoch, the
    models ever seen, the scales that were said at run time, what sessions had used (the longest unused first).
    """

    jobs: tuple[JobRow, ...]
    epoch: int
    sequence: int
    models: tuple[str, ...]
    work: tuple[WorkRow, ...] = ()
    work_sequence: int = 0
    scales: tuple[ScaleRow, ...] = ()
    sessions: tuple[SessionRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list: all given conditions hold. Newest first, strictly before `before_sequence` unless 0."""

    states: tuple[str, ...] = ()
    tenant_id: str = ""
    model: str = ""
    before_sequence: int = 0
    limit: int = 50


class JobWriter(Protocol):
    """The writer loop's port. One caller at a time."""

    async def open(self) -> Restored:
        """Open or create the store and return what is unfinished.

        Raises:
            StoreRefused: The store cannot be used; the message says what to do.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """Make the whole batch durable, or nothing of it.

        What is fixed when a job is accepted (sequence, tenant, request id, digest, creation) is kept from its first
        row. Committing the same batch again changes nothing.

        Raises:
            StoreUnavailable: Nothing was kept; the same batch may be tried again.
            BatchInvalid: A bug in the caller; nothing was kept.
        """
        ...

    async def forget(self, *, ended_before_ms: int) -> int:
        """Delete jobs with their output, and heavy work, that ended before that wall time; return how many of both.

        Bounded work per call.
        """
        ...

    async def forget_history(self, *, ended_before_ms: int, rows_max: int) -> int:
        """Delete records of what ended before that wall time, and the oldest beyond so many; return how many.

        Bounded work per call.
        """
        ...

    async def close(self) -> None:
        """Close the store; idempotent."""
        ...


class JobReader(Protocol):
    """Ingress's port: looks up what is durable. May be called concurrently, also while a commit runs."""

    async def job(self, job_id: str) -> JobRow | None:
        """Return one job, or None."""
        ...

    async def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        """Return the job of an idempotency key, or None."""
        ...

    async def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        """Return at most `limit` jobs that match, newest first."""
        ...

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        """Return the output of one job in order.

        Args:
            job_id: Which job.
            from_index: Only rows with tokens from here on.
            rows_max: So many rows at most; 0: all.
        """
        ...

    async def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized requests of those jobs that still have one."""
        ...
