"""The gateway's figures for Prometheus: jobs as HTTP clients see them, under the names of the contract."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from beeyard.queen.v1 import job_pb2
from beeyard_runtime.metrics import DECODE_BUCKETS_MS, FIRST_TOKEN_BUCKETS_MS, Figures
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from beeyard_gateway.faults import Fault, JobFault
from beeyard_gateway.message_json import word_of

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()


class GatewayMetrics:
    """What the gateway counts."""

    def __init__(self) -> None:
        """Begin with everything at zero."""
        self.figures = Figures()
        counter = self.figures.counter
        self._enqueued = counter("tasks_enqueued", "Jobs that the queen accepted.", "priority")
        self._started = counter("tasks_started", "Jobs that a worker began.", "model_id")
        self._cancelled = counter(
            "tasks_canceled", "Jobs cancelled, by request or since the client hung up.", "reason"
        )
        self._rejected = counter("tasks_rejected", "Requests that were refused.", "reason")
        self._backpressure = counter(
            "admission_backpressure_events", "Refusals that ask to come back later.", "reason"
        )
        self._tokens_in = counter("tokens_in", "Tokens of prompts.", "model_id")
        self._tokens_out = counter("tokens_out", "Tokens of answers.", "model_id")
        self._first_token = self.figures.histogram(
            "latency_first_token_ms",
            "From the request to its first token, in milliseconds.",
            "priority",
            buckets=FIRST_TOKEN_BUCKETS_MS,
        )
        self._decode = self.figures.histogram(
            "latency_decode_ms",
            "From the first token to the end, in milliseconds.",
            "priority",
            buckets=DECODE_BUCKETS_MS,
        )

    def enqueued(self, priority: "job_pb2.Priority.ValueType") -> None:
        """Count a job that the queen accepted."""
        self._enqueued.of(_class_of(priority)).inc()

    def started(self, model: str) -> None:
        """Count a job that a worker began."""
        self._started.of(model).inc()

    def cancelled(self, reason: str) -> None:
        """Count a cancelled job; `reason` is `hang_up` or `request`."""
        self._cancelled.of(reason).inc()

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count a request for a job that is refused in this block; a job that failed was not refused."""
        try:
            yield
        except JobFault:
            raise
        except Fault as fault:
            self._rejected.of(fault.reason).inc()
            if fault.retry_after_ms is not None:
                self._backpressure.of(fault.reason).inc()
            raise

    def first_token(self, priority: "job_pb2.Priority.ValueType", ms: float) -> None:
        """Note how long a client waited for its first token."""
        self._first_token.of(_class_of(priority)).observe(ms)

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
        self._tokens_in.of(model).inc(tokens_in)
        self._tokens_out.of(model).inc(tokens_out)
        self._decode.of(_class_of(priority)).observe(decode_ms)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return self.figures.exposition()


def _class_of(priority: "job_pb2.Priority.ValueType") -> str:
    return word_of(job_pb2.Priority.DESCRIPTOR, priority or job_pb2.PRIORITY_NORMAL)
