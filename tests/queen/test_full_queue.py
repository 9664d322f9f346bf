"""A full queue at the wire: who is refused, who is dropped, and what each of them is told."""

import asyncio

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import history_limits
from beeyard_core.backpressure import Overflow
from beeyard_core.job import Priority
from beeyard_queen.config import QueenSettings
from pydantic import ValidationError

from tests.support.attached_worker import attached_worker, finished_of
from tests.support.eventually import eventually
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal

BACKGROUND = job_pb2.PRIORITY_BACKGROUND
INTERACTIVE = job_pb2.PRIORITY_INTERACTIVE


def ask(
    priority: "job_pb2.Priority.ValueType" = job_pb2.PRIORITY_NORMAL,
) -> pb.SubmitJobRequest:
    return pb.SubmitJobRequest(model="tiny", prompt="bee", priority=priority)


async def watched(queen: RunningQueen, job_id: str) -> list[job_pb2.JobEvent]:
    """Everything that a client hears of a job."""
    call = queen.inference.WatchJob(pb.WatchJobRequest(job_id=job_id))
    return [event async for event in call]


async def test_who_makes_way_for_more_urgent_work_hears_so_and_stays_ended_over_a_restart() -> None:
    chosen = {"queue_depth": 2, "queue_overflow": "drop-lru"}
    async with running_queen(**chosen) as queen, attached_worker(queen.channel, slots=0):  # type: ignore[arg-type]
        dropped = await queen.inference.SubmitJob(ask(BACKGROUND))
        kept = await queen.inference.SubmitJob(ask(BACKGROUND))
        watching = asyncio.create_task(watched(queen, dropped.job_id))
        urgent = await queen.inference.SubmitJob(ask(INTERACTIVE))
        last = (await watching)[-1].failed
        assert (last.reason, last.retriable) == ("QUEUE_FULL_DROP_LRU", True)
        assert last.retry_after_ms > 0
        store = queen.store
    async with running_queen(store, **chosen) as later:  # type: ignore[arg-type]
        found = await later.inference.GetJob(pb.GetJobRequest(job_id=dropped.job_id))
        assert found.state == job_pb2.JOB_STATE_FAILED
        assert found.failure.reason == "QUEUE_FULL_DROP_LRU"
        assert (await watched(later, dropped.job_id))[-1].failed == last
        for job_id in (kept.job_id, urgent.job_id):
            found = await later.inference.GetJob(pb.GetJobRequest(job_id=job_id))
            assert found.state == job_pb2.JOB_STATE_QUEUED


async def test_low_priorities_are_shed_first_and_interactive_work_still_gets_in() -> None:
    async with (
        running_queen(
            queue_depth=2, queue_overflow="shed-low-priority", queue_high_water=0.5
        ) as queen,
        attached_worker(queen.channel, slots=0),
    ):
        await queen.inference.SubmitJob(ask())
        told = await refusal(queen.inference.SubmitJob(ask(BACKGROUND)))
        assert told.reason == "QUEUE_FULL_REJECT"
        assert told.metadata["policy_label"] == "shed-low-priority"
        assert told.retry_after_ms
        await queen.inference.SubmitJob(ask(INTERACTIVE))
        told = await refusal(queen.inference.SubmitJob(ask(INTERACTIVE)))
        assert told.metadata["queue_position"] == "1", "normal work comes after it"


async def test_a_class_has_a_bound_of_its_own() -> None:
    async with (
        running_queen(queue_class=["background=1", "normal=2:reject"]) as queen,
        attached_worker(queen.channel, slots=0),
    ):
        for priority in (BACKGROUND, job_pb2.PRIORITY_NORMAL, job_pb2.PRIORITY_NORMAL):
            await queen.inference.SubmitJob(ask(priority))
        for priority in (BACKGROUND, job_pb2.PRIORITY_NORMAL):
            told = await refusal(queen.inference.SubmitJob(ask(priority)))
            assert told.reason == "QUEUE_FULL_REJECT"
        await queen.inference.SubmitJob(ask(INTERACTIVE))


def test_bounds_of_classes_are_read_from_the_settings() -> None:
    told = QueenSettings(
        queue_depth=9, queue_class=["batch=5:drop-lru", "background=0", "normal=shed-low-priority"]
    ).queue()
    assert told.depth_max == 9
    assert dict(told.depth_max_by_class) == {Priority.BATCH: 5, Priority.BACKGROUND: 0}
    assert told.overflow is Overflow.REJECT
    assert dict(told.overflow_by_class) == {
        Priority.BATCH: Overflow.DROP_LRU,
        Priority.NORMAL: Overflow.SHED_LOW_PRIORITY,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "batch",
        "batch=",
        "batch=:",
        "urgent=5",
        "batch=5:6",
        "batch=reject:reject",
        "batch=-1",
        "batch=100001",
        "batch=5:",
        "batch=5:drop",
        "batch=5:reject:reject",
    ],
)
def test_a_bound_that_cannot_be_read_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValidationError, match="write CLASS=DEPTH"):
        QueenSettings(queue_class=[text])


async def test_a_deadline_that_cannot_be_met_is_refused_with_the_predicted_end() -> None:
    async with running_queen() as queen, attached_worker(queen.channel, slots=1) as worker:
        for number in range(1, history_limits.FORECAST_MEASURED_MIN + 4):
            await queen.inference.SubmitJob(ask())
            offer = await worker.offer(number)
            await queen.tick()
            await worker.accept(offer)
            await worker.tokens(offer, 0, " the", " hive")
            result = finished_of(offer.epoch, 2)
            timings = result.finished.generation.timings
            timings.prefill_ms, timings.decode_ms = 200.0, 50.0
            await worker.report(results=[result])
            await eventually(lambda: not queen.queen.loop.state.leases, "it is over")
        late = ask()
        late.deadline_ms = 20
        told = await refusal(queen.inference.SubmitJob(late))
        assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DEADLINE_UNMET")
        assert told.field == "deadline_ms"
        assert int(told.metadata["predicted_end_ms"]) >= int(told.metadata["earliest_end_ms"]) > 20
        late.deadline_ms = 60_000
        assert (await queen.inference.SubmitJob(late)).job_id
