"""Traces to an OpenTelemetry collector when one is named, and almost nothing when none is.

There are no global providers: a `Telemetry` is made at the composition root and handed down, so that several services
in one test process keep their traces apart. A trace crosses processes as a W3C `traceparent`, in gRPC metadata and
inside each lease offer; it passes through a process whose own telemetry is off.
"""

import os
import uuid
from importlib.metadata import PackageNotFoundError, version

from beeyard_core import limits
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NonRecordingSpan, NoOpTracer, Span, SpanContext, TraceFlags, Tracer

from beeyard_runtime import semconv

_ENDPOINT_ENVS = ("BEEYARD_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_TRACEPARENT_PARTS = 4
_TRACEPARENT_LENGTHS = (2, 32, 16, 2)
_EMPTY = Context()


class Telemetry:
    """One service's way of telling what it did.

    Attributes:
        tracer: Makes spans; its spans cost nothing while telemetry is off.
        enabled: Whether spans go anywhere.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Tell `provider`, or nobody."""
        self._provider = provider
        self.enabled = provider is not None
        self.tracer: Tracer = provider.get_tracer("beeyard") if provider else NoOpTracer()

    def traceparent(self, span: Span | None = None) -> str:
        """Return the `traceparent` of `span`, or of the current span; empty if there is none or it is not sampled."""
        place = (span or trace.get_current_span()).get_span_context()
        if not (place.is_valid and place.trace_flags.sampled):
            return ""
        return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}"

    def context_from(self, traceparent: str) -> Context:
        """Return a context whose current span is the remote one named; an empty context if the text names none."""
        place = _parse(traceparent)
        return trace.set_span_in_context(NonRecordingSpan(place), _EMPTY) if place else _EMPTY

    def flush(self, timeout_ms: int = limits.TELEMETRY_FLUSH_MS) -> None:
        """Send what has gathered. Blocks up to `timeout_ms` milliseconds: call it from a thread, not from the loop."""
        if self._provider:
            self._provider.force_flush(timeout_ms)

    def shutdown(self) -> None:
        """Send what has gathered and stop. Blocks like `flush`; idempotent."""
        provider, self._provider = self._provider, None
        if provider:
            provider.force_flush(limits.TELEMETRY_FLUSH_MS)
            provider.shutdown()


def setup_telemetry(
    service: str,
    *,
    otlp_endpoint: str | None = None,
    exporter: SpanExporter | None = None,
    instance: str = "",
) -> Telemetry:
    """Return the telemetry of one service.

    Args:
        service: The role, such as `queen`; exported as `service.name` `beeyard.queen`.
        otlp_endpoint: Where an OTLP gRPC collector listens, as a URL or `host:port`; None or empty: the environment's
            `BEEYARD_OTLP_ENDPOINT`, then `OTEL_EXPORTER_OTLP_ENDPOINT`; if those are not set either, telemetry is off.
        exporter: Used instead of OTLP, for tests.
        instance: Which of several processes of that role; a random one if empty.
    """
    endpoint = otlp_endpoint or next(
        (os.environ[name] for name in _ENDPOINT_ENVS if os.environ.get(name)), ""
    )
    if exporter is None and endpoint:
        exporter = _otlp_exporter(endpoint)
    if exporter is None:
        return Telemetry()
    resource = Resource.create(
        {
            semconv.SERVICE_NAME: f"beeyard.{service}",
            semconv.SERVICE_INSTANCE_ID: instance or uuid.uuid4().hex,
            semconv.SERVICE_VERSION: _version(),
        }
    )
    provider = TracerProvider(
        resource=resource, span_limits=SpanLimits(max_attributes=64), shutdown_on_exit=False
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=limits.TELEMETRY_SPANS_MAX,
            max_export_batch_size=limits.TELEMETRY_BATCH_SPANS,
            schedule_delay_millis=limits.TELEMETRY_INTERVAL_MS,
            export_timeout_millis=limits.TELEMETRY_FLUSH_MS,
        )
    )
    return Telemetry(provider)


def _otlp_exporter(endpoint: str) -> SpanExporter:
    # Imported only when asked for: a service without a collector need not pay its tenth of a second.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    return OTLPSpanExporter(
        endpoint=url,
        insecure=not url.startswith("https://"),
        timeout=limits.TELEMETRY_FLUSH_MS / 1_000,
    )


def _parse(traceparent: str) -> SpanContext | None:
    parts = traceparent.split("-")
    if (
        len(parts) < _TRACEPARENT_PARTS
        or parts[0] == "ff"
        or (parts[0] == "00" and len(parts) > _TRACEPARENT_PARTS)
    ):
        return None
    if tuple(map(len, parts[:_TRACEPARENT_PARTS])) != _TRACEPARENT_LENGTHS:
        return None
    if not all(set(part) <= set("0123456789abcdef") for part in parts[:_TRACEPARENT_PARTS]):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parts[1:_TRACEPARENT_PARTS])
    place = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return place if place.is_valid else None


def _version() -> str:
    try:
        return version("beeyard")
    except PackageNotFoundError:
        return "0"
