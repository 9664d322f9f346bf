"""Single decisions on the number of workers; what holds in every history is in `test_scaling_properties.py`."""

import pytest
from beeyard_core import limits
from beeyard_core.effect import AnswerCall, SaveScale
from beeyard_core.event import ModelScaleRequested, WorkerAttached, WorkerDetached
from beeyard_core.ids import ModelName, WorkerId
from beeyard_core.job import Priority
from beeyard_core.policy.intent import Evict
from beeyard_core.policy.projection import Projection
from beeyard_core.refusal import Refusal
from beeyard_core.scaler import queue_length, scale
from beeyard_core.scaling import Scale, ScaleSettings
from beeyard_core.state import QueenState
from beeyard_core.step import step

from tests.support.core_values import START, fleet_of, job_of, report_of, spec_of
from tests.support.core_yard import Yard, reason_of, yard

M, N = ModelName("m"), ModelName("n")
W1 = WorkerId("w1")
RESIDENCE = ScaleSettings(residence_ms=10_000)


def resident(served: Priority | None) -> Yard:
    """A worker of m that was loaded just now and has served one class since, or nobody."""
    here = yard(scaling=RESIDENCE)
    worker = here.state.fleet.workers[W1]
    worker.resident_since_ms, worker.served_class = START.mono_ms, served
    return here


def evict(here: Yard, after_ms: int = 0) -> Refusal | None:
    return reason_of(here.want(Evict(evict_worker_id="w1"), START.later(after_ms)))


# --- Who may be made to leave, whatever the policy ---


def test_no_policy_evicts_a_worker_that_holds_a_lease() -> None:
    here = yard()
    here.run("j1")
    assert evict(here) is Refusal.WORKER_BUSY


@pytest.mark.parametrize("served", [None, Priority.INTERACTIVE, Priority.BACKGROUND])
def test_a_worker_that_was_loaded_just_now_is_not_evicted(served: Priority | None) -> None:
    assert evict(resident(served)) is Refusal.PERMISSION_DENIED
    assert evict(resident(served), 9_999) is Refusal.PERMISSION_DENIED
    assert evict(resident(served), 10_000) is None


def test_more_urgent_work_for_another_model_does_not_wait_for_the_residence() -> None:
    here = resident(Priority.NORMAL)
    here.wait("j1", model="n", priority=Priority.NORMAL)
    assert evict(here) is Refusal.PERMISSION_DENIED
    here.wait("j2", model="m", priority=Priority.INTERACTIVE)
    assert evict(here) is Refusal.PERMISSION_DENIED, "that job wants the worker itself"
    here.wait("j3", model="n", priority=Priority.INTERACTIVE)
    assert evict(here) is None


def test_a_worker_that_has_served_nobody_yet_keeps_its_place_against_everything() -> None:
    here = resident(None)
    here.wait("j1", model="n", priority=Priority.INTERACTIVE)
    assert evict(here) is Refusal.PERMISSION_DENIED


def test_the_most_urgent_class_that_a_worker_served_counts() -> None:
    here = yard()
    here.run("j1", priority=Priority.BATCH)
    here.run("j2", priority=Priority.INTERACTIVE)
    here.run("j3", priority=Priority.BACKGROUND)
    assert here.state.fleet.workers[W1].served_class is Priority.INTERACTIVE


# --- How long a queue is ---


def waiting(jobs: int, *slots: int) -> QueenState:
    """Jobs that wait for m, and workers of it with so many slots."""
    reports = [report_of(f"w{n}", slots_total=count) for n, count in enumerate(slots)]
    state = QueenState(fleet=fleet_of(*reports))
    for number in range(jobs):
        state.queue.push(job_of(f"j{number}", number, spec_of("m")))
    return state


def length(state: QueenState, *loading: str) -> float:
    there = {w: state.fleet.workers[w].report.pool_id for w in state.fleet.workers}
    pool_id = next(iter(there.values()))
    return queue_length(state, M, there | dict.fromkeys(map(WorkerId, loading), pool_id))


def test_where_nothing_was_measured_a_queue_is_as_long_as_the_slots_take_rounds() -> None:
    assert length(waiting(6, 2, 1)) == 2.0


def test_where_service_was_measured_a_queue_is_as_long_as_its_last_job_waits() -> None:
    state = waiting(6, 2, 1)
    state.forecast.observe(M, 10_000.0)
    assert length(state) == 2 * 10_000 / limits.SCALE_OUT_WAIT_MS


def test_a_worker_that_loads_counts_like_one_that_is_there() -> None:
    assert length(waiting(9, 4, 2), "loading") == 1.0


def test_workers_that_all_load_count_for_one_slot_each() -> None:
    assert length(waiting(4, 0), "loading") == 2.0


def test_that_a_queue_was_long_is_forgotten_when_it_is_half_as_long() -> None:
    state = waiting(8, 4)
    state.scales.by_model[M] = Scale(max_workers=2)
    state.forecast.observe(M, float(limits.SCALE_OUT_WAIT_MS))
    since = state.scales.long_since_ms
    for left, begun in ((8, {M: START.mono_ms}), (4, {M: START.mono_ms}), (2, {})):
        while len(state.queue) > left:
            number = len(state.queue) - 1
            state.queue.remove(job_of(f"j{number}", number, spec_of("m")))
        scale(state, START, [])
        assert since == begun


# --- What operators say ---


def test_no_more_models_than_the_bound_have_a_scale_of_their_own() -> None:
    state = QueenState(fleet=fleet_of(report_of("w1")))
    said = state.scales.by_model
    said.update({ModelName(f"m{n}"): Scale() for n in range(limits.MODEL_SCALES_MAX)})
    (answer,) = step(state, ModelScaleRequested(call_id=1, model=M, scale=Scale()), START)
    assert isinstance(answer, AnswerCall)
    assert reason_of(answer.refused) is Refusal.QUOTA_EXCEEDED
    # Saying nothing any more is always possible.
    told = step(state, ModelScaleRequested(call_id=2, model=M, scale=None), START)
    assert told == [SaveScale(M), AnswerCall(2, None, None)]


def test_what_is_said_at_run_time_goes_before_the_file_and_that_before_the_rest() -> None:
    settings = ScaleSettings(by_model={M: Scale(min_workers=1)}, otherwise=Scale(keep_warm_ms=5))
    state = yard(scaling=settings).state
    assert (state.scale_of(M), state.scale_of(N)) == (Scale(min_workers=1), Scale(keep_warm_ms=5))
    step(state, ModelScaleRequested(call_id=1, model=M, scale=Scale()), START)
    assert state.scale_of(M) == Scale()
    step(state, ModelScaleRequested(call_id=1, model=M, scale=None), START)
    assert state.scale_of(M) == Scale(min_workers=1)


# --- What policies are told ---


def test_a_worker_that_came_and_went_between_two_decisions_is_never_told() -> None:
    state, projection = QueenState(), Projection()
    step(state, WorkerAttached(session=1, report=report_of("w1")), START)
    step(state, WorkerDetached(W1, 1), START)
    assert projection.drain(state, START.mono_ms) == []
