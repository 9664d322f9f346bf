"""How fast workers are taken to be: measured, by kind, on a grid, and never guessed."""

import math

import pytest
from beeyard_core import limits
from beeyard_core.event import LeaseFinished, PoolReported, WorkerAttached, WorkerReported
from beeyard_core.fleet import WorkerReport
from beeyard_core.ids import ModelName, PoolId, WorkerId, lease_id_of
from beeyard_core.job import Finish, Job
from beeyard_core.measuring import tokens_per_s_of
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.world import WorkerRow
from beeyard_core.speeds import SpeedKind, Speeds, on_grid
from beeyard_core.state import QueenState
from beeyard_core.step import step
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.core_values import START, device_of, pool_of, report_of
from tests.support.core_yard import Yard, yard

KIND = SpeedKind("synthetic", ModelName("m"), "Test 24G")


@in_cases(50)
@given(st.floats(1e-3, 1e6))
def test_the_grid_is_never_off_by_more_than_a_tenth(figure: float) -> None:
    assert abs(math.log2(on_grid(figure) / figure)) <= 1 / 8 + 1e-3


def test_what_is_no_speed_is_unknown() -> None:
    assert [on_grid(figure) for figure in (0.0, -1.0, math.inf, math.nan)] == [0.0] * 4


def test_the_newest_measurement_counts_for_an_eighth() -> None:
    speeds = Speeds()
    assert speeds.note_decode(KIND, 80.0)
    assert not speeds.note_decode(KIND, 88.0)
    assert speeds.decode[KIND] == pytest.approx(81.0)
    assert not speeds.note_decode(KIND, math.inf)
    assert speeds.decode[KIND] == pytest.approx(81.0)


def test_what_was_measured_longest_ago_is_forgotten_first() -> None:
    speeds = Speeds()
    kinds = [KIND._replace(device=f"d{n}") for n in range(limits.SPEEDS_KEPT_MAX + 1)]
    for kind in (*kinds[:-1], kinds[0], kinds[-1]):
        speeds.note_decode(kind, 10.0)
        speeds.note_prefill(
            ModelName(kind.device), tokens=100, prefill_ms=10.0, decode_token_ms=1.0
        )
    assert len(speeds.decode) == len(speeds.speedup) == limits.SPEEDS_KEPT_MAX
    assert kinds[0] in speeds.decode
    assert kinds[1] not in speeds.decode
    assert ModelName("d1") not in speeds.speedup


@pytest.mark.parametrize(
    "off", [{"tokens": 63}, {"prefill_ms": 0.0}, {"decode_token_ms": 0.0}], ids=str
)
def test_a_prompt_that_says_nothing_is_not_measured(off: dict[str, float]) -> None:
    speeds = Speeds()
    told = {"tokens": 64, "prefill_ms": 10.0, "decode_token_ms": 1.0} | off
    assert not speeds.note_prefill(ModelName("m"), **told)  # type: ignore[arg-type]
    assert speeds.prefill_speedup(ModelName("m")) == 0.0


# --- In the fleet ---


def attach(state: QueenState, *reports: WorkerReport) -> None:
    for number, report in enumerate(reports):
        step(state, WorkerAttached(session=number + 1, report=report), START)


def speed_of(state: QueenState, worker_id: str) -> float:
    return tokens_per_s_of(state.fleet, state.fleet.workers[WorkerId(worker_id)])


def test_a_worker_that_measured_nothing_is_as_fast_as_others_of_its_kind() -> None:
    state = QueenState()
    slow = device_of("gpu1", name="Test 8G")
    step(state, PoolReported(pool_of("p1", devices=(device_of(), slow))), START)
    attach(
        state,
        report_of("w1", tokens_per_s=64.0),
        report_of("w2"),
        report_of("w3", device="gpu1"),
        report_of("w4", engine="llamacpp"),
        report_of("w5", model=ModelName("n")),
        report_of("w6", pool_id=PoolId("elsewhere")),
    )
    assert [speed_of(state, f"w{n}") for n in range(1, 7)] == [64.0, 64.0, 0.0, 0.0, 0.0, 0.0]


def test_its_own_measurement_goes_before_that_of_its_kind() -> None:
    state = QueenState()
    attach(state, report_of("w1", tokens_per_s=64.0), report_of("w2", tokens_per_s=16.0))
    assert (speed_of(state, "w1"), speed_of(state, "w2")) == (64.0, 16.0)


def told_speeds(state: QueenState, projection: Projection) -> dict[str, tuple[float, float]]:
    changes = projection.drain(state, START.mono_ms)
    rows = [change for change in changes if isinstance(change, WorkerRow)]
    return {row.worker_id: (row.tokens_per_s, row.prefill_speedup) for row in rows}


def test_policies_hear_at_once_what_another_worker_of_the_kind_measured() -> None:
    state, projection = QueenState(), Projection()
    attach(state, report_of("w1"), report_of("w2"))
    assert told_speeds(state, projection) == {"w1": (0.0, 0.0), "w2": (0.0, 0.0)}
    report = report_of("w1", tokens_per_s=64.0)
    step(state, WorkerReported(session=1, report=report), START)
    assert told_speeds(state, projection) == {"w1": (64.0, 0.0), "w2": (64.0, 0.0)}
    # A heartbeat that measured the same within the grid tells nothing anew.
    step(state, WorkerReported(session=1, report=report_of("w1", tokens_per_s=66.0)), START)
    assert told_speeds(state, projection) == {}


def finish(here: Yard, job: Job, **figures: float) -> None:
    ended = Finish(reason="stop", **figures)  # type: ignore[arg-type]
    epoch, worker = job.epoch, job.worker_id
    assert worker is not None
    step(here.state, LeaseFinished(worker, lease_id_of(epoch), epoch, 20, ended), START)


def test_what_a_finished_prompt_took_is_known_of_its_model() -> None:
    here, projection = yard(report_of("w1", tokens_per_s=32.0)), Projection()
    job = here.run("j1")
    told_speeds(here.state, projection)
    # 800 tokens in 3,125 ms are 256 a second, eight times the answer's 32.
    finish(here, job, prompt_tokens=1_000, cached_prompt_tokens=200, prefill_ms=3_125.0)
    assert told_speeds(here.state, projection) == {"w1": (32.0, 8.0)}


def test_a_continuation_says_nothing_of_prompts() -> None:
    here = yard(report_of("w1", tokens_per_s=32.0))
    job = here.run("j1")
    here.state.leases[lease_id_of(job.epoch)].attempt = 2
    finish(here, job, prompt_tokens=1_000, prefill_ms=1_000.0)
    assert here.state.fleet.speeds.speedup == {}
