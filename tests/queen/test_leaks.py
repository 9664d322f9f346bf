"""What a thousand jobs leave behind in a queen: their rows, and nothing else."""

import asyncio

import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_runtime.telemetry import setup_telemetry
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import kinds

JOBS = 1_000
AT_ONCE = 50
WORDS = (" the", " bee", " finds")
ROOT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def serve(worker: AttachedWorker) -> None:
    """Do every job that is offered, until cancelled."""
    number = 0
    while True:
        number += 1
        await worker.serve(await worker.offer(number), *WORDS)


async def infer(queen: RunningQueen, number: int, free: asyncio.Semaphore) -> list[str]:
    """Run one job in one of the ways in which clients do."""
    request = pb.InferRequest(model="tiny", prompt=f"bee {number}", max_tokens=3)
    async with free:
        call = queen.inference.Infer(request, metadata=(("traceparent", ROOT),))
        if number % 10:
            return kinds([event async for event in call])
        # Every tenth client goes away in the middle and asks again for its job.
        events = aiter(call)
        job_id = (await anext(events)).job_id
        call.cancel()
        if number % 20:
            await queen.inference.CancelJob(pb.CancelJobRequest(job_id=job_id))
        watch = queen.inference.WatchJob(pb.WatchJobRequest(job_id=job_id))
        return kinds([event async for event in watch])


@pytest.mark.slow
async def test_a_thousand_jobs_leave_no_task_feed_or_memory_behind() -> None:
    spans = InMemorySpanExporter()
    telemetry = setup_telemetry("queen", exporter=spans)
    async with running_queen(telemetry=telemetry) as queen:
        async with (
            attached_worker(queen.channel, "w1", slots=16) as one,
            attached_worker(queen.channel, "w2", slots=16) as two,
        ):
            workers = [asyncio.create_task(serve(worker)) for worker in (one, two)]
            await infer(queen, 1, asyncio.Semaphore(1))
            before = len(asyncio.all_tasks())
            free = asyncio.Semaphore(AT_ONCE)
            stories = await asyncio.gather(*(infer(queen, n, free) for n in range(JOBS)))
            for _ in range(100):
                await asyncio.sleep(0)
            after = {task.get_name(): task for task in asyncio.all_tasks()}
            for task in workers:
                task.cancel()
            await asyncio.wait(workers)
        assert {story[-1] for story in stories} <= {"finished", "cancelled"}
        assert sum(story[-1] == "finished" for story in stories) >= JOBS * 9 // 10
        assert len(after) <= before, list(after.values())
        state = queen.queen.loop.state
        assert len(state.jobs) == JOBS + 1, "ended jobs are kept in memory up to their limit"
        assert not state.leases or all(not lease.is_current for lease in state.leases.values())
        assert not len(state.queue)
        actor = queen.queen._actor
        assert not actor.feeds.by_job
        assert not actor.feeds.unsaved | actor.feeds.due
        assert not actor.traces._jobs
        assert not actor.answers.submitters
        assert not actor.answers.cancellers
        assert not actor.answers.disowned
        assert not actor.prompts._unsaved | actor.prompts._held
        assert actor.prompts._bytes == 0
        assert not queen.store._prompts, "prompts are erased when their jobs end"
        states = {row.state for row in queen.store._jobs.values()}
        assert states <= {"completed", "cancelled"}
        listed = await queen.inference.ListJobs(
            pb.ListJobsRequest(states=[job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_LEASED])
        )
        assert not listed.jobs
    await asyncio.to_thread(telemetry.shutdown)
    assert spans.get_finished_spans()
