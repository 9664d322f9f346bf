"""Why a job is where it is, for `ExplainJob`: who could take it, who could not and why, and what would help."""

from dataclasses import dataclass

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import history_limits, limits
from beeyard_core.choice import Candidate
from beeyard_core.instant import Instant
from beeyard_core.job import Decision, Job, JobState
from beeyard_core.state import QueenState
from beeyard_core.time_remedy import remedies
from beeyard_runtime.clock import Clock

from beeyard_queen.ingress.candidate_wire import candidate_message
from beeyard_queen.ingress.history_wire import add_lease, remedy_message, remedy_text
from beeyard_queen.ingress.reading import answer_or_refuse
from beeyard_queen.pictures import Pictures
from beeyard_queen.policy.considered import Considered, trace_of
from beeyard_queen.policy.decision_feed import DecisionFeed
from beeyard_queen.store.history import HistoryFilter, HistoryReader


@dataclass(slots=True, kw_only=True)
class Explaining:
    """Answers out of the present state, and of what is remembered of placements and leases."""

    state: QueenState
    history: HistoryReader
    pictures: Pictures
    decisions: DecisionFeed
    clock: Clock

    async def explain(self, job: Job, wire: job_pb2.Job) -> pb.JobExplanation:
        """Return why a job waits, or why it ran where it ran."""
        explanation = pb.JobExplanation(job=wire)
        if job.state is JobState.QUEUED:
            self._explain_wait(job, explanation)
        elif job.decision is not None:
            self._explain_placement(job, job.decision, explanation)
        else:
            explanation.summary = "ended before it was placed"
        wanted = HistoryFilter(job_id=job.job_id, limit=history_limits.ATTEMPTS_KEPT_MAX)
        for record in reversed(await answer_or_refuse(self.history.lease_records(wanted))):
            add_lease(explanation.leases, record)
        return explanation

    def _explain_wait(self, job: Job, explanation: pb.JobExplanation) -> None:
        state, now = self.state, self.clock.now()
        now_ms = now.mono_ms
        found = trace_of(state, job, state.fleet.workers.values(), now)[
            : limits.CANDIDATES_KEPT_MAX
        ]
        ahead = state.queue.position(job) if job.job_id in state.queue else 0
        explanation.summary = f"waits with {ahead} jobs before it"
        if job.is_resting:
            explanation.summary = f"rests, since {job.attempt} attempts broke"
        if job.held_until_ms is not None:
            explanation.held_ms = max(job.held_until_ms - now_ms, 0)
            explanation.summary += "; held back, since urgent work is usual at this hour"
        if all(candidate.exclusion for candidate in found):
            explanation.summary += "; no worker can take it now"
        self._add_remedies(job, found, now, explanation)
        last = self.decisions.about(job.job_id)
        if last is not None and last.intent is not None and last.refused is not None:
            refused = last.refused
            explanation.summary += (
                f"; {last.label} wanted to {last.intent.action} it, which was dropped: "
                f"{refused.reason.value}, {refused.message}"
            )
        for candidate in found:
            explanation.candidates.append(candidate_message(Considered.of(candidate)))

    def _add_remedies(
        self,
        job: Job,
        found: tuple[Candidate, ...],
        now: Instant,
        explanation: pb.JobExplanation,
    ) -> None:
        """Say what would help, where one change is enough."""
        workers = [candidate.worker for candidate in found]
        for number, remedy in enumerate(remedies(self.state, job, workers, now)):
            if number:
                explanation.other_remedies.append(remedy_message(remedy))
                continue
            explanation.remedy.CopyFrom(remedy_message(remedy))
            explanation.summary += f"; it could be placed if {remedy_text(remedy)}"

    def _explain_placement(
        self, job: Job, decision: Decision, explanation: pb.JobExplanation
    ) -> None:
        explanation.summary = f"ran on {decision.worker_id}: {decision.summary}"
        chosen = self.state.fleet.workers.get(decision.worker_id)
        explanation.candidates.add(
            worker_id=decision.worker_id,
            pool_id=chosen.report.pool_id if chosen is not None else "",
            chosen=True,
        )
        for seen in self.pictures.of(job.job_id):
            explanation.candidates.add(
                worker_id=seen.worker_id,
                pool_id=seen.pool_id,
                excluded_by=seen.excluded_by,
                detail=seen.detail,
            )
