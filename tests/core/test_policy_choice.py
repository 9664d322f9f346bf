"""Whom the platform policy chooses, what tenants are charged, and what a policy's mirror is told."""

import pytest
from beeyard_core import limits
from beeyard_core.dispatch import enqueue
from beeyard_core.event import CancelRequested, LeaseFinished, PoolReported, WorkerAttached
from beeyard_core.fairness import tenant_of
from beeyard_core.fleet import ProcessReport, Traits, WorkerReport, WorkerState
from beeyard_core.ids import ModelName, PoolId, TenantId, WorkerId, lease_id_of
from beeyard_core.job import Finish, JobSpec, PlacementWish, Priority, Requirements
from beeyard_core.placement import exclusion
from beeyard_core.policy.apply import apply
from beeyard_core.policy.intent import Dispatch, Evict, Reject, StartWorker, Wait
from beeyard_core.policy.projection import Projection, rows_of, world_of
from beeyard_core.policy.schedule import is_due, schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.policy.world import GpuRow, JobRow, ModelRow, PrefixRow, TenantRow, WorkerRow
from beeyard_core.state import QueenState, Tenant
from beeyard_core.step import step
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.core_values import (
    GIB,
    START,
    cached_of,
    device_of,
    job_of,
    pool_of,
    report_of,
    spec_of,
)
from tests.support.core_yard import Yard, yard

W1 = WorkerId("w1")


# --- The platform policy's choice ---


def choice(spec: JobSpec, *workers: tuple[str, str, int], free_gib: dict[str, int]) -> str:
    """Return who gets the job, among workers given as (id, pool, jobs that run there)."""
    state = QueenState()
    for pool_id, free in free_gib.items():
        devices = (device_of(vram_free_bytes=free * GIB),)
        step(state, PoolReported(pool_of(pool_id, devices=devices)), START)
    here = Yard(state)
    for number, (worker_id, pool_id, _) in enumerate(workers):
        report = report_of(worker_id, pool_id=PoolId(pool_id))
        step(state, WorkerAttached(session=number + 1, report=report), START)
    for worker_id, _, taken in workers:
        for number in range(taken):
            here.run(f"{worker_id}-{number}", worker_id)
    job = job_of("j1", state.next_sequence(), spec)
    state.jobs[job.job_id] = job
    enqueue(state, job)
    schedule(state, Projection(), Twin(), START, [])
    assert job.worker_id is not None
    return job.worker_id


def test_the_least_loaded_worker_wins() -> None:
    workers = (("w1", "p1", 2), ("w2", "p2", 1))
    assert choice(spec_of(), *workers, free_gib={"p1": 20, "p2": 1}) == "w2"


def test_among_equally_loaded_the_one_with_most_memory_free_wins() -> None:
    workers = (("w1", "p1", 1), ("w2", "p2", 1))
    assert choice(spec_of(), *workers, free_gib={"p1": 1, "p2": 20}) == "w2"


def test_among_equals_the_smallest_name_wins() -> None:
    workers = (("w2", "p1", 1), ("w1", "p2", 1), ("w3", "p1", 1))
    assert choice(spec_of(), *workers, free_gib={"p1": 8, "p2": 8}) == "w1"


def test_a_preferred_pool_wins_over_everything() -> None:
    workers = (("w1", "p1", 0), ("w2", "p2", 3))
    spec = spec_of(placement=PlacementWish(prefer_pool_ids=(PoolId("p2"),)))
    assert choice(spec, *workers, free_gib={"p1": 20, "p2": 1}) == "w2"


