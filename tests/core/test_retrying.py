"""Jobs whose attempts break: who tries again when, who ends, and what a job that kills its worker does to others."""

from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.effect import AnnounceEnded, Effect, Offer
from beeyard_core.event import CancelRequested, JobSubmitted, LeaseFailed, LeaseFinished
from beeyard_core.fleet import ProcessReport, WorkerState
from beeyard_core.ids import Epoch, JobId, ModelName, WorkerId
from beeyard_core.job import Finish, Job, JobState
from beeyard_core.refusal import Refusal
from beeyard_core.retrying import rest_ms
from beeyard_core.state import TimerKind

from tests.support.apiary import Apiary
from tests.support.core_values import pool_of, report_of, spec_of

M = ModelName("m")
SLOTS = 4


@dataclass
class Yard:
    """One host whose worker dies with every job named `poison`, and comes back as another."""

    apiary: Apiary = field(default_factory=Apiary)
    deaths: int = 0

    @property
    def worker_id(self) -> WorkerId:
        return WorkerId(f"w{self.deaths}")

    def begin(self, *jobs: str, slots: int = SLOTS, max_attempts: int = 3) -> None:
        self.apiary.attach(report_of(self.worker_id, slots_total=slots))
        for job_id in jobs:
            spec = spec_of(max_attempts=max_attempts)
            self.apiary.happen(JobSubmitted(job_id=JobId(job_id), spec=spec))

    def job(self, job_id: str) -> Job:
        return self.apiary.state.jobs[JobId(job_id)]

    def running(self) -> set[str]:
        return {lease.job_id for lease in self.apiary.state.leases.values()}

    def lose_worker(self) -> None:
        """The worker's process ends, and another starts."""
        gone = ProcessReport(
            worker_id=self.worker_id, model=M, state=WorkerState.FAILED, exited=True
        )
        self.apiary.snapshot(pool_of("p1", processes=(gone,)))
        self.deaths += 1
        self.apiary.attach(report_of(self.worker_id, slots_total=SLOTS))

    def finish(self, job_id: str) -> None:
        (lease,) = (each for each in self.apiary.state.leases.values() if each.job_id == job_id)
        spoken = (lease.worker_id, lease.lease_id, lease.epoch)
        self.apiary.happen(LeaseFinished(*spoken, 5, Finish(reason="stop", decode_ms=1.0)))

    def advance(self, ms: int) -> list[Effect]:
        return [effect for _, effect in self.apiary.advance(ms)]


def test_the_first_broken_attempt_costs_no_time() -> None:
    yard = Yard()
    yard.begin("j1")
    yard.lose_worker()
    assert yard.job("j1").state is JobState.LEASED
    assert yard.job("j1").attempt == 2


def test_a_job_whose_attempts_go_on_breaking_rests_longer_each_time() -> None:
    yard = Yard()
    yard.begin("j1", max_attempts=5)
    rests = []
    for _ in range(4):
        yard.lose_worker()
        rested_ms = 0
        while yard.job("j1").state is JobState.QUEUED:
            assert yard.job("j1").is_resting
            yard.advance(limits.TICK_INTERVAL_MS)
            rested_ms += limits.TICK_INTERVAL_MS
        rests.append(rested_ms)
    assert rests[0] == 0
    for rest, most_ms in zip(rests[1:], (1_000, 2_000, 4_000), strict=True):
        assert most_ms // 2 <= rest <= most_ms + limits.TICK_INTERVAL_MS
    yard.lose_worker()
    failure = yard.job("j1").failure
    assert failure is not None
    assert failure.reason is Refusal.ATTEMPTS_EXHAUSTED


def test_rests_are_spread_out_and_bounded() -> None:
    rests = [rest_ms(2, Epoch(epoch)) for epoch in range(100)]
    assert len(set(rests)) > 50, "those that broke together do not come back together"
    assert min(rests) >= limits.ATTEMPT_REST_MS_MIN // 2
    assert max(rests) <= limits.ATTEMPT_REST_MS_MIN
    assert rest_ms(limits.ATTEMPTS_MAX, Epoch(1)) <= limits.ATTEMPT_REST_MS_MAX


