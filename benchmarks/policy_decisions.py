"""How long the platform policy takes to decide, beside its twin in Python, in one run on the same events.

A saturated fleet: workers of 4 slots, 20 models, 50 tenants of which one in ten has its quota of jobs used up; a third
of the events end a job, a third add one, a third are heartbeats. After each event both policies decide until they wait;
only `decide` is timed, the deltas apart. Both must decide alike throughout.
"""

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from beeyard_core.policy.intent import Dispatch, Intent, Preempt, Wait
from beeyard_core.policy.twin import Twin
from beeyard_core.policy.world import (
    CLASSES,
    JobRow,
    ModelRow,
    Row,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)
from beeyard_queen.policy.deltas import Delta, delta_of, worker_load
from beeyard_queen.policy.in_process import PlatformPolicy

MODELS = 20
TENANTS = 50
SLOTS = 4
GIB = 1 << 30
NOW_MS = 10_000_000


@dataclass
class Spent:
    """Nanoseconds of CPU time of each decision, and of the deltas in all."""

    decisions_ns: list[int] = field(default_factory=list)
    deltas_ns: int = 0

    def quantile_us(self, part: float) -> float:
        """Return a quantile of the decisions, in microseconds."""
        ordered = sorted(self.decisions_ns)
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)] / 1000

    @property
    def per_s(self) -> float:
        """Decisions a second, the deltas' cost included."""
        return len(self.decisions_ns) * 1e9 / (sum(self.decisions_ns) + self.deltas_ns)


class Saturated:
    """The fleet, held three times: rows, Lua, Python."""

    def __init__(self, workers: int, jobs: int, seed: int = 1) -> None:
        """Fill it: every slot taken, `jobs` waiting."""
        self.chance = random.Random(seed)
        self.world, self.lua, self.twin = World(), PlatformPolicy(), Twin()
        self.spent = {"lua": Spent(), "python": Spent()}
        self._seq = 0
        for n in range(MODELS):
            self._put(ModelRow(ref=f"model-{n}", vram_required=8 * GIB, context=8192))
        for n in range(TENANTS):
            full = n % 10 == 0
            self._put(
                TenantRow(
                    tenant_id=f"tenant-{n:02}",
                    tokens_served=self.chance.randrange(1_000_000),
                    quota_jobs=10 if full else None,
                    jobs_running=10 if full else 0,
                )
            )
        for n in range(workers):
            self._add_worker(n)
        for _ in range(jobs):
            self.add_job()

    def _add_worker(self, n: int) -> None:
        chance = self.chance
        worker = WorkerRow(
            worker_id=f"worker-{n:05}", pool_id=f"pool-{n // 8:04}", status="busy",
            model_ref=f"model-{n % MODELS}", engine="llamacpp", slots_total=SLOTS, slots_free=0,
            vram_free=chance.choice((2, 4, 8)) * GIB, kv_free_tokens=0, load=1.0,
            tokens_per_s=chance.uniform(20, 80), context_tokens=8192, gpu_ids="0",
        )  # fmt: skip
        self._put(worker)
        for slot in range(SLOTS):
            self._run(f"first-{n}-{slot}", worker, chance.choice(CLASSES))

    def _run(self, job_id: str, worker: WorkerRow, priority: str) -> None:
        row = RunningRow(
            job_id=job_id, worker_id=worker.worker_id, priority=priority, kv_tokens=2048
        )
        self._put(row)

    def _put(self, row: Row) -> None:
        match row:
            case JobRow():
                self.world.jobs[row.job_id] = row
            case WorkerRow():
                self.world.workers[row.worker_id] = row
            case RunningRow():
                self.world.running[row.job_id] = row
            case TenantRow():
                self.world.tenants[row.tenant_id] = row
            case _:
                pass
        self._tell(delta_of(row), lambda: self.twin.put(row))

    def _tell(self, delta: Delta, python: Callable[[], None]) -> None:
        began = time.thread_time_ns()
        self.lua.apply((delta,))
        between = time.thread_time_ns()
        python()
        self.spent["python"].deltas_ns += time.thread_time_ns() - between
        self.spent["lua"].deltas_ns += between - began

    def _load(self, worker: WorkerRow) -> None:
        self.world.workers[worker.worker_id] = worker
        self._tell(worker_load(worker), lambda: self.twin.put(worker))

    def add_job(self) -> None:
        """One more job waits."""
        chance, n = self.chance, self._seq
        self._seq += 1
        self._put(
            JobRow(
                job_id=f"job-{n}", seq=n, tenant_id=f"tenant-{chance.randrange(TENANTS):02}",
                priority=chance.choices(CLASSES, (1, 3, 4, 2))[0],
                model_ref=f"model-{chance.randrange(MODELS)}",
                prompt_tokens=chance.choice((100, 400, 900)), max_tokens=256, expected_tokens=200,
                queued_at=NOW_MS - chance.randrange(600_000),
                deadline_at=NOW_MS + chance.randrange(10**6) if chance.random() < 0.1 else None,
                estimated_vram_bytes=chance.choice((0, GIB, 2 * GIB)),
            )
        )  # fmt: skip

    def end_job(self) -> None:
        """A running job ends: its slot is free, its tenant was served."""
        run = self.chance.choice(list(self.world.running.values()))
        del self.world.running[run.job_id]
        self._tell(("running_gone", run.job_id), lambda: self.twin.yard.drop_run(run.job_id))
        worker = self.world.workers[run.worker_id]
        free = worker.slots_free + 1
        self._load(
            worker._replace(slots_free=free, load=1 - free / SLOTS, kv_free_tokens=2048 * free)
        )
        tenant = self.chance.choice(list(self.world.tenants.values()))
        self._put(tenant._replace(tokens_served=tenant.tokens_served + 200))

    def beat(self) -> None:
        """A worker reports."""
        worker = self.chance.choice(list(self.world.workers.values()))
        self._load(worker._replace(last_used_at=NOW_MS))

    def empty(self) -> None:
        """Every running job ends at once."""
        for job_id in list(self.world.running):
            del self.world.running[job_id]
            self._tell(("running_gone", job_id), partial(self.twin.yard.drop_run, job_id))
        for worker in list(self.world.workers.values()):
            self._load(worker._replace(slots_free=SLOTS, load=0.0, kv_free_tokens=8192))

    def decide(self) -> Intent:
        """Both decide, alike."""
        began = time.thread_time_ns()
        by_lua = self.lua.decide(NOW_MS)
        between = time.thread_time_ns()
        by_python = self.twin.decide(NOW_MS)
        ended = time.thread_time_ns()
        assert by_lua == by_python, (by_lua, by_python)
        self.spent["lua"].decisions_ns.append(between - began)
        self.spent["python"].decisions_ns.append(ended - between)
        return by_lua

    def settle(self) -> None:
        """Do what is decided until that is to wait. Jobs that are taken back stop when they end."""
        while not isinstance(intent := self.decide(), Wait):
            if isinstance(intent, Preempt):
                self._put(self.world.running[intent.job_id]._replace(is_stopping=True))
                continue
            assert isinstance(intent, Dispatch)
            job, worker = self.world.jobs.pop(intent.job_id), self.world.workers[intent.worker_id]
            self._tell(("job_gone", job.job_id), partial(self.twin.drop_job, job.job_id))
            free = worker.slots_free - 1
            self._load(
                worker._replace(slots_free=free, load=1 - free / SLOTS, kv_free_tokens=2048 * free)
            )
            self._run(job.job_id, worker, job.priority)


