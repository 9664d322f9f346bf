"""Which worker is chosen, why, and what is told of the others."""

from dataclasses import replace

import pytest
from beeyard_core.choice import Assigned, NoCapacity, PlacementInput, place
from beeyard_core.dispatch import enqueue
from beeyard_core.event import PoolReported, WorkerAttached
from beeyard_core.fleet import Fleet, WorkerReport, WorkerState
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.job import JobSpec, PlacementWish, Requirements
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_core.step import step
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.core_values import (
    GIB,
    START,
    device_of,
    fleet_of,
    job_of,
    pool_of,
    report_of,
    spec_of,
)
from tests.support.core_yard import Yard

NOW_MS = START.mono_ms
W1, W2 = WorkerId("w1"), WorkerId("w2")


def placed(fleet: Fleet, spec: JobSpec | None = None, **more: object) -> Assigned:
    given = PlacementInput(spec=spec or spec_of(), fleet=fleet, now_ms=NOW_MS, **more)  # type: ignore[arg-type]
    decision = place(given)
    assert isinstance(decision, Assigned)
    return decision


def refused(fleet: Fleet, spec: JobSpec | None = None) -> NoCapacity:
    decision = place(PlacementInput(spec=spec or spec_of(), fleet=fleet, now_ms=NOW_MS))
    assert isinstance(decision, NoCapacity)
    return decision


# --- The score ---


def test_the_score_is_the_wait_the_first_token_and_the_answer_by_measured_speed() -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=32.0))
    fleet.speeds.speedup[ModelName("m")] = 8.0
    spec = spec_of(prompt_tokens=512, max_tokens=64)
    (free,) = placed(fleet, spec).trace
    assert free.score is not None
    assert (free.score.admission_ms, free.score.first_token_ms) == (0.0, 2_000.0)
    assert (free.score.decode_ms, free.score.end_ms) == (2_000.0, 4_000.0)


def test_an_answer_takes_as_long_as_such_answers_were_measured_to_and_the_trace_says_so() -> None:
    """A slow worker that has the prompt ends first if the answer is short, and last if it is as long as it may be."""
    fleet = fleet_of(report_of("w1", tokens_per_s=16.0), report_of("w2", tokens_per_s=32.0))
    spec, held = spec_of(prompt_tokens=640, max_tokens=64), {W1: 640}
    longest = placed(fleet, spec, held=held)
    assert longest.worker_id == W2
    usual = placed(fleet, spec, held=held, expected_tokens=8)
    assert usual.worker_id == W1
    scores = [each.score for decision in (longest, usual) for each in decision.trace]
    told = [(each.answer_tokens, each.is_measured, each.decode_ms) for each in scores if each]
    assert told == [(64, False, 2_000.0), (64, False, 4_000.0), (8, True, 500.0), (8, True, 250.0)]


def test_a_full_worker_is_scored_with_the_wait_for_a_slot_and_not_chosen() -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=32.0, slots_total=0))
    given = PlacementInput(spec=spec_of(), fleet=fleet, now_ms=NOW_MS, slot_waits={W1: 800.0})
    decision = place(given)
    assert isinstance(decision, NoCapacity)
    assert decision.reason is Refusal.WORKER_BUSY
    (full,) = decision.trace
    assert full.score is not None
    assert full.score.admission_ms == 800.0


def test_prompt_tokens_in_the_cache_need_not_be_computed() -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=32.0), report_of("w2", tokens_per_s=32.0))
    spec = spec_of(prompt_tokens=512)
    decision = placed(fleet, spec, held={W2: 9_999})
    assert decision.worker_id == W2
    assert [each.cached_tokens for each in decision.trace] == [512, 0]
    assert decision.trace[0].score is not None
    assert decision.trace[0].score.first_token_ms == 0.0


def test_the_earliest_end_wins_over_the_least_load() -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=16.0), report_of("w2", tokens_per_s=32.0))
    fleet.workers[W2].leases = {"l"}  # type: ignore[arg-type]
    assert placed(fleet).worker_id == W2