def test_a_job_that_kills_its_worker_takes_no_other_with_it_for_good() -> None:
    yard = Yard()
    innocent = {"a", "b", "c"}
    yard.begin("a", "b", "poison", "c")
    assert yard.running() == {*innocent, "poison"}
    for _ in range(400):
        if yard.job("poison").is_ended:
            break
        if "poison" in yard.running():
            yard.lose_worker()
        yard.advance(limits.TICK_INTERVAL_MS)
        # They take a good while, so that their turns overlap unless somebody sees to it.
        for job_id in innocent & yard.running():
            leased_at = yard.job(job_id).leased_at
            assert leased_at is not None
            if yard.apiary.now.mono_ms - leased_at.mono_ms > limits.TRIAL_MS // 2:
                yard.finish(job_id)
    failure = yard.job("poison").failure
    assert failure is not None
    assert failure.reason is Refusal.ATTEMPTS_EXHAUSTED
    assert yard.deaths == 3, "it had its three attempts, and no more"
    for _ in range(400):
        yard.advance(limits.TICK_INTERVAL_MS)
        for job_id in innocent & yard.running():
            yard.finish(job_id)
    assert {yard.job(job_id).state for job_id in innocent} == {JobState.COMPLETED}


def test_those_that_were_lost_together_are_tried_one_after_the_other() -> None:
    yard = Yard()
    yard.begin("a", "b", "c")
    yard.lose_worker()
    yard.lose_worker()
    assert yard.running() == set()
    yard.advance(limits.ATTEMPT_REST_MS_MIN + limits.TICK_INTERVAL_MS)
    (first,) = yard.running()
    # It ends, so the next one's turn comes before a trial's time is over.
    yard.finish(first)
    yard.advance(limits.ATTEMPT_REST_MS_MIN + limits.TICK_INTERVAL_MS)
    (second,) = yard.running()
    # This one just runs on.
    yard.advance(limits.TRIAL_MS + limits.ATTEMPT_REST_MS_MIN + limits.TICK_INTERVAL_MS)
    assert len(yard.running()) == 2
    assert second in yard.running()


def test_one_that_waits_for_a_worker_is_still_being_tried() -> None:
    yard = Yard()
    yard.begin("a", "b")
    yard.lose_worker()
    yard.lose_worker()
    yard.apiary.attach(report_of(yard.worker_id, slots_total=0))
    yard.advance(2 * limits.TRIAL_MS)
    waiting = [j for j in ("a", "b") if JobId(j) in yard.apiary.state.queue]
    assert len(waiting) == 1


def test_new_work_goes_on_meanwhile() -> None:
    yard = Yard()
    yard.begin("a")
    yard.lose_worker()
    yard.lose_worker()
    yard.begin("new")
    assert yard.running() == {"new"}


def test_a_resting_job_can_be_cancelled() -> None:
    yard = Yard()
    yard.begin("a")
    yard.lose_worker()
    yard.lose_worker()
    told = yard.apiary.happen(CancelRequested(JobId("a")))
    assert AnnounceEnded(JobId("a")) in told
    assert (TimerKind.REST, "a") in yard.apiary.state.armed
    assert not [e for e in yard.advance(5_000) if isinstance(e, Offer)]


def test_a_restarted_queen_lets_it_try_at_once() -> None:
    yard = Yard()
    yard.begin("a")
    yard.lose_worker()
    yard.lose_worker()
    yard.apiary.restart()
    yard.apiary.attach(report_of("w9"))
    assert yard.running() == {"a"}


def test_a_fleet_that_is_renewed_under_a_job_breaks_no_attempt_of_it() -> None:
    yard = Yard()
    yard.begin("a", max_attempts=1)
    for _ in range(limits.PREEMPTIONS_PER_JOB_MAX):
        (lease,) = yard.apiary.state.leases.values()
        spoken = (lease.worker_id, lease.lease_id, lease.epoch)
        yard.apiary.happen(LeaseFailed(*spoken, 3, Refusal.DRAINING, "drained"))
        assert yard.job("a").state is JobState.LEASED
    # A worker that says so for ever is one that breaks attempts.
    (lease,) = yard.apiary.state.leases.values()
    spoken = (lease.worker_id, lease.lease_id, lease.epoch)
    yard.apiary.happen(LeaseFailed(*spoken, 3, Refusal.DRAINING, "drained"))
    assert yard.job("a").state is JobState.FAILED
