"""What happened to each job and when: the short-term store behind `GetJobTimeline`, no collector needed.

A job's moments are kept while it lives and for as long after as there is room; the oldest job's go first. They are told
as spans, under the names that traces have for them, so that a timeline in the terminal and a trace in a collector read
alike. Moments are wall-clock time, since that is what a reader compares with other logs.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import NamedTuple

from beeyard_core import limits
from beeyard_core.ids import JobId
from beeyard_core.instant import Instant
from beeyard_core.job import Job
from beeyard_core.lease import Lease
from beeyard_core.refusal import Refusal
from beeyard_runtime import semconv


@unique
class _Kind(Enum):
    ACCEPTED = "accepted"
    LEASED = "leased"
    FIRST_TOKEN = "first_token"  # noqa: S105 - of an answer
    REQUEUED = "requeued"
    ENDED = "ended"


class _Moment(NamedTuple):
    at_ms: int
    kind: _Kind
    facts: dict[str, str]


@dataclass(slots=True)
class TimelineSpan:
    """One phase of a job.

    Attributes:
        name: As in traces: queue.wait, policy.decide, lease, prefill, decode.
        begin_ms: Wall-clock milliseconds since 1970.
        end_ms: The same; None: it goes on.
        attempt: The attempt that it belongs to, from 1.
        facts: What is known of it, such as the worker or the policy's reason.
    """

    name: str
    begin_ms: int
    attempt: int
    end_ms: int | None = None
    facts: dict[str, str] = field(default_factory=dict)


class Timelines:
    """The moments of the youngest jobs."""

    def __init__(self) -> None:
        """Begin without any."""
        self._jobs: OrderedDict[JobId, list[_Moment]] = OrderedDict()

    def accepted(self, job: Job) -> None:
        """The job is durable and waits."""
        self._jobs[job.job_id] = []
        self._note(job.job_id, job.accepted_at, _Kind.ACCEPTED)
        if len(self._jobs) > limits.TIMELINES_KEPT_MAX:
            self._jobs.popitem(last=False)

    def leased(self, job: Job, lease: Lease) -> None:
        """The job was placed."""
        facts = {
            semconv.WORKER_ID: lease.worker_id,
            semconv.LEASE_EPOCH: str(lease.epoch),
            semconv.ATTEMPT: str(lease.attempt),
        }
        if job.decision is not None:
            facts[semconv.POLICY_VERSION] = job.decision.policy_version
            facts[semconv.POLICY_REASON] = job.decision.summary
        self._note(job.job_id, lease.offered_at, _Kind.LEASED, facts)

    def first_token(self, job_id: JobId, now: Instant) -> None:
        """The running attempt delivered its first token."""
        self._note(job_id, now, _Kind.FIRST_TOKEN)

    def requeued(self, job_id: JobId, why: Refusal | None, now: Instant) -> None:
        """The attempt is over and the job waits again; `why` is None if it made way for a more urgent one."""
        facts = (
            {"state": "preempted"} if why is None else {"state": "requeued", "reason": why.value}
        )
        self._note(job_id, now, _Kind.REQUEUED, facts)

    def ended(self, job: Job) -> None:
        """The job is over."""
        if job.ended_at is None:
            return
        facts = {"state": job.state.value, "tokens": str(job.next_index)}
        if job.failure is not None:
            facts["reason"] = job.failure.reason.value
        self._note(job.job_id, job.ended_at, _Kind.ENDED, facts)

    def spans(self, job: Job) -> list[TimelineSpan]:
        """Return the phases of a job, in order. Of one that is no longer kept, as much as its own record tells."""
        kept = self._jobs.get(job.job_id)
        return list(_spans_of(kept if kept is not None else list(_recorded(job))))

    def _note(
        self, job_id: JobId, at: Instant, kind: _Kind, facts: dict[str, str] | None = None
    ) -> None:
        moments = self._jobs.get(job_id)
        if moments is not None and len(moments) < limits.TIMELINE_MOMENTS_MAX:
            moments.append(_Moment(at.wall_ms, kind, facts or {}))


def _recorded(job: Job) -> Iterator[_Moment]:
    """What a job's own record says: its acceptance, its last attempt and its end."""
    yield _Moment(job.accepted_at.wall_ms, _Kind.ACCEPTED, {})
    if job.leased_at is not None:
        facts = {semconv.ATTEMPT: str(job.attempt), semconv.WORKER_ID: job.worker_id or ""}
        yield _Moment(job.leased_at.wall_ms, _Kind.LEASED, facts)
        if job.first_token_at is not None:
            first_ms = max(job.first_token_at.wall_ms, job.leased_at.wall_ms)
            yield _Moment(first_ms, _Kind.FIRST_TOKEN, {})
    if job.ended_at is not None:
        yield _Moment(job.ended_at.wall_ms, _Kind.ENDED, {"state": job.state.value})


def _spans_of(moments: list[_Moment]) -> Iterator[TimelineSpan]:
    """Turn moments into phases: what begins at one moment ends at the next that ends it."""
    spans: list[TimelineSpan] = []
    attempt = 1
    for moment in moments:
        if moment.kind is _Kind.FIRST_TOKEN:
            _close(spans, moment, {semconv.SPAN_PREFILL})
            spans.append(TimelineSpan(semconv.SPAN_DECODE, moment.at_ms, attempt))
            continue
        _close(spans, moment)
        if moment.kind is _Kind.LEASED:
            attempt = int(moment.facts[semconv.ATTEMPT])
            begin = moment.at_ms
            decided = {k: v for k, v in moment.facts.items() if k.startswith("beeyard.policy")}
            if decided:
                decide = TimelineSpan(semconv.SPAN_POLICY_DECIDE, begin, attempt, begin, decided)
                spans.append(decide)
            held = {k: v for k, v in moment.facts.items() if k not in decided}
            spans.append(TimelineSpan(semconv.SPAN_LEASE, begin, attempt, facts=held))
            spans.append(TimelineSpan(semconv.SPAN_PREFILL, begin, attempt))
        elif moment.kind is not _Kind.ENDED:
            attempt = 1 if moment.kind is _Kind.ACCEPTED else attempt + 1
            spans.append(TimelineSpan(semconv.SPAN_QUEUE_WAIT, moment.at_ms, attempt))
    yield from spans


def _close(spans: list[TimelineSpan], moment: _Moment, names: set[str] | None = None) -> None:
    for span in spans:
        if span.end_ms is None and (names is None or span.name in names):
            span.end_ms = moment.at_ms
            if moment.kind is not _Kind.LEASED and span.name == semconv.SPAN_LEASE:
                span.facts.update(moment.facts)
