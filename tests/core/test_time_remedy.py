"""How much later a waiting job could run, and how much earlier it would have: done in the world, it comes true."""

from collections.abc import Callable

import pytest
from beeyard_core import limits
from beeyard_core.event import (
    ApiMeasured,
    CancelRequested,
    JobSubmitted,
    LeaseFailed,
    LeaseFinished,
    Ticked,
)
from beeyard_core.fleet import HostLoad
from beeyard_core.ids import JobId, PoolId
from beeyard_core.job import Finish, Job, JobState
from beeyard_core.refusal import Refusal
from beeyard_core.remedy import Remedy, RemedyKind
from beeyard_core.state import Settings, TimerKind
from beeyard_core.time_remedy import remedies
from beeyard_core.work_yard import CapacitySettings, InferenceShare

from tests.support.apiary import Apiary
from tests.support.core_values import START, job_of, pool_of, report_of, spec_of
from tests.support.heavy_work import IDLE_API

J1, J2, J3 = JobId("j1"), JobId("j2"), JobId("j3")
LATER, EARLIER, SLOTS = RemedyKind.LATER, RemedyKind.EARLIER, RemedyKind.SLOTS


def yard(slots: int = 1, settings: Settings | None = None) -> Apiary:
    apiary = Apiary(settings or Settings())
    apiary.snapshot(pool_of())
    apiary.attach(report_of("w1", slots_total=slots))
    return apiary


def submit(apiary: Apiary, job_id: JobId, **changes: object) -> Job:
    apiary.happen(JobSubmitted(job_id=job_id, spec=spec_of(**changes)))  # type: ignore[arg-type]
    return apiary.state.jobs[job_id]


def told(apiary: Apiary, job: Job) -> dict[RemedyKind, int]:
    """What would help, and how much of it."""
    state = apiary.state
    found = remedies(state, job, list(state.fleet.workers.values()), apiary.now)
    assert all(each.target_id == "w1" for each in found)
    return {each.kind: each.amount for each in found}


def finish(apiary: Apiary, job: Job) -> None:
    (lease,) = (each for each in apiary.state.leases.values() if each.job_id == job.job_id)
    done = Finish(reason="stop", prompt_tokens=10)
    apiary.happen(LeaseFinished(lease.worker_id, lease.lease_id, lease.epoch, 5, done))


# --- Later ---


def test_a_job_could_run_when_the_first_of_those_that_run_is_predicted_to_end() -> None:
    apiary = yard(slots=2)
    one, other = submit(apiary, J1), submit(apiary, J2)
    one.expected_ms, other.expected_ms = 9_000, 4_000
    apiary.advance(1_000)
    waiting = submit(apiary, J3)
    assert told(apiary, waiting)[LATER] == 3_000
    apiary.advance(3_000)
    finish(apiary, other)
    assert waiting.state is JobState.LEASED


def test_a_job_that_needs_memory_waits_for_as_many_as_hold_it() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1", kv_tokens_total=4_000, context_tokens=4_000))
    for number, job_id in enumerate((J1, J2)):
        submit(apiary, job_id, max_tokens=1_490).expected_ms = 2_000 + number
    waiting = submit(apiary, J3, max_tokens=1_490)
    assert told(apiary, waiting)[LATER] == 2_000
    larger = submit(apiary, JobId("j4"), max_tokens=2_600)
    assert told(apiary, larger)[LATER] == 2_001


def test_what_was_not_predicted_or_has_outlasted_its_prediction_promises_nothing() -> None:
    apiary = yard()
    running = submit(apiary, J1)
    waiting = submit(apiary, J2)
    assert LATER not in told(apiary, waiting)
    running.expected_ms = 1_000
    assert told(apiary, waiting)[LATER] == 1_000
    apiary.advance(1_000)
    assert LATER not in told(apiary, waiting)


def test_a_lease_that_was_taken_back_ends_nobody_knows_when() -> None:
    apiary = yard()
    running = submit(apiary, J1)
    running.expected_ms = 1_000
    apiary.happen(CancelRequested(J1))
    waiting = submit(apiary, J2)
    assert told(apiary, waiting) == {SLOTS: 1}


def hold(apiary: Apiary, job: Job, ms: int) -> None:
    """Hold a waiting job back, as is done when it comes."""
    job.held_until_ms = apiary.now.mono_ms + ms
    apiary.state.set_timer(job.held_until_ms, TimerKind.HOLD, job.job_id)
    apiary.state.touched.jobs[job.job_id] = None


def test_a_hold_ends_when_it_is_told_to_and_the_job_runs() -> None:
    apiary = yard()
    running = submit(apiary, J1)
    waiting = submit(apiary, J2)
    hold(apiary, waiting, 2_500)
    finish(apiary, running)
    assert told(apiary, waiting) == {LATER: 2_500}, "a slot is free and would not help"
    apiary.advance(2_500)
    assert waiting.state is JobState.LEASED


def test_a_job_that_a_worker_could_take_needs_nothing() -> None:
    apiary = yard(slots=2)
    submit(apiary, J1)
    assert told(apiary, job_of("j2", 2)) == {}


