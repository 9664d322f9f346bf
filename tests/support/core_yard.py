"""A state of the core in which something can be decided, and a policy's wish held against it."""

from copy import deepcopy
from dataclasses import dataclass, field

from beeyard_core.dispatch import enqueue
from beeyard_core.effect import Effect
from beeyard_core.fleet import WorkerReport
from beeyard_core.ids import ModelName
from beeyard_core.instant import Instant
from beeyard_core.job import Job
from beeyard_core.policy.apply import apply
from beeyard_core.policy.intent import Dispatch, Intent
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.scaling import Scale, ScaleSettings
from beeyard_core.state import QueenState, Settings

from tests.support.core_values import (
    START,
    check_invariants,
    fleet_of,
    job_of,
    pool_of,
    report_of,
    spec_of,
)


@dataclass
class Yard:
    """A state in which something can be decided."""

    state: QueenState
    effects: list[Effect] = field(default_factory=list)

    def wait(self, job_id: str, **spec: object) -> Job:
        """One more job waits."""
        job = job_of(job_id, self.state.next_sequence(), spec_of(**spec))  # type: ignore[arg-type]
        self.state.jobs[job.job_id] = job
        enqueue(self.state, job)
        return job

    def want(self, intent: Intent, now: Instant = START) -> Refused | None:
        """A policy wants something; what was dropped must have changed nothing."""
        before = deepcopy(self.state)
        self.effects = []
        refused = apply(self.state, intent, now, self.effects, label="test@1")
        check_invariants(self.state)
        if refused is not None:
            assert self.effects == []
            assert self.state == before
        return refused

    def run(self, job_id: str, worker_id: str = "w1", **spec: object) -> Job:
        """One more job runs."""
        job = self.wait(job_id, **spec)
        assert self.want(Dispatch(job_id=job_id, worker_id=worker_id)) is None
        return job


def yard(*reports: WorkerReport, scaling: ScaleSettings | None = None) -> Yard:
    """One host with one device, and workers on it; by default one of model m."""
    fleet = fleet_of(*(reports or (report_of("w1"),)), pools=(pool_of("p1"),))
    return Yard(QueenState(settings=Settings(scaling=scaling or ScaleSettings()), fleet=fleet))


def kept(model: str, count: int) -> ScaleSettings:
    """At least so many workers of one model."""
    return ScaleSettings(by_model={ModelName(model): Scale(min_workers=count)})


def reason_of(refused: Refused | None) -> Refusal | None:
    return refused.reason if refused else None