REPORTS = st.lists(
    st.builds(
        report_of,
        st.sampled_from([f"w{n}" for n in range(8)]),
        pool_id=st.sampled_from([PoolId("p1"), PoolId("p2")]),
        device=st.sampled_from(["gpu0", "gpu1"]),
        slots_total=st.integers(0, 3),
        tokens_per_s=st.sampled_from([0.0, 20.0, 50.0]),
        state=st.sampled_from(WorkerState),
        model=st.sampled_from([ModelName("m"), ModelName("n")]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda report: report.worker_id,
)
HOSTS = tuple(
    pool_of(p, devices=(device_of("gpu0", vram_free_bytes=4), device_of("gpu1")))
    for p in ("p1", "p2")
)


def chosen_among(reports: list[WorkerReport]) -> tuple[WorkerId | None, QueenState]:
    state = QueenState()
    for host in HOSTS:
        step(state, PoolReported(host), START)
    for number, report in enumerate(reports):
        step(state, WorkerAttached(session=number + 1, report=report), START)
    job = Yard(state).wait("j1")
    schedule(state, Projection(), Twin(), START, [])
    return job.worker_id, state


@in_cases(10)
@given(REPORTS, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_in_which_workers_came(
    reports: list[WorkerReport], chance: object
) -> None:
    shuffled = reports.copy()
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert chosen_among(reports)[0] == chosen_among(shuffled)[0]


@in_cases(10)
@given(REPORTS)
def test_somebody_is_chosen_if_anybody_can_take_the_job(reports: list[WorkerReport]) -> None:
    chosen, state = chosen_among(reports)
    if chosen is None:
        for worker in state.fleet.workers.values():
            assert exclusion(spec_of(), state.fleet, worker, START.mono_ms) is not None


# --- Tenants ---


def test_a_flood_of_one_tenant_pays_before_it_is_served() -> None:
    here = yard(report_of("w1", slots_total=8))
    for number in range(4):
        here.run(f"a{number}", tenant_id=TenantId("a"))
    a = here.state.tenants[TenantId("a")]
    assert (a.jobs_running, a.tokens_served) == (4, 4 * 30)


def test_what_was_charged_and_not_used_is_given_back() -> None:
    here = yard()
    job = here.run("j1", tenant_id=TenantId("a"), prompt_tokens=10, max_tokens=20)
    finish = Finish(reason="stop", prompt_tokens=4)
    step(here.state, LeaseFinished(W1, lease_id_of(job.epoch), job.epoch, 5, finish), START)
    tenant = here.state.tenants[TenantId("a")]
    assert (tenant.jobs_running, tenant.tokens_served) == (0, 4 + 5)


def test_a_tenant_that_was_idle_earns_no_credit() -> None:
    here = yard(report_of("w1", slots_total=8))
    here.run("b1", tenant_id=TenantId("b"))
    here.wait("a1", tenant_id=TenantId("a"))
    assert here.state.tenants[TenantId("a")].tokens_served == 30
    # It is lifted when it comes, and not while it waits.
    here.run("b2", tenant_id=TenantId("b"))
    assert here.state.tenants[TenantId("a")].tokens_served == 30


def test_tenants_that_have_nothing_here_are_forgotten() -> None:
    here = yard(report_of("w1", slots_total=8))
    here.wait("keep", tenant_id=TenantId("waits"))
    for number in range(limits.TENANTS_KEPT_MAX + 5):
        job = here.wait(f"j{number}", tenant_id=TenantId(f"t{number}"))
        assert apply(here.state, Reject(job_id=job.job_id), START, [], label="test@1") is None
    assert len(here.state.tenants) == limits.TENANTS_KEPT_MAX
    assert TenantId("waits") in here.state.tenants
    assert TenantId("t0") not in here.state.tenants
    twin = Twin()
    twin.put(TenantRow(tenant_id="t0"))
    twin.take(Projection().drain(here.state, START.mono_ms))
    assert "t0" not in twin.tenants


def test_more_tenants_than_are_kept_are_kept_while_all_have_jobs() -> None:
    here = yard()
    here.state.tenants = {
        TenantId(f"t{n}"): Tenant(jobs_waiting=1) for n in range(limits.TENANTS_KEPT_MAX)
    }
    tenant_of(here.state, TenantId("one-more"))
    assert len(here.state.tenants) == limits.TENANTS_KEPT_MAX + 1


# --- What a mirror is told ---


def test_a_device_that_is_gone_is_forgotten() -> None:
    here, twin, projection = yard(), Twin(), Projection()
    for devices in ((device_of("gpu-a"), device_of("gpu-b")), (device_of("gpu-a"),)):
        step(here.state, PoolReported(pool_of("p1", devices=devices)), START)
        twin.take(projection.drain(here.state, START.mono_ms))
        assert len(twin.yard.gpus) == len(twin.yard.roomiest) == len(devices)


def test_memory_that_a_loading_worker_will_take_is_not_free() -> None:
    here = yard()
    loading = ProcessReport(
        worker_id=W1, model=ModelName("m"), state=WorkerState.STARTING, device="gpu0",
        reserved_bytes=4 * GIB, load_progress=0.25,
    )  # fmt: skip
    step(here.state, PoolReported(pool_of("p1", processes=(loading,))), START)
    (gpu,) = [c for c in Projection().drain(here.state, START.mono_ms) if isinstance(c, GpuRow)]
    assert gpu.vram_free == 17 * GIB


def test_requirements_travel_to_the_policy_as_texts() -> None:
    here = yard()
    need = Requirements(quantizations=("Q4_K_M", "Q8_0"), min_compute_capability=(8, 6))
    here.wait(
        "j1",
        requirements=need,
        labels=(("geo.lat", "52.5"), ("geo.lon", "north"), ("type", "chat")),
    )
    changes = Projection().drain(here.state, START.mono_ms)
    (row,) = [change for change in changes if isinstance(change, JobRow)]
    assert (row.quantizations, row.min_compute_capability) == ("Q4_K_M,Q8_0", "8.6")
    assert (row.geo_lat, row.geo_lon, row.type) == (52.5, None, "chat")


def test_a_fresh_mirror_begins_with_everything_but_what_left_meanwhile() -> None:
    here, projection = yard(report_of("w1", slots_total=1)), Projection()
    step(here.state, PoolReported(pool_of("p1")), START)
    here.run("runs")
    here.wait("waits")
    here.wait("leaves")
    projection.drain(here.state, START.mono_ms)
    rows = rows_of(here.state, START.mono_ms, projection)
    twin = Twin()
    for row in rows:
        if isinstance(row, JobRow):
            assert here.want(Reject(job_id="leaves")) is None
        twin.put(row)
        if isinstance(row, JobRow):
            break
    twin.take(list(rows))
    world = world_of(here.state, START.mono_ms, projection)
    assert twin.lines.jobs == world.jobs
    assert twin.yard.runs == world.running
    assert twin.yard.models == world.models


def test_nothing_is_decided_on_half_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOBS_TOLD_AT_ONCE_MAX", 4)
    here, twin, projection = yard(report_of("w1", slots_total=9)), Twin(), Projection()
    for number in range(9):
        here.wait(f"batch-{number}", priority=Priority.BATCH)
    urgent = here.wait("urgent", priority=Priority.INTERACTIVE)
    told = []
    for _ in range(3):
        assert urgent.worker_id is None
        schedule(here.state, projection, twin, START, [])
        told.append((len(twin.lines.jobs), projection.is_behind, is_due(here.state, START)))
    # The last of three pieces brought the urgent job, and with it decisions: all but one have slots.
    assert told == [(4, True, True), (8, True, True), (1, False, False)]
    assert urgent.worker_id == W1


def test_what_changes_before_it_is_told_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    here, twin, projection = yard(), Twin(), Projection()
    jobs = [here.wait(f"j{number}") for number in range(6)]
    monkeypatch.setattr(limits, "JOBS_TOLD_AT_ONCE_MAX", 2)
    twin.take(projection.drain(here.state, START.mono_ms))
    # One that was told and one that was not leave; one comes anew.
    step(here.state, CancelRequested(jobs[0].job_id), START)
    step(here.state, CancelRequested(jobs[5].job_id), START)
    here.wait("j6")
    while projection.is_behind:
        twin.take(projection.drain(here.state, START.mono_ms))
    assert twin.lines.jobs == world_of(here.state, START.mono_ms, projection).jobs
    assert list(twin.lines.jobs) == ["j1", "j2", "j3", "j4", "j6"]


def models_told(here: Yard, projection: Projection) -> dict[str, str]:
    """Return the hosts of each model as a mirror is told of them."""
    projection.drain(here.state, START.mono_ms)
    return {ref: row.pool_ids for ref, row in projection.models.items()}


def test_a_policy_is_told_which_hosts_can_load_a_model() -> None:
    here, projection = yard(), Projection()
    step(here.state, PoolReported(pool_of("p1", models=(cached_of("m"), cached_of("n")))), START)
    assert models_told(here, projection) == {"m": "", "n": ""}
    step(here.state, PoolReported(pool_of("p2", models=(cached_of("m"),))), START)
    assert models_told(here, projection) == {"m": "", "n": "p1"}
    step(here.state, PoolReported(pool_of("p1", models=(cached_of("m"),))), START)
    twin = Twin()
    twin.put(ModelRow(ref="n"))
    twin.take(projection.drain(here.state, START.mono_ms))
    assert "n" not in twin.yard.models


def test_a_worker_is_started_where_its_model_is_even_if_elsewhere_is_more_room() -> None:
    here = Yard(QueenState())
    roomy = device_of(vram_free_bytes=24 * GIB)
    step(here.state, PoolReported(pool_of("p1", devices=(roomy,), models=())), START)
    step(here.state, PoolReported(pool_of("p2")), START)
    here.state.fleet.known_models.add(ModelName("m"))
    here.wait("j1")
    (outcome, *_) = schedule(here.state, Projection(), Twin(), START, [])
    assert outcome.intent == StartWorker.at("m", "p2", "0", reason="no worker serves m")


def test_a_job_waits_for_a_device_that_is_large_enough() -> None:
    large = Requirements(min_vram_bytes=20 * GIB)
    small = device_of(vram_total_bytes=16 * GIB, vram_free_bytes=16 * GIB)
    for devices, intent in (((small,), Wait), ((small, device_of("gpu1")), StartWorker)):
        state = QueenState()
        step(state, PoolReported(pool_of("p1", devices=devices)), START)
        here = Yard(state)
        here.wait("j1", requirements=large)
        (outcome, *_) = schedule(state, Projection(), Twin(), START, [])
        assert type(outcome.intent) is intent


def test_nobody_leaves_a_host_for_a_model_that_it_cannot_load() -> None:
    here = Yard(QueenState())
    full = (device_of(vram_free_bytes=0),)
    step(here.state, PoolReported(pool_of("p1", devices=full, models=(cached_of("x"),))), START)
    step(here.state, PoolReported(pool_of("p2", devices=full)), START)
    step(here.state, WorkerAttached(session=1, report=report_of("wx", model=ModelName("x"))), START)
    here.wait("j1")
    projection, twin = Projection(), Twin()
    (outcome, *_) = schedule(here.state, projection, twin, START, [])
    assert isinstance(outcome.intent, Wait)
    # On a host that could load both, the idle worker makes room.
    both = (cached_of("x"), cached_of("m"))
    step(here.state, PoolReported(pool_of("p1", devices=full, models=both)), START)
    (outcome, *_) = schedule(here.state, projection, twin, START, [])
    assert outcome.intent == Evict(evict_worker_id="wx", reason="makes room for m")


def test_a_prompt_in_the_cache_of_a_full_worker_helps_nobody() -> None:
    twin = Twin()
    for worker_id, free in (("fast", 1), ("holds", 0)):
        twin.put(
            WorkerRow(
                worker_id=worker_id, pool_id="p1", model_ref="m", slots_free=free, tokens_per_s=9.0
            )
        )
    twin.put(PrefixRow(worker_id="holds", prompt_hash="hash", tokens=90))
    twin.put(JobRow(job_id="j1", seq=1, model_ref="m", prompt_hash="hash", prompt_tokens=100))
    decided = twin.decide(START.mono_ms)
    assert isinstance(decided, Dispatch)
    assert decided.worker_id == "fast"


def test_a_worker_has_the_traits_of_its_host() -> None:
    here, projection = Yard(QueenState()), Projection()
    step(here.state, PoolReported(pool_of("p1")), START)
    step(here.state, WorkerAttached(session=1, report=report_of("w1")), START)
    projection.drain(here.state, START.mono_ms)
    told = Traits(cost_per_token=0.5, latitude=52.5, longitude=13.4, capability="image-gen")
    step(here.state, PoolReported(pool_of("p1", traits=told)), START)
    (row,) = [c for c in projection.drain(here.state, START.mono_ms) if isinstance(c, WorkerRow)]
    assert (row.cost_per_token, row.geo_lat, row.geo_lon) == (0.5, 52.5, 13.4)
    assert row.capability == "image-gen"


@pytest.mark.parametrize("has_worker", [True, False])
@pytest.mark.parametrize(
    "wanted", [Requirements(quantizations=("Q8_0",)), Requirements(extensions=("lora",))]
)
def test_a_job_waits_for_a_worker_that_meets_what_it_requires(
    wanted: Requirements, *, has_worker: bool
) -> None:
    here = Yard(QueenState())
    step(here.state, PoolReported(pool_of("p1")), START)
    if has_worker:
        step(here.state, WorkerAttached(session=1, report=report_of("w1")), START)
    here.wait("j1", requirements=wanted)
    (outcome, *_) = schedule(here.state, Projection(), Twin(), START, [])
    assert isinstance(outcome.intent, Wait)


def test_a_slot_whose_job_is_forgotten_runs_nothing_that_a_policy_sees() -> None:
    here = yard()
    job = here.run("j1")
    here.state.fleet.workers[WorkerId("w1")].session = 1
    step(here.state, CancelRequested(job.job_id), START)
    del here.state.jobs[job.job_id]
    assert here.state.leases
    assert world_of(here.state, START.mono_ms, Projection()).running == {}


def test_a_tenant_whose_job_cannot_start_does_not_hold_up_the_next() -> None:
    here = yard()
    step(here.state, PoolReported(pool_of("p1")), START)
    here.run("earlier", tenant_id=TenantId("b"))
    here.wait("a1", tenant_id=TenantId("a"), requirements=Requirements(quantizations=("Q8_0",)))
    here.state.tenants[TenantId("a")].tokens_served = 0
    here.wait("b1", tenant_id=TenantId("b"))
    (outcome, *_) = schedule(here.state, Projection(), Twin(), START, [])
    assert outcome.intent == Dispatch(job_id="b1", worker_id="w1", reason="fair share")
