"""What a waiting job is told of the model that it waits for: from workers, from hosts, in steps."""

import dataclasses

import pytest
from beeyard_core import limits
from beeyard_core.fleet import Pool, ProcessReport, WorkerState
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.state import QueenState
from beeyard_queen.ingress.waiting import Waiting
from beeyard_runtime.testing import ManualClock

from tests.support.core_values import fleet_of, job_of, pool_of, report_of

M = ModelName("m")
JOB = job_of("j1", 1)


def loading(share: float, worker_id: str = "w1") -> ProcessReport:
    """A process that loads m, as its host sees it."""
    return ProcessReport(
        worker_id=WorkerId(worker_id), model=M, state=WorkerState.STARTING, load_progress=share
    )


def told(state: QueenState, clock: ManualClock | None = None) -> tuple[str, float, str]:
    progress = Waiting(state, clock or ManualClock()).progress(JOB).progress
    return progress.stage, progress.fraction, progress.message


@pytest.mark.parametrize(
    ("share", "shown", "message"),
    [
        (0.0, 0.0, "loading the model"),
        (0.04, 0.0, "loading the model"),
        (0.4, 0.4, "loading the model, 40%"),
        (0.449, 0.4, "loading the model, 40%"),
        (0.9999, 0.95, "loading the model, 95%"),
        (1.0, 1.0, "loading the model, 100%"),
    ],
)
def test_how_far_a_model_is_loaded_goes_in_steps(share: float, shown: float, message: str) -> None:
    starting = report_of("w1", state=WorkerState.STARTING, load_progress=share)
    assert told(QueenState(fleet=fleet_of(starting))) == ("loading_model", shown, message)


def test_of_several_workers_that_load_the_furthest_counts() -> None:
    starting = (
        report_of(f"w{n}", state=WorkerState.STARTING, load_progress=n / 10) for n in (3, 7, 5)
    )
    assert told(QueenState(fleet=fleet_of(*starting)))[1] == 0.7


def test_a_worker_that_is_not_attached_is_seen_by_its_host() -> None:
    state = QueenState(fleet=fleet_of(pools=(pool_of(processes=(loading(0.5),)),)))
    assert told(state) == ("loading_model", 0.5, "loading the model, 50%")


def test_a_process_that_ended_loads_nothing() -> None:
    gone = dataclasses.replace(loading(0.5), exited=True)
    state = QueenState(fleet=fleet_of(pools=(pool_of(processes=(gone,)),)))
    assert told(state) == ("queued", 0.0, "waiting for a worker of this model")


def test_whoever_is_served_hears_of_the_queue_and_not_of_another_workers_load() -> None:
    other = report_of("w2", state=WorkerState.STARTING, load_progress=0.5)
    state = QueenState(fleet=fleet_of(report_of("w1"), other))
    assert told(state)[0] == "queued"
    state.fleet.workers[WorkerId("w1")].is_drained = True
    assert told(state)[0] == "loading_model", "a worker that goes serves nobody"


async def test_hosts_are_looked_at_no_more_than_twice_in_an_interval() -> None:
    clock = ManualClock()
    state = QueenState(fleet=fleet_of(pools=(pool_of(processes=(loading(0.1),)),)))
    waiting = Waiting(state, clock)
    assert waiting.progress(JOB).progress.fraction == 0.1
    report = pool_of(processes=(loading(0.8),))
    state.fleet.pools[PoolId("p1")] = Pool(report, 0)
    assert waiting.progress(JOB).progress.fraction == 0.1
    await clock.advance(limits.PROGRESS_INTERVAL_MS // 2)
    assert waiting.progress(JOB).progress.fraction == 0.8
