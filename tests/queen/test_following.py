"""Clients that follow a job: live, late, from any index, again after the end, and too late."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard_core import limits
from beeyard_core.ids import JobId
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import TokensRow

from tests.support.attached_worker import AttachedWorker, attached_worker, failed_of, frame_of
from tests.support.eventually import eventually
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.store_rows import ended_row, jobs_batch, tokens_row
from tests.support.told import indexes_of, kinds, refusal, text_of

WORDS = [" the", " bee", " finds", " its", " hive", " at", " last"]
GONE = (grpc.StatusCode.OUT_OF_RANGE, "RESUME_OFFSET_GONE")


def ask(max_tokens: int = 7) -> pb.InferRequest:
    return pb.InferRequest(model="tiny", prompt="bee", max_tokens=max_tokens)


async def told(call: AsyncIterator[job_pb2.JobEvent]) -> list[job_pb2.JobEvent]:
    return [event async for event in call]


def watch(queen: RunningQueen, job_id: str, index: int) -> AsyncIterator[job_pb2.JobEvent]:
    request = pb.WatchJobRequest(job_id=job_id, from_token=index)
    return queen.inference.WatchJob(request).__aiter__()


async def test_one_job_from_the_first_word_to_the_last(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    events = asyncio.ensure_future(told(aiter(queen.inference.Infer(ask()))))
    offer = await worker.offer()
    assert (offer.request.prompt, offer.attempt) == ("bee", 1)
    await worker.serve(offer, *WORDS)
    story = await events
    assert kinds(story) == ["queued", "started", "tokens", "finished"]
    started = next(e.started for e in story if e.HasField("started"))
    assert (started.worker_id, started.model, started.attempt) == ("w1", "tiny", 1)
    assert started.policy_version
    assert text_of(story) == "".join(WORDS)
    assert indexes_of(story) == list(range(7))
    assert story[-1].finished.usage.completion_tokens == 7
    assert len({event.job_id for event in story}) == 1
    await worker.over(offer.epoch)


async def test_live_late_and_replayed_are_the_same_at_every_index(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
    early = [asyncio.ensure_future(told(watch(queen, job.job_id, index))) for index in range(8)]
    offer = await worker.offer()
    feeds = queen.queen._feeds.by_job
    await eventually(lambda: _followers(queen, job.job_id) == 8, "all follow")
    await worker.accept(offer)
    for index, word in enumerate(WORDS[:4]):
        await worker.tokens(offer, index, word)
    await eventually(lambda: feeds[JobId(job.job_id)].log.next_index == 4, "four tokens")
    late = [asyncio.ensure_future(told(watch(queen, job.job_id, index))) for index in range(8)]
    await eventually(lambda: _followers(queen, job.job_id) == 16, "all follow")
    await worker.tokens(offer, 4, *WORDS[4:])
    await worker.finish(offer, 7)
    await worker.over(offer.epoch)
    for index in range(8):
        replayed = await told(watch(queen, job.job_id, index))
        for story in (await early[index], await late[index], replayed):
            assert text_of(story) == "".join(WORDS[index:])
            assert indexes_of(story) == list(range(index, 7))
            assert kinds(story)[:2] == ["queued", "started"]
            assert story[-1] == replayed[-1]
            assert story[-1].HasField("finished")


async def test_a_second_attempt_goes_on_where_the_first_one_broke(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    events = asyncio.ensure_future(told(aiter(queen.inference.Infer(ask()))))
    first = await worker.offer()
    await worker.report(
        frames=[frame_of(first.epoch, 0, *WORDS[:3])], results=[failed_of(first.epoch)]
    )
    second = await worker.offer(2)
    assert second.attempt == 2
    assert second.epoch > first.epoch
    assert second.request.resume_count == 3
    assert second.request.resume_text == "".join(WORDS[:3])
    assert list(second.request.resume_ids) == [1_000, 1_001, 1_002]
    await worker.serve(second, *WORDS[3:])
    story = await events
    assert kinds(story) == ["queued", "started", "tokens", "started", "tokens", "finished"]
    assert text_of(story) == "".join(WORDS)
    assert indexes_of(story) == list(range(7))


async def test_an_engine_without_ids_is_resumed_by_its_text(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
    first = await worker.offer()
    frame = frame_of(first.epoch, 0, *WORDS[:3])
    frame.ClearField("ids")
    await worker.report(frames=[frame], results=[failed_of(first.epoch)])
    second = await worker.offer(2)
    assert not second.request.resume_ids
    assert (second.request.resume_text, second.request.resume_count) == ("".join(WORDS[:3]), 3)


async def test_attempts_that_all_break_end_the_job(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    events = asyncio.ensure_future(told(aiter(queen.inference.Infer(ask()))))
    for number in (1, 2, 3):
        offer = await worker.offer(number)
        await worker.report(results=[failed_of(offer.epoch)])
        await worker.over(offer.epoch)
        # A job whose attempts break rests before the next one.
        await worker.beat()
        await queen.tick(limits.ATTEMPT_REST_MS_MIN, times=3)
    story = await events
    assert story[-1].failed.reason == "ATTEMPTS_EXHAUSTED"
    assert story[-1].failed.retriable


@pytest.mark.parametrize("index", [8, 257, 30_000])
async def test_an_index_beyond_the_end_is_gone(
    queen: RunningQueen, worker: AttachedWorker, index: int
) -> None:
    job = await queen.inference.SubmitJob(
        pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=256)
    )
    offer = await worker.offer()
    await worker.accept(offer)
    running = asyncio.ensure_future(refusal(watch(queen, job.job_id, index)))
    if index <= 256:
        # It may still come: only the end tells.
        await eventually(lambda: _followers(queen, job.job_id), "it is followed")
    await worker.tokens(offer, 0, *WORDS)
    await worker.finish(offer, 7)
    for outcome in (await running, await refusal(watch(queen, job.job_id, index))):
        assert (outcome.code, outcome.reason) == GONE


async def test_whoever_has_more_than_was_kept_of_a_cut_answer_hears_how_it_ended(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    # As after the death of a queen that had told some tokens further than its store was.
    job = await queen.inference.SubmitJob(
        pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=9)
    )
    offer = await worker.offer()
    running = asyncio.ensure_future(told(watch(queen, job.job_id, 8)))
    await eventually(lambda: _followers(queen, job.job_id), "it is followed")
    await worker.tokens(offer, 0, *WORDS)
    feed = queen.queen._feeds.by_job[JobId(job.job_id)]
    await eventually(lambda: feed.log.next_index == 7, "seven tokens")
    await queen.inference.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    for story in (await running, await told(watch(queen, job.job_id, 8))):
        assert kinds(story)[-1] == "cancelled"
        assert indexes_of(story) == []
    # But no answer to this job was ever so long.
    outcome = await refusal(watch(queen, job.job_id, 10))
    assert (outcome.code, outcome.reason) == GONE


async def test_a_client_that_hangs_up_leaves_nothing_behind(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    call = queen.inference.Infer(ask())
    events = aiter(call)
    await anext(events)
    offer = await worker.offer()
    await worker.tokens(offer, 0, " the")
    while not (await anext(events)).HasField("tokens"):
        pass
    call.cancel()
    (feed,) = queen.queen._feeds.by_job.values()
    await eventually(lambda: not feed.followers, "the follower is gone")
    # The job goes on without anybody, and its answer is kept.
    await worker.tokens(offer, 1, *WORDS[1:])
    await worker.finish(offer, 7)
    await worker.over(offer.epoch)
    assert not queen.queen._feeds.by_job
    assert text_of(await told(watch(queen, feed.job_id, 0))) == "".join(WORDS)


async def test_a_job_that_waits_says_for_what(queen: RunningQueen, worker: AttachedWorker) -> None:
    await worker.report(heartbeat=worker_pb.Heartbeat(status=_loading(worker, 0.25)))
    await eventually(lambda: not queen.queen.loop.state.fleet.open_workers, "the worker loads")
    call = queen.inference.Infer(ask())
    async for event in call:
        if event.HasField("progress"):
            assert event.progress.stage == "loading_model"
            assert event.progress.fraction == 0.25
            break
    call.cancel()


async def test_of_progress_only_the_latest_is_shown(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await worker.report(heartbeat=worker_pb.Heartbeat(status=_loading(worker, 0.0)))
    await eventually(lambda: not queen.queen.loop.state.fleet.open_workers, "the worker loads")
    call = queen.inference.Infer(ask())
    progress = (e.progress.fraction async for e in call if e.HasField("progress"))
    assert await anext(progress) == 0.0
    for percent in range(10, 100, 10):
        await worker.report(heartbeat=worker_pb.Heartbeat(status=_loading(worker, percent / 100)))
    # Told at most once a second, so this test takes that long.
    assert await anext(progress) == 0.9
    call.cancel()


async def test_a_job_that_is_woken_all_the_time_is_not_told_more_often(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await worker.report(heartbeat=worker_pb.Heartbeat(status=_loading(worker, 0.5)))
    await eventually(lambda: not queen.queen.loop.state.fleet.open_workers, "the worker loads")
    call = queen.inference.Infer(ask())
    events = aiter(call)
    job_id = JobId((await anext(events)).job_id)
    feed = queen.queen._feeds.by_job[job_id]
    (follower,) = feed.followers
    for _ in range(20):
        feed.wake()
        # Once round the loop: the follower saw it, and had nothing to tell.
        await eventually(lambda: not follower._woken.is_set(), "it was woken")
    await worker.report(heartbeat=worker_pb.Heartbeat(status=_loading(worker, 0.8)))
    # Told at each waking, it would have been half a model first.
    assert (await anext(events)).progress.fraction == 0.8
    call.cancel()


def _followers(queen: RunningQueen, job_id: str) -> int:
    feed = queen.queen._feeds.by_job.get(JobId(job_id))
    return len(feed.followers) if feed else 0


def _loading(worker: AttachedWorker, fraction: float) -> engine_pb.EngineStatus:
    status = engine_pb.EngineStatus()
    status.CopyFrom(worker.status)
    status.state = engine_pb.WORKER_STATE_STARTING
    status.load_progress = fraction
    return status


async def test_a_queen_that_shuts_down_sends_its_followers_away_to_return(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    call = asyncio.ensure_future(refusal(queen.inference.Infer(ask())))
    await worker.offer()
    draining = asyncio.ensure_future(queen.queen._drain())
    told_ = await call
    assert (told_.code, told_.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert told_.retry_after_ms
    await worker.ended()
    await draining


async def test_two_workers_do_not_mix_two_jobs(queen: RunningQueen, worker: AttachedWorker) -> None:
    async with attached_worker(queen.channel, "w2") as other:
        calls = [
            asyncio.ensure_future(told(aiter(queen.inference.Infer(ask(3))))) for _ in range(2)
        ]
        # Least loaded first: each has one.
        mine, theirs = await worker.offer(), await other.offer()
        await worker.serve(mine, " a", " b", " c")
        await other.serve(theirs, " x", " y", " z")
        texts = {text_of(story) for story in await asyncio.gather(*calls)}
    assert texts == {" a b c", " x y z"}


class PiecewiseStore(MemoryStore):
    """Notes how many rows of output each reading was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        rows = await super().tokens(job_id, from_index=from_index, rows_max=rows_max)
        self.given.append(len(rows))
        return rows


async def test_a_long_answer_is_read_back_in_pieces() -> None:
    store = PiecewiseStore()
    rows = 3 * limits.REPLAYED_ROWS_MAX + 1
    batch = jobs_batch(ended_row(1, next_index=3 * rows))
    batch.tokens = [tokens_row("job-1", 3 * row, ["a", "bee", str(row)]) for row in range(rows)]
    whole = "".join(row.text for row in batch.tokens)
    await store.open()
    await store.commit(batch)
    await store.close()
    async with running_queen(store) as queen:
        for index in (0, 1, 3 * limits.REPLAYED_ROWS_MAX - 1, 3 * rows - 2, 3 * rows):
            store.given.clear()
            events = await told(watch(queen, "job-1", index))
            assert kinds(events)[-1] == "finished"
            assert indexes_of(events) == list(range(index, 3 * rows))
            assert whole.endswith(text_of(events))
            assert all(given <= limits.REPLAYED_ROWS_MAX for given in store.given)
            assert sum(store.given) == rows - index // 3 if index < 3 * rows else not store.given
