"""A store full of jobs that wait, as a queen would have left it: written through the queen's own store."""

from pathlib import Path

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core import limits
from beeyard_core.ids import JobId, ModelName, TenantId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobSpec, Priority
from beeyard_queen.store.port import Batch
from beeyard_queen.store.rows import row_of
from beeyard_queen.store.sqlite import SqliteStore

MODEL = "tiny"
_PER_COMMIT = 1_000


async def fill(path: Path, count: int) -> None:
    """Write `count` queued jobs of 50 tenants and 1,000 sessions, no two alike, with their prompts to a new store."""
    store = SqliteStore(path)
    await store.open()
    try:
        for first in range(1, count + 1, _PER_COMMIT):
            await store.commit(_batch(range(first, min(first + _PER_COMMIT, count + 1))))
    finally:
        await store.close()


def _batch(sequences: range) -> Batch:
    batch = Batch(models=[MODEL])
    for sequence in sequences:
        job_id = f"job-{sequence:032x}"
        prompt = f"a job that waits, number {sequence}" + " and says so" * (sequence % 64)
        spec = JobSpec(
            model=ModelName(MODEL),
            prompt_tokens=len(prompt) // 4,
            max_tokens=8 + sequence % 500,
            priority=list(Priority)[sequence % len(Priority)],
            tenant_id=TenantId(f"tenant-{sequence % 50}"),
            session_id=f"session-{sequence % 1_000}",
            seed=sequence * 2_654_435_761 % limits.SEED_MAX,
        )
        job = Job(
            job_id=JobId(job_id),
            spec=spec,
            sequence=sequence,
            accepted_at=Instant(0, 0),
            request_id=f"request-{sequence:032x}",
            digest=sequence.to_bytes(32),
        )
        batch.jobs[job_id] = row_of(job, "")
        request = engine_pb.GenerateRequest(
            prompt=prompt, max_tokens=spec.max_tokens, temperature=1.0, seed=spec.seed
        )
        batch.prompts[job_id] = request.SerializeToString()
    return batch
