"""A small busy fleet that lives on by itself, from one seed: jobs come, start where somebody decides, and end."""

import random

from beeyard_core.policy.intent import Dispatch, Intent
from beeyard_core.policy.world import (
    CLASSES,
    JobRow,
    ModelRow,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)
from beeyard_queen.policy.deltas import Delta, delta_of, snapshot, tenant_load, worker_load

_SLOTS = 3
_TOKENS = 300


class BusyWorld:
    """Rows that change, and the deltas that tell so."""

    def __init__(self, workers: int = 12, models: int = 3, tenants: int = 5, seed: int = 1) -> None:
        self.world = World()
        self.now_ms = 1_000_000
        self._chance = random.Random(seed)
        self._seq = 0
        self._models = [f"m{n}" for n in range(models)]
        for name in self._models:
            self.world.models[name] = ModelRow(ref=name, vram_required=1, context=4096)
        for n in range(tenants):
            tenant = TenantRow(tenant_id=f"t{n}", quota_jobs=6 if n == 0 else None)
            self.world.tenants[tenant.tenant_id] = tenant
        for n in range(workers):
            worker = WorkerRow(
                worker_id=f"w{n:02}", pool_id=f"p{n % 3}", model_ref=self._models[n % models],
                slots_total=_SLOTS, slots_free=_SLOTS, kv_free_tokens=_SLOTS * _TOKENS,
                tokens_per_s=self._chance.choice((0.0, 20.0, 31.7)), gpu_ids="0",
            )  # fmt: skip
            self.world.workers[worker.worker_id] = worker

    def snapshot(self) -> list[Delta]:
        """Everything as it is."""
        return list(snapshot(self.world))

    def happen(self) -> list[Delta]:
        """Let something happen; return what tells a mirror so."""
        self.now_ms += self._chance.randrange(40)
        running = self.world.running
        if (running and self._chance.random() < 0.5) or len(self.world.jobs) > 40:
            return self._end(self._chance.choice(sorted(running))) if running else []
        return self._come()

    def follow(self, intent: Intent) -> list[Delta]:
        """Do what was decided, if it is to start a job; return what tells a mirror so."""
        if not isinstance(intent, Dispatch):
            return []
        job = self.world.jobs.pop(intent.job_id)
        run = RunningRow(
            job_id=job.job_id, worker_id=intent.worker_id, tenant_id=job.tenant_id,
            priority=job.priority, kv_tokens=_TOKENS, started_at=self.now_ms,
        )  # fmt: skip
        self.world.running[run.job_id] = run
        return [("job_gone", job.job_id), delta_of(run), *self._take(run, -1)]

    def _come(self) -> list[Delta]:
        chance = self._chance
        self._seq += 1
        job = JobRow(
            job_id=f"j{self._seq}", seq=self._seq, tenant_id=f"t{chance.randrange(len(self.world.tenants))}",
            priority=chance.choice(CLASSES), model_ref=chance.choice(self._models),
            prompt_tokens=chance.choice((10, 200)), max_tokens=100, expected_tokens=50,
            created_at=self.now_ms, queued_at=self.now_ms,
            deadline_at=self.now_ms + 500 if chance.random() < 0.2 else None,
        )  # fmt: skip
        self.world.jobs[job.job_id] = job
        return [delta_of(job)]

    def _end(self, job_id: str) -> list[Delta]:
        run = self.world.running.pop(job_id)
        return [("running_gone", job_id), *self._take(run, 1)]

    def _take(self, run: RunningRow, slots: int) -> list[Delta]:
        worker = self.world.workers[run.worker_id]
        free = worker.slots_free + slots
        worker = worker._replace(
            slots_free=free,
            load=1 - free / _SLOTS,
            kv_free_tokens=free * _TOKENS,
            last_used_at=self.now_ms,
        )
        tenant = self.world.tenants[run.tenant_id]
        served = 50 if slots > 0 else 0
        tenant = tenant._replace(
            jobs_running=tenant.jobs_running - slots, tokens_served=tenant.tokens_served + served
        )
        self.world.workers[worker.worker_id] = worker
        self.world.tenants[tenant.tenant_id] = tenant
        return [worker_load(worker), tenant_load(tenant)]
