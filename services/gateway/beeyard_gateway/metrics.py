"""The gateway's figures for Prometheus: jobs as HTTP clients see them, under the names of the contract.

A label's values are bounded: what comes after the bound counts as `other`, so that no client can fill Prometheus by
making up names. No label carries the id of a job, a tenant or a worker.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from beeyard_gateway.faults import Fault, JobFault
from beeyard_gateway.message_json import word_of

OTHER: Final = "other"
FIRST_TOKEN_BUCKETS_MS: Final = (50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000)
DECODE_BUCKETS_MS: Final = (250, 500, 1_000, 2_000, 3_000, 5_000, 8_000, 12_000)
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()


class LabelValues:
    """The values that one label has had, up to a bound."""

    def __init__(self, most: int) -> None:
        """Begin with none; `other` counts as one of `most`."""
        self._most = most - 1
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value, or `other` when the bound is reached."""
        if value not in self._seen:
            if len(self._seen) >= self._most:
                return OTHER
            self._seen.add(value)
        return value


class GatewayMetrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        """Begin with everything at zero."""
        # When a counter began, the process tells; a second series for each would only cost.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the one that has no types
        self._registry = CollectorRegistry()
        self._priority = LabelValues(limits.METRIC_PRIORITIES_MAX)
        self._reason = LabelValues(limits.METRIC_REASONS_MAX)
        self._model = LabelValues(limits.METRIC_MODELS_MAX)
        self._enqueued = self._counter(
            "tasks_enqueued", "Jobs that the queen accepted.", "priority"
        )
        self._started = self._counter("tasks_started", "Jobs that a worker began.", "model_id")
        self._cancelled = self._counter(
            "tasks_canceled", "Jobs cancelled, by request or since the client hung up.", "reason"
        )
        self._rejected = self._counter("tasks_rejected", "Requests that were refused.", "reason")
        self._backpressure = self._counter(
            "admission_backpressure_events", "Refusals that ask to come back later.", "reason"
        )
        self._tokens_in = self._counter("tokens_in", "Tokens of prompts.", "model_id")
        self._tokens_out = self._counter("tokens_out", "Tokens of answers.", "model_id")
        self._first_token = Histogram(
            "latency_first_token_ms",
            "From the request to its first token, in milliseconds.",
            ("priority",),
            buckets=FIRST_TOKEN_BUCKETS_MS,
            registry=self._registry,
        )
        self._decode = Histogram(
            "latency_decode_ms",
            "From the first token to the end, in milliseconds.",
            ("priority",),
            buckets=DECODE_BUCKETS_MS,
            registry=self._registry,
        )

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(name, text, (label,), registry=self._registry)

    def enqueued(self, priority: "job_pb2.Priority.ValueType") -> None:
        """Count a job that the queen accepted."""
        self._enqueued.labels(self._priority_word(priority)).inc()

    def started(self, model: str) -> None:
        """Count a job that a worker began."""
        self._started.labels(self._model(model)).inc()

    def cancelled(self, reason: str) -> None:
        """Count a cancelled job; `reason` is `hang_up` or `request`."""
        self._cancelled.labels(self._reason(reason)).inc()

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count a request for a job that is refused in this block; a job that failed was not refused."""
        try:
            yield
        except JobFault:
            raise
        except Fault as fault:
            label = self._reason(fault.reason)
            self._rejected.labels(label).inc()
            if fault.retry_after_ms is not None:
                self._backpressure.labels(label).inc()
            raise

    def first_token(self, priority: "job_pb2.Priority.ValueType", ms: float) -> None:
        """Note how long a client waited for its first token."""
        self._first_token.labels(self._priority_word(priority)).observe(ms)

    def finished(
        self,
        model: str,
        priority: "job_pb2.Priority.ValueType",
        *,
        tokens_in: int,
        tokens_out: int,
        decode_ms: float,
    ) -> None:
        """Note an answer that came to its end."""
        label = self._model(model)
        self._tokens_in.labels(label).inc(tokens_in)
        self._tokens_out.labels(label).inc(tokens_out)
        self._decode.labels(self._priority_word(priority)).observe(decode_ms)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _priority_word(self, priority: "job_pb2.Priority.ValueType") -> str:
        known = priority or job_pb2.PRIORITY_NORMAL
        return self._priority(word_of(job_pb2.Priority.DESCRIPTOR, known))
