"""Who can take a job: a reason for every exclusion. Who gets it, the policy says; see `test_policy_intents.py`."""

from collections.abc import Callable

import pytest
from beeyard_core import limits
from beeyard_core.fleet import Fleet, Worker, WorkerReport, WorkerState
from beeyard_core.ids import PoolId, WorkerId
from beeyard_core.job import JobSpec, PlacementWish, Requirements
from beeyard_core.placement import exclusion
from beeyard_core.refusal import Refusal

from tests.support.core_values import (
    GIB,
    START,
    fleet_of,
    pool_of,
    report_of,
    spec_of,
)

NOW_MS = START.mono_ms
W1 = WorkerId("w1")


def needing(**needs: object) -> JobSpec:
    return spec_of(requirements=Requirements(**needs))  # type: ignore[arg-type]


def wishing(**wishes: object) -> JobSpec:
    return spec_of(placement=PlacementWish(**wishes))  # type: ignore[arg-type]


def one_worker(report: WorkerReport | None = None) -> tuple[Fleet, Worker]:
    fleet = fleet_of(report or report_of("w1"), pools=(pool_of("p1"),))
    return fleet, fleet.workers[W1]


LASTING = [
    (spec_of("n"), Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL, "needs model n, holds m"),
    (
        spec_of(engine="vllm"),
        Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE,
        "needs engine vllm, has synthetic",
    ),
    (
        needing(extensions=("deterministic", "lora")),
        Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE,
        "needs extension deterministic and lora, has none",
    ),
    (
        wishing(pin_pool_id=PoolId("p2")),
        Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK,
        "pinned to pool p2, is in p1",
    ),
    (
        wishing(avoid_pool_ids=(PoolId("p1"),)),
        Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK,
        "pool p1 is to be avoided",
    ),
    (
        needing(min_vram_bytes=24 * GIB + 1),
        Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
        f"needs a device of {24 * GIB + 1} bytes, has {24 * GIB}",
    ),
    (
        needing(quantizations=("F16", "Q8_0")),
        Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION,
        "needs quantization F16 or Q8_0, has Q4_K_M",
    ),
    (
        needing(min_compute_capability=(9, 0)),
        Refusal.NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY,
        "needs compute capability 9.0, has 8.6",
    ),
    (
        needing(min_context_tokens=1_001),
        Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
        "needs a context of about 1001 tokens, has 1000",
    ),
    (
        spec_of(max_tokens=1_000),
        Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
        "needs a context of about 1005 tokens, has 1000",
    ),
]


def test_a_job_that_the_whole_kv_memory_cannot_hold_never_fits() -> None:
    fleet, worker = one_worker(report_of("w1", kv_tokens_total=500))
    assert exclusion(spec_of(prompt_tokens=20, max_tokens=490), fleet, worker, NOW_MS) is None
    found = exclusion(spec_of(prompt_tokens=20, max_tokens=491), fleet, worker, NOW_MS)
    assert found is not None
    assert found.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT
    assert found.detail == "needs about 501 KV tokens, has 500 in all"


@pytest.mark.parametrize(("spec", "reason", "detail"), LASTING)
def test_what_a_worker_can_never_take_is_said_with_what_was_needed(
    spec: JobSpec, reason: Refusal, detail: str
) -> None:
    fleet, worker = one_worker()
    found = exclusion(spec, fleet, worker, NOW_MS)
    assert found is not None
    assert (found.reason, found.detail) == (reason, detail)


def test_a_worker_offers_the_extensions_that_it_reports() -> None:
    fleet, worker = one_worker(report_of("w1", extensions=frozenset({"lora", "tools"})))
    assert exclusion(needing(extensions=("lora",)), fleet, worker, NOW_MS) is None
    found = exclusion(needing(extensions=("lora", "vision")), fleet, worker, NOW_MS)
    assert found is not None
    assert found.detail == "needs extension vision, has lora and tools"


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(),
        spec_of(engine="synthetic"),
        wishing(pin_pool_id=PoolId("p1"), avoid_pool_ids=(PoolId("p2"),)),
        needing(
            min_vram_bytes=24 * GIB,
            quantizations=("F16", "Q4_K_M"),
            min_compute_capability=(8, 6),
            min_context_tokens=1_000,
        ),
        spec_of(prompt_tokens=20, max_tokens=990),
    ],
)
def test_what_is_just_enough_is_enough(spec: JobSpec) -> None:
    fleet, worker = one_worker()
    assert exclusion(spec, fleet, worker, NOW_MS) is None


def test_the_first_reason_of_the_contracts_order_is_given() -> None:
    spec = spec_of(
        engine="vllm",
        placement=PlacementWish(pin_pool_id=PoolId("p2")),
        requirements=Requirements(min_vram_bytes=80 * GIB),
    )
    fleet, worker = one_worker(report_of("w1", state=WorkerState.STARTING))
    found = exclusion(spec, fleet, worker, NOW_MS)
    assert found is not None
    assert found.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE


