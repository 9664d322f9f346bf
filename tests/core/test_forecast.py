"""The forecast: what is expected of a job, when it starts and ends, and how sure that is."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from beeyard_core import history_limits
from beeyard_core.backlog import Arrivals, Backlog
from beeyard_core.effect import Accept
from beeyard_core.event import JobSubmitted, LeaseFinished
from beeyard_core.fleet import Fleet
from beeyard_core.forecast import Forecast
from beeyard_core.history import JobRecord
from beeyard_core.ids import JobId, ModelName, WorkerId, lease_id_of
from beeyard_core.job import Finish, Job, JobSpec, JobState, Priority
from beeyard_core.prediction import LEVELS, Estimate, Figure, Prediction
from beeyard_core.residuals import Residuals
from beeyard_core.service_times import Measured, ModelTimes, size_of
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import fleet_of, job_of, report_of, spec_of
from tests.support.history_records import job_record

M = ModelName("m")
ANSWER = Measured(
    prompt_tokens=100,
    max_tokens=64,
    answer_tokens=33,
    first_token_ms=200.0,
    decode_ms=640.0,
    service_ms=850.0,
)
SPEC = spec_of(prompt_tokens=100, max_tokens=64)


def learnt(answers: Iterable[Measured] = (ANSWER,) * 8) -> Forecast:
    """A forecast that has seen some answers."""
    forecast = Forecast()
    for number, answer in enumerate(answers):
        forecast.learn(record_of(job_of(f"j{number}", number), answer))
    return forecast


def record_of(
    job: Job, answer: Measured = ANSWER, total_ms: int = 900, attempts: int = 1
) -> JobRecord:
    """A job that completed so."""
    return job_record(
        job_id=job.job_id,
        model=job.spec.model,
        priority=job.spec.priority,
        attempts=attempts,
        prompt_tokens=answer.prompt_tokens,
        max_tokens=answer.max_tokens,
        answer_tokens=answer.answer_tokens,
        prefill_ms=answer.first_token_ms,
        decode_ms=answer.decode_ms,
        service_ms=int(answer.service_ms),
        total_ms=total_ms,
        estimate=job.estimate,
    )


# --- What a job needs ---


def test_a_job_is_expected_to_need_what_jobs_of_its_size_needed() -> None:
    times = ModelTimes()
    for _ in range(history_limits.FORECAST_MEASURED_MIN):
        assert times.expect(SPEC) is None
        times.add(ANSWER)
    expected = times.expect(SPEC)
    assert expected is not None
    # 33 of 64 tokens, the first after 200 ms and each of the others after 20.
    assert expected.tokens == 33
    assert expected.service_ms == 200.0 + 32 * 20.0
    # A prompt of half the length, and an answer of half of what is allowed.
    half = times.expect(SPEC._replace(prompt_tokens=50, max_tokens=32))
    assert half is not None
    assert half.service_ms == 100.0 + 15.5 * 20.0


def test_how_far_off_the_expectation_was_is_its_spread() -> None:
    times = ModelTimes()
    for service_ms in (1_500.0, 500.0) * 10:
        times.add(ANSWER._replace(service_ms=service_ms), expected_ms=1_000)
    expected = times.expect(SPEC)
    assert expected is not None
    assert 0.49 < expected.spread_ms / expected.service_ms < 0.51


def test_a_worker_that_says_little_is_no_worse_than_that() -> None:
    times = ModelTimes()
    for _ in range(history_limits.FORECAST_MEASURED_MIN):
        times.add(ANSWER._replace(answer_tokens=1, first_token_ms=0.0, decode_ms=0.0))
    expected = times.expect(SPEC)
    assert expected is not None
    assert (expected.tokens, expected.service_ms) == (1, 0.0)


def test_sizes_double() -> None:
    assert [size_of(tokens) for tokens in (0, 1, 2, 3, 4, 7, 8)] == [1, 1, 2, 2, 3, 3, 4]
    assert size_of(1 << 40) == history_limits.FORECAST_TOKENS_MAX.bit_length()


# --- Start and end ---


def test_nothing_is_said_of_what_was_never_measured_or_that_nobody_serves() -> None:
    fleet = fleet_of(report_of("w1"))
    assert Forecast().predict(M, 0, SPEC, fleet) is None
    assert learnt((ANSWER,)).predict(M, 0, SPEC, fleet) is None
    assert learnt().predict(M, 0, SPEC, Fleet()) is None
    job = job_of("j1", 1, SPEC)
    assert learnt().foresee(job, 0, Fleet()) is None
    assert job.expected_tokens == 33, "what it needs is known all the same"


def test_a_job_for_which_a_slot_is_free_starts_at_once() -> None:
    prediction = learnt().predict(M, 0, SPEC, fleet_of(report_of("w1")))
    assert prediction is not None
    assert prediction.start_ms == 0
    assert prediction.end_ms == 840


def test_a_job_waits_for_the_work_before_it_and_for_a_slot() -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1", slots_total=2))
    for _ in range(2):
        forecast.holds(M)
    waiting = replace(job_of("j1", 1, SPEC), expected_ms=4_000)
    forecast.waits(waiting, 0)
    forecast.waits(job_of("j2", 2, SPEC), 0)
    # 4,000 ms, what a job usually takes for the one of whom nothing is known, and as much until a slot is free.
    prediction = forecast.predict(M, 2, SPEC, fleet)
    assert prediction is not None
    assert prediction.start_ms == (4_000 + 850 + 850) // 2
    nearer = forecast.predict(M, 1, SPEC, fleet)
    assert nearer is not None
    assert nearer.start_ms == round((4_850 / 2 + 850) / 2)


def test_jobs_of_other_models_keep_nobody_waiting() -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1", slots_total=1))
    for number in range(9):
        forecast.waits(job_of(f"j{number}", number, spec_of("other")), 0)
    prediction = forecast.predict(M, 9, SPEC, fleet)
    assert prediction is not None
    assert prediction.start_ms == 0


def test_more_urgent_work_that_comes_in_stretches_a_wait() -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1", slots_total=1))
    forecast.holds(M)
    batch = SPEC._replace(priority=Priority.BATCH)
    before = forecast.predict(M, 0, batch, fleet)
    for number in range(30):
        urgent = replace(job_of(f"j{number}", number, SPEC), expected_ms=1_000)
        forecast.waits(urgent, number)
        forecast.leaves(urgent)
    after = forecast.predict(M, 0, batch, fleet)
    assert before is not None
    assert after is not None
    # Half of the slot is taken by what is more urgent.
    assert after.start_ms == 2 * before.start_ms
    assert forecast.predict(M, 0, SPEC, fleet) == forecast.predict(M, 0, SPEC, fleet)


def test_a_slot_that_is_given_back_is_free_again() -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1", slots_total=1))
    forecast.holds(M)
    busy = forecast.predict(M, 0, SPEC, fleet)
    forecast.frees(M)
    idle = forecast.predict(M, 0, SPEC, fleet)
    assert busy is not None
    assert idle is not None
    assert busy.start_ms > idle.start_ms == 0


# --- How sure that is ---

SCORES = st.lists(st.floats(-1e6, 1e6), max_size=20)


@in_cases(20)
@given(SCORES, st.integers(0, 20), st.integers(0, 20))
def test_the_moments_of_a_prediction_are_in_order_and_none_is_past(
    scores: list[float], waiting: int, ahead: int
) -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1", slots_total=2))
    for number in range(waiting):
        forecast.waits(job_of(f"j{number}", number, SPEC), number)
    for score in scores:
        job = job_of("j", 1, SPEC)
        foreseen = forecast.foresee(job, ahead, fleet)
        assert foreseen is not None
        forecast.started(job, int(foreseen.start.middle_ms + score * foreseen.start.spread_ms))
        forecast.learn(record_of(job, total_ms=int(abs(score)), attempts=2))
    prediction = forecast.predict(M, ahead, SPEC, fleet)
    assert prediction is not None
    for moments in prediction:
        assert list(moments) == sorted(moments)
        assert moments[0] >= 0


@pytest.mark.parametrize("seed", range(5))
def test_outcomes_like_those_before_fall_into_the_interval_as_often_as_is_said(seed: int) -> None:
    draw = random.Random(seed).gauss
    residuals, figure = Residuals(), Figure(10_000.0, 500.0)
    # Always a third too early, and twice as uncertain as the figure says.
    for _ in range(history_limits.FORECAST_SCORES_MAX + 50):
        residuals.add(figure.score(draw(13_000, 1_000)))
    moments = [figure.at(score) for score in residuals.levels()]
    came = [draw(13_000, 1_000) for _ in range(1_000)]
    for moment, level in zip(moments, LEVELS, strict=True):
        assert abs(sum(each <= moment for each in came) / len(came) - level) < 0.06


def test_before_enough_was_scored_an_interval_is_wide() -> None:
    residuals = Residuals()
    wide = residuals.levels()
    for _ in range(history_limits.FORECAST_SCORES_MIN - 1):
        residuals.add(0.25)
    assert residuals.levels() == wide
    residuals.add(0.25)
    assert residuals.levels() == (0.25,) * len(LEVELS)


def test_only_the_last_scores_count() -> None:
    residuals = Residuals()
    for score in (9.0,) * 100 + (1.0,) * history_limits.FORECAST_SCORES_MAX:
        residuals.add(score)
    assert residuals.levels() == (1.0,) * len(LEVELS)


def test_a_forecast_that_does_not_learn_stays_as_it_is() -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1"))
    forecast.is_learning = False
    before = forecast.predict(M, 0, SPEC, fleet)
    job = job_of("j1", 1, SPEC)
    forecast.foresee(job, 0, fleet)
    for _ in range(100):
        forecast.started(job, 50_000)
        forecast.learn(record_of(job, ANSWER._replace(service_ms=9_000.0), 60_000))
    assert forecast.predict(M, 0, SPEC, fleet) == before


def test_a_new_queen_learns_from_what_an_earlier_one_remembers() -> None:
    forecast, fleet = learnt(), fleet_of(report_of("w1"))
    records = []
    for number in range(history_limits.FORECAST_SCORES_MIN + 10):
        job = job_of(f"j{number}", number, SPEC)
        forecast.foresee(job, 0, fleet)
        forecast.started(job, 20)
        records.append(record_of(job, total_ms=1_000 + number)._replace(wait_ms=20))
        forecast.learn(records[-1])
    later = learnt()
    for record in records:
        later.recall(record)
    assert later.predict(M, 0, SPEC, fleet) == forecast.predict(M, 0, SPEC, fleet)
    assert later.predict(M, 0, SPEC, fleet) != learnt().predict(M, 0, SPEC, fleet)


def test_only_answers_teach() -> None:
    forecast = Forecast()
    for state in (JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED):
        record = record_of(job_of("j1", 1, spec_of(priority=Priority.BATCH)))
        forecast.recall(record._replace(state=state))
    assert forecast == Forecast()


def test_policies_are_told_what_jobs_took_on_each_kind_of_device() -> None:
    forecast = Forecast()
    for number in range(history_limits.FORECAST_TOLD_EVERY + 5):
        record = record_of(job_of("j", 1), ANSWER._replace(service_ms=1_000.0 + 50 * number))
        forecast.learn(record._replace(device="fast" if number % 2 else "slow"))
    assert set(forecast.told) == {(M, "fast"), (M, "slow")} == set(forecast.touched)
    told = forecast.told[M, "fast"]
    assert told.n == 10
    assert 1_000 < told.p50_ms < told.p95_ms < 2_000


# --- Bounds ---


def test_models_and_kinds_that_are_remembered_are_bounded() -> None:
    forecast = Forecast()
    estimate = Estimate(
        Figure(0.0, 1.0),
        Figure(1.0, 1.0),
        is_immediate=True,
        prediction=Prediction((0,) * 5, (1,) * 5),
    )
    for number in range(history_limits.FORECAST_KINDS_MAX + 10):
        job = replace(job_of("j", 1, spec_of(f"model-{number}")), estimate=estimate)
        forecast.started(job, 0)
        forecast.learn(record_of(job))
    assert len(forecast.times) == history_limits.FORECAST_MODELS_MAX
    assert len(forecast.devices) == history_limits.FORECAST_DEVICES_MAX
    assert len(forecast._starts) == len(forecast._ends) == history_limits.FORECAST_KINDS_MAX


def test_a_backlog_forgets_models_of_which_nothing_is_left_and_no_others() -> None:
    backlog = Backlog()
    backlog.of(M).running = 1
    for number in range(2 * history_limits.FORECAST_MODELS_MAX):
        backlog.of(ModelName(f"model-{number}"))
    assert len(backlog.models) == history_limits.FORECAST_MODELS_MAX
    assert M in backlog.models
    for each in backlog.models.values():
        each.running = 1
    backlog.of(ModelName("one more"))
    assert len(backlog.models) == history_limits.FORECAST_MODELS_MAX + 1


def test_the_rate_of_arrivals_looks_back_one_window() -> None:
    arrivals, window = Arrivals(), history_limits.FORECAST_WINDOW_MS
    arrivals.add(window, 0)
    assert arrivals.rate(0) == 1.0
    assert arrivals.rate(window) == 1.0
    assert arrivals.rate(window + window // 2) == 0.5
    assert arrivals.rate(3 * window) == 0.0
    arrivals.add(window // 2, 7 * window)
    assert arrivals.rate(7 * window) == 0.5


# --- In the queen ---


def served(apiary: Apiary, number: int, spec: JobSpec) -> Job:
    """Submit a job, let its worker serve it within a second, and return it."""
    apiary.happen(JobSubmitted(job_id=JobId(f"j{number}"), spec=spec))
    job = apiary.state.jobs[JobId(f"j{number}")]
    apiary.now = apiary.now.later(500)
    finish = Finish(reason="stop", prompt_tokens=100, prefill_ms=100.0, decode_ms=400.0)
    lease_id = lease_id_of(job.epoch)
    apiary.happen(LeaseFinished(WorkerId("w1"), lease_id, job.epoch, 11, finish))
    return job


def test_a_queen_foretells_start_and_end_once_it_has_measured_some_jobs() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1", slots_total=1))
    first = served(apiary, 0, SPEC)
    assert first.estimate is None
    for number in range(1, history_limits.FORECAST_MEASURED_MIN):
        served(apiary, number, SPEC)
    running, waiting = (
        apiary.happen(JobSubmitted(job_id=JobId(name), spec=SPEC)) for name in ("a", "b")
    )
    told = [effect for effect in (*running, *waiting) if isinstance(effect, Accept)]
    # The one slot is taken; a job takes half a second.
    assert [effect.predicted_start_ms for effect in told] == [0, 500]
    estimate = apiary.state.jobs[JobId("b")].estimate
    assert estimate is not None
    assert estimate.prediction.end_ms == 1_000
    # Policies are told how long the answer will likely be.
    assert apiary.twin.lines.jobs["b"].expected_tokens == 11
