"""The smallest change that would let a waiting job run: found where there is one, and true where it is told."""

import random

import pytest
from beeyard_core.demand import Promised
from beeyard_core.fleet import Fleet, PoolReport, Worker, WorkerReport, WorkerState
from beeyard_core.ids import LeaseId, ModelName, PoolId, WorkerId
from beeyard_core.job import JobSpec, PlacementWish, Requirements
from beeyard_core.placement import exclusion
from beeyard_core.remedy import Remedy, RemedyKind, smallest_remedy, works
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.core_values import (
    GIB,
    START,
    cached_of,
    device_of,
    fleet_of,
    pool_of,
    report_of,
    spec_of,
)

NOW = START.mono_ms
P1, W1 = PoolId("p1"), WorkerId("w1")
HOST = pool_of(models=())


def remedy_of(spec: JobSpec, fleet: Fleet, promised: Promised | None = None) -> Remedy | None:
    return smallest_remedy(spec, fleet, fleet.workers.values(), promised or {}, NOW)


def crowded(report: WorkerReport, leases: int, kv_tokens: int = 0) -> Fleet:
    """A fleet of one worker that holds some leases."""
    fleet = fleet_of(report, pools=(HOST,))
    worker = fleet.workers[report.worker_id]
    worker.leases.update(LeaseId(f"lease-{number}") for number in range(leases))
    worker.kv_tokens_used = kv_tokens
    fleet.reindex(worker)
    return fleet


def changed(**changes: object) -> Fleet:
    """A fleet of one worker that differs so."""
    fleet = fleet_of(report_of("w1"), pools=(HOST,))
    for name, value in changes.items():
        setattr(fleet.workers[W1], name, value)
    return fleet


AWAY = NOW - 60_000
CASES: list[tuple[str, JobSpec, Fleet, Remedy]] = [
    (
        "a worker that is full: one slot more",
        spec_of(),
        crowded(report_of("w1", slots_total=2), 2),
        Remedy(RemedyKind.SLOTS, 1, "w1", P1),
    ),
    (
        "a worker that came back smaller: as many slots as it lacks",
        spec_of(),
        crowded(report_of("w1", slots_total=1), 3),
        Remedy(RemedyKind.SLOTS, 3, "w1", P1),
    ),
    (
        "KV memory: what is missing of it",
        spec_of(),
        crowded(report_of("w1"), 1, 3_990),
        Remedy(RemedyKind.KV_TOKENS, 20, "w1", P1),
    ),
    (
        "silence: a report",
        spec_of(),
        changed(heard_at_ms=AWAY),
        Remedy(RemedyKind.REPORT, 0, "w1", P1),
    ),
    (
        "an offer refused a moment ago: its next report",
        spec_of(),
        changed(is_saturated=True),
        Remedy(RemedyKind.REPORT, 0, "w1", P1),
    ),
    (
        "a lost stream: it comes back",
        spec_of(),
        changed(session=0),
        Remedy(RemedyKind.REPORT, 0, "w1", P1),
    ),
    (
        "a model that loads: it has loaded",
        spec_of(),
        changed(report=report_of("w1", state=WorkerState.STARTING)),
        Remedy(RemedyKind.LOADED, 0, "w1", P1),
    ),
    (
        "a worker that drains: it takes work again",
        spec_of(),
        changed(is_drained=True),
        Remedy(RemedyKind.UNDRAIN, 0, "w1", P1),
    ),
    (
        "too long a context: fewer tokens",
        spec_of(max_tokens=1_010, prompt_tokens=20),
        fleet_of(report_of("w1"), pools=(HOST,)),
        Remedy(RemedyKind.FEWER_TOKENS, 20, "w1", P1),
    ),
    (
        "another engine: without that demand",
        spec_of(engine="llamacpp"),
        fleet_of(report_of("w1"), pools=(HOST,)),
        Remedy(RemedyKind.DEMAND, 0, "w1", P1, "engine"),
    ),
    (
        "pinned elsewhere: without the pin",
        spec_of(placement=PlacementWish(pin_pool_id=PoolId("p9"))),
        fleet_of(report_of("w1"), pools=(HOST,)),
        Remedy(RemedyKind.DEMAND, 0, "w1", P1, "placement.pin_pool_id"),
    ),
    (
        "too large a device: without that demand",
        spec_of(requirements=Requirements(min_vram_bytes=80 * GIB)),
        fleet_of(report_of("w1"), pools=(HOST,)),
        Remedy(RemedyKind.DEMAND, 0, "w1", P1, "requirements.min_vram_bytes"),
    ),
    (
        "no worker, and room for one: a worker",
        spec_of(),
        fleet_of(pools=(pool_of(),)),
        Remedy(RemedyKind.WORKER, 0, "gpu0", P1),
    ),
    (
        "no worker, and too little room: what is missing",
        spec_of(),
        fleet_of(pools=(pool_of(devices=(device_of(vram_free_bytes=2 * GIB),)),)),
        Remedy(RemedyKind.VRAM, 2 * GIB, "gpu0", P1),
    ),
]