@pytest.mark.parametrize(
    ("device", "spec", "reason"),
    [
        (
            "nowhere",
            needing(min_vram_bytes=1),
            Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
        ),
        (
            "nowhere",
            needing(min_compute_capability=(1, 0)),
            Refusal.NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY,
        ),
        ("nowhere", spec_of(), None),
    ],
)
def test_a_device_that_nobody_reported_satisfies_no_demand(
    device: str, spec: JobSpec, reason: Refusal | None
) -> None:
    for pools in ((), (pool_of("p1"),)):
        fleet = fleet_of(report_of("w1", device=device), pools=pools)
        found = exclusion(spec, fleet, fleet.workers[W1], NOW_MS)
        assert (found.reason if found else None) == reason


def test_an_unknown_context_or_quantization_excludes_nothing_that_does_not_ask() -> None:
    fleet, worker = one_worker(
        report_of("w1", context_tokens=0, kv_tokens_total=0, quantization="")
    )
    assert exclusion(spec_of(max_tokens=10_000), fleet, worker, NOW_MS) is None
    found = exclusion(needing(quantizations=("F16",)), fleet, worker, NOW_MS)
    assert found is not None
    assert found.detail == "needs quantization F16, has unknown"


def drained(worker: Worker, _fleet: Fleet) -> None:
    worker.is_drained = True


def saturated(worker: Worker, _fleet: Fleet) -> None:
    worker.is_saturated = True


def detached(worker: Worker, _fleet: Fleet) -> None:
    worker.session = 0


def silent(worker: Worker, _fleet: Fleet) -> None:
    worker.heard_at_ms -= 3 * limits.HEARTBEAT_INTERVAL_MS + 1


def host_silent(_worker: Worker, fleet: Fleet) -> None:
    fleet.pools[PoolId("p1")].reported_at_ms -= limits.REPORT_STALE_MS + 1


def short_of_memory(worker: Worker, _fleet: Fleet) -> None:
    worker.kv_tokens_used = 4_000 - 29


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        (drained, Refusal.DRAINING, "takes no new work"),
        (saturated, Refusal.WORKER_BUSY, "refused an offer since its last heartbeat"),
        (detached, Refusal.POOL_UNREADY, "its reports are stale"),
        (silent, Refusal.POOL_UNREADY, "its reports are stale"),
        (host_silent, Refusal.POOL_UNREADY, "its reports are stale"),
        (short_of_memory, Refusal.WORKER_BUSY, "needs 30 KV tokens, 29 are free"),
    ],
)
def test_what_passes_again_is_said_too(
    change: Callable[[Worker, Fleet], None], reason: Refusal, detail: str
) -> None:
    fleet, worker = one_worker()
    change(worker, fleet)
    found = exclusion(spec_of(), fleet, worker, NOW_MS)
    assert found is not None
    assert (found.reason, found.detail) == (reason, detail)
    assert found.reason.is_transient


@pytest.mark.parametrize(
    ("state", "reason", "detail"),
    [
        (WorkerState.STARTING, Refusal.POOL_UNREADY, "is starting"),
        (WorkerState.FAILED, Refusal.POOL_UNREADY, "is failed"),
        (WorkerState.DRAINING, Refusal.DRAINING, "takes no new work"),
        (WorkerState.READY, None, ""),
        (WorkerState.BUSY, None, ""),
    ],
)
def test_only_a_worker_that_is_ready_or_busy_takes_a_job(
    state: WorkerState, reason: Refusal | None, detail: str
) -> None:
    fleet, worker = one_worker(report_of("w1", state=state))
    found = exclusion(spec_of(), fleet, worker, NOW_MS)
    assert (found.reason if found else None, found.detail if found else "") == (reason, detail)
    assert worker.is_open == (reason is None)


def test_a_worker_without_slots_takes_nothing() -> None:
    fleet, worker = one_worker(report_of("w1", slots_total=0))
    found = exclusion(spec_of(), fleet, worker, NOW_MS)
    assert found is not None
    assert (found.reason, found.detail) == (Refusal.WORKER_BUSY, "all 0 slots are taken")
    assert worker.load == 1.0


def test_an_estimate_beyond_all_kv_memory_waits_only_for_an_empty_worker() -> None:
    fleet, worker = one_worker(report_of("w1", context_tokens=0, kv_tokens_total=100))
    huge = spec_of(prompt_tokens=150)
    assert exclusion(huge, fleet, worker, NOW_MS) is None
    worker.kv_tokens_used = 1
    assert exclusion(huge, fleet, worker, NOW_MS) is not None
