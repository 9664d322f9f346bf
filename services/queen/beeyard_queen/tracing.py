"""The queen's part of a job's trace: admission, queue.wait, policy.decide > placement, lease.

The core is pure, so nothing inside `step` makes spans. They are drawn here from what the core recorded of its
decisions, at the moments at which the shell acts on them. A re-attempt adds another queue.wait, policy.decide and lease
beside the first; the worker's spans hang under the lease, whose context travels inside the offer.
"""

from dataclasses import dataclass, field

from beeyard_core.ids import JobId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobState
from beeyard_core.lease import Lease
from beeyard_core.refusal import Refusal
from beeyard_runtime import semconv
from beeyard_runtime.telemetry import Telemetry
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, StatusCode

from beeyard_queen.timelines import Timelines

_NS_PER_MS = 1_000_000
#: The worker could not go on with a job, and nothing was wrong with either.
_GIVEN_BACK = frozenset({Refusal.WORKER_BUSY, Refusal.DRAINING})


@dataclass(slots=True)
class _JobSpans:
    """What is open of one job."""

    parent: Context
    traceparent: str
    admission: Span | None = None
    queue_wait: Span | None = None
    lease: Span | None = None


@dataclass(slots=True)
class JobTraces:
    """The spans of every job that has not ended. Jobs that are not traced have a timeline only.

    Attributes:
        restored: Trace ids of jobs of an earlier queen, whose spans ended with it; the jobs' rows keep them.
        timelines: The same moments in the queen's own memory, of every job.
    """

    telemetry: Telemetry
    restored: dict[JobId, str] = field(default_factory=dict)
    timelines: Timelines = field(default_factory=Timelines)
    _jobs: dict[JobId, _JobSpans] = field(default_factory=dict)

    def submitted(self, job_id: JobId, now: Instant) -> None:
        """A submission arrived; the current span is its server span."""
        traceparent = self.telemetry.traceparent()
        if not traceparent:
            return
        spans = _JobSpans(trace.set_span_in_context(trace.get_current_span()), traceparent)
        self._jobs[job_id] = spans
        spans.admission = self._start(semconv.SPAN_ADMISSION, spans.parent, now)

    def trace_id(self, job_id: JobId) -> str:
        """Return the trace id of a job, 32 hexadecimal digits; empty if it is not traced."""
        spans = self._jobs.get(job_id)
        return spans.traceparent.split("-")[1] if spans else self.restored.get(job_id, "")

    def refused(self, job_id: JobId, reason: str) -> None:
        """The submission was refused."""
        spans = self._jobs.pop(job_id, None)
        if spans is not None and spans.admission is not None:
            spans.admission.set_attribute(semconv.REFUSAL_REASON, reason)
            spans.admission.end()

    def accepted(self, job: Job) -> None:
        """The job is durable and waits."""
        self.timelines.accepted(job)
        spans = self._jobs.get(job.job_id)
        if spans is None:
            return
        if spans.admission is not None:
            spans.admission.set_attribute(semconv.JOB_ID, job.job_id)
            spans.admission.set_attribute(semconv.JOB_PRIORITY, job.spec.priority.name.lower())
            spans.admission.end()
        spans.queue_wait = self._start(semconv.SPAN_QUEUE_WAIT, spans.parent, job.accepted_at)

    def requeued(self, job_id: JobId, why: Refusal | None, now: Instant) -> None:
        """The attempt is over and the job waits again; `why` is None if it made way for a more urgent one."""
        self.timelines.requeued(job_id, why, now)
        spans = self._jobs.get(job_id)
        if spans is None:
            return
        _tell_why_it_ended(spans.lease, why)
        self._end_lease(spans)
        spans.queue_wait = self._start(semconv.SPAN_QUEUE_WAIT, spans.parent, now)

    def leased(self, job: Job, lease: Lease, now: Instant) -> str:
        """The job was placed; return the traceparent that goes into the offer."""
        self.timelines.leased(job, lease)
        spans = self._jobs.get(job.job_id)
        if spans is None:
            return ""
        placed_ns = lease.offered_at.wall_ms * _NS_PER_MS
        if spans.queue_wait is not None:
            spans.queue_wait.end(placed_ns)
            spans.queue_wait = None
        self._draw_decision(spans, job, lease, placed_ns)
        spans.lease = self._start(semconv.SPAN_LEASE, spans.parent, now)
        spans.lease.set_attributes(
            {
                semconv.LEASE_ID: lease.lease_id,
                semconv.LEASE_EPOCH: lease.epoch,
                semconv.ATTEMPT: lease.attempt,
                semconv.WORKER_ID: lease.worker_id,
                semconv.GEN_AI_REQUEST_MODEL: job.spec.model,
            }
        )
        return self.telemetry.traceparent(spans.lease) or spans.traceparent

    def _draw_decision(self, spans: _JobSpans, job: Job, lease: Lease, placed_ns: int) -> None:
        """Draw the decision, which was made in the step that ended at the placement."""
        tracer, decision = self.telemetry.tracer, job.decision
        decide = tracer.start_span(
            semconv.SPAN_POLICY_DECIDE, context=spans.parent, start_time=placed_ns
        )
        if decision is not None:
            decide.set_attributes(
                {
                    semconv.POLICY_NAME: decision.policy_version.rpartition("@")[0],
                    semconv.POLICY_VERSION: decision.policy_version,
                    semconv.POLICY_REASON: decision.summary,
                    semconv.POLICY_IS_FALLBACK: decision.is_fallback,
                }
            )
        inner = trace.set_span_in_context(decide, spans.parent)
        placement = tracer.start_span(semconv.SPAN_PLACEMENT, context=inner, start_time=placed_ns)
        placement.set_attributes(
            {semconv.WORKER_ID: lease.worker_id, semconv.ATTEMPT: lease.attempt}
        )
        placement.end()
        decide.end()

    def ended(self, job: Job) -> None:
        """The job is over."""
        self.timelines.ended(job)
        self.restored.pop(job.job_id, None)
        spans = self._jobs.pop(job.job_id, None)
        if spans is None:
            return
        if spans.queue_wait is not None:
            spans.queue_wait.end()
        if spans.lease is not None and job.state is JobState.CANCELLED:
            spans.lease.add_event(semconv.EVENT_CANCELLED)
        elif job.failure is not None:
            _tell_why_it_ended(spans.lease, job.failure.reason)
        self._end_lease(spans)

    def _end_lease(self, spans: _JobSpans) -> None:
        if spans.lease is not None:
            spans.lease.end()
            spans.lease = None

    def _start(self, name: str, parent: Context, at: Instant) -> Span:
        return self.telemetry.tracer.start_span(
            name, context=parent, start_time=at.wall_ms * _NS_PER_MS
        )


def _tell_why_it_ended(lease: Span | None, why: Refusal | None) -> None:
    """Mark a lease that ended before its answer did; as an error only if something was wrong."""
    if lease is None:
        return
    if why is None:
        lease.add_event(semconv.EVENT_PREEMPTED)
    elif why in _GIVEN_BACK:
        lease.add_event(semconv.EVENT_GIVEN_BACK, {semconv.REFUSAL_REASON: why.value})
    else:
        lease.set_attribute(semconv.ERROR_TYPE, why.value)
        lease.set_status(StatusCode.ERROR)
