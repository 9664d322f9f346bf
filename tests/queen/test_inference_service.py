"""Listings, look-ups and explanations: from memory while a job lives, from the store afterwards."""

import asyncio

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def submit(queen: RunningQueen, **changes: object) -> job_pb2.Job:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4)
    request.MergeFrom(pb.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return await queen.inference.SubmitJob(request)


async def pages(queen: RunningQueen, **filters: object) -> list[list[str]]:
    """Return the ids of all jobs, page by page."""
    request = pb.ListJobsRequest(**filters)  # type: ignore[arg-type]
    found = []
    while True:
        page = await queen.inference.ListJobs(request)
        found.append([job.job_id for job in page.jobs])
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_a_listing_is_in_pages_newest_first(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    ids = [(await submit(queen)).job_id for _ in range(7)]
    newest = ids[::-1]
    assert await pages(queen, page_size=3) == [newest[:3], newest[3:6], newest[6:]]
    # A page that ends with the last job is the last page.
    assert await pages(queen, page_size=7) == [newest]
    assert await pages(queen) == [newest]


async def test_a_page_does_not_shift_when_jobs_come_in_between(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    ids = [(await submit(queen)).job_id for _ in range(4)]
    first = await queen.inference.ListJobs(pb.ListJobsRequest(page_size=2))
    await submit(queen)
    request = pb.ListJobsRequest(page_size=2, page_token=first.next_page_token)
    second = await queen.inference.ListJobs(request)
    assert [job.job_id for job in second.jobs] == [ids[1], ids[0]]


async def test_filters_hold_together(queen: RunningQueen, worker: AttachedWorker) -> None:
    mine = await submit(queen, tenant_id="mine")
    await submit(queen, tenant_id="yours")
    await worker.serve(await worker.offer(), " the")
    await worker.over(1)
    done, running = job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_LEASED
    assert await pages(queen, states=[done]) == [[mine.job_id]]
    assert await pages(queen, states=[done], tenant_id="yours") == [[]]
    assert len((await pages(queen, states=[done, running], model="tiny"))[0]) == 2
    assert await pages(queen, model="other") == [[]]


async def test_an_unheard_of_state_is_named(queen: RunningQueen) -> None:
    request = pb.ListJobsRequest(states=[99])  # type: ignore[list-item]  # not in the enum
    told = await refusal(queen.inference.ListJobs(request))
    assert (told.code, told.reason) == INVALID


async def test_a_job_tells_what_was_asked_and_what_became_of_it(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    asked = await submit(
        queen, seed=7, labels={"a": "1"}, session_id="s", priority=job_pb2.PRIORITY_BATCH
    )
    assert (asked.seed, asked.labels["a"], asked.session_id) == (7, "1", "s")
    assert asked.priority == job_pb2.PRIORITY_BATCH
    assert (asked.tenant_id, asked.max_tokens, asked.max_attempts) == ("default", 4, 3)
    assert asked.create_time.seconds == queen.clock.now().wall_ms // 1_000
    offer = await worker.offer()
    await worker.tokens(offer, 0, " the", " bee")
    await worker.finish(offer, 2)
    await worker.over(1)
    get = pb.GetJobRequest(job_id=asked.job_id)
    ended = await queen.inference.GetJob(get)
    assert ended.state == job_pb2.JOB_STATE_COMPLETED
    assert (ended.worker_id, ended.attempt, ended.next_index) == ("w1", 1, 2)
    assert (ended.usage.prompt_tokens, ended.usage.completion_tokens) == (3, 2)
    assert ended.timings.prefill_ms == 1.0
    # The same from a queen that knows it from the store alone; its monotonic times start anew with it.
    await queen.store.close()
    async with running_queen(queen.store, queen.clock) as later:
        assert await later.inference.GetJob(get) == ended
    await queen.store.open()


async def test_jobs_wait_in_the_order_of_their_class(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=1) as worker:
        classes = ["BACKGROUND", "NORMAL", "INTERACTIVE", "BATCH", "NORMAL", "INTERACTIVE"]
        await submit(queen)  # holds the only slot
        jobs = [
            await submit(queen, priority=job_pb2.Priority.Value(f"PRIORITY_{name}"))
            for name in classes
        ]
        assert [job.position for job in jobs] == [0, 0, 0, 2, 2, 1]
        for number in range(1, 8):
            await worker.serve(await worker.offer(number), " the")
        await worker.over(7)
        started = {}
        for index, job in enumerate(jobs):
            ended = await queen.inference.GetJob(pb.GetJobRequest(job_id=job.job_id))
            row = await queen.store.job(ended.job_id)
            assert row is not None
            started[index] = row.epoch
    assert sorted(started, key=lambda index: started[index]) == [2, 5, 1, 4, 3, 0]


async def test_cancelling_a_job_that_waits_ends_it_at_once(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=1) as worker:
        await submit(queen)
        waiting = await submit(queen)
        watch = queen.inference.WatchJob(pb.WatchJobRequest(job_id=waiting.job_id))
        watching = asyncio.ensure_future(_kinds(watch))
        cancel = pb.CancelJobRequest(job_id=waiting.job_id)
        one, two = await asyncio.gather(
            queen.inference.CancelJob(cancel), queen.inference.CancelJob(cancel)
        )
        assert one.state == two.state == job_pb2.JOB_STATE_CANCELLED
        assert (await watching)[-1] == "cancelled"
        assert len(worker.orders.offers) == 1
        assert not queen.queen._actor.answers.cancellers


async def _kinds(
    call: "grpc.aio.UnaryStreamCall[pb.WatchJobRequest, job_pb2.JobEvent]",
) -> list[str]:
    return [event.WhichOneof("event") or "" async for event in call]


async def test_cancelling_a_job_that_has_ended_changes_nothing(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    await worker.serve(await worker.offer(), " the")
    await worker.over(1)
    told = await queen.inference.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    assert told.state == job_pb2.JOB_STATE_COMPLETED


async def test_a_job_that_waits_is_explained_by_who_cannot_take_it(queen: RunningQueen) -> None:
    async with (
        attached_worker(queen.channel, slots=1),
        attached_worker(queen.channel, "w2", model="other"),
    ):
        await submit(queen)
        waiting = await submit(queen)
        told = await queen.inference.ExplainJob(pb.ExplainJobRequest(job_id=waiting.job_id))
        assert told.job.job_id == waiting.job_id
        assert "no worker can take it now" in told.summary
        excluded = {candidate.worker_id: candidate.excluded_by for candidate in told.candidates}
        assert excluded["w1"] == "WORKER_BUSY"
        assert not any(candidate.chosen for candidate in told.candidates)


async def test_a_job_that_ran_is_explained_by_the_decision(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    for _ in range(2):
        told = await queen.inference.ExplainJob(pb.ExplainJobRequest(job_id=job.job_id))
        (candidate,) = told.candidates
        assert (candidate.worker_id, candidate.chosen) == ("w1", True)
        assert told.summary.startswith("ran on w1")
        await worker.serve(await worker.offer(), " the")
        await worker.over(1)


async def test_a_job_that_was_never_placed_is_explained_too(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=1):
        await submit(queen)
        waiting = await submit(queen)
        await queen.inference.CancelJob(pb.CancelJobRequest(job_id=waiting.job_id))
        told = await queen.inference.ExplainJob(pb.ExplainJobRequest(job_id=waiting.job_id))
        assert told.summary == "ended before it was placed"


async def test_a_job_that_misses_its_deadline_expires(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen, deadline_ms=1_000)
    offer = await worker.offer()
    await queen.tick(1_000)
    await worker.until(lambda orders: orders.revocations, "it is told to stop")
    ended = await queen.inference.GetJob(pb.GetJobRequest(job_id=job.job_id))
    assert ended.state == job_pb2.JOB_STATE_EXPIRED
    assert ended.failure.reason == "DEADLINE_EXCEEDED"
    assert offer.epoch == worker.orders.revocations[0].epoch


async def test_an_id_that_is_too_long_to_be_one_is_not_found(queen: RunningQueen) -> None:
    job_id = "x" * (limits.ID_BYTES_MAX + 1)
    told = await refusal(queen.inference.GetJob(pb.GetJobRequest(job_id=job_id)))
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


@pytest.mark.parametrize("size", [-1, limits.LIST_PAGE_MAX + 1])
async def test_a_page_has_a_largest_size(queen: RunningQueen, size: int) -> None:
    told = await refusal(queen.inference.ListJobs(pb.ListJobsRequest(page_size=size)))
    assert (told.code, told.reason, told.field) == (*INVALID, "page_size")


async def test_a_queen_that_drains_refuses_new_work(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    queen.queen.loop.state.is_draining = True
    told = await refusal(queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee")))
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert told.retry_after_ms