def measure(workers: int, jobs: int, events: int) -> dict[str, Spent]:
    """Return what both spent on a number of events."""
    fleet = Saturated(workers, jobs)
    fleet.settle()
    fleet.spent["lua"], fleet.spent["python"] = Spent(), Spent()
    # The interpreter's own pauses are the same for both; here they would hit whoever happens to be timed.
    gc.disable()
    for n in range(events):
        (fleet.add_job, fleet.end_job, fleet.beat)[n % 3]()
        fleet.settle()
    gc.enable()
    return fleet.spent


def burst(workers: int, jobs: int) -> dict[str, Spent]:
    """Return what both spent on filling a fleet that was empty."""
    fleet = Saturated(workers, jobs)
    fleet.empty()
    fleet.spent["lua"], fleet.spent["python"] = Spent(), Spent()
    fleet.settle()
    return fleet.spent


def main() -> None:
    """Print the table."""
    for name, spent in (
        ("100 x 100", measure(100, 100, 3000)),
        ("1000 x 1000", measure(1000, 1000, 3000)),
        ("1000 x 10000", measure(1000, 10_000, 3000)),
        ("burst 1000 x 10000", burst(1000, 10_000)),
    ):
        for who, each in spent.items():
            print(
                f"{name:20} {who:7} {len(each.decisions_ns):6} decisions"
                f"  p50 {each.quantile_us(0.5):7.1f}  p99 {each.quantile_us(0.99):7.1f} us  {each.per_s:9.0f}/s"
            )


if __name__ == "__main__":
    main()
