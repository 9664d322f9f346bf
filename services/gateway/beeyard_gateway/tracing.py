"""The span `infer` of one job, between the HTTP request that asked for it and the queen that runs it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_runtime import semconv
from beeyard_runtime.telemetry import Telemetry
from opentelemetry.trace import Span, SpanKind, StatusCode

from beeyard_gateway.exchange import HungUp
from beeyard_gateway.faults import Fault, HttpReason


class JobSpan:
    """What is told of one job; never its text. Without a span: nothing."""

    __slots__ = ("_has_token", "_span")

    def __init__(self, span: Span | None) -> None:
        """Tell `span`."""
        self._span = span
        self._has_token = False

    def record(self, event: job_pb2.JobEvent) -> None:
        """Note an event of the job."""
        span = self._span
        if span is None:
            return
        match event.WhichOneof("event"):
            case "tokens":
                if not self._has_token:
                    self._has_token = True
                    span.add_event(semconv.EVENT_FIRST_TOKEN)
            case "queued":
                span.set_attribute(semconv.JOB_ID, event.job_id)
            case "started":
                span.set_attribute(semconv.ATTEMPT, event.started.attempt)
                span.set_attribute(semconv.GEN_AI_RESPONSE_MODEL, event.started.model)
            case "finished":
                usage = event.finished.usage
                span.set_attribute(semconv.GEN_AI_INPUT_TOKENS, usage.prompt_tokens)
                span.set_attribute(semconv.GEN_AI_OUTPUT_TOKENS, usage.completion_tokens)
            case "failed":
                self._fail(event.failed.reason)
            case "cancelled":
                span.add_event(semconv.EVENT_CANCELLED)
            case _:
                pass

    def fail(self, fault: Fault) -> None:
        """Note that the job was refused, or could not be followed."""
        # A job that was cancelled ended as somebody wished, though its client is told so by a fault.
        if self._span is not None and fault.reason != HttpReason.CANCELLED.value:
            self._fail(fault.reason)

    def hung_up(self) -> None:
        """Note that the client did not wait for the end, which is no error of ours."""
        if self._span is not None:
            self._span.add_event(semconv.EVENT_CANCELLED)

    def _fail(self, reason: str) -> None:
        assert self._span is not None
        self._span.set_attribute(semconv.ERROR_TYPE, reason)
        self._span.set_status(StatusCode.ERROR)


@contextmanager
def job_span(telemetry: Telemetry, request: pb.InferRequest) -> Iterator[JobSpan]:
    """Yield the span of a job; calls that are opened meanwhile carry it to the queen."""
    if not telemetry.enabled:
        yield JobSpan(None)
        return
    attributes: dict[str, str | int] = {
        semconv.GEN_AI_OPERATION: "chat" if request.messages else "text_completion",
        semconv.GEN_AI_PROVIDER: "beeyard",
    }
    if request.model:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = request.model
    if request.max_tokens:
        attributes[semconv.GEN_AI_REQUEST_MAX_TOKENS] = request.max_tokens
    tracer = telemetry.tracer
    with tracer.start_as_current_span(
        semconv.SPAN_INFER,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        job = JobSpan(span)
        try:
            yield job
        except Fault as fault:
            job.fail(fault)
            raise
        except (HungUp, asyncio.CancelledError):
            job.hung_up()
            raise