def test_speeds_that_differ_by_noise_are_equal_and_the_load_decides() -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=64.9), report_of("w2", tokens_per_s=63.1))
    fleet.workers[W1].leases = {"l"}  # type: ignore[arg-type]
    assert placed(fleet).worker_id == W2


def test_a_worker_of_unknown_speed_comes_after_all_that_are_known() -> None:
    fleet = fleet_of(report_of("w1", engine="other"), report_of("w2", tokens_per_s=0.01))
    decision = placed(fleet)
    assert [each.worker.report.worker_id for each in decision.trace] == [W2, W1]
    assert decision.trace[1].score is None


def test_a_preferred_pool_goes_before_speed_if_it_has_a_place() -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=64.0), report_of("w2", pool_id=PoolId("p2")))
    spec = spec_of(placement=PlacementWish(prefer_pool_ids=(PoolId("p2"),)))
    assert placed(fleet, spec).worker_id == W2
    fleet.workers[W2].is_saturated = True
    assert placed(fleet, spec).worker_id == W1


# --- The tie-breaks ---


def test_ties_fall_to_the_least_loaded_then_the_most_memory_then_the_smallest_id() -> None:
    devices = (device_of("gpu0"), device_of("gpu1", vram_free_bytes=21 * GIB))
    pools = (pool_of("p1", devices=devices),)
    reports = (report_of("w3"), report_of("w2"), report_of("w4", device="gpu1"), report_of("w1"))
    fleet = fleet_of(*reports, pools=pools)
    fleet.workers[W1].leases = {"l"}  # type: ignore[arg-type]
    trace = placed(fleet).trace
    assert [each.worker.report.worker_id for each in trace] == ["w4", "w2", "w3", "w1"]


# --- No capacity ---


def test_an_empty_fleet_has_no_capacity() -> None:
    assert refused(Fleet()).reason is Refusal.NO_WORKERS_AVAILABLE


LASTING = (
    (spec_of("n"), Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL),
    (spec_of(engine="vllm"), Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE),
    (
        spec_of(placement=PlacementWish(pin_pool_id=PoolId("p2"))),
        Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK,
    ),
    (
        spec_of(requirements=Requirements(min_vram_bytes=80 * GIB)),
        Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
    ),
)


@pytest.mark.parametrize(("spec", "reason"), LASTING)
def test_no_capacity_says_what_no_worker_can_ever_give(spec: JobSpec, reason: Refusal) -> None:
    fleet = fleet_of(report_of("w1", tokens_per_s=10.0), pools=(pool_of("p1"),))
    decision = refused(fleet, spec)
    assert decision.reason is reason
    assert decision.trace[0].score is None


def test_of_several_reasons_the_one_nearest_to_a_placement_is_given() -> None:
    fleet = fleet_of(
        report_of("w1", model=ModelName("n")),
        report_of("w2", engine="other"),
        report_of("w3", slots_total=0),
        report_of("w4", context_tokens=1),
    )
    spec = spec_of(engine="synthetic")
    decision = refused(fleet, spec)
    assert decision.reason is Refusal.WORKER_BUSY
    order = [each.worker.report.worker_id for each in decision.trace]
    assert order == ["w3", "w4", "w2", "w1"]


# --- Properties ---

