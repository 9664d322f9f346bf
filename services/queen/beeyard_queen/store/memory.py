"""A store in memory: the fake that every test of the queen may trust, because it passes the conformance suite.

It outlives `close`, so that one object can play the disk under several queens, and it can be told to fail.
"""

import asyncio
from collections.abc import Sequence

from beeyard_core import limits

from beeyard_queen.store.memory_history import MemoryHistory
from beeyard_queen.store.memory_versions import MemoryVersions
from beeyard_queen.store.memory_work import MemoryWork
from beeyard_queen.store.port import (
    Batch,
    BatchInvalid,
    JobFilter,
    JobRow,
    Restored,
    StoreRefused,
    StoreUnavailable,
    TokensRow,
)
from beeyard_queen.store.scales import ScaleRow
from beeyard_queen.store.sessions import SessionRow, kept_since_ms


class MemoryStore:
    """Every port, on dictionaries.

    Attributes:
        policies: The policy versions of the same store.
        work: The heavy work of the same store.
        history: What the same store remembers of what has ended.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._jobs: dict[str, JobRow] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._sequences: dict[int, str] = {}
        self._prompts: dict[str, bytes] = {}
        self._tokens: dict[str, dict[int, TokensRow]] = {}
        self._models: dict[str, None] = {}
        self._scales: dict[str, ScaleRow] = {}
        self._sessions: dict[tuple[str, str], SessionRow] = {}
        self._epoch = 0
        self._sequence = 0
        self._is_open = False
        self._failures_left = 0
        self.policies = MemoryVersions(self._check_commit, self._check_open)
        self.work = MemoryWork(self._check_open)
        self.history = MemoryHistory(self._check_open)

    def fail_next_commits(self, count: int) -> None:
        """Refuse the next `count` commits as a full disk would; 0 heals."""
        self._failures_left = count

    # --- JobWriter ---

    async def open(self) -> Restored:
        """Return what is unfinished."""
        await asyncio.sleep(0)
        if self._is_open:
            raise StoreRefused("the store is in use by another queen; stop that one")
        self._is_open = True
        unfinished = [row for row in self._jobs.values() if not row.is_ended]
        return Restored(
            jobs=tuple(sorted(unfinished, key=lambda row: row.sequence)),
            epoch=self._epoch,
            sequence=self._sequence,
            models=tuple(self._models),
            work=self.work.unfinished(),
            work_sequence=self.work.sequence,
            scales=tuple(row for _, row in sorted(self._scales.items())),
            sessions=self._newest_sessions(),
        )

    async def commit(self, batch: Batch) -> None:
        """Keep the whole batch, or nothing of it."""
        # A commit takes time, here as elsewhere: whoever relies on it being instant is found out.
        await asyncio.sleep(0)
        self._check_commit()
        self._check(batch)
        self.work.check(batch.work.values())
        self.work.save(batch.work.values())
        self.history.save(batch.job_records, batch.lease_records)
        for row in batch.jobs.values():
            self._save(row)
        self._prompts.update(batch.prompts)
        for tokens in batch.tokens:
            self._tokens.setdefault(tokens.job_id, {})[tokens.first_index] = tokens
        for row in batch.jobs.values():
            if row.is_ended:
                self._prompts.pop(row.job_id, None)
        self._models.update(dict.fromkeys(batch.models))
        for model, scale in batch.scales.items():
            self._scales.pop(model, None)
            if scale is not None:
                self._scales[model] = scale
        self._sessions.update(((row.tenant_id, row.session_id), row) for row in batch.sessions)
        self._epoch = max(self._epoch, batch.epoch)

    async def forget(self, *, ended_before_ms: int) -> int:
        """Delete jobs with their output, and work, that ended before that wall time; return how many of both."""
        await asyncio.sleep(0)
        self._check_open()
        ended = [r for r in self._jobs.values() if r.is_ended and r.ended_ms < ended_before_ms]
        ended.sort(key=lambda row: row.ended_ms)
        forgotten = ended[: limits.STORE_FORGET_JOBS_MAX]
        for row in forgotten:
            del self._jobs[row.job_id]
            del self._sequences[row.sequence]
            self._requests.pop((row.tenant_id, row.request_id), None)
            self._tokens.pop(row.job_id, None)
        since_ms = kept_since_ms(ended_before_ms)
        self._sessions = {k: row for k, row in self._sessions.items() if row.used_ms >= since_ms}
        return len(forgotten) + self.work.forget(ended_before_ms)

    def _newest_sessions(self) -> tuple[SessionRow, ...]:
        """Return as many as a queen remembers, the longest unused first."""
        rows = sorted(
            self._sessions.values(),
            key=lambda row: (-row.used_ms, row.tenant_id, row.session_id),
        )
        return tuple(reversed(rows[: limits.SESSIONS_KEPT_MAX]))

    async def forget_history(self, *, ended_before_ms: int, rows_max: int) -> int:
        """Delete records that ended before that wall time, and those beyond the bound; return how many."""
        await asyncio.sleep(0)
        self._check_open()
        return self.history.forget(ended_before_ms, rows_max)

    async def close(self) -> None:
        """Let another queen open the store; what it remembers stays."""
        self._is_open = False

    # --- JobReader ---

    async def job(self, job_id: str) -> JobRow | None:
        """Return one job, or None."""
        self._check_open()
        return self._jobs.get(job_id)

    async def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        """Return the job of an idempotency key, or None."""
        self._check_open()
        job_id = self._requests.get((tenant_id, request_id))
        return None if job_id is None else self._jobs[job_id]

    async def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        """Return at most `limit` jobs that match, newest first."""
        self._check_open()
        matching = [row for row in self._jobs.values() if _matches(row, job_filter)]
        matching.sort(key=lambda row: -row.sequence)
        return matching[: min(max(job_filter.limit, 0), limits.LIST_PAGE_MAX + 1)]

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        """Return the output of one job in order."""
        self._check_open()
        rows = self._tokens.get(job_id, {})
        wanted = [
            rows[first_index]
            for first_index in sorted(rows)
            if first_index + rows[first_index].count > from_index
        ]
        return wanted[: rows_max or None]

    async def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized requests of those jobs that still have one."""
        self._check_open()
        return {job_id: self._prompts[job_id] for job_id in job_ids if job_id in self._prompts}

    # --- Within ---

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the store is closed")

    def _check_commit(self) -> None:
        self._check_open()
        if self._failures_left > 0:
            self._failures_left -= 1
            raise StoreUnavailable("the disk is full, as the test wants it")

    def _check(self, batch: Batch) -> None:
        """Refuse, before anything is changed, what a database's constraints would refuse."""
        sequences: dict[int, str] = {}
        requests: dict[tuple[str, str], str] = {}
        for row in batch.jobs.values():
            if row.job_id in self._jobs:
                continue
            key = (row.tenant_id, row.request_id)
            if row.sequence in self._sequences or row.sequence in sequences:
                raise BatchInvalid(f"another job has sequence {row.sequence}")
            if row.request_id and (key in self._requests or key in requests):
                raise BatchInvalid(f"another job has request id {row.request_id}")
            sequences[row.sequence] = requests[key] = row.job_id
        for job_id in (*batch.prompts, *(tokens.job_id for tokens in batch.tokens)):
            if job_id not in self._jobs and job_id not in batch.jobs:
                raise BatchInvalid(f"no such job: {job_id}")

    def _save(self, row: JobRow) -> None:
        first = self._jobs.get(row.job_id)
        if first is None:
            self._sequences[row.sequence] = row.job_id
            self._sequence = max(self._sequence, row.sequence)
            if row.request_id:
                self._requests[row.tenant_id, row.request_id] = row.job_id
            self._jobs[row.job_id] = row
            return
        self._jobs[row.job_id] = row._replace(
            sequence=first.sequence,
            tenant_id=first.tenant_id,
            request_id=first.request_id,
            digest=first.digest,
            created_ms=first.created_ms,
        )


def _matches(row: JobRow, job_filter: JobFilter) -> bool:
    return (
        (not job_filter.states or row.state in job_filter.states)
        and (not job_filter.tenant_id or row.tenant_id == job_filter.tenant_id)
        and (not job_filter.model or row.model == job_filter.model)
        and (not job_filter.before_sequence or row.sequence < job_filter.before_sequence)
    )
