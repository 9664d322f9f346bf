"""An OpenTelemetry collector inside the test: it keeps the spans it is sent and tells how they hang together."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import grpc
from beeyard_runtime.telemetry import setup_telemetry
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.sdk.trace import TracerProvider

Value = str | bool | int | float | None
#: What one attempt that ran to its end adds to the trace of its job, as `SpanTree.shape` tells it.
ATTEMPT = (("lease", ("decode",), ("prefill",)), ("policy.decide", ("placement",)), ("queue.wait",))


@dataclasses.dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it was exported; ids in lower-case hex, an empty parent for a root."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    resource: Mapping[str, Value]
    failed: bool
    events: tuple[str, ...]

    @property
    def service(self) -> str:
        """The `service.name` of the process that made it."""
        return str(self.resource.get("service.name", ""))


class SpanTree(NamedTuple):
    """A span with everything below it, in order of start."""

    span: ReceivedSpan
    children: tuple["SpanTree", ...]

    def outline(self) -> tuple[object, ...]:
        """Return the names alone, as `(name, child, child, ...)`, to be compared with a literal."""
        return (self.span.name, *(child.outline() for child in self.children))

    def shape(self) -> tuple[object, ...]:
        """Return the outline in the order of the names, since moments that tie have no order."""
        return (self.span.name, *sorted((child.shape() for child in self.children), key=str))

    def spans(self) -> Iterator[ReceivedSpan]:
        """Yield the span and all below it."""
        yield self.span
        for child in self.children:
            yield from child.spans()

    def named(self, name: str) -> list[ReceivedSpan]:
        """Return the spans of that name in the tree; siblings in order of start."""
        return [span for span in self.spans() if span.name == name]


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Records every span; `endpoint` is what a service's `--otlp-endpoint` is set to."""

    def __init__(self) -> None:
        """Begin with no spans."""
        self.endpoint = ""
        self.spans: list[ReceivedSpan] = []
        #: What came, byte by byte: with events, links and status messages.
        self.batches: list[bytes] = []
        self._arrived = asyncio.Condition()

    async def Export(  # noqa: N802  # named by the protocol
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: object,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Take one batch."""
        async with self._arrived:
            self.spans.extend(_read(request))
            self.batches.append(request.SerializeToString())
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[ReceivedSpan]:
        """Return the spans of that name, in order of arrival."""
        return [span for span in self.spans if span.name == name]

    def tree(self, trace_id: str) -> list[SpanTree]:
        """Return the roots of one trace; a span whose parent has not arrived is a root too."""
        spans = sorted(
            (span for span in self.spans if span.trace_id == trace_id),
            key=lambda span: span.start_ns,
        )
        known = {span.span_id for span in spans}

        def below(parent_id: str) -> tuple[SpanTree, ...]:
            return tuple(SpanTree(s, below(s.span_id)) for s in spans if s.parent_id == parent_id)

        return [SpanTree(s, below(s.span_id)) for s in spans if s.parent_id not in known]

    async def wait_for(
        self, predicate: Callable[["OtlpReceiver"], bool], deadline: float = 10.0
    ) -> None:
        """Return once `predicate(self)` holds; it is asked again whenever a batch arrives.

        Raises:
            TimeoutError: It did not hold within `deadline` seconds; the message lists what arrived.
        """
        try:
            async with asyncio.timeout(deadline), self._arrived:
                await self._arrived.wait_for(lambda: predicate(self))
        except TimeoutError:
            raise TimeoutError(f"spans so far: {sorted(s.name for s in self.spans)}") from None


@asynccontextmanager
async def receiving_otlp() -> AsyncIterator[OtlpReceiver]:
    """Run a receiver on a free port until the block ends."""
    receiver = OtlpReceiver()
    server = grpc.aio.server()
    add_to_server = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add_to_server(receiver, server)  # type: ignore[no-untyped-call]  # the package ships no types for it
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(None)


@asynccontextmanager
async def traced(receiver: OtlpReceiver) -> AsyncIterator[TracerProvider]:
    """Yield the tracer provider of a program that traces its own part."""
    telemetry = setup_telemetry("test", otlp_endpoint=receiver.endpoint)
    assert telemetry._provider is not None
    try:
        yield telemetry._provider
    finally:
        await asyncio.to_thread(telemetry.shutdown)


def _read(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterable[ReceivedSpan]:
    for group in request.resource_spans:
        resource = _values(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_values(span.attributes),
                    resource=resource,
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    events=tuple(event.name for event in span.events),
                )


def _values(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common_pb2.AnyValue) -> Value:
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "string_value" | "bool_value" | "int_value" | "double_value":
            found: Value = getattr(value, kind)
            return found
        case _:
            return str(value)