REPORTS = st.lists(
    st.builds(
        report_of,
        st.sampled_from([f"w{n}" for n in range(8)]),
        pool_id=st.sampled_from([PoolId("p1"), PoolId("p2"), PoolId("p3")]),
        device=st.sampled_from(["gpu0", "gpu1"]),
        engine=st.sampled_from(["synthetic", "llamacpp"]),
        slots_total=st.integers(-1, 3),
        extensions=st.sampled_from([frozenset(), frozenset({"lora"})]),
        kv_tokens_total=st.sampled_from([60, 200, 4_000]),
        tokens_per_s=st.sampled_from([0.0, 0.0, 20.0, 21.0, 50.0]),
        state=st.sampled_from([WorkerState.READY, WorkerState.BUSY, *WorkerState]),
        model=st.sampled_from([ModelName("m"), ModelName("m"), ModelName("n")]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda report: report.worker_id,
)
SPECS = st.builds(
    spec_of,
    prompt_tokens=st.sampled_from([10, 100]),
    max_tokens=st.sampled_from([20, 90]),
    engine=st.sampled_from(["", "", "llamacpp"]),
    placement=st.builds(
        PlacementWish,
        pin_pool_id=st.sampled_from([None, None, None, PoolId("p1")]),
        prefer_pool_ids=st.sampled_from([(), (), (PoolId("p2"),), (PoolId("p3"), PoolId("p1"))]),
        avoid_pool_ids=st.sampled_from([(), (), (PoolId("p1"),)]),
    ),
    requirements=st.builds(
        Requirements,
        min_vram_bytes=st.sampled_from([0, 0, 8 * GIB, 30 * GIB]),
        extensions=st.sampled_from([(), (), ("lora",)]),
    ),
)
HOSTS = tuple(
    pool_of(
        p,
        devices=(
            device_of("gpu0", vram_free_bytes=4),
            device_of("gpu1", name="Test 8G", vram_total_bytes=8 * GIB, vram_free_bytes=5),
        ),
    )
    for p in ("p1", "p2")
)


def world_of(reports: list[WorkerReport], taken: list[int]) -> QueenState:
    """Return a queen that has these workers, with so many jobs on each as its slots allow."""
    state = QueenState()
    for host in HOSTS:
        step(state, PoolReported(host), START)
    here = Yard(state)
    for number, report in enumerate(reports):
        step(state, WorkerAttached(session=number + 1, report=report), START)
    for number, (report, jobs) in enumerate(zip(reports, taken, strict=False)):
        worker = state.fleet.workers[report.worker_id]
        for job in range(min(jobs, worker.slots_free)):
            if worker.is_open and worker.kv_tokens_free >= spec_of().kv_tokens:
                here.run(f"{number}-{job}", report.worker_id, model=report.model)
    return state


@in_cases(40)
@given(REPORTS, st.lists(st.integers(0, 2), max_size=8), SPECS, st.sampled_from([0, 1, 15, 80]))
def test_the_platform_policy_places_where_the_specification_does(
    reports: list[WorkerReport], taken: list[int], spec: JobSpec, expected_tokens: int
) -> None:
    state = world_of(reports, taken)
    given_ = PlacementInput(
        spec=spec, fleet=state.fleet, now_ms=NOW_MS, expected_tokens=expected_tokens
    )
    decision = place(given_)
    job = job_of("j", state.next_sequence(), spec)
    job.expected_tokens = expected_tokens
    state.jobs[job.job_id] = job
    enqueue(state, job)
    schedule(state, Projection(), Twin(), START, [])
    chosen = decision.worker_id if isinstance(decision, Assigned) else None
    assert job.worker_id == chosen


@in_cases(40)
@given(REPORTS, st.lists(st.integers(0, 2), max_size=8), SPECS, st.randoms(use_true_random=False))
def test_nothing_is_ever_assigned_beyond_what_is_there_in_whatever_order_it_is_told(
    reports: list[WorkerReport], taken: list[int], spec: JobSpec, chance: object
) -> None:
    state = world_of(reports, taken)
    decision = place(PlacementInput(spec=spec, fleet=state.fleet, now_ms=NOW_MS))
    if isinstance(decision, Assigned):
        worker = state.fleet.workers[decision.worker_id]
        assert worker.report.slots_total - len(worker.leases) > 0
        assert worker.report.kv_tokens_total - worker.kv_tokens_used >= min(
            spec.kv_tokens, worker.report.kv_tokens_total
        )
    ids = list(state.fleet.workers)
    chance.shuffle(ids)  # type: ignore[attr-defined]
    shuffled = replace(state.fleet, workers={w: state.fleet.workers[w] for w in ids})
    assert place(PlacementInput(spec=spec, fleet=shuffled, now_ms=NOW_MS)) == decision
