"""The queen's figures for Prometheus, under the names of the contract.

What happens to jobs is counted by the actor as it happens; what can be read off the state is read by `gauges.py`.
"""

from typing import Final

from beeyard_core.ids import JobId
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobState
from beeyard_core.policy.intent import Dispatch
from beeyard_core.refusal import Refused
from beeyard_core.state import QueenState
from beeyard_runtime.metrics import DECODE_BUCKETS_MS, FIRST_TOKEN_BUCKETS_MS, Figures

from beeyard_queen.policy.decision_feed import DecisionRecord

#: Of a decision, seconds: from a few microseconds of the platform policy to a runaway that is stopped.
_DECISION_BUCKETS_S: Final = (
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.25,
)  # fmt: skip


class QueenMetrics:
    """What the queen counts of jobs and decisions."""

    def __init__(self, figures: Figures) -> None:
        """Begin with everything at zero."""
        counter = figures.counter
        self._enqueued = counter(
            "tasks_enqueued", "Jobs that were accepted.", "priority", "model_id"
        )
        self._started = counter(
            "tasks_started", "First attempts that a worker was offered.",
            "priority", "model_id", "engine", "pool_id",
        )  # fmt: skip
        self._cancelled = counter(
            "tasks_canceled", "Jobs that ended before they were complete.", "reason", "priority"
        )
        self._rejected = counter("tasks_rejected", "Requests that were refused.", "reason")
        self._backpressure = counter(
            "admission_backpressure_events",
            "Refusals that ask to come back later.",
            "reason",
            "policy",
        )
        self._tokens_in = counter("tokens_in", "Prompt tokens of jobs that ended.", "model_id")
        self._tokens_out = counter("tokens_out", "Tokens generated.", "model_id")
        self._resumed = counter(
            "resumptions", "Attempts that went on behind tokens of an earlier one.", "model_id"
        )
        self._first_token = figures.histogram(
            "latency_first_token_ms", "From acceptance to the first token, milliseconds.",
            "priority", "engine", buckets=FIRST_TOKEN_BUCKETS_MS,
        )  # fmt: skip
        self._decode = figures.histogram(
            "latency_decode_ms", "From the first token to the end, milliseconds.",
            "priority", "engine", buckets=DECODE_BUCKETS_MS,
        )  # fmt: skip
        self._decision_seconds = figures.histogram(
            "scheduler_decision_seconds", "What one decision took, seconds of CPU where known.",
            "policy", buckets=_DECISION_BUCKETS_S,
        )  # fmt: skip
        self._placements = counter(
            "placement_decisions", "Decisions to start a job.", "outcome", "pinned", "fallback"
        )
        #: Jobs that ended and had a deadline, by class: those that met it, and all.
        self.deadlines: dict[str, tuple[int, int]] = {}

    def accepted(self, job: Job) -> None:
        """Count a job that is durable and waits."""
        self._enqueued.of(_class_of(job), job.spec.model).inc()

    def refused(self, refused: Refused) -> None:
        """Count a submission that is not taken."""
        reason = refused.reason.value
        self._rejected.of(reason).inc()
        if refused.retry_after_ms is not None:
            self._backpressure.of(reason, refused.metadata.get("policy_label", "")).inc()

    def offered(self, job: Job, state: QueenState, *, is_resumed: bool) -> None:
        """Count an attempt whose lease goes out to its worker."""
        if is_resumed:
            self._resumed.of(job.spec.model).inc()
        if job.attempt == 1 and job.worker_id in state.fleet.workers:
            report = state.fleet.workers[job.worker_id].report
            self._started.of(_class_of(job), report.model, report.engine, report.pool_id).inc()

    def first_token(self, job: Job, engine: str, now: Instant) -> None:
        """Note how long a job waited for its first token of all attempts."""
        if job.first_token_at is None:
            waited_ms = now.mono_ms - job.accepted_at.mono_ms
            self._first_token.of(_class_of(job), engine).observe(waited_ms)

    def ended(self, job: Job, state: QueenState) -> None:
        """Note how a job ended and what it took."""
        if job.state is JobState.COMPLETED and job.finish is not None:
            self._tokens_in.of(job.spec.model).inc(job.finish.prompt_tokens)
            if job.first_token_at is not None and job.ended_at is not None:
                worker = state.fleet.workers.get(job.worker_id) if job.worker_id else None
                engine = worker.report.engine if worker else ""
                decode_ms = job.ended_at.mono_ms - job.first_token_at.mono_ms
                self._decode.of(_class_of(job), engine).observe(decode_ms)
        else:
            reason = job.failure.reason.value if job.failure else job.state.value
            self._cancelled.of(reason, _class_of(job)).inc()
        if job.next_index:
            self._tokens_out.of(job.spec.model).inc(job.next_index)
        self._count_deadline(job)

    def _count_deadline(self, job: Job) -> None:
        if job.deadline_at_ms is None or job.state is JobState.CANCELLED:
            return
        met, all_of_it = self.deadlines.get(_class_of(job), (0, 0))
        is_met = job.state is JobState.COMPLETED
        self.deadlines[_class_of(job)] = (met + is_met, all_of_it + 1)

    def decided(self, record: DecisionRecord, outcome: str, state: QueenState) -> None:
        """Note one decision; a dispatch also counts as a placement."""
        self._decision_seconds.of(record.label).observe(record.cpu_us / 1_000_000)
        intent = record.intent
        if isinstance(intent, Dispatch):
            job = state.jobs.get(JobId(intent.job_id))
            is_pinned = job is not None and job.spec.placement.pin_pool_id is not None
            self._placements.of(outcome, _flag(is_pinned), _flag(record.is_fallback)).inc()


def _class_of(job: Job) -> str:
    return job.spec.priority.name


def _flag(is_so: bool) -> str:  # noqa: FBT001 - turns a flag into a label
    return "true" if is_so else "false"
