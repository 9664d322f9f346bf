"""Random histories for policies: scenes in which different decisions are due, then changes row by row.

A fleet drawn evenly from everything hardly ever needs a job taken back or a worker evicted. So each history begins in
one of four scenes, and most of what follows is of the same kind.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from beeyard_core.policy.world import (
    CLASSES,
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    Row,
    RunningRow,
    TenantRow,
    WorkerRow,
)
from hypothesis import strategies as st

NOW_MS = 1_000_000
RESIDENCE_MS = 60_000
GIB = 1 << 30

Rows = st.SearchStrategy[Any]
Changes = st.SearchStrategy[list[tuple[object, ...]]]
R = TypeVar("R", bound=Row)

one_of = st.sampled_from
MODELS = one_of(["m1", "m2", "m3"])
POOLS = one_of(["p1", "p2"])
WORKERS = one_of(["w1", "w2", "w3", "w4", "w5"])
JOBS = one_of([f"j{n}" for n in range(12)])
RUNNING = one_of(["r1", "r2", "r3", "r4", "r5"])
TENANTS = one_of(["a", "b", "c"])
PROMPTS = one_of(["", "h1", "h2"])


def rows(kind: type[R], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[R]:
    """Rows of a kind with these fields drawn; `st.builds` would draw those with defaults, too."""
    return st.fixed_dictionaries(fields).map(lambda given: kind(**given))


WORKER: Mapping[str, Rows] = {
    "worker_id": WORKERS,
    "pool_id": POOLS,
    "status": one_of([*["ready"] * 9, "busy", "starting", "draining", "leaving", "failed"]),
    "model_ref": MODELS,
    "engine": st.just("llamacpp"),
    "slots_total": st.integers(2, 3),
    "slots_free": st.integers(0, 2),
    "vram_free": one_of([0, 8 * GIB, 12 * GIB]),
    "kv_free_tokens": one_of([None, None, 100, 700, 5000]),
    "load": one_of([0.0, 0.5]),
    "tokens_per_s": one_of([0.0, 10.0, 20.0]),
    "last_used_at": st.integers(0, 3),
    "gpu_ids": one_of(["", "0", "1", "0,1"]),
    "context_tokens": one_of([0, 0, 600, 4096]),
    "quantization": one_of(["", "q4", "q8"]),
    "prefill_speedup": st.just(0.0),
    "jobs_served": st.integers(0, 2),
    "resident_at": one_of([*[0] * 5, NOW_MS - RESIDENCE_MS, NOW_MS - RESIDENCE_MS + 1]),
    "served_class": one_of(["", *CLASSES]),
    "extensions": st.just("lora,tools"),
}
JOB: Mapping[str, Rows] = {
    "job_id": JOBS,
    "seq": st.just(0),
    "tenant_id": TENANTS,
    "priority": one_of(CLASSES),
    "model_ref": MODELS,
    "prompt_hash": PROMPTS,
    "prompt_tokens": one_of([0, 50, 500, 900]),
    "max_tokens": one_of([10, 60]),
    "expected_tokens": one_of([5, 40]),
    "queued_at": one_of([NOW_MS, NOW_MS - 300_000, NOW_MS - 299_999, 0]),
    "deadline_at": one_of([None, None, NOW_MS + 10, NOW_MS + 20]),
    "estimated_vram_bytes": one_of([0, 0, 0, 6 * GIB]),
    "engine": one_of([*[""] * 6, "llamacpp", "other"]),
    "min_context_tokens": one_of([*[0] * 9, 1000]),
    "min_compute_capability": one_of([*[""] * 9, "8.6"]),
    "quantizations": one_of([*[""] * 9, "q4", "q4,q8"]),
    "pin_pool_id": one_of([*[""] * 9, "p1"]),
    "prefer_pool_ids": one_of([*[""] * 6, "p1", "p2", "p1,p2"]),
    "avoid_pool_ids": one_of([*[""] * 9, "p2"]),
    "min_vram_bytes": one_of([*[0] * 9, 20 * GIB]),
    "extensions": st.just(""),
    "session_turn": one_of([0, 0, 0, 1, 64, 64]),
    "is_next": one_of([*[False] * 29, True]),
}
RUN: Mapping[str, Rows] = {
    "job_id": RUNNING,
    "worker_id": WORKERS,
    "tenant_id": TENANTS,
    "priority": one_of(CLASSES),
    "kv_tokens": one_of([0, 600]),
    "started_at": st.integers(0, 2),
    "is_stopping": one_of([False, False, False, True]),
    "is_kept": one_of([*[False] * 9, True]),
}
GPU: Mapping[str, Rows] = {
    "pool_id": POOLS,
    "gpu_id": one_of(["0", "1", "10"]),
    "vram_total": one_of([16 * GIB, 24 * GIB, 24 * GIB]),
    "vram_free": one_of([0, 4 * GIB, 12 * GIB]),
    "compute_capability": one_of(["", "7.5", "8.6", "8.10"]),
}
prefix_rows = rows(PrefixRow, worker_id=WORKERS, prompt_hash=PROMPTS, tokens=one_of([0, 40, 800]))
pool_rows = rows(
    PoolRow,
    pool_id=POOLS,
    status=one_of([*["ready"] * 6, "stale", "draining"]),
    last_report_ms=st.integers(0, 5),
)
tenant_rows = rows(
    TenantRow,
    tenant_id=TENANTS,
    quota_vram=one_of([None, None, 8 * GIB]),
    quota_used=one_of([0, 4 * GIB]),
    quota_jobs=one_of([None, None, 2]),
    jobs_running=st.integers(0, 2),
    tokens_served=one_of([0, 100, 200]),
    weight=one_of([1.0, 1.0, 2.0, 0.0]),
)
model_rows = rows(
    ModelRow,
    ref=MODELS,
    vram_required=one_of([0, 6 * GIB, 10 * GIB]),
    context=one_of([0, 4096]),
    quantization=one_of(["", "q4"]),
    pool_ids=one_of(["", "", "p1", "p1,p2"]),
)


#: Of a job that needs nothing but room.
NO_DEMANDS: Mapping[str, Rows] = {
    "engine": st.just(""),
    "min_context_tokens": st.just(0),
    "min_compute_capability": st.just(""),
    "quantizations": st.just(""),
    "pin_pool_id": st.just(""),
    "avoid_pool_ids": st.just(""),
    "min_vram_bytes": st.just(0),
    "extensions": st.just(""),
}


def workers(**fields: Rows) -> Rows:
    """Workers, with other fields than usual."""
    return rows(WorkerRow, **{**WORKER, **fields})


def jobs(**fields: Rows) -> Rows:
    """Jobs, with other fields than usual."""
    return rows(JobRow, **{**JOB, **fields})


def runs(**fields: Rows) -> Rows:
    """Running jobs, with other fields than usual."""
    return rows(RunningRow, **{**RUN, **fields})


def gpus(**fields: Rows) -> Rows:
    """GPUs, with other fields than usual."""
    return rows(GpuRow, **{**GPU, **fields})


gone = st.one_of(
    st.tuples(st.just("job_gone"), JOBS),
    st.tuples(st.just("worker_gone"), WORKERS),
    st.tuples(st.just("running_gone"), RUNNING),
)
anything = st.one_of(
    jobs(), workers(), runs(), prefix_rows, pool_rows, gpus(), tenant_rows, model_rows
)


def _scene(first: Rows, second: Rows, *more: Rows) -> Changes:
    """Some rows of the first kind, then some of the second, a few of the others; then changes, most of them alike."""
    usual = st.one_of(first, second)
    begun = st.tuples(
        st.lists(first, min_size=2, max_size=5),
        st.lists(second, min_size=3, max_size=12),
        *(st.lists(each, min_size=1, max_size=4) for each in more),
    ).map(lambda lists: [("put", row) for rows in lists for row in rows])
    puts = st.one_of(usual, usual, usual, anything).map(lambda row: ("put", row))
    then = st.lists(st.one_of(puts, puts, gone), max_size=20)
    return st.tuples(begun, then).map(lambda parts: [*parts[0], *parts[1]])


def open_fleet() -> Changes:
    """A little of everything: jobs are placed, workers started."""
    measured = workers(prefill_speedup=one_of([0.0, 2.0, 2.0]))
    return _scene(measured, jobs(), model_rows, gpus(), runs())


def full_fleet() -> Changes:
    """Every slot is taken, mostly by what is not urgent, and urgent jobs wait for the same models."""
    few = one_of(["m1", "m1", "m2"])
    full = workers(
        status=one_of(["ready", "busy", "busy"]),
        model_ref=few,
        slots_free=one_of([0, 0, 0, 0, 0, 0, 1]),
        kv_free_tokens=one_of([None, 0, 400, 5000]),
    )
    urgent = jobs(
        **NO_DEMANDS,
        model_ref=few,
        priority=one_of(["interactive", "interactive", "interactive", "normal"]),
        estimated_vram_bytes=one_of([0, 0, 0, 0, 6 * GIB]),
    )
    running = runs(
        priority=one_of(["background", "batch", "batch", "normal"]),
        is_stopping=one_of([*[False] * 9, True]),
        kv_tokens=one_of([0, 600, 1200]),
    )
    return _scene(full, urgent, running, running.map(lambda row: row))


def cramped_fleet() -> Changes:
    """Idle workers hold the memory that models without workers need."""
    idle = workers(
        status=one_of(["ready", "ready", "ready", "starting"]),
        model_ref=one_of(["m1", "m1", "m2"]),
        slots_total=st.just(2),
        slots_free=one_of([2, 2, 2, 1]),
        gpu_ids=one_of(["0", "0", "1", "0,1"]),
    )
    unserved = jobs(**NO_DEMANDS, model_ref=one_of([*["m3"] * 9, "m2"]))
    little = gpus(
        gpu_id=one_of(["0", "0", "1"]),
        vram_free=one_of([0, 0, 4 * GIB]),
        compute_capability=st.just("8.6"),
    )
    known = rows(
        ModelRow, ref=MODELS, vram_required=one_of([4 * GIB, 6 * GIB]), context=st.just(4096)
    )
    return _scene(idle, unserved, little, known, known.map(lambda row: row))


def tight_fleet() -> Changes:
    """One model, workers with room for some needs and not for others, and jobs of every size."""
    open_workers = workers(
        status=st.just("ready"),
        model_ref=st.just("m1"),
        slots_free=st.integers(1, 2),
        vram_free=one_of([0, 1 * GIB, 5 * GIB, 6 * GIB, 7 * GIB]),
        kv_free_tokens=one_of([None, 0, 511, 512, 1100, 2100, 4000]),
        context_tokens=one_of([0, 1024, 2048]),
    )
    sized = jobs(
        model_ref=st.just("m1"),
        priority=one_of(["normal", "normal", "batch"]),
        prompt_tokens=one_of([0, 1, 300, 501, 1000, 2000, 3900]),
        max_tokens=one_of([10, 11, 600]),
        estimated_vram_bytes=one_of([0, 0, 1, 1 * GIB, 5 * GIB, 6 * GIB, 7 * GIB]),
        deadline_at=one_of([None, NOW_MS + 10, NOW_MS + 20, NOW_MS + 30]),
    )
    return _scene(open_workers, sized, tenant_rows)


def histories() -> Changes:
    """Changes of a world, in order, beginning in one of the scenes."""
    return st.one_of(open_fleet(), full_fleet(), cramped_fleet(), tight_fleet())
