"""`HistoryService` and what else is told of the past: statistics, predictions, leases; also by the next queen."""

import copy

import grpc
import pytest
from beeyard.queen.v1 import history_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2 as inference_pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import history_limits
from beeyard_queen.store.memory import MemoryStore
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.running_queen import RunningQueen, running_queen

JOBS = history_limits.FORECAST_MEASURED_MIN + 1


async def submit(queen: RunningQueen, **changes: object) -> job_pb2.Job:
    request = inference_pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4)
    request.MergeFrom(inference_pb.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return await queen.inference.SubmitJob(request)


async def serve_some(queen: RunningQueen, worker: AttachedWorker) -> list[str]:
    """Let some jobs of two tenants be served, one after the other."""
    ids = []
    for number in range(1, JOBS + 1):
        job = await submit(queen, tenant_id="ann" if number % 2 else "bob")
        await worker.serve(await worker.offer(number), " the", " bee")
        await worker.over(number)
        ids.append(job.job_id)
    return ids


async def statistics(queen: RunningQueen, **wanted: object) -> pb.JobStatistics:
    return await queen.history.GetJobStatistics(pb.GetJobStatisticsRequest(**wanted))  # type: ignore[arg-type]


async def test_jobs_are_counted_by_tenant_and_still_are_by_the_next_queen(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await serve_some(queen, worker)
    waiting = [await submit(queen, tenant_id="eve") for _ in range(9)]
    await queen.inference.CancelJob(inference_pb.CancelJobRequest(job_id=waiting[-1].job_id))
    disk: MemoryStore = copy.deepcopy(queen.store)
    await disk.close()
    async with running_queen(disk) as later:
        for asked in (queen, later):
            told = await statistics(asked)
            assert (told.everything.jobs, told.everything.completed) == (JOBS + 1, JOBS)
            groups = {group.name: group for group in told.groups}
            assert groups["ann"].completed == groups["bob"].completed == JOBS // 2
            assert groups["eve"].cancelled == 1
            assert not groups["eve"].HasField("success_rate")
            assert groups["ann"].success_rate == 1.0
            assert groups["ann"].tokens == JOBS
            assert not told.is_truncated
            assert told.HasField("oldest_end_time")
        only = await statistics(later, tenant_id="bob")
        assert [group.name for group in only.groups] == ["bob"]
        by_model = await statistics(later, group_by=pb.GROUP_BY_MODEL)
        assert [group.name for group in by_model.groups] == ["tiny"]


async def test_jobs_are_found_by_when_they_ended(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await serve_some(queen, worker)
    tomorrow = Timestamp(seconds=queen.clock.now().wall_ms // 1_000 + 86_400)
    later = await statistics(queen, since=tomorrow)
    assert (later.everything.jobs, later.HasField("oldest_end_time")) == (0, False)
    before = await statistics(queen, until=tomorrow)
    assert before.everything.jobs == JOBS


@pytest.mark.parametrize(
    "request_",
    [
        pb.GetJobStatisticsRequest(group_by=99),  # type: ignore[arg-type]
        pb.GetJobStatisticsRequest(since=Timestamp(seconds=-5)),
        pb.GetJobStatisticsRequest(since=Timestamp(seconds=2**63 - 1)),
        pb.GetJobStatisticsRequest(until=Timestamp(nanos=-5)),
    ],
    ids=["unknown grouping", "before 1970", "after 9999", "no moment"],
)
async def test_a_question_that_makes_no_sense_is_refused(
    queen: RunningQueen, request_: pb.GetJobStatisticsRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await queen.history.GetJobStatistics(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_queen_predicts_by_what_an_earlier_one_measured_and_reports_how_well(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await serve_some(queen, worker)
    # The first few were not predicted, since nothing was measured yet.
    told = await queen.history.GetForecastReport(pb.GetForecastReportRequest())
    assert (told.unpredicted, told.end.n) == (JOBS - 1, 1)
    assert list(told.levels) == [0.05, 0.25, 0.5, 0.75, 0.95]
    assert told.promised_coverage == 0.9
    assert 0.0 <= told.end.coverage <= 1.0
    assert not told.start.HasField("coverage"), "nobody had to wait"
    disk: MemoryStore = copy.deepcopy(queen.store)
    await disk.close()
    async with running_queen(disk) as later, attached_worker(later.channel, "w7"):
        job = await submit(later)
        found = await later.inference.GetJob(inference_pb.GetJobRequest(job_id=job.job_id))
        assert found.HasField("prediction")
        end = found.prediction.end
        assert 0 <= end.low_ms <= end.middle_ms <= end.high_ms


async def test_a_client_that_waits_is_told_when_its_job_will_start(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await serve_some(queen, worker)
    for _ in range(8):
        await submit(queen)
    waiting = await submit(queen)
    assert waiting.HasField("prediction")
    for call in (
        queen.inference.WatchJob(inference_pb.WatchJobRequest(job_id=waiting.job_id)),
        queen.inference.Infer(inference_pb.InferRequest(model="tiny", prompt="bee", max_tokens=4)),
    ):
        event = await call.read()
        assert isinstance(event, job_pb2.JobEvent)
        assert event.queued.HasField("prediction")
        assert event.queued.prediction.start.high_ms >= event.queued.prediction.start.low_ms
        call.cancel()


async def test_an_explanation_names_what_would_help_and_the_leases_that_ended(
    queen: RunningQueen,
) -> None:
    async with (
        attached_worker(queen.channel, slots=1) as worker,
        attached_worker(queen.channel, "w2", slots=0),
    ):
        first = await submit(queen)
        waiting = await submit(queen)
        ask = inference_pb.ExplainJobRequest(job_id=waiting.job_id)
        told = await queen.inference.ExplainJob(ask)
        assert told.remedy.kind == inference_pb.Remedy.KIND_SLOTS
        assert told.remedy.target_id in ("w1", "w2")
        assert told.remedy.message in told.summary
        (earlier,) = told.other_remedies
        assert (earlier.kind, earlier.target_id) == (inference_pb.Remedy.KIND_EARLIER, "w1")
        assert earlier.message == "it had come 0.001 s earlier, when worker w1 had a slot free"
        await worker.serve(await worker.offer(), " the")
        await worker.over(1)
        ask = inference_pb.ExplainJobRequest(job_id=first.job_id)
        told = await queen.inference.ExplainJob(ask)
        assert [(lease.worker_id, lease.attempt, lease.ending) for lease in told.leases] == [
            ("w1", 1, "released")
        ]
        # How the other worker looked when the job was placed.
        seen = {each.worker_id: each for each in told.candidates}
        assert seen["w1"].chosen
        assert seen["w2"].excluded_by == "WORKER_BUSY"
        assert not told.HasField("remedy")
