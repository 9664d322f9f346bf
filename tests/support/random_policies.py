"""Small random worlds and random YAML policies about them, crowded so that rules match and ties are common."""

import json
import random

from beeyard_core.policy.world import (
    CLASSES,
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)
from beeyard_queen.policy.yaml_fields import FIELDS, OPERATORS, Field, Kind, field_of

NOW_MS = 100_000
MODELS = ("llama-7b", "llama-70b", "grüße")
POOLS = ("pool-1", "pool-2", "pool-3")
PLACES = (None, (52.5, 13.4), (40.7, -74.0), (-33.9, 151.2))
TEXTS = ("llama-7b", "llama-70b", "m1", "job-1", "job-10", "default", "t1", "image-gen", "b", "ü")
PATTERNS = (
    "llama",
    "^llama-[0-9]+b$",
    "7.?b$",
    "^m\\d$",
    ".*",
    "[^a-z]",
    "a.*-",
    "j\\w+-1$",
    "(",
    "a|b",
)
GIB = 1 << 30


def random_world(chance: random.Random) -> World:
    """Return a world with up to a dozen jobs and workers."""
    world = World()
    pick = chance.choice
    for ref in chance.sample(MODELS, 2):
        world.models[ref] = ModelRow(ref=ref, vram_required=pick((0, 8 * GIB, 40 * GIB)))
    world.aliases["alias"] = pick(MODELS)
    for pool_id in chance.sample(POOLS, chance.randint(1, 3)):
        status = pick(("ready", "ready", "healthy", "draining", "stale"))
        world.pools[pool_id] = PoolRow(
            pool_id=pool_id, status=status, last_report_ms=pick((NOW_MS, NOW_MS, 0))
        )
        for number in range(chance.randint(0, 3)):
            gpu_id = pick((str(number), f"GPU-{number}"))
            world.gpus[pool_id, gpu_id] = _gpu(chance, pool_id, gpu_id)
    for number in range(chance.randint(0, 10)):
        worker = _worker(chance, f"worker-{number}")
        world.workers[worker.worker_id] = worker
    for number in range(chance.randint(0, 4)):
        world.tenants[f"t{number}"] = _tenant(chance, f"t{number}")
    for number in range(chance.randint(0, 10)):
        job = _job(chance, f"job-{number}")
        world.jobs[job.job_id] = job
    for number in range(chance.choice((0, 6)) if world.workers else 0):
        running = RunningRow(
            job_id=f"running-{number}",
            worker_id=pick(list(world.workers)),
            priority=pick(CLASSES),
            kv_tokens=pick((0, 100, 10_000)),
            started_at=pick((0, 5, 5, 9)),
            is_stopping=pick((True, False, False)),
        )
        world.running[running.job_id] = running
    if chance.random() < 0.3:
        world.metrics["queue_depth"] = pick((0.0, 5.0, 12.5))
    for worker_id in world.workers:
        if chance.random() < 0.4:
            row = PrefixRow(worker_id=worker_id, prompt_hash="h1", tokens=pick((8, 8, 64)))
            world.prefixes[worker_id, "h1"] = row
    return world


def _gpu(chance: random.Random, pool_id: str, gpu_id: str) -> GpuRow:
    return GpuRow(
        pool_id=pool_id,
        gpu_id=gpu_id,
        vram_total=80 * GIB,
        vram_free=chance.choice((0, 8 * GIB, 48 * GIB)),
        utilization=chance.choice((0.0, 0.5, 0.5)),
        compute_capability=chance.choice(("", "7.5", "8.10")),
    )


def _worker(chance: random.Random, worker_id: str) -> WorkerRow:
    pick = chance.choice
    place = pick(PLACES)
    total = pick((1, 2))
    return WorkerRow(
        worker_id=worker_id,
        pool_id=pick(POOLS),
        status=pick(
            ("ready", "ready", "ready", "ready", "busy", "busy", "starting", "draining", "failed")
        ),
        model_ref=pick(MODELS),
        engine=pick(("", "llamacpp")),
        slots_total=total,
        slots_free=pick((0, total)),
        vram_free=pick((0, GIB, GIB, 4 * GIB)),
        kv_free_tokens=pick((None, None, 100, 10_000)),
        load=pick((0.0, 0.5, 0.5, 1.0)),
        tokens_per_s=pick((0.0, 20.0, 33.3)),
        cost_per_token=pick((0.0, 0.001, 0.002)),
        geo_lat=place[0] if place else None,
        geo_lon=place[1] if place else None,
        last_used_at=pick((0, 10, 10, 20)),
        gpu_ids=pick(("", "0", "0,GPU-1")),
        jobs_served=pick((0, 1, 1)),
        context_tokens=pick((0, 0, 0, 512, 8_192)),
        quantization=pick(("", "q4")),
    )


def _tenant(chance: random.Random, tenant_id: str) -> TenantRow:
    return TenantRow(
        tenant_id=tenant_id,
        quota_vram=chance.choice((None, 0, 8 * GIB)),
        quota_used=chance.choice((0, 8 * GIB)),
        quota_jobs=chance.choice((None, 2)),
        jobs_running=chance.choice((0, 2, 5)),
        tokens_served=chance.choice((0, 1_000)),
        tokens_per_minute=chance.choice((None, 60)),
        weight=chance.choice((1.0, 2.5)),
    )


