"""The week as it usually is, and background work that steps aside before urgent work comes."""

from dataclasses import replace

from beeyard_core import history_limits
from beeyard_core.event import CancelRequested, JobSubmitted
from beeyard_core.holding import hold_ms, hold_timer
from beeyard_core.ids import JobId, ModelName
from beeyard_core.instant import Instant
from beeyard_core.job import Job, JobState, Priority
from beeyard_core.policy.cutting import history_row
from beeyard_core.policy.world import HistoryRow
from beeyard_core.profile import HOUR_MS, WeekProfile
from beeyard_core.state import QueenState, Settings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import job_of, report_of, spec_of
from tests.support.history_records import job_record

M = ModelName("m")
WEEK_MS = 168 * HOUR_MS
#: The beginning of an hour.
TEN = 472_222 * HOUR_MS
BACKGROUND = spec_of(priority=Priority.BACKGROUND)


def busy_week(*, slots: float, hour: int = 1) -> WeekProfile:
    """A week in which urgent work keeps so many slots busy in one hour, counted from `TEN`."""
    profile = WeekProfile()
    begin = TEN - WEEK_MS
    for number in range(169):
        profile.add(int(slots * HOUR_MS) if number == hour else 0, begin + number * HOUR_MS)
    return profile


# --- The week ---


def test_an_hour_of_the_week_is_what_it_was_a_week_before() -> None:
    profile = busy_week(slots=3.0, hour=5)
    assert profile.slots_at(TEN + 5 * HOUR_MS) == 3.0
    assert profile.slots_at(TEN + 6 * HOUR_MS - 1) == 3.0
    assert profile.slots_at(TEN + 6 * HOUR_MS) == 0.0


def test_an_hour_that_was_never_watched_is_unknown() -> None:
    profile = WeekProfile()
    profile.add(HOUR_MS, TEN)
    assert profile.slots_at(TEN) is None, "it is not over yet"
    profile.add(0, TEN + 2 * HOUR_MS)
    assert profile.slots_at(TEN) == 1.0
    assert profile.slots_at(TEN + HOUR_MS) == 0.0, "nothing came"
    assert profile.slots_at(TEN + 3 * HOUR_MS) is None
    # What is of an hour that is over comes too late.
    profile.add(9 * HOUR_MS, TEN)
    profile.add(0, TEN + 3 * HOUR_MS)
    assert profile.slots_at(TEN + 2 * HOUR_MS) == 0.0


@in_cases(30)
@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**10)), max_size=30))
def test_a_profile_is_bounded_and_never_negative(arrivals: list[tuple[int, int]]) -> None:
    profile, at_ms = WeekProfile(), TEN
    for work_ms, gap_ms in arrivals:
        at_ms += gap_ms
        profile.add(work_ms, at_ms)
    found = [profile.slots_at(TEN + hour * HOUR_MS) for hour in range(2 * 168)]
    assert found[:168] == found[168:]
    assert all(slots is None or slots >= 0 for slots in found)


# --- Holding ---


def yard(
    *, holds: bool = True, slots: float = 4.0, wall_ms: int = TEN + HOUR_MS - 60_000
) -> Apiary:
    """A queen with one worker of four slots, a minute before the hour in which so many are usually busy."""
    apiary = Apiary(settings=Settings(hold_background=holds))
    apiary.now = Instant(apiary.now.mono_ms, wall_ms)
    apiary.attach(report_of("w1"))
    apiary.state.forecast.profiles[M] = busy_week(slots=slots)
    # Jobs take two minutes.
    for _ in range(history_limits.FORECAST_MEASURED_MIN):
        record = job_record(service_ms=120_000, prefill_ms=1.0, decode_ms=119_000.0, max_tokens=20)
        apiary.state.forecast.learn(record)
    return apiary


def submitted(apiary: Apiary, job_id: str, priority: Priority = Priority.BACKGROUND) -> Job:
    spec = BACKGROUND._replace(priority=priority)
    apiary.happen(JobSubmitted(job_id=JobId(job_id), spec=spec))
    return apiary.state.jobs[JobId(job_id)]


def test_background_work_that_would_run_into_a_peak_waits_and_is_served_in_the_end() -> None:
    apiary = yard()
    held = submitted(apiary, "j1")
    assert held.state is JobState.QUEUED
    assert held.job_id in apiary.state.queue, "it is counted as ever"
    assert submitted(apiary, "j2", Priority.BATCH).state is JobState.LEASED
    apiary.advance(history_limits.HOLD_MS_MAX - 1_000)
    assert held.attempt == 0
    apiary.advance(2_000)
    assert held.attempt == 1


