"""A thousand jobs through one queen and two workers, twice: all complete, in order, and nothing is left behind."""

import asyncio
from collections import Counter
from dataclasses import dataclass

import psutil
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard_client import BeeyardClient
from beeyard_client.job import Job, JobState, Priority

from tests.support.eventually import eventually
from tests.support.stack import Stack

JOBS = 1_000
AT_ONCE = 100
MAX_TOKENS = 8
# The queen keeps ten thousand ended jobs in memory; each may take this much, anything more is a leak.
JOB_BYTES_MAX = 10 << 10
CLASSES = (Priority.INTERACTIVE, Priority.NORMAL, Priority.BATCH, Priority.BACKGROUND)


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    descriptors: int
    threads: int
    rss_bytes: int


def footprint(process: psutil.Process) -> Footprint:
    return Footprint(process.num_fds(), process.num_threads(), process.memory_info().rss)


async def submit(client: BeeyardClient, number: int, tenant: str, free: asyncio.Semaphore) -> str:
    async with free:
        job = await client.submit(
            f"bee {number}",
            model="tiny",
            max_tokens=MAX_TOKENS,
            seed=number,
            tenant_id=tenant,
            priority=CLASSES[number % len(CLASSES)],
        )
    return job.job_id


async def follow(client: BeeyardClient, job_id: str, free: asyncio.Semaphore) -> str:
    async with free, client.watch(job_id) as stream:
        return await stream.text()


async def thousand(stack: Stack, tenant: str) -> list[Job]:
    """Run a thousand jobs and return them, oldest first."""
    free = asyncio.Semaphore(AT_ONCE)
    async with BeeyardClient(stack.queen_address) as client:
        ids = await asyncio.gather(*(submit(client, n, tenant, free) for n in range(JOBS)))
        texts = await asyncio.gather(*(follow(client, job_id, free) for job_id in ids))
        assert all(len(text.split()) == MAX_TOKENS for text in texts)
        jobs = [job async for job in client.list_jobs(tenant_id=tenant, page_size=1_000)]
    assert {job.job_id for job in jobs} == set(ids)
    return jobs[::-1]


def check(jobs: list[Job]) -> None:
    """All complete, only work that can wait was taken back, both workers worked, and each class started in order."""
    assert Counter(job.state for job in jobs) == {JobState.COMPLETED: JOBS}
    assert {job.attempt for job in jobs if job.priority in CLASSES[:2]} == {1}
    assert {job.next_index for job in jobs} == {MAX_TOKENS}
    assert min(Counter(job.worker_id for job in jobs).values()) > JOBS // 10
    for priority in CLASSES:
        group = [job for job in jobs if job.priority is priority]
        assert len(group) == JOBS // len(CLASSES)
        # One that was taken back for interactive work started twice, and only the second time is told.
        starts = [job.start_time for job in group if job.attempt == 1 and job.start_time]
        assert starts == sorted(starts), f"{priority} started out of order"
    waited = [job.timings.queue_ms for job in jobs if job.timings]
    assert max(waited) > 100, "jobs had to wait, so the order says something"


@pytest.mark.slow
async def test_a_thousand_jobs_complete_in_order_and_leave_nothing() -> None:
    async with Stack(models={"tiny": "synthetic:400"}, workers=2) as stack:
        queen = psutil.Process(stack.queen.pid)
        check(await thousand(stack, "first"))
        # What is opened once, such as the store's reader, is open now.
        first = footprint(queen)
        check(await thousand(stack, "second"))
        # A closed connection is gone when the peer has noticed.
        await eventually(
            lambda: footprint(queen).descriptors <= first.descriptors, "descriptors are closed"
        )
        second = footprint(queen)
        assert second.threads <= first.threads
        assert second.rss_bytes - first.rss_bytes < JOBS * JOB_BYTES_MAX
        fleet: fleet_pb.FleetSnapshot = await stack.wait_for(
            lambda fleet: not (fleet.jobs_queued or fleet.jobs_running), "nothing is left to do"
        )
        assert [worker.leases for worker in fleet.workers] == [0, 0]
        assert all(w.status.slots_free == w.status.slots_total for w in fleet.workers)
