"""Rows for the store's suite: one job with every field filled, varied by keyword."""

from beeyard_queen.store.port import Batch, JobRow, TokensRow
from beeyard_queen.store.rows import pack_u32


def job_row(sequence: int, **changes: object) -> JobRow:
    """A queued job, named after its sequence unless `changes` say otherwise."""
    values: dict[str, object] = {
        "job_id": f"job-{sequence}",
        "sequence": sequence,
        "tenant_id": "default",
        "session_id": "",
        "request_id": "",
        "digest": bytes(range(32)),
        "model": "gemma",
        "priority": 2,
        "state": "queued",
        "spec": '{"prompt_tokens":12,"max_tokens":32}',
        "created_ms": 1_700_000_000_000 + sequence,
        "expires_ms": 0,
        "attempt": 0,
        "epoch": 0,
        "worker_id": "",
        "next_index": 0,
        "leased_ms": 0,
        "first_token_ms": 0,
        "ended_ms": 0,
        "result": "{}",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "is_ended": False,
    }
    return JobRow(**(values | changes))  # type: ignore[arg-type]


def ended_row(sequence: int, **changes: object) -> JobRow:
    """The same job when it is over."""
    ended: dict[str, object] = {
        "state": "completed",
        "is_ended": True,
        "ended_ms": 1_700_000_100_000,
    }
    return job_row(sequence, **(ended | changes))


def tokens_row(job_id: str, first_index: int, words: list[str]) -> TokensRow:
    """A run of tokens whose ids count up from 1000."""
    return TokensRow(
        job_id=job_id,
        first_index=first_index,
        count=len(words),
        ids=pack_u32(range(1000 + first_index, 1000 + first_index + len(words))),
        text="".join(words),
        text_lengths=pack_u32(map(len, words)),
    )


def jobs_batch(*rows: JobRow) -> Batch:
    """A batch of these jobs and nothing else."""
    return Batch(jobs={row.job_id: row for row in rows})