def _job(chance: random.Random, job_id: str) -> JobRow:
    pick = chance.choice
    place = pick(PLACES)
    demanding = chance.random() < 0.2
    return JobRow(
        job_id=job_id,
        seq=int(job_id.removeprefix("job-")) * 7 % 11,
        tenant_id=pick(("default", "t0", "t1", "t2")),
        session_id=pick(("", "s1")),
        priority=pick(CLASSES),
        model_ref=pick((*MODELS, *MODELS, "alias", "m1")),
        prompt_hash=pick(("", "h1", "h2")),
        prompt_tokens=pick((0, 10, 10, 50, 600)),
        max_tokens=pick((1, 64, 256)),
        expected_tokens=pick((1, 64)),
        seed=pick((None, 0, 42)),
        created_at=pick((1_000, 50_000)),
        queued_at=pick((50_000, 99_000, 101_000)),
        attempt=pick((1, 2)),
        deadline_at=pick((None, 150_000)),
        estimated_vram_bytes=pick((0, 0, 0, GIB, 8 * GIB)),
        estimated_duration_ms=pick((0, 5_000)),
        cost_units=pick((1, 5)),
        type=pick(("", "text", "image-gen")),
        geo_lat=place[0] if place else None,
        geo_lon=place[1] if place else None,
        engine=pick(("", "", "", "llamacpp")),
        min_context_tokens=pick((0, 1_024)) if demanding else 0,
        min_compute_capability=pick(("", "8.0", "8.9")) if demanding else "",
        quantizations=pick(("", "q4,q8")) if demanding else "",
        pin_pool_id=pick(("", "pool-1")) if demanding else "",
        avoid_pool_ids=pick(("", "pool-2,pool-3")) if demanding else "",
        labels=pick(((), (("team", "b"),), (("team", "m1"), ("x.y", "1")))),
    )


def random_policy(chance: random.Random) -> str:
    """Return a YAML policy of one to five rules that the schema accepts."""
    rules = [
        {
            "name": f"rule {number} \\ \"'",
            "condition": "always" if chance.random() < 0.2 else _condition(chance, depth=2),
            "action": _action(chance),
            **({"priority": chance.randint(-2, 2)} if chance.random() < 0.7 else {}),
        }
        for number in range(chance.randint(1, 5))
    ]
    # JSON is YAML, too.
    return json.dumps(
        {"scheduler": {"name": "random", "rules": rules}}, indent=1, ensure_ascii=False
    )


def _condition(chance: random.Random, *, depth: int) -> object:
    if chance.random() < 0.15:
        return "always"
    parts: dict[str, object] = {}
    for _ in range(chance.choice((1, 1, 2))):
        kind = chance.choice(("field", "field", "field", "all", "any", "not"))
        if kind == "field" or depth == 0:
            name = chance.choice((*FIELDS, "job.labels.team", "job.labels.x.y"))
            field = field_of(name)
            assert field is not None
            parts[name] = _tests(chance, field)
        elif kind == "not":
            parts["not"] = _condition(chance, depth=depth - 1)
        else:
            parts[kind] = [
                _condition(chance, depth=depth - 1) for _ in range(chance.choice((1, 2, 3)))
            ]
    return parts


def _tests(chance: random.Random, field: Field) -> object:
    if field.kind is not Kind.PLACE and chance.random() < 0.4:
        return _operand(chance, field)
    fitting = [name for name, operator in OPERATORS.items() if field.kind in operator.kinds]
    tests: dict[str, object] = {}
    for name in chance.sample(fitting, min(len(fitting), chance.choice((1, 1, 2)))):
        match name:
            case "exists":
                tests[name] = chance.choice((True, False))
            case "in" | "not_in":
                count = chance.choice((1, 2, 6))
                tests[name] = [_operand(chance, field) for _ in range(count)]
            case "matches":
                tests[name] = chance.choice(PATTERNS[:-2])
            case _:
                tests[name] = _operand(chance, field)
    return tests


def _operand(chance: random.Random, field: Field) -> object:
    match field.kind:
        case Kind.CLASS:
            return chance.choice(CLASSES)
        case Kind.NUMBER:
            return chance.choice((0, 1, 2, 5, 42, 49_000, 1.0, 0.5, 12.5, 1_000, -1, 8 * GIB))
        case _:
            return chance.choice(TEXTS)


def _action(chance: random.Random) -> object:
    pick = chance.choice
    dispatch: dict[str, object] = {
        "worker_selection": pick(
            (
                "least-loaded",
                "most-vram-free",
                "round-robin",
                "first",
                "lowest-cost",
                "nearest",
                "fastest",
                "prefix-affinity",
            )
        ),
        "model_match": pick(("required", "preferred")),
    }
    start: dict[str, object] = {
        "gpu_selection": pick(("most-vram-free", "least-utilized", "first"))
    }
    if chance.random() < 0.3:
        start["pool"] = pick(POOLS)
    if chance.random() < 0.3:
        start["model_ref"] = pick(MODELS)
    return pick(
        (
            {"dispatch": dispatch},
            {"dispatch": dispatch},
            {"dispatch": dispatch},
            {"wait": {"duration_ms": pick((1, 500))}},
            {"evict": {"selection": pick(("lru", "lfu"))}},
            {"evict": {"worker_id": f"worker-{pick((0, 1, 2))}"}},
            {"start_worker": start},
            {"start_worker": start},
            {"preempt": {"below": pick(("interactive", "normal", "batch"))}},
            {"preempt": {"below": "interactive"}},
            {"reject": {"reason": 'not "here" ü'}},
            {"use": "platform-scheduler"},
        )
    )
