"""A mirror and its indexes, against plain walks over the same world after any history of changes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from beeyard_core.policy.world import (
    CLASSES,
    RANK,
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
from beeyard_queen.policy.deltas import (
    Delta,
    delta_of,
    digest,
    labels_of,
    snapshot,
    tenant_load,
    worker_load,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.mirror import Mirror
from tests.support.policy_rows import rows

MODELS = ("m1", "m2", "m3")
POOLS = ("p1", "p2")
TENANTS = ("t1", "t2", "t3")
MIB = 1 << 20
NOW_MS = 1_000_000

# --- Histories ---

one_of_few = st.sampled_from
small = st.integers(0, 4)
bytes_few = one_of_few([0, 100 * MIB, 101 * MIB, 1000 * MIB, 4000 * MIB])
statuses = one_of_few(["ready", "ready", "busy", "starting", "draining"])

workers = rows(
    WorkerRow,
    worker_id=st.integers(1, 9).map("w{}".format),
    pool_id=one_of_few(POOLS),
    status=statuses,
    model_ref=one_of_few(MODELS),
    slots_total=st.just(4),
    slots_free=small,
    vram_free=bytes_few,
    kv_free_tokens=st.none() | one_of_few([0, 1000, 5000]),
    load=one_of_few([0.0, 0.25, 0.5, 1.0]),
    tokens_per_s=one_of_few([0.0, 12.5, 40.0]),
    cost_per_token=one_of_few([0.0, 0.1, 0.3]),
    last_used_at=small,
    jobs_served=small,
)
jobs = rows(
    JobRow,
    job_id=st.integers(1, 30).map("j{}".format),
    seq=st.integers(1, 30),
    tenant_id=one_of_few(TENANTS),
    priority=one_of_few(CLASSES),
    model_ref=one_of_few(MODELS),
    prompt_hash=one_of_few(["", "h1", "h2"]),
    prompt_tokens=one_of_few([0, 100, 600]),
    max_tokens=one_of_few([1, 400, 3000]),
    expected_tokens=one_of_few([1, 50]),
    deadline_at=st.none() | st.integers(0, 3),
    estimated_vram_bytes=bytes_few,
    engine=one_of_few(["", "", "llamacpp"]),
    pin_pool_id=one_of_few(["", "", "p1"]),
    session_turn=one_of_few([0, 0, 0, 1, 64]),
    is_next=one_of_few([False, False, False, True]),
    labels=one_of_few([(), (("team", "a"),), (("team", "b"), ("zone", "x"))]),
)
running = rows(
    RunningRow,
    job_id=st.integers(31, 36).map("j{}".format),
    worker_id=st.integers(1, 9).map("w{}".format),
    priority=one_of_few(CLASSES),
    started_at=small,
    is_stopping=st.booleans(),
    is_kept=one_of_few([False, False, True]),
)
prefixes = rows(
    PrefixRow,
    worker_id=st.integers(1, 9).map("w{}".format),
    prompt_hash=one_of_few(["h1", "h2"]),
    tokens=one_of_few([0, 50, 700]),
)
tenants = rows(
    TenantRow,
    tenant_id=one_of_few(TENANTS),
    quota_vram=st.none() | bytes_few,
    quota_used=bytes_few,
    quota_jobs=st.none() | one_of_few([0, 1, 2]),
    jobs_running=small,
    tokens_served=small,
    weight=one_of_few([1.0, 2.5]),
)
pools = rows(
    PoolRow, pool_id=one_of_few(POOLS), status=one_of_few(["ready", "healthy", "offline", "stale"])
)
gpus = rows(
    GpuRow,
    pool_id=one_of_few(POOLS),
    gpu_id=one_of_few(["0", "1", "10"]),
    vram_total=bytes_few,
    vram_free=bytes_few,
)
models = rows(ModelRow, ref=one_of_few(MODELS), vram_required=bytes_few)
loads = st.tuples(
    st.just("load"),
    st.integers(1, 9).map("w{}".format),
    small,
    bytes_few,
    one_of_few([0.0, 0.5]),
    small,
)
endings = st.tuples(
    one_of_few(["worker_gone", "job_gone", "running_gone"]), st.integers(0, 1_000)
) | st.tuples(st.just("tenant_gone"), one_of_few(TENANTS))


def often(strategy: st.SearchStrategy[object], times: int) -> list[st.SearchStrategy[object]]:
    # The same strategy twice counts once, hence the map.
    return [strategy.map(lambda change: change) for _ in range(times)]


tenant_loads = st.tuples(st.just("tenant_load"), one_of_few(TENANTS), bytes_few, small, small)


changes = st.one_of(
    *often(workers, 5), *often(loads, 4), *often(jobs, 6), *often(endings, 4), *often(running, 2),
    prefixes, tenants, tenant_loads, pools, gpus, models,
)  # fmt: skip
histories = st.lists(changes, min_size=20, max_size=80)


@dataclass
class History:
    """A world that changes, and every delta that a mirror of it must hear."""

    world: World = field(default_factory=World)

    def take(self, change: object) -> list[Delta]:
        """Change the world; return what tells a mirror so."""
        match change:
            case WorkerRow():
                return self._worker(change)
            case JobRow():
                return self._job(change)
            case PrefixRow():
                return self._prefix(change)
            case RunningRow() | TenantRow() | PoolRow() | GpuRow() | ModelRow():
                return self._plain(change)
            case ("load", str(worker_id), int(free), int(vram), float(load), int(used)):
                return self._load(worker_id, free, vram, load, used)
            case ("tenant_load", str(tenant_id), int(used), int(running), int(served)):
                return self._tenant_load(tenant_id, used, running, served)
            case ("tenant_gone", str(tenant_id)):
                self.world.tenants.pop(tenant_id, None)
                return [("tenant_gone", tenant_id)]
            case (str(kind), int(number)):
                return self._gone(kind, number)
            case _:
                raise AssertionError(change)

    def _plain(self, row: RunningRow | TenantRow | PoolRow | GpuRow | ModelRow) -> list[Delta]:
        match row:
            case RunningRow():
                self.world.running[row.job_id] = row
            case TenantRow():
                self.world.tenants[row.tenant_id] = row
            case PoolRow():
                self.world.pools[row.pool_id] = row
            case GpuRow():
                self.world.gpus[row.pool_id, row.gpu_id] = row
            case ModelRow():
                self.world.models[row.ref] = row
        return [delta_of(row)]

    def _prefix(self, row: PrefixRow) -> list[Delta]:
        key = row.worker_id, row.prompt_hash
        if row.worker_id in self.world.workers and row.tokens:
            self.world.prefixes[key] = row
        else:
            self.world.prefixes.pop(key, None)
        return [delta_of(row)]

    def _worker(self, row: WorkerRow) -> list[Delta]:
        before = self.world.workers.get(row.worker_id)
        if before and (before.model_ref, before.pool_id) != (row.model_ref, row.pool_id):
            self._forget_prefixes(row.worker_id)
        self.world.workers[row.worker_id] = row
        return [delta_of(row)]

    def _job(self, row: JobRow) -> list[Delta]:
        # Sequence numbers are unique; a job keeps its own when it comes back.
        known = self.world.jobs.get(row.job_id)
        taken = {job.seq for job in self.world.jobs.values()} - {known.seq if known else -1}
        row = row._replace(seq=next(n for n in range(row.seq, 1_000) if n not in taken))
        self.world.jobs[row.job_id] = row
        return [delta_of(row), *labels_of(row)]

    def _load(self, worker_id: str, free: int, vram: int, load: float, used: int) -> list[Delta]:
        if worker_id not in self.world.workers:
            return [("worker_load", worker_id, "ready", free, vram, None, load, used, 0)]
        row = self.world.workers[worker_id]._replace(
            status="ready",
            slots_free=free,
            vram_free=vram,
            load=load,
            last_used_at=used,
        )
        self.world.workers[worker_id] = row
        return [worker_load(row)]

    def _tenant_load(self, tenant_id: str, used: int, running: int, served: int) -> list[Delta]:
        if tenant_id not in self.world.tenants:
            return [("tenant_load", tenant_id, used, running, served)]
        row = self.world.tenants[tenant_id]._replace(
            quota_used=used, jobs_running=running, tokens_served=served
        )
        self.world.tenants[tenant_id] = row
        return [tenant_load(row)]

    def _gone(self, kind: str, number: int) -> list[Delta]:
        by_kind = {
            "worker_gone": self.world.workers,
            "job_gone": self.world.jobs,
            "running_gone": self.world.running,
        }
        among: dict[str, object] = by_kind[kind]  # type: ignore[assignment]  # only keys are taken
        if not among:
            return [(kind, "nobody")]
        key = sorted(among)[number % len(among)]
        del among[key]
        if kind == "worker_gone":
            self._forget_prefixes(key)
        return [(kind, key)]

    def _forget_prefixes(self, worker_id: str) -> None:
        for key in [key for key in self.world.prefixes if key[0] == worker_id]:
            del self.world.prefixes[key]


# --- The same answers by plain walks ---


def is_open(world: World, worker: WorkerRow) -> bool:
    pool = world.pools.get(worker.pool_id)
    return (
        worker.slots_free > 0
        and worker.status in ("ready", "busy")
        and not (pool and pool.status in ("offline", "stale"))
    )


Order = Callable[[WorkerRow], tuple[object, ...]]
BY_LOAD: Order = lambda w: (w.load, -w.vram_free, w.worker_id)  # noqa: E731 - a table of keys
ORDERS: dict[str, Order] = {
    "find_least_loaded_worker": BY_LOAD,
    "find_most_vram_free_worker": lambda w: (-w.vram_free, w.load, w.worker_id),
    "find_ready_worker": lambda w: (w.worker_id,),
    "find_cheapest_worker": lambda w: (w.cost_per_token, *BY_LOAD(w)),
    "find_fastest_worker": lambda w: (-w.tokens_per_s, *BY_LOAD(w)),
}
IDLE: dict[str, Order] = {
    "find_worker_to_evict_lru": lambda w: (w.last_used_at, w.worker_id),
    "find_worker_to_evict_lfu": lambda w: (w.jobs_served, w.last_used_at, w.worker_id),
}


def first(found: Iterable[WorkerRow], order: Order) -> str:
    return min(found, key=order).worker_id if (found := list(found)) else "-"


def of_model(world: World, model: str, pool: str | None = None) -> list[WorkerRow]:
    return [w for w in world.workers.values() if w.model_ref == model and pool in (None, w.pool_id)]


def in_order(world: World) -> list[JobRow]:
    return sorted(world.jobs.values(), key=lambda job: (RANK[job.priority], job.seq))


def walked_workers(world: World) -> Iterator[str]:
    for model in MODELS:
        for pool in (None, *POOLS):
            for least in (0, 101 * MIB, 2000 * MIB):
                fit = [
                    w
                    for w in of_model(world, model, pool)
                    if is_open(world, w) and w.vram_free >= least
                ]
                yield from (first(fit, order) for order in ORDERS.values())
    for pool in (None, *POOLS):
        idle = [
            w
            for w in world.workers.values()
            if is_open(world, w) and w.slots_free >= w.slots_total and pool in (None, w.pool_id)
        ]
        yield from (first(idle, order) for order in IDLE.values())


def bucket(amount: int) -> int:
    octave = max(0, amount.bit_length() - 3)
    return octave * 4 + (amount >> octave)


def need(job: JobRow) -> tuple[object, ...]:
    tokens = job.prompt_tokens + job.max_tokens
    size = bucket(job.estimated_vram_bytes // MIB), bucket(tokens // 512)
    return job.tenant_id, *size, job.engine, job.pin_pool_id


def walked_jobs(world: World) -> Iterator[str]:
    queue = in_order(world)
    yield ",".join(job.job_id for job in queue)
    late = sorted((job for job in queue if job.is_next), key=attrgetter("seq"))
    first_of = {job.model_ref: job.job_id for job in reversed(late)}
    yield ",".join(job.job_id for job in late if job.job_id in first_of.values())
    for name in CLASSES:
        of_class = [job for job in queue if job.priority == name]
        startable = [job for job in of_class if may_start(world, job.tenant_id)]
        yield ",".join(
            sorted(
                {j.model_ref for j in startable}
                & {w.model_ref for w in world.workers.values() if is_open(world, w)}
            )
        )
        for model in MODELS:
            waiting = [job for job in of_class if job.model_ref == model]
            in_turn = sorted(waiting, key=attrgetter("session_turn", "seq"))
            heads = {need(job): job.job_id for job in reversed(in_turn)}
            yield ",".join(job.job_id for job in waiting if job.job_id in heads.values())
            yield ",".join(sorted({job.tenant_id for job in waiting}))
            yield waiting[0].job_id if waiting else "-"
            yield str(len(waiting))
            first = [job.job_id for job in startable if job.model_ref == model][:1]
            yield first[0] if first else "-"
            due = [
                job for job in startable if job.model_ref == model and job.deadline_at is not None
            ]
            due.sort(key=attrgetter("deadline_at", "seq"))
            yield due[0].job_id if due else "-"
            yield victim(world, model, RANK[name])


def may_start(world: World, tenant_id: str) -> bool:
    tenant = world.tenants.get(tenant_id)
    return tenant is None or (
        (tenant.quota_vram is None or tenant.quota_used <= tenant.quota_vram)
        and (tenant.quota_jobs is None or tenant.jobs_running < tenant.quota_jobs)
    )


def victim(world: World, model: str, rank: int) -> str:
    found = [
        run
        for run in world.running.values()
        if run.worker_id in world.workers
        and world.workers[run.worker_id].model_ref == model
        and not (run.is_stopping or run.is_kept)
        and RANK[run.priority] > rank
    ]
    found.sort(key=lambda run: (-RANK[run.priority], -run.started_at, run.job_id))
    return found[0].job_id if found else "-"


def fits(world: World, job: JobRow, worker: WorkerRow) -> bool:
    free = worker.kv_free_tokens
    return (
        is_open(world, worker)
        and job.engine in ("", worker.engine)
        and worker.vram_free >= job.estimated_vram_bytes
        and (free is None or free >= job.prompt_tokens + job.max_tokens)
        and job.pin_pool_id in ("", worker.pool_id)
    )


def walked_placements(world: World) -> Iterator[str]:
    for job in in_order(world):
        fitting = [w for w in of_model(world, job.model_ref) if fits(world, job, w)]
        yield ",".join(sorted(w.worker_id for w in fitting))

        def ends(worker: WorkerRow, job: JobRow = job) -> tuple[object, ...]:
            held = world.prefixes.get((worker.worker_id, job.prompt_hash))
            fresh = job.prompt_tokens - min(held.tokens if held else 0, job.prompt_tokens)
            speed = worker.tokens_per_s
            took = (fresh / 20 + job.expected_tokens) * 1000 / speed if speed else float("inf")
            return (took, *BY_LOAD(worker))

        yield first(fitting, ends)


ASK = """
local out = {}
local function say(record) out[#out + 1] = record and record.id or "-" end
local function ids(list)
  local found = {}
  for at, each in ipairs(list) do found[at] = type(each) == "table" and each.id or each end
  out[#out + 1] = table.concat(found, ",")
end
local MODELS, POOLS = { "m1", "m2", "m3" }, { false, "p1", "p2" }
for _, model in ipairs(MODELS) do
  for _, pool in ipairs(POOLS) do
    for _, bytes in ipairs({ 0, 101 << 20, 2000 << 20 }) do
      for _, name in ipairs({ "least_loaded", "most_vram_free", "ready", "cheapest", "fastest" }) do
        say(helpers["find_" .. name .. "_worker"](model, pool or nil, bytes))
      end
    end
  end
end
for _, pool in ipairs(POOLS) do
  say(helpers.find_worker_to_evict_lru(pool or nil))
  say(helpers.find_worker_to_evict_lfu(pool or nil))
end
ids(context.queue)
ids(helpers.overdue_jobs())
for rank, class in ipairs(M.CLASSES) do
  ids(helpers.dispatchable_models(class))
  for _, model in ipairs(MODELS) do
    ids(helpers.queue_heads(class, model))
    ids(helpers.waiting_tenants(class, model))
    say(helpers.next_job(class, model))
    out[#out + 1] = tostring(helpers.count_waiting(class, model))
    say(helpers.next_to_start(class, model))
    say(M.earliest_deadline(rank, model))
    say(M.victim(model, rank))
  end
end
for _, job in ipairs(context.queue) do
  ids(helpers.find_candidates(job))
  say(helpers.find_best_worker(job))
end
return table.concat(out, "\\n")
"""


def walked(world: World) -> list[str]:
    return [*walked_workers(world), *walked_jobs(world), *walked_placements(world)]


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(histories)
def test_every_index_answers_as_a_walk_over_the_world_does(history: list[object]) -> None:
    mirror, past = Mirror(), History()
    for number, change in enumerate(history, start=1):
        mirror.apply(*past.take(change))
        # Indexes are built when first asked and kept up change by change from then on.
        if number % 8 == 0 or number == len(history):
            mirror.begin(NOW_MS)
            assert mirror.run(ASK).split("\n") == walked(past.world)
    assert mirror.digest() == digest(past.world)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(histories)
def test_a_mirror_made_from_a_snapshot_is_the_one_that_lived_through_it_all(
    history: list[object],
) -> None:
    lived, past = Mirror(), History()
    for change in history:
        lived.apply(*past.take(change))
    fresh = Mirror()
    fresh.apply(*snapshot(past.world))
    for mirror in (lived, fresh):
        mirror.begin(NOW_MS, seed=7)
    assert fresh.digest() == lived.digest()
    assert fresh.run(ASK) == lived.run(ASK)
