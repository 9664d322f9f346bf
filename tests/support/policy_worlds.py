"""Random worlds for policies: a small fleet with every constraint in it, changed row by row."""

from typing import Any, TypeVar

from beeyard_core.policy.decision import judge
from beeyard_core.policy.intent import Dispatch, Evict, Intent, Preempt, StartWorker
from beeyard_core.policy.twin import Twin
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
    World,
)
from beeyard_queen.policy.deltas import delta_of
from beeyard_queen.policy.in_process import PlatformPolicy
from hypothesis import strategies as st

NOW_MS = 1_000_000
GIB = 1 << 30

MODELS = st.sampled_from(["m1", "m2", "m3"])
POOLS = st.sampled_from(["p1", "p2"])
WORKERS = st.sampled_from(["w1", "w2", "w3", "w4", "w5"])
GPUS = st.sampled_from(["0", "1", "10"])
TENANTS = st.sampled_from(["a", "b", "c"])
PROMPTS = st.sampled_from(["", "h1", "h2"])
CSV = st.sampled_from([*[""] * 6, "p1", "p2", "p1,p2"])
COMPUTE = st.sampled_from(["", "7.5", "8.6", "8.10"])

R = TypeVar("R", bound=Row)


def rows(kind: type[R], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[R]:
    """Rows of a kind with these fields drawn; `st.builds` would draw those with defaults, too."""
    return st.fixed_dictionaries(fields).map(lambda given: kind(**given))


worker_rows = rows(
    WorkerRow,
    worker_id=WORKERS,
    pool_id=POOLS,
    status=st.sampled_from([*["ready"] * 5, "busy", "starting", "draining", "failed"]),
    model_ref=MODELS,
    engine=st.just("llamacpp"),
    slots_total=st.integers(2, 3),
    slots_free=st.integers(0, 2),
    vram_free=st.sampled_from([0, 8 * GIB, 12 * GIB]),
    kv_free_tokens=st.sampled_from([None, None, 100, 700, 5000]),
    load=st.sampled_from([0.0, 0.5]),
    tokens_per_s=st.sampled_from([0.0, 10.0, 20.0]),
    last_used_at=st.integers(0, 3),
    gpu_ids=st.sampled_from(["", "0", "1", "0,1"]),
    context_tokens=st.sampled_from([0, 0, 600, 4096]),
    quantization=st.sampled_from(["", "q4", "q8"]),
)
job_rows = rows(
    JobRow,
    job_id=st.sampled_from([f"j{n}" for n in range(8)]),
    seq=st.just(0),
    tenant_id=TENANTS,
    priority=st.sampled_from(CLASSES),
    model_ref=MODELS,
    prompt_hash=PROMPTS,
    prompt_tokens=st.sampled_from([0, 50, 500, 900]),
    max_tokens=st.sampled_from([10, 60]),
    expected_tokens=st.sampled_from([5, 40]),
    queued_at=st.sampled_from([NOW_MS, NOW_MS - 300_000, NOW_MS - 299_999, 0]),
    deadline_at=st.sampled_from([None, None, NOW_MS + 10, NOW_MS + 20]),
    estimated_vram_bytes=st.sampled_from([0, 0, 0, 6 * GIB]),
    engine=st.sampled_from([*[""] * 6, "llamacpp", "other"]),
    min_context_tokens=st.sampled_from([*[0] * 9, 1000]),
    min_compute_capability=st.sampled_from([*[""] * 9, "8.6"]),
    quantizations=st.sampled_from([*[""] * 9, "q4", "q4,q8"]),
    pin_pool_id=st.sampled_from([*[""] * 9, "p1"]),
    prefer_pool_ids=CSV,
    avoid_pool_ids=st.sampled_from([*[""] * 9, "p2"]),
)
running_rows = rows(
    RunningRow,
    job_id=st.sampled_from(["r1", "r2", "r3"]),
    worker_id=WORKERS,
    tenant_id=TENANTS,
    priority=st.sampled_from(CLASSES),
    kv_tokens=st.sampled_from([0, 600]),
    started_at=st.integers(0, 2),
    is_stopping=st.sampled_from([False, False, False, True]),
)
prefix_rows = rows(
    PrefixRow, worker_id=WORKERS, prompt_hash=PROMPTS, tokens=st.sampled_from([0, 40, 800])
)
pool_rows = rows(
    PoolRow,
    pool_id=POOLS,
    status=st.sampled_from([*["ready"] * 6, "stale", "draining"]),
    last_report_ms=st.integers(0, 5),
)
gpu_rows = rows(
    GpuRow,
    pool_id=POOLS,
    gpu_id=GPUS,
    vram_total=st.just(24 * GIB),
    vram_free=st.sampled_from([0, 4 * GIB, 12 * GIB]),
    compute_capability=COMPUTE,
)
tenant_rows = rows(
    TenantRow,
    tenant_id=TENANTS,
    quota_vram=st.sampled_from([None, None, 8 * GIB]),
    quota_used=st.sampled_from([0, 4 * GIB]),
    quota_jobs=st.sampled_from([None, None, 2]),
    jobs_running=st.integers(0, 2),
    tokens_served=st.sampled_from([0, 100, 200]),
    weight=st.sampled_from([1.0, 1.0, 2.0, 0.0]),
)
model_rows = rows(
    ModelRow,
    ref=MODELS,
    vram_required=st.sampled_from([0, 6 * GIB, 10 * GIB]),
    context=st.sampled_from([0, 4096]),
    quantization=st.sampled_from(["", "q4"]),
)
gone = st.one_of(
    st.tuples(st.just("job_gone"), st.sampled_from([f"j{n}" for n in range(8)])),
    st.tuples(st.just("worker_gone"), WORKERS),
    st.tuples(st.just("running_gone"), st.sampled_from(["r1", "r2", "r3"])),
)
changes = st.one_of(
    st.tuples(st.just("put"), job_rows),
    st.tuples(st.just("put"), job_rows),
    st.tuples(st.just("put"), worker_rows),
    st.tuples(
        st.just("put"),
        st.one_of(running_rows, prefix_rows, pool_rows, gpu_rows, tenant_rows, model_rows),
    ),
    gone,
)


def histories() -> st.SearchStrategy[list[tuple[object, ...]]]:
    """Changes of a world, in order: what there is at first, then a little of everything."""
    first = st.tuples(
        st.lists(model_rows, min_size=2, max_size=4),
        st.lists(gpu_rows, min_size=1, max_size=4),
        st.lists(worker_rows, min_size=1, max_size=6),
        st.lists(running_rows, max_size=4),
        st.lists(job_rows, min_size=2, max_size=10),
    )
    then = st.lists(changes, max_size=25)
    return st.tuples(first, then).map(
        lambda parts: [*(("put", row) for rows in parts[0] for row in rows), *parts[1]]
    )


class Hive:
    """One world in three places: plain rows, the Lua mirror, the twin."""

    def __init__(self) -> None:
        self.world = World()
        self.policy = PlatformPolicy()
        self.twin = Twin()
        self._seq = 0

    def change(self, change: tuple[object, ...]) -> None:
        """Make one change everywhere."""
        match change:
            case ("put", row):
                self.put(row)
            case (name, key, *_):
                getattr(self, f"_{name}")(key)
                self.policy.apply([(str(name), str(key))])
            case _:
                raise AssertionError(change)

    def put(self, row: object) -> None:
        """Put one row everywhere. A job gets the next sequence; what a worker that is not there holds is ignored."""
        match row:
            case JobRow():
                self._seq += 1
                row = row._replace(seq=self._seq)
                self.world.jobs.pop(row.job_id, None)
                self.world.jobs[row.job_id] = row
            case WorkerRow():
                row = row._replace(slots_free=min(row.slots_free, row.slots_total))
                before = self.world.workers.get(row.worker_id)
                if before and (before.model_ref, before.pool_id) != (row.model_ref, row.pool_id):
                    # It is another worker, with an empty cache.
                    self.change(("worker_gone", row.worker_id))
                self.world.workers[row.worker_id] = row
            case RunningRow():
                self.world.running[row.job_id] = row
            case PrefixRow():
                if row.worker_id not in self.world.workers:
                    return
                self.world.prefixes.pop((row.worker_id, row.prompt_hash), None)
                if row.tokens:
                    self.world.prefixes[row.worker_id, row.prompt_hash] = row
            case PoolRow():
                self.world.pools[row.pool_id] = row
            case GpuRow():
                self.world.gpus[row.pool_id, row.gpu_id] = row
            case TenantRow():
                self.world.tenants[row.tenant_id] = row
            case ModelRow():
                self.world.models[row.ref] = row
            case _:
                raise AssertionError(row)
        self.policy.apply([delta_of(row)])
        self.twin.put(row)

    def _job_gone(self, job_id: str) -> None:
        self.world.jobs.pop(job_id, None)
        self.twin.drop_job(job_id)

    def _worker_gone(self, worker_id: str) -> None:
        self.world.workers.pop(worker_id, None)
        for key in [key for key in self.world.prefixes if key[0] == worker_id]:
            del self.world.prefixes[key]
        self.twin.yard.drop_worker(worker_id)

    def _running_gone(self, job_id: str) -> None:
        self.world.running.pop(job_id, None)
        self.twin.yard.drop_run(job_id)

    def run_to_rest(self) -> list[Intent]:
        """Do what is decided until nothing is; return it all.

        Raises:
            AssertionError: A decision did not hold against the world, or there was no end of them.
        """
        done: list[Intent] = []
        while len(done) < 200:
            intent = self.policy.decide(NOW_MS)
            assert intent == self.twin.decide(NOW_MS)
            if intent.action == "wait":
                return done
            plain = plain_of(intent)
            decided = judge(plain, self.world)
            assert decided.intents == (intent,), decided.dropped
            done.append(intent)
            self._do(intent)
        raise AssertionError("no end of decisions")

    def _do(self, intent: Intent) -> None:
        match intent:
            case Dispatch():
                job, worker = (
                    self.world.jobs[intent.job_id],
                    self.world.workers[intent.worker_id],
                )
                self.change(("job_gone", job.job_id))
                kv = worker.kv_free_tokens
                tokens = job.prompt_tokens + job.max_tokens
                self.put(
                    worker._replace(
                        slots_free=worker.slots_free - 1,
                        kv_free_tokens=None if kv is None else kv - tokens,
                    )
                )
            case Preempt():
                self.put(self.world.running[intent.job_id]._replace(is_stopping=True))
            case StartWorker():
                name = f"new-{len(self.world.workers)}-{self._seq}"
                self.put(
                    WorkerRow(
                        worker_id=name,
                        status="starting",
                        model_ref=intent.model_ref,
                        slots_free=0,
                        pool_id=intent.pool_id,
                        gpu_ids=intent.gpu_id,
                    )
                )
                gpu = self.world.gpus[intent.pool_id, intent.gpu_id]
                need = self.world.models[intent.model_ref].vram_required
                self.put(gpu._replace(vram_free=gpu.vram_free - need))
            case Evict():
                worker = self.world.workers[intent.evict_worker_id]
                self.change(("worker_gone", worker.worker_id))
                gpu_ids = worker.gpu_ids.split(",")
                gpu = self.world.gpus[worker.pool_id, gpu_ids[0]]
                freed = self.world.models[worker.model_ref].vram_required // len(gpu_ids)
                self.put(gpu._replace(vram_free=gpu.vram_free + freed))
            case _:
                raise AssertionError(intent)


def plain_of(intent: Intent) -> dict[str, object]:
    """The intent as a policy would have written it."""
    plain = {name: getattr(intent, name) for name in intent.__slots__}
    if isinstance(intent, StartWorker):
        reason = plain.pop("reason")
        plain = {"start_worker": plain, "reason": reason}
    return {"action": intent.action, **plain}
