"""One world in three places, which must always agree: plain rows, the Lua mirror, the twin."""

from beeyard_core.policy.decision import judge
from beeyard_core.policy.intent import Dispatch, Evict, Intent, Preempt, StartWorker
from beeyard_core.policy.twin import Twin
from beeyard_core.policy.world import (
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
from beeyard_core.scaling import Eviction, ScaleSettings
from beeyard_queen.policy.deltas import delta_of
from beeyard_queen.policy.in_process import PlatformPolicy

from tests.support.policy_rows import NOW_MS, RESIDENCE_MS


class Hive:
    """One world in three places: plain rows, the Lua mirror, the twin."""

    def __init__(self, eviction: Eviction = Eviction.LRU) -> None:
        scaling = ScaleSettings(residence_ms=RESIDENCE_MS, eviction=eviction)
        config = scaling.policy_values()
        self.world = World(config=dict(config))
        self.policy = PlatformPolicy()
        self.policy.apply([("config", name, value) for name, value in config])
        self.twin = Twin(residence_ms=RESIDENCE_MS, eviction=eviction)
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
