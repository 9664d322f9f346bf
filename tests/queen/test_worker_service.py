"""The queen's end of `Attach`: hellos, second streams, claims, silence, and peers that do not keep to the protocol."""

import asyncio

import grpc
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard.worker.v1 import worker_service_pb2_grpc as rpc
from beeyard_core import limits
from beeyard_core.ids import WorkerId

from tests.support.attached_worker import (
    AttachedWorker,
    attached_worker,
    frame_of,
    held,
    hello_of,
    status_of,
    stopped_of,
)
from tests.support.eventually import eventually
from tests.support.raw_calls import Outcome, outcome
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal, text_of

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
WORDS = [" the", " bee", " finds", " its"]


async def end_of(queen: RunningQueen, *requests: worker_pb.AttachRequest) -> Outcome:
    """Return how a stream with these requests ends; it stays open on our side."""
    call = rpc.WorkerServiceStub(queen.channel).Attach()  # type: ignore[call-arg]
    try:
        for request in requests:
            await call.write(request)
        while await call.read():  # EOF is falsy
            pass
    except grpc.aio.AioRpcError as error:
        return outcome(error)
    finally:
        call.cancel()
    return Outcome(grpc.StatusCode.OK)


async def submit(queen: RunningQueen, **changes: object) -> job_pb2.Job:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4)
    request.MergeFrom(pb.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return await queen.inference.SubmitJob(request)


async def text(queen: RunningQueen, job: job_pb2.Job) -> str:
    call = queen.inference.WatchJob(pb.WatchJobRequest(job_id=job.job_id))
    return text_of([event async for event in call])


async def stale_writes(queen: RunningQueen) -> int:
    call = queen.fleet.WatchFleet(fleet_pb.WatchFleetRequest())
    try:
        fleet = await call.read()
        assert isinstance(fleet, fleet_pb.FleetSnapshot)
        return fleet.stale_epoch_writes
    finally:
        call.cancel()


async def test_a_hello_is_welcomed_with_the_terms(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    assert worker.welcome.lease_ttl_ms == limits.LEASE_TTL_MS
    assert worker.welcome.heartbeat_interval_ms == limits.HEARTBEAT_INTERVAL_MS
    assert worker.welcome.queen_incarnation == "test"
    assert not worker.welcome.adopted
    listed = await queen.fleet.ListWorkers(fleet_pb.ListWorkersRequest())
    assert [(w.status.worker_id, w.attached) for w in listed.workers] == [("w1", True)]


@pytest.mark.parametrize(("ttl_ms", "heartbeat_ms"), [(1_500, 500), (60_000, 1_000)])
async def test_the_time_to_live_is_the_operators_to_choose(ttl_ms: int, heartbeat_ms: int) -> None:
    async with (
        running_queen(lease_ttl_ms=ttl_ms) as queen,
        attached_worker(queen.channel) as worker,
        attached_worker(queen.channel, "w2") as other,
    ):
        assert worker.welcome.lease_ttl_ms == ttl_ms
        assert worker.welcome.heartbeat_interval_ms == heartbeat_ms, "three fit, at least"
        await submit(queen)
        await worker.accept(await worker.offer())
        for _ in range(ttl_ms // 250 - 1):
            await other.beat()
            await queen.tick()
        assert not other.orders.offers
        await other.beat()
        await queen.tick(times=2)
        assert (await other.offer()).attempt == 2


async def test_every_heartbeat_is_answered(worker: AttachedWorker) -> None:
    for count in (1, 2):
        await worker.heartbeat()
        await worker.until(lambda _, count=count: worker.orders_count >= count, "an answer")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("request_", "at"),
    [
        (worker_pb.AttachRequest(report=worker_pb.Report()), "hello"),
        (worker_pb.AttachRequest(), "hello"),
        (hello_of(status_of("")), "hello.status.worker_id"),
        (hello_of(status_of("x" * 129)), "hello.status.worker_id"),
        (hello_of(status_of(model="")), "hello.status.model"),
        (hello_of(status_of(), [held(n, 0) for n in range(257)]), "hello.leases"),
    ],
    ids=["report", "nothing", "no-id", "long-id", "no-model", "too-many-leases"],
)
async def test_a_stream_that_does_not_begin_with_a_hello_is_refused(
    queen: RunningQueen, request_: worker_pb.AttachRequest, at: str
) -> None:
    told = await end_of(queen, request_)
    assert (told.code, told.reason, told.field) == (*INVALID, at)
    assert not queen.queen._links.by_worker


async def test_only_reports_follow_a_hello(queen: RunningQueen) -> None:
    told = await end_of(queen, hello_of(status_of()), hello_of(status_of()))
    assert (told.code, told.reason) == INVALID
    await eventually(lambda: not queen.queen.loop.state.fleet.workers, "it is gone")


async def test_nobody_s_heartbeat_but_the_worker_s_own_is_taken(queen: RunningQueen) -> None:
    beat = worker_pb.Heartbeat(status=status_of("w2"))
    report = worker_pb.AttachRequest(report=worker_pb.Report(heartbeat=beat))
    told = await end_of(queen, hello_of(status_of("w1")), report)
    assert (told.code, told.reason, told.field) == (*INVALID, "report.heartbeat.status.worker_id")
    await eventually(lambda: not queen.queen.loop.state.fleet.workers, "it is gone")


async def test_a_second_stream_of_a_worker_replaces_the_first(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with attached_worker(queen.channel) as second:
        await worker.ended()
        await submit(queen)
        await second.serve(await second.offer(), *WORDS)
        await second.over(1)
        assert not worker.orders.offers
        # The end of the first has said nothing of the second.
        assert queen.queen.loop.state.fleet.workers[WorkerId("w1")].session


async def test_a_worker_that_comes_back_goes_on_with_what_it_holds(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    offer = await worker.offer()
    await worker.accept(offer)
    await worker.tokens(offer, 0, *WORDS[:2])
    await eventually(
        lambda: any(f.log.next_index == 2 for f in queen.queen._feeds.by_job.values()), "two tokens"
    )
    await worker.hang_up()
    # It made a third token that was lost on the way.
    async with attached_worker(queen.channel, leases=[held(offer.epoch, 3)]) as again:
        (adopted,) = again.welcome.adopted
        assert (adopted.lease_id, adopted.epoch, adopted.resend_from) == (offer.lease_id, 1, 2)
        await again.tokens(offer, 2, *WORDS[2:])
        await again.finish(offer, 4)
        await again.over(offer.epoch)
        assert not again.orders.offers
    assert await text(queen, job) == "".join(WORDS)
    assert (await queen.inference.GetJob(pb.GetJobRequest(job_id=job.job_id))).attempt == 1


async def test_what_a_worker_that_comes_back_does_not_claim_is_tried_again(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    offer = await worker.offer()
    await worker.tokens(offer, 0, *WORDS[:2])
    await eventually(lambda: queen.queen._feeds.unsaved, "tokens came")
    await worker.hang_up()
    async with attached_worker(queen.channel) as again:
        assert not again.welcome.adopted
        second = await again.offer()
        assert (second.attempt, second.request.resume_count) == (2, 2)
        assert second.epoch > offer.epoch
        await again.serve(second, *WORDS[2:])
        assert await text(queen, job) == "".join(WORDS)


async def test_a_claim_to_a_lease_of_the_past_is_not_adopted(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, leases=[held(41, 3), held(42, 0)]) as worker:
        assert not worker.welcome.adopted
    await eventually(lambda: queen.queen._actor.relay.stale_epoch_writes_count == 2, "counted")


async def test_a_worker_that_lost_tokens_which_the_queen_misses_does_not_go_on(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    offer = await worker.offer()
    await worker.tokens(offer, 0, *WORDS[:1])
    await eventually(lambda: queen.queen._feeds.unsaved, "a token came")
    await worker.hang_up()
    async with attached_worker(queen.channel, leases=[held(offer.epoch, 4, 2)]) as again:
        assert not again.welcome.adopted
        second = await again.offer()
        assert second.request.resume_count == 1
        await again.serve(second, *WORDS[1:])
        assert await text(queen, job) == "".join(WORDS)


async def test_the_jobs_of_a_silent_worker_go_to_another(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    offer = await worker.offer()
    await worker.accept(offer)
    await worker.tokens(offer, 0, *WORDS[:3])
    await eventually(lambda: queen.queen._feeds.unsaved, "tokens came")
    async with attached_worker(queen.channel, "w2") as other:
        for _ in range(limits.LEASE_TTL_MS // 1_000 + 1):
            await other.beat()
            await queen.tick(250, times=4)
        second = await other.offer()
        await worker.ended()
        assert worker.error is not None
        told = outcome(worker.error)
        assert (told.code, told.reason) == (grpc.StatusCode.ABORTED, "STALE_EPOCH")
        # What the silent one says now comes too late; its stream is closed, so it says it on a new one.
        async with attached_worker(queen.channel, leases=[held(offer.epoch, 4)]) as late:
            assert not late.welcome.adopted
            await late.report(frames=[frame_of(offer.epoch, 3, " lies")])
            await late.until(lambda orders: orders.revocations, "it is told to stop")
            (revocation,) = late.orders.revocations
            assert revocation.reason == "STALE_EPOCH"
            assert await stale_writes(queen) == 2, "its claim and its frame"
        await other.serve(second, *WORDS[3:])
        assert await text(queen, job) == "".join(WORDS)


async def test_a_worker_that_is_busy_is_left_alone_until_it_says_more(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    await worker.refuse(await worker.offer())
    await worker.over(1)
    await queen.tick()
    assert len(worker.orders.offers) == 1
    await worker.heartbeat()
    second = await worker.offer(2)
    assert second.attempt == 1, "a refused offer is no attempt"
    await worker.serve(second, *WORDS)
    assert await text(queen, job) == "".join(WORDS)


async def test_a_prompt_that_fits_no_context_fails_the_job(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await submit(queen)
    await worker.refuse(await worker.offer(), "NO_CAPACITY_INCOMPATIBLE_CONTEXT")
    call = queen.inference.WatchJob(pb.WatchJobRequest(job_id=job.job_id))
    events = [event async for event in call]
    assert events[-1].failed.reason == "NO_CAPACITY_INCOMPATIBLE_CONTEXT"


async def test_no_token_follows_a_cancellation(queen: RunningQueen, worker: AttachedWorker) -> None:
    job = await submit(queen)
    offer = await worker.offer()
    await worker.tokens(offer, 0, *WORDS[:2])
    events = aiter(queen.inference.WatchJob(pb.WatchJobRequest(job_id=job.job_id)))
    while not (await anext(events)).HasField("tokens"):
        pass
    cancel = pb.CancelJobRequest(job_id=job.job_id)
    cancelled = await queen.inference.CancelJob(cancel)
    assert cancelled.state == job_pb2.JOB_STATE_CANCELLED
    await worker.tokens(offer, 2, *WORDS[2:])
    await worker.until(lambda orders: orders.revocations, "it is told to stop")
    rest = [event async for event in events]
    assert [event.WhichOneof("event") for event in rest] == ["cancelled"]
    # Again, and again: the same answer.
    for _ in range(2):
        assert await queen.inference.CancelJob(cancel) == cancelled
    # The slot is free when the worker says so, not before.
    assert len(queen.queen.loop.state.leases) == 1
    await worker.report(results=[stopped_of(offer.epoch)])
    await worker.over(offer.epoch)
    assert not queen.queen.loop.state.leases


async def test_tokens_are_acknowledged_when_they_are_durable(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await submit(queen, max_tokens=1_000)
    offer = await worker.offer()
    for index in range(0, limits.CHECKPOINT_TOKENS, 64):
        await worker.report(frames=[frame_of(offer.epoch, index, *[" b"] * 64)])
    await worker.until(
        lambda orders: any(a.next_index == 256 for a in orders.acknowledgements), "256 are safe"
    )
    rows = await queen.store.tokens(next(iter(queen.queen.loop.state.jobs)))
    assert sum(row.count for row in rows) == 256


async def test_tokens_of_a_slow_job_are_saved_by_the_tick(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await submit(queen)
    offer = await worker.offer()
    await worker.tokens(offer, 0, " the")
    await eventually(lambda: queen.queen._feeds.unsaved, "a token came")
    await queen.tick(limits.CHECKPOINT_INTERVAL_MS)
    await worker.until(
        lambda orders: any(a.next_index == 1 for a in orders.acknowledgements), "it is safe"
    )


async def test_a_worker_that_drains_gets_nothing_new(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.fleet.DrainWorker(fleet_pb.DrainWorkerRequest(worker_id="w1"))
    await submit(queen)
    await queen.tick()
    assert not worker.orders.offers
    (listed,) = (await queen.fleet.ListWorkers(fleet_pb.ListWorkersRequest())).workers
    assert listed.status.state == engine_pb.WORKER_STATE_DRAINING
    assert not worker.orders.HasField("drain"), "it is to be kept"
    await queen.fleet.StopWorker(fleet_pb.StopWorkerRequest(worker_id="w1"))
    await worker.until(lambda orders: orders.HasField("drain"), "it is told to drain")


async def test_a_worker_that_nobody_knows_is_not_found(queen: RunningQueen) -> None:
    for call in (
        queen.fleet.StopWorker(fleet_pb.StopWorkerRequest(worker_id="nobody")),
        queen.fleet.DrainWorker(fleet_pb.DrainWorkerRequest(worker_id="nobody")),
    ):
        told = await refusal(call)
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND")


async def test_offers_to_one_worker_share_a_message(queen: RunningQueen) -> None:
    loading = engine_pb.WORKER_STATE_STARTING
    async with attached_worker(queen.channel, slots=64, state=loading) as worker:
        await asyncio.gather(*(submit(queen) for _ in range(64)))
        worker.status.state = engine_pb.WORKER_STATE_READY
        await worker.heartbeat()
        offers = [await worker.offer(number) for number in range(1, 65)]
        assert [offer.epoch for offer in offers] == list(range(1, 65))
        # The offers, and the answer to the heartbeat.
        assert worker.orders_count <= 2
