"""One call is one trace across processes, and a service without a collector pays nothing for it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as pb_grpc
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard.worker.v1 import worker_service_pb2_grpc as worker_grpc
from beeyard_core.refusal import Refusal
from beeyard_runtime import semconv
from beeyard_runtime.rpc_channel import open_channel, stream
from beeyard_runtime.rpc_errors import refuse
from beeyard_runtime.telemetry import Telemetry, setup_telemetry
from beeyard_runtime.testing import serving
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.otlp import receiving_otlp
from tests.support.scripted import (
    ENGINE_TO_SERVER,
    QUEEN_TO_SERVER,
    scripted_engine,
    scripted_queen,
)
from tests.support.scripted import Context as Ctx

_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_GET_STATUS = "beeyard.worker.v1.EngineService/GetStatus"


@pytest.fixture(autouse=True)
def _no_collector_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEEYARD_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


async def test_a_call_is_one_trace_from_client_to_server() -> None:
    async with receiving_otlp() as otlp:
        client = setup_telemetry("client", otlp_endpoint=otlp.endpoint)
        queen = setup_telemetry("queen", otlp_endpoint=otlp.endpoint, instance="queen-1")

        async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
            with queen.tracer.start_as_current_span(semconv.SPAN_ADMISSION):
                return pb.EngineStatus()

        async with serving(
            (ENGINE_TO_SERVER, scripted_engine(get_status)), telemetry=queen
        ) as served:
            channel = open_channel(served.address, telemetry=client)
            with client.tracer.start_as_current_span(semconv.SPAN_INFER) as root:
                await pb_grpc.EngineServiceStub(channel).GetStatus(pb.GetStatusRequest())
            await channel.close(None)
        await asyncio.gather(*(asyncio.to_thread(it.shutdown) for it in (client, queen)))
        await otlp.wait_for(lambda seen: len(seen.spans) == 3)

        (tree,) = otlp.tree(f"{root.get_span_context().trace_id:032x}")
        assert tree.outline() == ("infer", (_GET_STATUS, ("admission",)))
        (server_span,) = otlp.named(_GET_STATUS)
        assert server_span.resource["service.name"] == "beeyard.queen"
        assert server_span.resource["service.instance.id"] == "queen-1"
        assert server_span.resource["service.version"]
        assert server_span.attributes[semconv.RPC_STATUS] == "OK"
        assert not server_span.failed


async def test_every_kind_of_method_carries_the_trace() -> None:
    seen: list[str] = []
    telemetry = setup_telemetry("client", exporter=InMemorySpanExporter())

    async def generate(request: pb.GenerateRequest, context: Ctx) -> AsyncIterator[object]:
        seen.append(telemetry.traceparent())
        yield pb.GenerateResponse()

    async def attach(requests: AsyncIterator[worker_pb.AttachRequest], context: Ctx) -> None:
        seen.append(telemetry.traceparent())
        await context.write(worker_pb.AttachResponse())

    async with serving(
        (ENGINE_TO_SERVER, scripted_engine(generate=generate)),
        (QUEEN_TO_SERVER, scripted_queen(attach)),
        telemetry=telemetry,
    ) as served:
        with telemetry.tracer.start_as_current_span("root") as root:
            engine = pb_grpc.EngineServiceStub(served.channel)
            async with stream(
                engine.Generate(pb.GenerateRequest(), metadata=(("a", "b"),))
            ) as call:
                assert [m async for m in call]
            async with stream(worker_grpc.WorkerServiceStub(served.channel).Attach(None)) as both:
                await both.read()
    trace_id = f"{root.get_span_context().trace_id:032x}"
    assert [traceparent[3:35] for traceparent in seen] == [trace_id, trace_id]
    await asyncio.to_thread(telemetry.shutdown)


async def test_a_trace_passes_through_a_service_whose_telemetry_is_off() -> None:
    passed: list[str] = []
    off = Telemetry()

    async def end(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        passed.extend(str(v) for k, v in context.invocation_metadata() or () if k == "traceparent")
        return pb.EngineStatus()

    async with serving((ENGINE_TO_SERVER, scripted_engine(end)), telemetry=off) as far:

        async def middle(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
            answer: pb.EngineStatus = await pb_grpc.EngineServiceStub(far.channel).GetStatus(
                request
            )
            return answer

        async with serving((ENGINE_TO_SERVER, scripted_engine(middle)), telemetry=off) as near:
            stub = pb_grpc.EngineServiceStub(near.channel)
            await stub.GetStatus(pb.GetStatusRequest(), metadata=(("traceparent", _TRACEPARENT),))
            await stub.GetStatus(pb.GetStatusRequest())
    assert passed == [_TRACEPARENT]


@pytest.mark.parametrize(
    ("reason", "code", "failed"),
    [(Refusal.WORKER_BUSY, "ABORTED", False), (Refusal.DRAINING, "UNAVAILABLE", True)],
)
async def test_a_refused_call_has_its_reason_in_its_span(
    reason: Refusal, code: str, failed: bool
) -> None:
    exporter = InMemorySpanExporter()
    telemetry = setup_telemetry("worker", exporter=exporter)

    async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        raise refuse(reason, "no")

    async with serving(
        (ENGINE_TO_SERVER, scripted_engine(get_status)), telemetry=telemetry
    ) as served:
        with pytest.raises(grpc.aio.AioRpcError):
            await pb_grpc.EngineServiceStub(served.channel).GetStatus(pb.GetStatusRequest())
    await asyncio.to_thread(telemetry.shutdown)
    (span,) = exporter.get_finished_spans()
    assert span.attributes
    assert span.attributes[semconv.REFUSAL_REASON] == reason.value
    assert span.attributes[semconv.RPC_STATUS] == code
    assert (span.status.status_code is trace.StatusCode.ERROR) == failed


async def test_a_cancelled_stream_still_has_its_span() -> None:
    exporter = InMemorySpanExporter()
    telemetry = setup_telemetry("worker", exporter=exporter)
    ended = asyncio.Event()

    async def generate(request: pb.GenerateRequest, context: Ctx) -> AsyncIterator[object]:
        try:
            yield pb.GenerateResponse()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(
        (ENGINE_TO_SERVER, scripted_engine(generate=generate)), telemetry=telemetry
    ) as s:
        async with stream(
            pb_grpc.EngineServiceStub(s.channel).Generate(pb.GenerateRequest())
        ) as call:
            await call.read()
        await ended.wait()
    await asyncio.to_thread(telemetry.shutdown)
    (span,) = exporter.get_finished_spans()
    assert span.attributes
    assert span.attributes[semconv.RPC_STATUS] == "CANCELLED"


def test_a_traceparent_goes_round() -> None:
    telemetry = setup_telemetry("queen", exporter=InMemorySpanExporter())
    with telemetry.tracer.start_as_current_span("lease") as lease:
        text = telemetry.traceparent()
        assert text == telemetry.traceparent(lease)
    remote = trace.get_current_span(telemetry.context_from(text)).get_span_context()
    assert (remote.trace_id, remote.span_id) == (
        lease.get_span_context().trace_id,
        lease.get_span_context().span_id,
    )
    assert remote.is_remote
    assert telemetry.traceparent() == ""
    telemetry.shutdown()
    telemetry.shutdown()
    telemetry.flush()


def test_what_is_not_sampled_has_no_traceparent() -> None:
    off = Telemetry()
    unsampled = off.context_from(_TRACEPARENT[:-2] + "00")
    token = otel_context.attach(unsampled)
    assert off.traceparent() == ""
    otel_context.detach(token)
    with off.tracer.start_as_current_span("nothing") as span:
        assert off.traceparent(span) == ""
    assert not off.enabled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        _TRACEPARENT.upper(),
        _TRACEPARENT + "-01",
        "ff" + _TRACEPARENT[2:],
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_a_malformed_traceparent_starts_a_trace_of_its_own(text: str) -> None:
    context = Telemetry().context_from(text)
    assert not trace.get_current_span(context).get_span_context().is_valid


def test_a_later_version_of_the_format_is_read_as_far_as_it_is_known() -> None:
    context = Telemetry().context_from("01" + _TRACEPARENT[2:] + "-more")
    assert trace.get_current_span(context).get_span_context().is_valid


@pytest.mark.parametrize("name", ["BEEYARD_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
async def test_the_environment_names_the_collector(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not setup_telemetry("worker").enabled
    async with receiving_otlp() as otlp:
        monkeypatch.setenv(name, otlp.endpoint.removeprefix("http://"))
        telemetry = setup_telemetry("worker")
        assert telemetry.enabled
        with telemetry.tracer.start_as_current_span("decode"):
            pass
        await asyncio.to_thread(telemetry.flush)
        await otlp.wait_for(lambda seen: bool(seen.named("decode")))
        await asyncio.to_thread(telemetry.shutdown)


async def test_a_receiver_that_waits_in_vain_says_what_it_saw() -> None:
    async with receiving_otlp() as otlp:
        with pytest.raises(TimeoutError, match="spans so far"):
            await otlp.wait_for(lambda seen: bool(seen.named("never")), deadline=0.01)
