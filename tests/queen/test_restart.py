"""A queen that dies and one that starts on what it left: no job, no token and no epoch is lost or given twice."""

import asyncio
import copy
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.job import JobState
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import Batch, StoreUnavailable, TokensRow
from beeyard_queen.store.tokens import tokens_row_of
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.telemetry import setup_telemetry
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.attached_worker import attached_worker, held
from tests.support.eventually import eventually
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import kinds, text_of

WORDS = [" the", " bee", " finds", " its"]


async def submit(queen: RunningQueen, **changes: object) -> job_pb2.Job:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4)
    request.MergeFrom(pb.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return await queen.inference.SubmitJob(request)


async def story(queen: RunningQueen, job_id: str, index: int = 0) -> list[job_pb2.JobEvent]:
    call = queen.inference.WatchJob(pb.WatchJobRequest(job_id=job_id, from_token=index))
    return [event async for event in call]


async def disk_of(queen: RunningQueen) -> MemoryStore:
    """Return what a `kill -9` at this instant would leave on the disk."""
    disk = copy.deepcopy(queen.store)
    await disk.close()
    return disk


async def test_queued_jobs_come_back_in_their_order(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=0):
        jobs = [
            await submit(queen, priority=priority)
            for priority in (job_pb2.PRIORITY_BATCH, job_pb2.PRIORITY_NORMAL) * 3
        ]
    disk = await disk_of(queen)
    async with (
        running_queen(disk) as later,
        attached_worker(later.channel, slots=1) as worker,
    ):
        order = []
        for number in range(1, 7):
            offer = await worker.offer(number)
            assert offer.request.prompt == "bee", "its prompt was durable, too"
            order.append(offer.job_id)
            await worker.serve(offer, *WORDS)
        await worker.over(offer.epoch)
    assert order == [jobs[i].job_id for i in (1, 3, 5, 0, 2, 4)]


async def test_a_worker_that_claims_its_lease_goes_on(queen: RunningQueen) -> None:
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(attached_worker(queen.channel))
        job = await submit(queen)
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, *WORDS[:1])
        await eventually(lambda: queen.queen._feeds.unsaved, "a token came")
        await queen.tick(limits.CHECKPOINT_INTERVAL_MS)
        await worker.until(
            lambda orders: any(a.next_index == 1 for a in orders.acknowledgements), "it is safe"
        )
        # Delivered to clients and not on the disk: the worker still has them.
        await worker.tokens(offer, 1, *WORDS[1:3])
        disk = await disk_of(queen)
        later = await stack.enter_async_context(running_queen(disk))
        watching = asyncio.ensure_future(story(later, job.job_id, 1))
        again = await stack.enter_async_context(
            attached_worker(later.channel, leases=[held(offer.epoch, 3, 1)])
        )
        (adopted,) = again.welcome.adopted
        assert (adopted.epoch, adopted.resend_from) == (offer.epoch, 1)
        await again.tokens(offer, 1, *WORDS[1:])
        await again.finish(offer, 4)
        await again.over(offer.epoch)
        assert text_of(await watching) == "".join(WORDS[1:])
        whole = await story(later, job.job_id)
        assert text_of(whole) == "".join(WORDS)
        assert kinds(whole) == ["queued", "started", "tokens", "finished"]
        ended = await later.inference.GetJob(pb.GetJobRequest(job_id=job.job_id))
        assert (ended.attempt, ended.state) == (1, job_pb2.JOB_STATE_COMPLETED)
        assert not again.orders.offers


async def test_an_attempt_that_goes_on_is_told_before_its_tokens(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel) as worker:
        job = await submit(queen)
        offer = await worker.offer()
        # Its row says that it is leased; that it runs is not on the disk yet, but its tokens are.
        disk = await disk_of(queen)
        await worker.tokens(offer, 0, *WORDS[:2])
        await eventually(lambda: queen.queen._feeds.unsaved, "tokens came")
        (feed,) = queen.queen._feeds.by_job.values()
        await disk.open()
        await disk.commit(Batch(tokens=[tokens_row_of(job.job_id, f) for f in feed.unsaved()]))
        await disk.close()
    async with (
        running_queen(disk) as later,
        attached_worker(later.channel, leases=[held(offer.epoch, 2)]) as again,
    ):
        watching = asyncio.ensure_future(story(later, job.job_id))
        await eventually(
            lambda: any(f.followers for f in later.queen._feeds.by_job.values()), "it is followed"
        )
        await again.tokens(offer, 2, WORDS[2])
        (state,) = later.queen.loop.state.jobs.values()
        await eventually(lambda: state.state is JobState.RUNNING, "the job runs")
        await again.tokens(offer, 3, WORDS[3])
        await again.finish(offer, 4)
        told = await watching
        assert kinds(told) == ["queued", "started", "tokens", "finished"]
        assert text_of(told) == "".join(WORDS)


async def test_a_job_keeps_the_name_of_its_trace() -> None:
    telemetry = setup_telemetry("queen", exporter=InMemorySpanExporter())
    store = MemoryStore()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),)
    async with (
        running_queen(store, telemetry=telemetry) as one,
        attached_worker(one.channel, slots=0),
    ):
        request = pb.SubmitJobRequest(model="tiny", prompt="bee")
        job = await one.inference.SubmitJob(request, metadata=metadata)
    assert job.trace_id == trace_id
    get = pb.GetJobRequest(job_id=job.job_id)
    async with running_queen(store, telemetry=telemetry) as later:
        assert (await later.inference.GetJob(get)).trace_id == trace_id
        async with attached_worker(later.channel) as worker:
            await worker.serve(await worker.offer(), *WORDS)
            await worker.over(1)
        assert (await later.inference.GetJob(get)).trace_id == trace_id
        assert not later.queen._actor.traces.restored
    await asyncio.to_thread(telemetry.shutdown)