def test_a_hold_and_a_full_worker_are_over_with_the_later_of_the_two() -> None:
    apiary = yard()
    submit(apiary, J1).expected_ms = 4_000
    waiting = submit(apiary, J2)
    hold(apiary, waiting, 2_500)
    assert told(apiary, waiting) == {LATER: 4_000}
    waiting.held_until_ms = apiary.now.mono_ms + 6_000
    assert told(apiary, waiting) == {LATER: 6_000}


def test_a_rest_ends_when_it_is_told_to_and_the_job_runs() -> None:
    apiary = yard()
    job = submit(apiary, J1)
    for _ in range(2):
        lease = next(iter(apiary.state.leases.values()))
        spoken = (lease.worker_id, lease.lease_id, lease.epoch)
        apiary.happen(LeaseFailed(*spoken, 0, Refusal.WORKER_ERROR, "it broke"))
    assert job.is_resting
    wait_ms = told(apiary, job)[LATER]
    assert wait_ms > 0
    apiary.advance(wait_ms - 1)
    assert job.is_resting
    apiary.advance(1)
    assert job.state is JobState.LEASED


def test_a_host_whose_rating_falls_opens_when_it_is_told_to() -> None:
    settings = Settings(capacity=CapacitySettings(inference=InferenceShare.GATED))
    apiary = yard(settings=settings)
    apiary.snapshot(pool_of(load=HostLoad(cpu_percent=10.0, memory_percent=99.0)))
    apiary.happen(ApiMeasured(IDLE_API))
    apiary.happen(Ticked())
    waiting = submit(apiary, J1)
    assert LATER not in told(apiary, waiting), "it is busy, and until when nobody knows"
    apiary.snapshot(pool_of())
    wait_ms = told(apiary, waiting)[LATER]
    assert 0 < wait_ms <= limits.RATING_RELEASE_MS
    waiting_at = [at_tick(apiary, ms) for ms in (wait_ms - limits.TICK_INTERVAL_MS, wait_ms)]
    assert waiting_at == [[J1], []]


def at_tick(apiary: Apiary, ms: int) -> list[JobId]:
    """Return which jobs still wait with the tick that comes so long after the beginning."""
    apiary.now = START.later(ms)
    apiary.happen(Ticked())
    return list(apiary.state.queue.job_ids())


# --- Earlier ---


def story(came_ms: int) -> tuple[Apiary, Job]:
    """One slot, taken at once by a job that came after three seconds; another that came so long after the beginning."""
    apiary = yard()
    for at_ms, job_id in sorted(((3_000, J1), (came_ms, J2))):
        apiary.advance(START.mono_ms + at_ms - apiary.now.mono_ms)
        submit(apiary, job_id)
    return apiary, apiary.state.jobs[J2]


@pytest.mark.parametrize("ms", [3_000, 3_001, 9_750])
def test_had_the_job_come_so_much_earlier_it_would_have_run_and_no_less_is_enough(ms: int) -> None:
    apiary, job = story(ms)
    assert job.state is JobState.QUEUED
    earlier_ms = told(apiary, job)[EARLIER]
    assert story(ms - earlier_ms)[1].state is JobState.LEASED
    assert earlier_ms == ms - 3_000 + 1


def nobody_at_once(apiary: Apiary) -> None:
    """Who has the slot had to wait for it, so it was never free."""
    submit(apiary, JobId("j0"))
    submit(apiary, J1)
    apiary.advance(1)
    finish(apiary, apiary.state.jobs[JobId("j0")])


def somebody_smaller(apiary: Apiary) -> None:
    """Beside whom there was room for it, and perhaps for nobody larger."""
    submit(apiary, J1, max_tokens=10)


def somebody_later(apiary: Apiary) -> None:
    """Who came after it, and went before it since it had to be placed elsewhere then."""
    submit(apiary, J1)
    apiary.state.jobs[J1].accepted_at = apiary.now.later(9_000)


def somebody_who_left(apiary: Apiary) -> None:
    """And whose worker has not stopped yet."""
    submit(apiary, J1)
    apiary.happen(CancelRequested(J1))


@pytest.mark.parametrize(
    "before", [nobody_at_once, somebody_smaller, somebody_later, somebody_who_left]
)
def test_nothing_is_said_of_a_slot_that_may_not_have_been_free(
    before: Callable[[Apiary], None],
) -> None:
    apiary = yard()
    before(apiary)
    apiary.advance(1_000)
    assert EARLIER not in told(apiary, submit(apiary, J2))


def test_a_slot_that_was_free_is_of_no_use_to_a_job_that_cannot_run_there() -> None:
    apiary = yard()
    submit(apiary, J1)
    job = submit(apiary, J2, max_tokens=10)
    job.spec = spec_of(max_tokens=10, engine="another")
    assert told(apiary, job) == {}


def test_a_job_that_ran_before_is_not_told_that_it_came_too_late() -> None:
    apiary = yard(slots=2)
    submit(apiary, J1)
    job = submit(apiary, J2)
    apiary.attach(report_of("w1", slots_total=1))
    job.attempt = 1
    assert EARLIER not in told(apiary, job)


def test_a_remedy_names_its_worker_and_pool() -> None:
    apiary = yard()
    submit(apiary, J1)
    job = submit(apiary, J2)
    found = remedies(apiary.state, job, list(apiary.state.fleet.workers.values()), apiary.now)
    assert found == (Remedy(SLOTS, 1, "w1", PoolId("p1")), Remedy(EARLIER, 1, "w1", PoolId("p1")))
