"""A store that cannot be written to: nobody is told that anything was accepted, and nothing accepted is lost."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.gated_store import GatedStore
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


@pytest.fixture
async def queen() -> AsyncIterator[RunningQueen]:
    store = GatedStore()
    async with running_queen(store) as running:
        yield running
        store.pass_all()


@pytest.fixture
async def worker(queen: RunningQueen) -> AsyncIterator[AttachedWorker]:
    async with attached_worker(queen.channel) as attached:
        await eventually(lambda: queen.queen.loop.commits_count, "the worker's model is durable")
        yield attached


def gate(queen: RunningQueen) -> GatedStore:
    assert isinstance(queen.store, GatedStore)
    return queen.store


def ask(request_id: str = "") -> pb.SubmitJobRequest:
    return pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4, request_id=request_id)


async def jobs(queen: RunningQueen) -> list[job_pb2.Job]:
    return list((await queen.inference.ListJobs(pb.ListJobsRequest())).jobs)


async def heal(queen: RunningQueen) -> None:
    await queen.clock.advance(5_000)
    await eventually(lambda: queen.queen.loop.is_store_healthy, "the store heals")


async def test_a_submitter_is_told_and_its_job_does_not_run_behind_its_back(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    queen.store.fail_next_commits(2)
    told = await refusal(queen.inference.SubmitJob(ask()))
    assert (told.code, told.reason) == UNAVAILABLE
    assert told.retry_after_ms is not None
    # Whoever comes while it lasts is turned away at the door.
    told = await refusal(queen.inference.SubmitJob(ask()))
    assert (told.code, told.reason) == UNAVAILABLE
    await heal(queen)
    await eventually(lambda: not queen.queen.loop.state.leases or worker.orders.revocations, "end")
    (job,) = await jobs(queen)
    assert job.state == job_pb2.JOB_STATE_CANCELLED


async def test_a_job_with_a_request_id_waits_for_its_submitter_to_ask_again(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    queen.store.fail_next_commits(1)
    told = await refusal(queen.inference.SubmitJob(ask("key")))
    assert (told.code, told.reason) == UNAVAILABLE
    await heal(queen)
    again = await queen.inference.SubmitJob(ask("key"))
    await worker.serve(await worker.offer(), " the")
    watched = [e async for e in queen.inference.WatchJob(pb.WatchJobRequest(job_id=again.job_id))]
    assert watched[-1].HasField("finished")
    assert len(await jobs(queen)) == 1


async def test_nobody_s_job_runs_who_was_turned_away_while_waiting_for_the_writer(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    store = gate(queen)
    store.shut()
    first = asyncio.ensure_future(refusal(queen.inference.SubmitJob(ask("first"))))
    await store.somebody_waits()
    # These two are not in the batch that fails: the writer has not even seen them.
    others = [
        asyncio.ensure_future(refusal(queen.inference.SubmitJob(ask(key)))) for key in ("", "key")
    ]
    answers = queen.queen._actor.answers
    await eventually(lambda: len(answers.submitters) == 3, "all wait")
    store.fail_all()
    for outcome in await asyncio.gather(first, *others):
        assert (outcome.code, outcome.reason) == UNAVAILABLE
    await heal(queen)
    await eventually(lambda: len(queen.queen.loop.state.jobs) == 3, "all became durable")
    await queen.tick()
    states = {job.request_id: job.state for job in await jobs(queen)}
    assert states[""] == job_pb2.JOB_STATE_CANCELLED
    assert states["first"] != job_pb2.JOB_STATE_CANCELLED
    assert states["key"] != job_pb2.JOB_STATE_CANCELLED
    assert not answers.disowned


async def test_a_job_that_runs_goes_on_and_ends_when_the_store_heals(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    call = queen.inference.Infer(pb.InferRequest(model="tiny", prompt="bee", max_tokens=3))
    offer = await worker.offer()
    await worker.accept(offer)
    store = gate(queen)
    store.shut()
    await worker.tokens(offer, 0, " the", " bee")
    # Tokens pass the writer by: they are delivered, and the worker keeps them.
    events = aiter(call)
    while not (await anext(events)).tokens.text:
        pass
    await worker.tokens(offer, 2, " finds")
    await worker.finish(offer, 3)
    await store.somebody_waits()
    assert not any(a.result_committed for a in worker.orders.acknowledgements)
    store.fail_all()
    await heal(queen)
    rest = [event async for event in events]
    assert rest[-1].finished.usage.completion_tokens == 3
    await worker.over(offer.epoch)


async def test_a_cancellation_is_told_only_when_it_is_durable(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await queen.inference.SubmitJob(ask())
    await worker.offer()
    store = gate(queen)
    store.shut()
    first = asyncio.ensure_future(queen.inference.CancelJob(pb.CancelJobRequest(job_id=job.job_id)))
    await store.somebody_waits()
    second = asyncio.ensure_future(
        queen.inference.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    )
    # A call that is answered at once, so that the second cancellation has been looked at.
    await queen.inference.GetJob(pb.GetJobRequest(job_id=job.job_id))
    assert not first.done()
    assert not second.done()
    store.pass_all()
    for cancelled in await asyncio.gather(first, second):
        assert cancelled.state == job_pb2.JOB_STATE_CANCELLED
