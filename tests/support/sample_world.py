"""The little world in which the documents' examples hold; docs/policies/helpers.md describes it."""

from beeyard_core.policy.world import (
    GpuRow,
    HistoryRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)

GIB = 1 << 30
NOW_MS = 600_000


def _first_pools_workers() -> tuple[WorkerRow, ...]:
    return (
        WorkerRow(
            worker_id="worker-1",
            pool_id="pool-1",
            model_ref="llama-7b",
            engine="llamacpp",
            slots_total=4,
            slots_free=3,
            vram_free=8 * GIB,
            kv_free_tokens=8_000,
            load=0.25,
            tokens_per_s=50.0,
            cost_per_token=0.2,
            geo_lat=52.37,
            geo_lon=4.9,
            capability="text",
            last_used_at=590_000,
            gpu_ids="0",
            jobs_served=70,
        ),
        WorkerRow(
            worker_id="worker-2",
            pool_id="pool-1",
            model_ref="llama-7b",
            engine="llamacpp",
            slots_total=4,
            slots_free=4,
            vram_free=4 * GIB,
            kv_free_tokens=16_000,
            tokens_per_s=40.0,
            cost_per_token=0.1,
            geo_lat=40.71,
            geo_lon=-74.01,
            capability="text",
            last_used_at=500_000,
            gpu_ids="1",
            jobs_served=20,
        ),
    )


def _second_pools_workers() -> tuple[WorkerRow, ...]:
    return (
        WorkerRow(
            worker_id="worker-3",
            pool_id="pool-2",
            status="busy",
            model_ref="llama-13b",
            engine="llamacpp",
            slots_total=1,
            slots_free=0,
            kv_free_tokens=0,
            load=1.0,
            tokens_per_s=30.0,
            cost_per_token=0.3,
            capability="text",
            last_used_at=600_000,
            gpu_ids="0",
            jobs_served=50,
        ),
        WorkerRow(
            worker_id="worker-4",
            pool_id="pool-2",
            model_ref="llama-70b",
            engine="llamacpp",
            slots_total=2,
            slots_free=2,
            vram_free=6 * GIB,
            kv_free_tokens=4_000,
            tokens_per_s=10.0,
            cost_per_token=0.9,
            capability="text",
            last_used_at=100_000,
            gpu_ids="0,1",
            jobs_served=30,
        ),
    )


def _jobs() -> tuple[JobRow, ...]:
    return (
        JobRow(
            job_id="job-1",
            seq=3,
            tenant_id="tenant-1",
            priority="interactive",
            model_ref="llama-7b",
            prompt_hash="hash-1",
            prompt_tokens=200,
            max_tokens=256,
            expected_tokens=100,
            seed=42,
            created_at=570_000,
            queued_at=570_000,
            estimated_vram_bytes=2 * GIB,
            type="text",
            geo_lat=51.5,
            geo_lon=-0.12,
            labels=(("team", "research"),),
        ),
        JobRow(
            job_id="job-2",
            seq=1,
            tenant_id="tenant-2",
            priority="batch",
            model_ref="llama-13b",
            prompt_tokens=100,
            max_tokens=512,
            expected_tokens=400,
            created_at=240_000,
            queued_at=240_000,
            estimated_vram_bytes=4 * GIB,
            estimated_duration_ms=9_000,
            type="text",
        ),
        JobRow(
            job_id="job-3",
            seq=2,
            tenant_id="tenant-2",
            model_ref="llama-7b",
            max_tokens=64,
            expected_tokens=50,
            created_at=560_000,
            queued_at=580_000,
            attempt=2,
            deadline_at=660_000,
            estimated_vram_bytes=GIB,
            type="text",
        ),
    )


def _hosts() -> tuple[PoolRow | GpuRow, ...]:
    geforce = {"name": "NVIDIA GeForce RTX 4090", "vram_total": 24 * GIB}
    ampere = {"name": "NVIDIA A100-SXM4-80GB", "vram_total": 80 * GIB}
    return (
        PoolRow(pool_id="pool-1", status="healthy", last_report_ms=599_000),
        PoolRow(pool_id="pool-2", status="healthy", last_report_ms=599_500),
        GpuRow(
            pool_id="pool-1",
            gpu_id="0",
            **geforce,  # type: ignore[arg-type]  # the names and types are two lines above
            vram_allocated=16 * GIB,
            vram_free=8 * GIB,
            compute_capability="8.9",
        ),
        GpuRow(
            pool_id="pool-1",
            gpu_id="1",
            **geforce,  # type: ignore[arg-type]  # the names and types are above
            vram_allocated=8 * GIB,
            vram_free=16 * GIB,
            compute_capability="8.9",
        ),
        GpuRow(
            pool_id="pool-2",
            gpu_id="0",
            **ampere,  # type: ignore[arg-type]  # the names and types are above
            vram_allocated=74 * GIB,
            vram_free=6 * GIB,
            compute_capability="8.0",
        ),
    )


def sample_world() -> World:
    """Return the world of the documents, at `NOW_MS`."""
    world = World()
    world.workers = {
        row.worker_id: row for row in (*_first_pools_workers(), *_second_pools_workers())
    }
    world.jobs = {row.job_id: row for row in _jobs()}
    for row in _hosts():
        if isinstance(row, PoolRow):
            world.pools[row.pool_id] = row
        else:
            world.gpus[row.pool_id, row.gpu_id] = row
    world.running = {
        "job-9": RunningRow(
            job_id="job-9",
            worker_id="worker-1",
            tenant_id="tenant-2",
            priority="background",
            kv_tokens=300,
            started_at=590_000,
        )
    }
    world.prefixes = {
        ("worker-1", "hash-1"): PrefixRow(worker_id="worker-1", prompt_hash="hash-1", tokens=100)
    }
    world.tenants = {
        "tenant-1": TenantRow(
            tenant_id="tenant-1", quota_vram=48 * GIB, quota_used=32 * GIB, tokens_served=5_000
        ),
        "tenant-2": TenantRow(
            tenant_id="tenant-2", quota_jobs=1, jobs_running=1, tokens_served=3_000
        ),
    }
    for ref, gib in (("llama-7b", 6), ("llama-13b", 12), ("llama-70b", 48)):
        world.models[ref] = ModelRow(
            ref=ref, family="llama", vram_required=gib * GIB, context=8_192, quantization="q4_k_m"
        )
    world.aliases["llama"] = "llama-7b"
    world.history["llama-7b", "NVIDIA GeForce RTX 4090"] = HistoryRow(
        model_ref="llama-7b", device="NVIDIA GeForce RTX 4090", mean_ms=2_500.0, p95_ms=4_000.0, n=8,
        urgent_slots=1.5, urgent_slots_next=3.0,
    )  # fmt: skip
    return world
