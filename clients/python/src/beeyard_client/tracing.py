"""One span `infer` a job, the root of its trace, when the program gives a tracer provider.

OpenTelemetry's API is imported only then, so that a program without it needs it not. The trace context travels as
`traceparent` metadata; the queen continues it over the worker and over every attempt.
"""

from typing import TYPE_CHECKING, Final, Protocol

from beeyard_client.errors import BeeyardError
from beeyard_client.events import Cancelled, Event, Failed, Finished, Queued, Started, Tokens
from beeyard_client.job import JobRequest

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

Metadata = tuple[tuple[str, str], ...]

# Names of the GenAI semantic conventions, and our own beside them.
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
JOB_ID: Final = "beeyard.job.id"
ATTEMPT: Final = "beeyard.attempt"
ERROR_TYPE: Final = "error.type"


class JobTrace(Protocol):
    """What the client tells about one job while it follows it."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty when nothing is traced."""
        ...

    def metadata(self) -> Metadata:
        """Return the call metadata that carries the trace context."""
        ...

    def record(self, event: Event) -> None:
        """Note one event of the job. Prompt and output text never become part of a span."""
        ...

    def end(self, fault: BeeyardError | None = None) -> None:
        """End the span; with `fault` as a failed one. May be called twice."""
        ...


class Untraced:
    """Traces nothing."""

    trace_id = ""

    def metadata(self) -> Metadata:
        """Return no metadata."""
        return ()

    def record(self, event: Event) -> None:
        """Forget the event."""

    def end(self, fault: BeeyardError | None = None) -> None:
        """Do nothing."""


class TracedJob:
    """A job with a span of its own."""

    def __init__(self, span: "Span") -> None:
        self._span = span
        self._told_first_token = False

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty if the provider does not sample this trace."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    def metadata(self) -> Metadata:
        """Return `traceparent`, and `tracestate` where there is one."""
        from opentelemetry import trace  # noqa: PLC0415  only programs that trace need the package
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._span))
        return tuple(carrier.items())

    def record(self, event: Event) -> None:
        """Set what the event tells as attributes; the first token is an event of the span."""
        match event:
            case Queued():
                self._span.set_attribute(JOB_ID, event.job_id)
            case Started():
                self._span.set_attribute(ATTEMPT, event.attempt)
                self._span.set_attribute(RESPONSE_MODEL, event.model)
            case Tokens() if not self._told_first_token:
                self._told_first_token = True
                self._span.add_event("first_token")
            case Finished():
                self._span.set_attribute(FINISH_REASONS, [event.reason.value])
                self._span.set_attribute(INPUT_TOKENS, event.usage.prompt_tokens)
                self._span.set_attribute(OUTPUT_TOKENS, event.usage.completion_tokens)
            case Failed():
                self._fail(event.reason, event.message)
            case Cancelled():
                # As somebody wished: no error, so neither a type of one nor a status.
                self._span.add_event("cancelled")
            case _:
                pass

    def end(self, fault: BeeyardError | None = None) -> None:
        """End the span."""
        if fault is not None:
            self._fail(fault.reason, fault.message)
        if self._span.is_recording():
            self._span.end()

    def _fail(self, reason: str, message: str) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        self._span.set_attribute(ERROR_TYPE, reason)
        self._span.set_status(Status(StatusCode.ERROR, message))


def start_trace(provider: "TracerProvider | None", job: JobRequest) -> JobTrace:
    """Begin the span `infer`, below the caller's current span if it has one.

    Args:
        provider: Where spans go; None: nothing is traced.
        job: What is asked.

    Returns:
        The trace, to be ended by whoever follows the job.
    """
    if provider is None:
        return Untraced()
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    attributes: dict[str, str | int] = {
        OPERATION: "text_completion" if job.prompt is not None else "chat",
        PROVIDER: "beeyard",
    }
    if job.model:
        attributes[REQUEST_MODEL] = job.model
    if job.max_tokens:
        attributes["gen_ai.request.max_tokens"] = job.max_tokens
    span = provider.get_tracer("beeyard_client").start_span(
        "infer", kind=SpanKind.CLIENT, attributes=attributes
    )
    return TracedJob(span)
