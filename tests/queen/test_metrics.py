"""The queen's figures: the names of the contract, and what each of them counts."""

import asyncio
import re
import urllib.request

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_runtime.metrics import LABEL_VALUES_MAX

from tests.support.attached_worker import AttachedWorker, attached_worker, failed_of, frame_of
from tests.support.eventually import eventually
from tests.support.running_queen import RunningQueen, running_queen

#: What the contract asks of whoever schedules; the rest of its names belongs to hosts and workers.
NAMES = {
    "tasks_enqueued_total",
    "tasks_started_total",
    "tasks_canceled_total",
    "tasks_rejected_total",
    "queue_depth",
    "kv_cache_usage_ratio",
    "latency_first_token_ms",
    "latency_decode_ms",
    "tokens_in_total",
    "tokens_out_total",
    "admission_backpressure_events_total",
    "model_state",
    "scheduler_decisions_total",
    "scheduler_decision_seconds",
    "scheduler_error_total",
    "scheduler_timeout_total",
    "scheduler_fallback_total",
    "leases_active",
    "lease_expired_total",
    "stale_epoch_writes_total",
    "preemptions_total",
    "resumptions_total",
    "busy_rating",
    "capacity_units_usable",
    "capacity_units_leased",
    "placement_decisions_total",
    "deadlines_met_ratio",
}


def series_of(queen: RunningQueen) -> dict[str, float]:
    text = queen.queen.figures.exposition().decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def sampled(queen: RunningQueen) -> dict[str, float]:
    """Let the next reading of the gauges come and return every figure."""
    await queen.clock.advance(limits.METRICS_INTERVAL_MS)
    return series_of(queen)


def families_of(queen: RunningQueen) -> set[str]:
    text = queen.queen.figures.exposition().decode()
    return set(re.findall(r"^# TYPE (\S+) ", text, flags=re.MULTILINE))


async def test_every_name_of_the_contract_is_there(queen: RunningQueen) -> None:
    await sampled(queen)
    assert families_of(queen) >= NAMES


async def test_labels_are_those_of_the_contract(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
    await worker.serve(await worker.offer(), " the", " hive")
    await worker.over(1)
    found = {label for name in await sampled(queen) for label in re.findall(r'(\w+)="', name)}
    assert found - {"le"} <= set(LABEL_VALUES_MAX)


async def test_one_job_is_counted_from_acceptance_to_its_last_token(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.inference.SubmitJob(
        pb.SubmitJobRequest(model="tiny", prompt="bee", deadline_ms=60_000)
    )
    offer = await worker.offer()
    during = await sampled(queen)
    assert during["leases_active"] == 1
    assert during['queue_depth{priority="NORMAL"}'] == 0
    assert during['model_state{model_id="tiny",state="ready"}'] == 1
    assert 0 < during['kv_cache_usage_ratio{model_id="tiny"}'] < 1
    await worker.serve(offer, " the", " hive")
    await worker.over(1)
    after = await sampled(queen)
    assert after['tasks_enqueued_total{model_id="tiny",priority="NORMAL"}'] == 1
    started = 'engine="synthetic",model_id="tiny",pool_id="none",priority="NORMAL"'
    assert after[f"tasks_started_total{{{started}}}"] == 1
    assert after['tokens_in_total{model_id="tiny"}'] == 3
    assert after['tokens_out_total{model_id="tiny"}'] == 2
    assert after['latency_first_token_ms_count{engine="synthetic",priority="NORMAL"}'] == 1
    assert (
        after['placement_decisions_total{fallback="false",outcome="applied",pinned="false"}'] == 1
    )
    assert after['scheduler_decisions_total{action="dispatch",outcome="applied"}'] == 1
    assert after['deadlines_met_ratio{priority="NORMAL"}'] == 1.0
    assert after["leases_active"] == 0


async def test_refusals_are_counted_with_their_reason(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel):
        call = queen.inference.SubmitJob(pb.SubmitJobRequest(model="other", prompt="bee"))
        await eventually(call.done, "the refusal")
    assert series_of(queen)['tasks_rejected_total{reason="MODEL_NOT_FOUND"}'] == 1


async def test_a_broken_attempt_that_goes_on_counts_as_resumed(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4))
    first = await worker.offer()
    await worker.accept(first)
    await worker.tokens(first, 0, " the", " bee")
    await worker.report(results=[failed_of(first.epoch)])
    second = await worker.offer(2)
    assert second.request.resume_count == 2
    figures = await sampled(queen)
    assert figures['resumptions_total{model_id="tiny"}'] == 1
    started = [value for name, value in figures.items() if name.startswith("tasks_started_total")]
    assert started == [1.0]


async def test_stale_writes_and_expired_leases_show(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
    offer = await worker.offer()
    await worker.accept(offer)
    await worker.report(frames=[frame_of(offer.epoch + 7, 0, " stray")])
    await worker.until(lambda orders: orders.revocations, "the stray lease is revoked")
    await worker.hang_up()
    await queen.tick(1_000, times=limits.LEASE_TTL_MS // 1_000 + 2)
    figures = await sampled(queen)
    assert figures["stale_epoch_writes_total"] == 1
    assert figures["lease_expired_total"] == 1


async def test_cancelled_jobs_count_under_the_state_they_ended_in(queen: RunningQueen) -> None:
    async with attached_worker(queen.channel, slots=1) as worker:
        job = await queen.inference.SubmitJob(
            pb.SubmitJobRequest(model="tiny", prompt="bee", priority=job_pb2.PRIORITY_BATCH)
        )
        await worker.offer()
        await queen.inference.CancelJob(pb.CancelJobRequest(job_id=job.job_id))
    counted = series_of(queen)['tasks_canceled_total{priority="BATCH",reason="cancelled"}']
    assert counted == 1


async def test_a_scrape_over_http_says_the_same() -> None:
    async with running_queen(metrics_listen="127.0.0.1:0") as queen:
        await eventually(lambda: queen.queen.metrics_address, "the port is open")
        url = f"http://{queen.queen.metrics_address}/metrics"

        def read() -> bytes:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return bytes(answer.read())

        assert b"store_healthy 1.0" in await asyncio.to_thread(read)