async def test_a_lease_that_nobody_claims_expires_after_its_time_to_live(
    queen: RunningQueen,
) -> None:
    async with attached_worker(queen.channel) as worker:
        job = await submit(queen)
        offer = await worker.offer()
        disk = await disk_of(queen)
    async with running_queen(disk) as later, attached_worker(later.channel, "w2") as other:
        for _ in range(limits.LEASE_TTL_MS // 1_000 - 1):
            await other.beat()
            await later.tick(250, times=4)
        assert not other.orders.offers, "its worker may still come back"
        await other.beat()
        await later.tick(250, times=8)
        second = await other.offer()
        assert second.epoch > offer.epoch
        assert second.attempt == 2
        await other.serve(second, *WORDS)
        assert text_of(await story(later, job.job_id)) == "".join(WORDS)


async def test_a_worker_that_comes_back_without_its_lease_frees_it_at_once(
    queen: RunningQueen,
) -> None:
    async with attached_worker(queen.channel) as worker:
        await submit(queen)
        await worker.offer()
        disk = await disk_of(queen)
    async with running_queen(disk) as later, attached_worker(later.channel) as again:
        assert (await again.offer()).attempt == 2


async def test_epochs_and_sequences_go_on_over_restarts(queen: RunningQueen) -> None:
    epochs = []
    store = queen.store
    await store.close()
    for _ in range(3):
        async with running_queen(store) as one, attached_worker(one.channel) as worker:
            await submit(one)
            offer = await worker.offer()
            await worker.serve(offer, *WORDS)
            await worker.over(offer.epoch)
            epochs.append(offer.epoch)
    assert epochs == [1, 2, 3]
    assert [row.sequence for row in store._jobs.values()] == [1, 2, 3]
    await store.open()


async def test_a_drained_queen_loses_nothing(queen: RunningQueen) -> None:
    store = queen.store
    await store.close()
    async with running_queen(store) as one, attached_worker(one.channel) as worker:
        job = await submit(one)
        offer = await worker.offer()
        await worker.tokens(offer, 0, *WORDS[:2])
        await eventually(lambda: one.queen._feeds.unsaved, "tokens came")
    # Not due yet when the queen was stopped, and saved by its drain.
    assert sum(row.count for row in await _tokens_of(store, job.job_id)) == 2
    async with (
        running_queen(store) as later,
        attached_worker(later.channel, leases=[held(offer.epoch, 2, 2)]) as again,
    ):
        (adopted,) = again.welcome.adopted
        assert adopted.resend_from == 2
        await again.tokens(offer, 2, *WORDS[2:])
        await again.finish(offer, 4)
        await again.over(offer.epoch)
        assert text_of(await story(later, job.job_id)) == "".join(WORDS)
    await store.open()


async def _tokens_of(store: MemoryStore, job_id: str) -> list[TokensRow]:
    await store.open()
    rows = list(await store.tokens(job_id))
    await store.close()
    return rows


async def test_a_deadline_runs_on_while_the_queen_is_down(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=0):
        job = await submit(queen, deadline_ms=60_000)
    disk = await disk_of(queen)
    await queen.clock.advance(59_000)
    async with running_queen(disk, queen.clock) as later:
        get = pb.GetJobRequest(job_id=job.job_id)
        assert (await later.inference.GetJob(get)).state == job_pb2.JOB_STATE_QUEUED
        await later.tick(1_500)
        ended = await later.inference.GetJob(get)
        assert ended.failure.reason == "DEADLINE_EXCEEDED"


async def test_ended_jobs_are_forgotten_after_their_time(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel) as worker:
        job = await submit(queen)
        offer = await worker.offer()
        await worker.serve(offer, *WORDS)
        await worker.over(offer.epoch)
    await queen.clock.advance(limits.RETENTION_INTERVAL_MS)
    assert await queen.store.job(job.job_id)
    # A clock that jumps instead of ticking: a week of ticks is not what this is about.
    queen.clock._passed_ms += limits.OUTPUT_RETENTION_MS
    await queen.clock.advance(limits.RETENTION_INTERVAL_MS)

    await eventually(lambda: job.job_id not in queen.store._jobs, "it is forgotten")


@pytest.mark.parametrize("jobs", [0, 3])
async def test_two_queens_do_not_share_a_store(queen: RunningQueen, jobs: int) -> None:
    async with attached_worker(queen.channel, slots=0):
        for _ in range(jobs):
            await submit(queen)
    with pytest.raises(Exception, match="another queen"):
        async with running_queen(queen.store):
            pass


class UnreadableStore(MemoryStore):
    """A store that opens and then cannot read what was delivered."""

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        raise StoreUnavailable("the disk gives an I/O error, as the test wants it")


async def test_a_queen_that_cannot_read_what_was_delivered_does_not_start(
    queen: RunningQueen,
) -> None:
    async with attached_worker(queen.channel) as worker:
        await submit(queen)
        await worker.accept(await worker.offer())
        disk = await disk_of(queen)
    # The same disk, which from now on gives errors.
    disk.__class__ = UnreadableStore
    with pytest.raises(StartFailed, match="does not give back what was delivered"):
        async with running_queen(disk):
            pass
