"""The platform policy in Python: the oracle of `lua/platform.lua`, which must decide alike in every world.

It is written from the rules (who comes first, where it runs, what makes way), with indexes of its own, so that it is
also the control that the Lua policy's speed is measured against; and what decides if Lua itself should fail.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from beeyard_core.policy.changes import Change, Gone, WorkerLoad
from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    StartWorker,
    Wait,
)
from beeyard_core.policy.lines import Lines
from beeyard_core.policy.world import (
    CLASSES,
    RANK,
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
from beeyard_core.policy.yard import Yard
from beeyard_core.scaling import Eviction

#: How long a batch or background job waits before it moves up by one class, in milliseconds.
PROMOTE_AFTER_MS = 5 * 60 * 1000
RETRY_AFTER_MS = 1000
#: Batch and background, by rank: the classes whose jobs move up.
_PROMOTED = (2, 3)
_INTERACTIVE = 0
_BATCH = 2

#: A tenant's turn: tokens served and jobs running, each for its weight, and its id.
Turn = tuple[float, float, str]
Placed = tuple[JobRow, WorkerRow]


def _turn_of(tenant: TenantRow | None, tenant_id: str) -> Turn:
    if tenant is None:
        return (0.0, 0.0, tenant_id)
    if not tenant.weight > 0:
        return (math.inf, math.inf, tenant_id)
    return (
        tenant.tokens_served / tenant.weight,
        tenant.jobs_running / tenant.weight,
        tenant_id,
    )


@dataclass(slots=True)
class Twin:
    """A mirror of the world and the platform policy over it.

    Attributes:
        promote_after_ms: As `config.promote_after_ms`; the next two likewise.
        residence_ms: So long a worker that was just loaded keeps its place.
        eviction: Which idle worker makes room first.
    """

    promote_after_ms: float = PROMOTE_AFTER_MS
    residence_ms: float = 0
    eviction: Eviction = Eviction.LRU
    lines: Lines = field(default_factory=Lines)
    yard: Yard = field(default_factory=Yard)
    tenants: dict[str, TenantRow] = field(default_factory=dict)
    _turns: list[Turn] = field(default_factory=list)
    _turn_of: dict[str, Turn] = field(default_factory=dict)
    #: Models of which nothing starts before a job that has waited for too long.
    _held: set[str] = field(default_factory=set)

    # --- The world ---

    @property
    def label(self) -> str:
        """What its decisions are signed with."""
        return "platform-twin@1"

    def take(self, changes: Sequence[Change]) -> None:
        """Bring the mirror up to date."""
        for change in changes:
            match change:
                case Gone():
                    self._forget(change)
                case WorkerLoad():
                    worker = self.yard.workers[change.worker_id]
                    self.yard.put_worker(worker._replace(**change._asdict()))
                case _:
                    self.put(change)

    def _forget(self, gone: Gone) -> None:
        match gone.kind:
            case "job":
                self.drop_job(gone.key[0])
            case "worker":
                self.yard.drop_worker(gone.key[0])
            case "running":
                self.yard.drop_run(gone.key[0])
            case "gpu":
                self.yard.drop_gpu(gone.key[0], gone.key[1])
            case "tenant":
                self.tenants.pop(gone.key[0], None)
                self._take_turn(gone.key[0])
            case "model":
                del self.yard.models[gone.key[0]]
            case _:
                assert_never(gone.kind)

    def put(self, row: Row) -> None:
        """Take in one row; it replaces the row of the same key."""
        match row:
            case JobRow():
                self.drop_job(row.job_id)
                self.lines.add(row)
                self._take_turn(row.tenant_id)
            case WorkerRow():
                self.yard.put_worker(row)
            case TenantRow():
                self.tenants[row.tenant_id] = row
                self._take_turn(row.tenant_id)
            case RunningRow():
                self.yard.put_run(row)
            case PrefixRow():
                self.yard.put_prefix(row)
            case PoolRow():
                self.yard.put_pool(row)
            case GpuRow():
                self.yard.put_gpu(row)
            case ModelRow():
                self.yard.models[row.ref] = row
            case _:
                # What was measured of past jobs decides nothing here.
                pass

    def drop_job(self, job_id: str) -> None:
        """Forget a waiting job, if it is there."""
        job = self.lines.jobs.get(job_id)
        if job is not None:
            self.lines.remove(job_id)
            self._take_turn(job.tenant_id)

    def _take_turn(self, tenant_id: str) -> None:
        """Bring a tenant's turn up to date; only tenants with waiting jobs have one."""
        before = self._turn_of.pop(tenant_id, None)
        if before is not None:
            del self._turns[bisect_left(self._turns, before)]
        if tenant_id in self.lines.waiting:
            turn = _turn_of(self.tenants.get(tenant_id), tenant_id)
            self._turn_of[tenant_id] = turn
            insort(self._turns, turn)

    # --- The decision ---

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        """Return what the platform policy decides now."""
        found = self._next_job()
        if found is not None:
            job, worker = found
            return Dispatch(job_id=job.job_id, worker_id=worker.worker_id, reason="overdue")
        before = now_ms - self.promote_after_ms
        for rank in range(len(CLASSES)):
            found = self._earliest_deadline(rank)
            reason = "earliest deadline"
            if found is None:
                found = self._fair_share(rank, before)
                waited = found is not None and found[0].priority != CLASSES[rank]
                reason = "waited long" if waited else "fair share"
            if found is not None:
                job, worker = found
                return Dispatch(job_id=job.job_id, worker_id=worker.worker_id, reason=reason)
        return self._preempt() or self._make_room(now_ms) or self._wait()

    def _wait(self) -> Intent:
        idle = not self.lines.jobs
        reason = "nothing waits" if idle else "no worker can take a waiting job now"
        return Wait(reason=reason, retry_after_ms=RETRY_AFTER_MS)

    def _next_job(self) -> Placed | None:
        """The oldest job of those that have waited for too long and can start. Notes whose models wait for theirs."""
        self._held.clear()
        found: list[Placed] = []
        for model, entries in self.lines.next_jobs.items():
            job = self.lines.jobs[entries[0][1]]
            if self._within_quota(job):
                self._held.add(model)
                worker = self.yard.best_worker(job)
                if worker is not None:
                    found.append((job, worker))
        return min(found, key=lambda placed: placed[0].seq, default=None)

    def _models(self, rank: int) -> list[str]:
        """Models of a class with waiting jobs and an open worker, of which nothing else has to start first."""
        crews, held = self.yard.crews, self._held
        return [
            m for m in self.lines.groups[rank] if m in crews and crews[m].open and m not in held
        ]

    def _may_start(self, tenant_id: str, vram_bytes: int = 0) -> bool:
        """Whether a tenant's quotas leave room for one more job that needs so much memory."""
        tenant = self.tenants.get(tenant_id)
        if tenant is None:
            return True
        if tenant.quota_vram is not None and tenant.quota_used + vram_bytes > tenant.quota_vram:
            return False
        return tenant.quota_jobs is None or tenant.jobs_running < tenant.quota_jobs

    def _within_quota(self, job: JobRow) -> bool:
        return self._may_start(job.tenant_id, job.estimated_vram_bytes)

    def _next_to_start(self, rank: int, model: str) -> JobRow | None:
        """The oldest job for a model in a class whose tenant may start one, if its own need is within the quota."""
        oldest = next(
            filter(lambda job: self._may_start(job.tenant_id), self.lines.of(rank, model)), None
        )
        return oldest if oldest is not None and self._within_quota(oldest) else None

    def _earliest_deadline(self, rank: int) -> Placed | None:
        found: list[tuple[int | None, int, JobRow, WorkerRow]] = []
        for model in self._models(rank):
            firsts = self.lines.earliest(rank, model, self._may_start)
            due = sorted(firsts, key=lambda job: (job.deadline_at, job.seq))
            for job in filter(self._within_quota, due):
                worker = self.yard.best_worker(job)
                if worker is not None:
                    found.append((job.deadline_at, job.seq, job, worker))
                    break
        if not found:
            return None
        *_, job, worker = min(found, key=lambda each: each[:2])
        return job, worker

    def _fair_share(self, rank: int, before: float) -> Placed | None:
        below = rank + 1
        oldest = self.lines.oldest(below) if below in _PROMOTED else None
        models = [(rank, model, math.inf) for model in self._models(rank)]
        # Nobody below has waited long enough if the oldest has not.
        if oldest is not None and oldest.queued_at <= before:
            models += [(below, model, before) for model in self._models(below)]
        if not models:
            return None
        heads: list[tuple[int, JobRow]] = []
        last: tuple[float, float] | None = None
        for share, running, tenant_id in self._turns:
            if heads and (share, running) != last:
                placed = self._next(heads)
                if placed is not None:
                    return placed
                heads = []
            last = (share, running)
            for of_rank, model, queued_before in models:
                heads += self._heads(of_rank, model, tenant_id, queued_before)
        return self._next(heads)

    def _heads(
        self, rank: int, model: str, tenant: str, before: float
    ) -> Iterator[tuple[int, JobRow]]:
        for turn, job in self.lines.heads(rank, model, tenant):
            if job.queued_at <= before and self._within_quota(job):
                yield turn, job

    def _next(self, heads: list[tuple[int, JobRow]]) -> Placed | None:
        for _, job in sorted(heads, key=lambda head: (head[0], head[1].seq)):
            worker = self.yard.best_worker(job)
            if worker is not None:
                return job, worker
        return None

    def _preempt(self) -> Intent | None:
        found: tuple[int, JobRow, RunningRow] | None = None
        for model in self.lines.groups[_INTERACTIVE]:
            crew = self.yard.crews.get(model)
            if crew is None or crew.stopping or not crew.victims or model in self._held:
                continue
            job = self._next_to_start(_INTERACTIVE, model)
            run = self.yard.victim(job) if job is not None else None
            if job is None or run is None or run.priority not in CLASSES[_BATCH:]:
                continue
            if found is None or job.seq < found[0]:
                found = (job.seq, job, run)
        if found is None:
            return None
        _, job, run = found
        return Preempt(job_id=run.job_id, for_job_id=job.job_id, reason="interactive work waits")

    def _unserved(self) -> Iterator[JobRow]:
        """The oldest job for each model that no worker serves, the most urgent class first."""
        crews = self.yard.crews
        for rank, groups in enumerate(self.lines.groups):
            missing = [m for m in groups if m not in crews or not crews[m].live]
            jobs = (self._next_to_start(rank, model) for model in missing)
            yield from sorted((job for job in jobs if job is not None), key=lambda job: job.seq)

    def _make_room(self, now_ms: int) -> Intent | None:
        jobs = list(self._unserved())
        for job in jobs:
            gpu = self.yard.gpu_for(job)
            if gpu is not None:
                reason = f"no worker serves {job.model_ref}"
                place = (job.model_ref, gpu.pool_id, gpu.gpu_id)
                return StartWorker.at(*place, reason=reason)
        for job in jobs:
            if self.yard.is_room_coming(job):
                continue
            for worker in self.yard.unused(job, self.eviction):
                is_idle = not self.lines.is_wanted(worker.model_ref)
                if is_idle and self._may_leave(worker, job, now_ms):
                    reason = f"makes room for {job.model_ref}"
                    return Evict(evict_worker_id=worker.worker_id, reason=reason)
        return None

    def _may_leave(self, worker: WorkerRow, job: JobRow, now_ms: int) -> bool:
        """Whether a worker has been there for its residence, or the job is more urgent than all that it served."""
        if not worker.resident_at or now_ms - worker.resident_at >= self.residence_ms:
            return True
        served = RANK.get(worker.served_class, 0)
        return RANK[job.priority] < served