def test_a_hold_ends_with_the_peak() -> None:
    apiary = yard(wall_ms=TEN + 2 * HOUR_MS - 130_000)
    # It would end ten seconds before the hour does.
    held = submitted(apiary, "j1")
    apiary.advance(129_000)
    assert held.attempt == 0
    apiary.advance(2_000)
    assert held.attempt == 1


def test_nothing_is_held_without_the_setting_a_peak_or_anything_known() -> None:
    assert submitted(yard(holds=False), "j1").state is JobState.LEASED
    assert submitted(yard(slots=2.0), "j1").state is JobState.LEASED
    assert submitted(yard(wall_ms=TEN + 9 * HOUR_MS), "j1").state is JobState.LEASED
    apiary = yard()
    apiary.state.forecast.profiles.clear()
    assert submitted(apiary, "j1").state is JobState.LEASED


def test_nothing_is_held_that_nobody_could_serve() -> None:
    state = QueenState(settings=Settings(hold_background=True))
    state.forecast.profiles[M] = busy_week(slots=9.0, hour=0)
    job = job_of("j1", 1, BACKGROUND)
    assert hold_ms(state, job, Instant(0, TEN)) == 0


def test_a_held_job_that_is_cancelled_is_forgotten_by_its_timer() -> None:
    apiary = yard()
    held = submitted(apiary, "j1")
    apiary.happen(CancelRequested(held.job_id))
    assert held.state is JobState.CANCELLED
    apiary.advance(history_limits.HOLD_MS_MAX + 1_000)
    assert held.state is JobState.CANCELLED


def test_a_timer_of_a_job_that_is_forgotten_does_nothing() -> None:
    state = QueenState()
    hold_timer(state, None)
    hold_timer(state, job_of("j1", 1))
    assert not state.touched.jobs


# --- The week in predictions ---


def test_a_long_wait_is_predicted_by_what_is_usual_then_and_a_short_one_by_what_comes_now() -> None:
    def predicted(slots: float) -> int:
        apiary = yard(holds=False, slots=slots)
        for number in range(104):
            submitted(apiary, f"j{number}", Priority.BATCH)
        spec = BACKGROUND._replace(priority=Priority.BATCH)
        found = apiary.state.forecast.predict(M, 100, spec, apiary.state.fleet)
        assert found is not None
        return found.start_ms

    # Half of an hour's slots are usually taken when the wait is over.
    assert predicted(2.0) > 1.5 * predicted(0.0)


def test_a_new_queen_knows_the_week_of_an_earlier_one() -> None:
    apiary = Apiary()
    forecast = apiary.state.forecast
    for number in range(3):
        forecast.recall(job_record(created_ms=TEN + number * HOUR_MS, service_ms=HOUR_MS // 2))
    assert forecast.profiles[M].slots_at(TEN + WEEK_MS) == 0.5
    forecast.recall(job_record(priority=Priority.BATCH, model=ModelName("n")))
    assert ModelName("n") not in forecast.profiles
    for number in range(history_limits.FORECAST_MODELS_MAX + 1):
        forecast.recall(job_record(model=ModelName(f"model-{number}")))
    assert len(forecast.profiles) == history_limits.FORECAST_MODELS_MAX


def test_policies_hear_with_the_first_job_of_an_hour_what_is_usual_in_it_and_the_next() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1"))
    state = apiary.state
    state.forecast.recall(job_record(device="gpu"))
    apiary.now = Instant(apiary.now.mono_ms, TEN + HOUR_MS - 1_000)
    apiary.happen(JobSubmitted(job_id=JobId("j1"), spec=spec_of()))
    state.forecast.profiles.pop(M, None)
    key = next(iter(state.forecast.told))
    assert history_row(state, *key)[-2:] == (None, None)
    state.forecast.profiles[M] = busy_week(slots=3.0)
    assert history_row(state, *key)[-2:] == (0.0, 3.0)
    apiary.happen(JobSubmitted(job_id=JobId("j2"), spec=spec_of()))
    assert not state.forecast.touched, "it is the same hour"
    apiary.now = apiary.now.later(1_000)
    job = replace(job_of("j4", 4, spec_of()), accepted_at=apiary.now)
    state.forecast.waits(job, apiary.now.mono_ms)
    told = apiary.projection.drain(state, apiary.now.mono_ms)
    (row,) = (each for each in told if isinstance(each, HistoryRow))
    assert (row.urgent_slots, row.urgent_slots_next) == (3.0, 0.0)
