"""The span `infer` of the gateway: an error only where something was wrong, whoever ended the job."""

import asyncio
from collections.abc import Sequence

import pytest
from beeyard_runtime import semconv
from beeyard_runtime.telemetry import Telemetry, setup_telemetry
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.support.attached_worker import AttachedWorker, failed_of
from tests.support.eventually import eventually
from tests.support.running_gateway import TEXT, RunningGateway, asking, running_gateway, sent_events
from tests.support.running_queen import RunningQueen

STREAM = {**TEXT, "stream": True}


async def infer_spans(telemetry: Telemetry, kept: InMemorySpanExporter) -> Sequence[ReadableSpan]:
    await asyncio.to_thread(telemetry.flush)
    return [span for span in kept.get_finished_spans() if span.name == semconv.SPAN_INFER]


def traced() -> tuple[Telemetry, InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    return setup_telemetry("gateway", exporter=kept), kept


async def begun(gateway: RunningGateway, worker: AttachedWorker, ending: str) -> None:
    """Let a streamed job begin, and end as the case says."""
    async with asking(gateway.client, "/v1/completions", STREAM) as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        events = sent_events(await asked)
        await anext(events)
        if ending == "hung up":
            return
        if ending == "cancelled":
            job_id = (await asked).headers["x-beeyard-job-id"]
            await gateway.client.post(f"/v2/jobs/{job_id}/cancel")
        else:
            await worker.report(results=[failed_of(offer.epoch, "INVALID_REQUEST")])
        assert [event async for event in events]


@pytest.mark.parametrize("ending", ["hung up", "cancelled", "broke"])
async def test_what_somebody_wished_is_no_error_and_what_broke_is(
    queen: RunningQueen, worker: AttachedWorker, ending: str
) -> None:
    telemetry, kept = traced()
    jobs = queen.queen.loop.state.jobs
    async with running_gateway(queen.queen.server.address, telemetry=telemetry) as gateway:
        await begun(gateway, worker, ending)
        await eventually(lambda: all(job.is_ended for job in jobs.values()), "the job has ended")
    (span,) = await infer_spans(telemetry, kept)
    await asyncio.to_thread(telemetry.shutdown)
    assert span.attributes is not None
    names = [event.name for event in span.events]
    if ending == "broke":
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes[semconv.ERROR_TYPE] == "INVALID_REQUEST"
        assert semconv.EVENT_CANCELLED not in names
    else:
        assert span.status.status_code is StatusCode.UNSET
        assert semconv.ERROR_TYPE not in span.attributes
        assert names.count(semconv.EVENT_CANCELLED) == 1