@pytest.mark.parametrize(
    ("spec", "fleet", "wanted"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_smallest_change_is_told(spec: JobSpec, fleet: Fleet, wanted: Remedy) -> None:
    assert remedy_of(spec, fleet) == wanted


def test_a_host_that_is_too_busy_has_to_be_less_so() -> None:
    fleet = fleet_of(report_of("w1"), pools=(HOST,))
    fleet.closed_pools = {P1}
    assert remedy_of(spec_of(), fleet) == Remedy(RemedyKind.GATE, 0, "w1", P1)


def test_who_can_be_placed_needs_no_remedy() -> None:
    fleet = fleet_of(report_of("w1"), report_of("w2", model=ModelName("other")), pools=(HOST,))
    assert remedy_of(spec_of(), fleet) is None
    assert remedy_of(spec_of("nobody's"), fleet) is None


def test_a_worker_without_a_pool_manager_is_heard_of_again_by_itself() -> None:
    fleet = fleet_of(report_of("w1"))
    fleet.workers[W1].session = 0
    assert remedy_of(spec_of(), fleet) == Remedy(RemedyKind.REPORT, 0, "w1", P1)


def test_two_things_at_once_have_no_single_remedy() -> None:
    fleet = changed(is_drained=True)
    assert remedy_of(spec_of(engine="llamacpp"), fleet) is None


def test_memory_that_was_promised_is_not_there() -> None:
    fleet = fleet_of(pools=(pool_of(),))
    promised = {(P1, "gpu0"): 18 * GIB}
    assert remedy_of(spec_of(), fleet, promised) == Remedy(RemedyKind.VRAM, 2 * GIB, "gpu0", P1)


def test_no_worker_is_started_on_a_silent_host_or_of_a_broken_model() -> None:
    fleet = fleet_of(pools=(pool_of(models=(cached_of(fault="broken"), cached_of("other"))),))
    assert remedy_of(spec_of(), fleet) is None
    fleet = fleet_of(pools=(pool_of(),))
    fleet.pools[P1].reported_at_ms = AWAY
    assert remedy_of(spec_of(), fleet) is None


# --- Whatever the scene ---


def drawn_worker(chance: random.Random, number: int) -> Worker:
    pick = chance.choice
    report = report_of(
        f"w{number}",
        pool_id=PoolId(pick(("p1", "p2"))),
        model=ModelName(pick(("m", "m", "other"))),
        engine=pick(("synthetic", "llamacpp")),
        quantization=pick(("Q4_K_M", "")),
        state=pick(
            (WorkerState.READY, WorkerState.BUSY, WorkerState.STARTING, WorkerState.DRAINING)
        ),
        slots_total=pick((0, 1, 4)),
        context_tokens=pick((40, 1_000)),
        kv_tokens_total=pick((60, 4_000)),
    )
    worker = Worker(report=report, session=pick((0, 1, 1)), heard_at_ms=pick((NOW, NOW, AWAY)))
    worker.leases.update(LeaseId(f"l{number}-{each}") for each in range(pick((0, 1, 4))))
    worker.kv_tokens_used = pick((0, 30, 4_000))
    worker.is_drained, worker.is_saturated = chance.random() < 0.2, chance.random() < 0.2
    return worker


def drawn_scene(seed: int) -> tuple[JobSpec, Fleet]:
    chance = random.Random(seed)
    pick = chance.choice
    pools: list[PoolReport] = [
        pool_of(
            name,
            devices=(device_of(f"{name}-gpu", vram_free_bytes=pick((1, 20)) * GIB),),
            models=(cached_of(required_bytes=pick((4, 22, 30)) * GIB),),
            inventory_fault=pick(("", "", "no driver")),
        )
        for name in ("p1", "p2")
    ]
    fleet = fleet_of(pools=tuple(pools))
    for number in range(chance.randrange(4)):
        worker = drawn_worker(chance, number)
        fleet.workers[worker.report.worker_id] = worker
        fleet.reindex(worker)
    fleet.closed_pools = pick((set(), {PoolId("p2")}, {P1, PoolId("p2")}))
    spec = spec_of(
        max_tokens=pick((20, 80)),
        engine=pick(("", "llamacpp")),
        placement=PlacementWish(
            pin_pool_id=pick((None, P1)), avoid_pool_ids=pick(((), (PoolId("p2"),)))
        ),
        requirements=Requirements(
            min_vram_bytes=pick((0, 30 * GIB)),
            quantizations=pick(((), ("Q4_K_M",))),
            min_compute_capability=pick((None, (9, 0))),
            min_context_tokens=pick((0, 200)),
        ),
    )
    return spec, fleet


@in_cases(200)
@given(st.integers(0, 2**32))
def test_with_the_change_that_is_told_the_job_is_placeable(seed: int) -> None:
    spec, fleet = drawn_scene(seed)
    remedy = remedy_of(spec, fleet)
    if remedy is None:
        return
    mine = [worker for worker in fleet.workers.values() if worker.report.model == spec.model]
    assert all(exclusion(spec, fleet, worker, NOW) is not None for worker in mine)
    assert works(remedy, spec, fleet, {}, NOW)
    # It is the smallest of its kind: with less of it, it would not do.
    if remedy.amount:
        assert not works(remedy._replace(amount=remedy.amount - 1), spec, fleet, {}, NOW)


@in_cases(50)
@given(st.integers(0, 2**32))
def test_looking_for_a_change_changes_nothing(seed: int) -> None:
    spec, fleet = drawn_scene(seed)
    before = repr(fleet)
    remedy_of(spec, fleet)
    assert repr(fleet) == before
