"""What the queen tells of a job's phases: success, retry, cancel, and jobs of an earlier queen."""

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_core import limits

from tests.support.attached_worker import AttachedWorker, attached_worker, failed_of
from tests.support.running_queen import RunningQueen, running_queen


async def submitted(queen: RunningQueen) -> str:
    job = await queen.inference.SubmitJob(
        pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4)
    )
    return job.job_id


async def timeline(queen: RunningQueen, job_id: str) -> pb.JobTimeline:
    return await queen.inference.GetJobTimeline(pb.GetJobTimelineRequest(job_id=job_id))


def phases(told: pb.JobTimeline) -> list[tuple[str, int]]:
    return [(span.name, span.attempt) for span in told.spans]


def lasted_ms(span: pb.JobSpan) -> int:
    return int(span.end_time.ToMilliseconds() - span.begin_time.ToMilliseconds())


async def test_a_job_that_succeeds_waits_is_decided_leased_and_decoded(
    queen: RunningQueen,
) -> None:
    async with attached_worker(queen.channel, slots=1) as worker:
        first = await submitted(queen)
        offer = await worker.offer()
        job_id = await submitted(queen)
        await queen.tick(300)
        await worker.serve(offer, " a", " b")
        second = await worker.offer(2)
        await queen.tick(500)
        await worker.serve(second, " the", " hive")
        await worker.over(second.epoch)
        told = await timeline(queen, job_id)
    assert first != job_id
    assert phases(told) == [
        ("queue.wait", 1),
        ("policy.decide", 1),
        ("lease", 1),
        ("prefill", 1),
        ("decode", 1),
    ]
    wait, decide, lease, prefill, decode = told.spans
    assert lasted_ms(wait) >= 300
    assert decide.attributes["beeyard.policy.version"] == "platform@0"
    assert decide.attributes["beeyard.policy.reason"]
    assert (lease.attributes["beeyard.worker.id"], lease.attributes["state"]) == ("w1", "completed")
    assert lasted_ms(prefill) >= 500
    assert lasted_ms(lease) == lasted_ms(prefill) + lasted_ms(decode)


async def test_a_job_that_waits_has_a_phase_without_an_end(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=1) as worker:
        await submitted(queen)
        await worker.offer()
        job_id = await submitted(queen)
        told = await timeline(queen, job_id)
    assert phases(told) == [("queue.wait", 1)]
    assert not told.spans[0].HasField("end_time")


async def test_attempts_follow_each_other(queen: RunningQueen, worker: AttachedWorker) -> None:
    job_id = await submitted(queen)
    first = await worker.offer()
    await worker.accept(first)
    await worker.tokens(first, 0, " the", " bee")
    await worker.report(results=[failed_of(first.epoch)])
    await worker.over(first.epoch)
    await queen.tick(limits.TICK_INTERVAL_MS, times=20)
    second = await worker.offer(2)
    await worker.serve(second, " is", " home")
    await worker.over(second.epoch)
    told = await timeline(queen, job_id)
    assert [name for name, attempt in phases(told) if attempt == 1][-2:] == ["prefill", "decode"]
    assert [name for name, attempt in phases(told) if attempt == 2] == [
        "queue.wait",
        "policy.decide",
        "lease",
        "prefill",
        "decode",
    ]
    assert all(span.HasField("end_time") for span in told.spans)
    broken, finished = (span.attributes for span in told.spans if span.name == "lease")
    assert (broken["state"], broken["reason"]) == ("requeued", "WORKER_ERROR")
    assert (finished["state"], "reason" in finished) == ("completed", False)


async def test_a_cancelled_job_ends_its_wait(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=1) as worker:
        await submitted(queen)
        await worker.offer()
        job_id = await submitted(queen)
        await queen.inference.CancelJob(pb.CancelJobRequest(job_id=job_id))
        told = await timeline(queen, job_id)
    assert phases(told) == [("queue.wait", 1)]
    assert told.spans[0].HasField("end_time")


async def test_of_a_job_of_an_earlier_queen_its_record_is_told() -> None:
    async with running_queen() as queen, attached_worker(queen.channel) as worker:
        job_id = await submitted(queen)
        await worker.serve(await worker.offer(), " the", " hive")
        await worker.over(1)
        store = queen.store
    async with running_queen(store) as later:
        told = await timeline(later, job_id)
    assert phases(told) == [("queue.wait", 1), ("lease", 1), ("prefill", 1), ("decode", 1)]
    assert told.spans[1].attributes["beeyard.worker.id"] == "w1"
