"""The store as ingress sees it: a read that fails is a reason for the caller, and a line in the operator's log."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import refuse

from beeyard_queen.store.port import JobFilter, JobReader, JobRow, StoreUnavailable, TokensRow

_log = get_log("reading")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class RefusingReader:
    """A `JobReader` whose faults are refusals with STORE_UNAVAILABLE."""

    reader: JobReader

    async def job(self, job_id: str) -> JobRow | None:
        """Return one job, or None."""
        return await answer_or_refuse(self.reader.job(job_id))

    async def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        """Return the job of an idempotency key, or None."""
        return await answer_or_refuse(self.reader.job_by_request(tenant_id, request_id))

    async def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        """Return at most `limit` jobs that match, newest first."""
        return await answer_or_refuse(self.reader.jobs(job_filter))

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        """Return the output of one job in order."""
        rows = self.reader.tokens(job_id, from_index=from_index, rows_max=rows_max)
        return await answer_or_refuse(rows)

    async def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized requests of those jobs that still have one."""
        return await answer_or_refuse(self.reader.prompts(job_ids))


async def answer_or_refuse(reading: Awaitable[ResultT]) -> ResultT:
    """Return what was read.

    Raises:
        RpcRefusal: STORE_UNAVAILABLE.
    """
    try:
        return await reading
    except StoreUnavailable as fault:
        _log.error("store_unavailable", fault=str(fault))
        raise refuse(
            Refusal.STORE_UNAVAILABLE,
            "the queen cannot read its store now; try again later",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        ) from None
