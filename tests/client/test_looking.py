"""Everything that only looks: jobs, explanations, the fleet; and the trace."""

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2, job_pb2
from beeyard_client import BeeyardClient, BeeyardError, JobState, Priority, WorkerState
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests.support import scripted_queen as say
from tests.support.scripted_queen import Refuse, ScriptedQueen


async def test_listing_goes_through_all_pages(queen: ScriptedQueen, client: BeeyardClient) -> None:
    queen.jobs = [say.a_job(f"job-{n}") for n in range(7)]
    found = [job.job_id async for job in client.list_jobs(page_size=3, tenant_id="t")]
    assert found == [f"job-{n}" for n in range(7)]
    asked = [one for one in queen.asked if isinstance(one, inference_service_pb2.ListJobsRequest)]
    assert [one.page_token for one in asked] == ["", "3", "6"]
    assert {one.tenant_id for one in asked} == {"t"}


async def test_listing_asks_for_states(queen: ScriptedQueen, client: BeeyardClient) -> None:
    states = [JobState.QUEUED, JobState.RUNNING]
    assert [job async for job in client.list_jobs(states=states)]
    (asked,) = queen.asked
    assert isinstance(asked, inference_service_pb2.ListJobsRequest)
    assert list(asked.states) == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING]


async def test_a_job_is_a_value(client: BeeyardClient) -> None:
    job = await client.get(say.JOB_ID)
    assert job.state is JobState.COMPLETED
    assert job.state.is_final
    assert job.priority is Priority.NORMAL
    assert job.create_time is not None
    assert job.create_time.isoformat() == "2026-11-20T12:00:00+00:00"
    assert job.end_time is None
    assert job.failure is None


async def test_a_state_of_a_newer_queen_is_unknown(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.jobs = [say.a_job(state=99, priority=99)]
    job = await client.get(say.JOB_ID)
    assert job.state is JobState.UNKNOWN
    assert job.priority is Priority.NORMAL


async def test_a_missing_job_says_so(client: BeeyardClient) -> None:
    with pytest.raises(BeeyardError) as caught:
        await client.get("job-none")
    assert caught.value.reason == "JOB_NOT_FOUND"
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


async def test_a_status_without_details_gets_a_reason(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.get_refusal = Refuse(grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(BeeyardError) as caught:
        await client.get(say.JOB_ID)
    assert caught.value.reason == "PERMISSION_DENIED"


async def test_explain_tells_each_candidate(client: BeeyardClient) -> None:
    told = await client.explain(say.JOB_ID)
    assert told.summary == "it ran on the only worker"
    assert [one.excluded_by for one in told.candidates] == ["", "WORKER_BUSY"]


async def test_the_fleet_is_told_as_values(client: BeeyardClient) -> None:
    (pool,) = await client.pools()
    (worker,) = await client.workers(model="tiny")
    (model,) = await client.models()
    assert pool.devices[0].kind == "CPU"
    assert pool.devices[0].temperature_c is None
    assert worker.state is WorkerState.READY
    assert worker.is_ready
    assert model.pool_ids == ("pool-1",)


async def test_the_fleet_can_be_watched(client: BeeyardClient) -> None:
    told = [fleet async for fleet in client.watch_fleet(min_interval_ms=100)]
    assert [fleet.version for fleet in told] == [1, 2]


async def test_cancel_and_submit_return_the_job(client: BeeyardClient) -> None:
    assert (await client.submit("hello")).state is JobState.QUEUED
    assert (await client.cancel(say.JOB_ID)).state is JobState.CANCELLED


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


async def test_one_span_a_job_is_the_parent_of_every_call(
    queen: ScriptedQueen, address: str, spans: InMemorySpanExporter
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    queen.infer.append([say.queued(), Refuse(grpc.StatusCode.UNAVAILABLE)])
    queen.watch.append([say.started(), say.tokens(0, "secret"), say.finished()])
    async with BeeyardClient(address, tracer_provider=provider) as client:
        stream = client.infer("private", model="tiny")
        await stream.text()
    (span,) = spans.get_finished_spans()
    assert span.name == "infer"
    assert span.parent is None
    assert span.attributes is not None
    assert span.attributes["beeyard.job.id"] == say.JOB_ID
    assert span.attributes["gen_ai.request.model"] == "tiny"
    assert "secret" not in span.to_json()
    assert "private" not in span.to_json()
    context = span.get_span_context()
    assert context is not None
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}"
    assert [one["traceparent"][:-3] for one in queen.metadata] == [expected, expected]
    assert stream.trace_id == f"{context.trace_id:032x}"


async def test_a_cancelled_job_is_no_failed_span(
    queen: ScriptedQueen, address: str, spans: InMemorySpanExporter
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    queen.infer.append([say.queued(), say.cancelled()])
    async with BeeyardClient(address, tracer_provider=provider) as client:
        stream = client.infer("hello", model="tiny")
        async for _ in stream:
            pass
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert "error.type" not in span.attributes
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["cancelled"]


async def test_a_refused_job_is_a_failed_span(
    queen: ScriptedQueen, address: str, spans: InMemorySpanExporter
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    queen.infer.append([Refuse(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "no such model")])
    async with BeeyardClient(address, tracer_provider=provider) as client:
        with pytest.raises(BeeyardError):
            await client.infer("hello", model="none").text()
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert not span.status.is_ok
