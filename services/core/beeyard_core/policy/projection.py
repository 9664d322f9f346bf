"""From the queen's state to what a policy's mirror is told of it.

The core notes the keys of what it touches (`state.Touched`); here the rows are cut, once for each key and from the
present state, so that a job that came and went between two decisions is never told. Everything costs what has changed,
but for the look at who fell silent, which walks the fleet once in a tick. Of very many jobs (a full queue that a
restarted queen has read back) so many are told at a time that nobody else waits for long; until all are, nothing is to
be decided.

`rows_of` cuts everything anew: what a fresh mirror begins with, and what any mirror must equal.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.demand import Promised, promised_bytes
from beeyard_core.fleet import Device, Pool, PoolReport, Traits, WorkerReport
from beeyard_core.ids import JobId, PoolId, WorkerId
from beeyard_core.policy.changes import Change, Gone, WorkerLoad
from beeyard_core.policy.cutting import (
    but_load,
    device_of,
    gpu_rows,
    history_row,
    in_load,
    job_row,
    load_of,
    merged,
    model_rows,
    pool_row,
    pool_status,
    prefix_rows,
    present_row,
    running_row,
    tenant_row,
    worker_status,
)
from beeyard_core.policy.world import (
    GpuRow,
    ModelRow,
    PoolRow,
    PrefixRow,
    Row,
    WorkerRow,
    World,
)
from beeyard_core.state import QueenState


@dataclass(slots=True)
class _Told:
    """What was told of a worker that is there.

    Attributes:
        report: What it had said of itself; as long as that is the same object, only its load can have changed.
        host: The same of its host's last report.
        load: The figures that were told last.
        speeds: The measured speeds of others that were known then, as their count of changes.
    """

    report: WorkerReport
    host: PoolReport | None
    device: Device | None
    load: WorkerLoad
    speeds: int


@dataclass(slots=True)
class Projection:
    """What one set of mirrors was told so far.

    Attributes:
        version: Counts up with every drain that told something: the version of the state that a decision saw.
        looked_at_ms: Monotonic time of the last look at who fell silent.
        workers: Every worker as it was told last, but for its load.
        models: The catalogue as it was told last.
    """

    version: int = 0
    looked_at_ms: int = 0
    workers: dict[WorkerId, WorkerRow] = field(default_factory=dict)
    _told: dict[WorkerId, _Told] = field(default_factory=dict)
    _pools: dict[PoolId, PoolRow] = field(default_factory=dict)
    _gpus: dict[tuple[PoolId, str], GpuRow] = field(default_factory=dict)
    _free_bytes: dict[PoolId, list[int]] = field(default_factory=dict)
    _gpus_count: dict[PoolId, int] = field(default_factory=dict)
    models: dict[str, ModelRow] = field(default_factory=dict)
    _catalogues: dict[PoolId, dict[str, ModelRow]] = field(default_factory=dict)
    _traits: dict[PoolId, Traits] = field(default_factory=dict)
    _holders: dict[str, dict[PoolId, ModelRow]] = field(default_factory=dict)
    _runs: set[JobId] = field(default_factory=set)
    _jobs: set[JobId] = field(default_factory=set)
    _untold: deque[JobId] = field(default_factory=deque)
    _prefixes: dict[int, dict[WorkerId, PrefixRow]] = field(default_factory=dict)

    @property
    def is_behind(self) -> bool:
        """Whether mirrors lack jobs that the next drains tell them of: whoever decides now decides on half a queue."""
        return bool(self._untold)

    def drain(self, state: QueenState, now_ms: int) -> list[Change]:
        """Return what mirrors must be told to be up to date, and forget that it had to be told.

        Of very many jobs only the first are told; see `is_behind`.
        """
        if now_ms - self.looked_at_ms >= limits.TICK_INTERVAL_MS:
            self.looked_at_ms = now_ms
            self._notice_silence(state, now_ms)
        changes: list[Change] = []
        touched, workers = state.touched, state.fleet.touched
        if touched.pools:
            self._tell_pools(state, now_ms, changes)
        if workers:
            self._tell_workers(state, now_ms, changes)
        if touched.runs:
            self._tell_runs(state, changes)
        if state.prefixes.touched:
            self._tell_prefixes(state, changes)
        if touched.tenants:
            self._tell_tenants(state, changes)
        if touched.jobs or self._untold:
            self._tell_jobs(state, changes)
        if state.forecast.touched:
            self._tell_history(state, changes)
        if changes:
            self.version += 1
        return changes

    def _notice_silence(self, state: QueenState, now_ms: int) -> None:
        """Touch what became stale, or fresh again, by nothing but the passing of time."""
        for pool_id, pool in state.fleet.pools.items():
            told = self._pools.get(pool_id)
            if told is not None and told.status != pool_status(pool, now_ms):
                state.touched.pools[pool_id] = None
        for worker_id, row in self.workers.items():
            worker = state.fleet.workers.get(worker_id)
            if worker is None:
                is_same = row == present_row(state, worker_id, now_ms, row)
            else:
                told_load = self._told.get(worker_id)
                status = told_load.load.status if told_load is not None else row.status
                is_same = status == worker_status(state, worker, now_ms)
            if not is_same:
                state.fleet.touched[worker_id] = None

    # --- One kind after the other, in the order in which a mirror can take them ---

    def _tell_pools(self, state: QueenState, now_ms: int, changes: list[Change]) -> None:
        promised = promised_bytes(state)
        for pool_id in state.touched.pools:
            pool = state.fleet.pools[pool_id]
            before = self._pools.get(pool_id)
            row = pool_row(pool, now_ms)
            has_changed = before is None or row.status != before.status
            has_changed |= self._traits.get(pool_id) != pool.report.traits
            self._traits[pool_id] = pool.report.traits
            if row != before:
                self._pools[pool_id] = row
                changes.append(row)
            has_changed |= self._tell_gpus(pool, promised, changes)
            # A device's row may stay as it is while its worker's does not: memory that was promised is taken now.
            free_bytes = [device.vram_free_bytes for device in pool.report.devices]
            has_changed |= self._free_bytes.get(pool_id) != free_bytes
            self._free_bytes[pool_id] = free_bytes
            self._tell_models(pool, changes)
            if has_changed:
                # What a device has free, and how its host is, its workers have and are as well.
                state.fleet.touched.update(dict.fromkeys(state.fleet.by_pool.get(pool_id, ())))
        state.touched.pools.clear()

    def _tell_gpus(self, pool: Pool, promised: Promised, changes: list[Change]) -> bool:
        """Tell what changed of a host's devices; return whether anything did."""
        pool_id, before = pool.report.pool_id, len(changes)
        for gpu in gpu_rows(pool, promised):
            key = (pool_id, gpu.gpu_id)
            if gpu != self._gpus.get(key):
                self._gpus[key] = gpu
                changes.append(gpu)
        count = len(pool.report.devices)
        for index in range(count, self._gpus_count.get(pool_id, 0)):
            del self._gpus[pool_id, str(index)]
            changes.append(Gone("gpu", (pool_id, str(index))))
        self._gpus_count[pool_id] = count
        return len(changes) > before

    def _tell_models(self, pool: Pool, changes: list[Change]) -> None:
        """Tell what changed of the catalogue by a host's report, and which hosts can load what."""
        pool_id, rows = pool.report.pool_id, {row.ref: row for row in model_rows(pool)}
        before = self._catalogues.get(pool_id)
        if rows == before:
            return
        self._catalogues[pool_id] = rows
        for ref in (before or {}).keys() - rows.keys():
            del self._holders[ref][pool_id]
        for ref, row in rows.items():
            self._holders.setdefault(ref, {})[pool_id] = row
        # One host more, and what all could load, not all can any more.
        touched = self._holders if before is None else {*before, *rows}
        for ref in sorted(touched):
            self._tell_model(ref, changes)

    def _tell_model(self, ref: str, changes: list[Change]) -> None:
        row = merged(self._holders[ref], len(self._catalogues))
        if row is None:
            del self._holders[ref], self.models[ref]
            changes.append(Gone("model", (ref,)))
        elif row != self.models.get(ref):
            self.models[ref] = row
            changes.append(row)

    def _tell_workers(self, state: QueenState, now_ms: int, changes: list[Change]) -> None:
        speeds = state.fleet.speeds.version
        for worker_id in state.fleet.touched:
            worker, told = state.fleet.workers.get(worker_id), self._told.get(worker_id)
            if (
                worker is not None
                and told is not None
                and worker.report is told.report
                and speeds == told.speeds
            ):
                pool = state.fleet.pools.get(worker.report.pool_id)
                if (pool.report if pool is not None else None) is told.host:
                    load = load_of(state, worker, now_ms, told.device)
                    if load != told.load:
                        told.load = load
                        changes.append(load)
                    continue
            self._tell_worker(state, worker_id, now_ms, changes)
        state.fleet.touched.clear()

    def _tell_worker(
        self, state: QueenState, worker_id: WorkerId, now_ms: int, changes: list[Change]
    ) -> None:
        """Tell of a worker of which more than its load may have changed."""
        told = self._told.pop(worker_id, None)
        before = self.workers.get(worker_id)
        if before is not None and told is not None:
            before = before._replace(**told.load._asdict())
        row = present_row(state, worker_id, now_ms, before)
        if row is None:
            if before is not None:
                self._drop_prefixes(state, worker_id)
                del self.workers[worker_id]
                changes.append(Gone("worker", (worker_id,)))
            return
        if before is not None and (before.model_ref, before.pool_id) != (
            row.model_ref,
            row.pool_id,
        ):
            self._drop_prefixes(state, worker_id)
        self.workers[worker_id] = row
        worker = state.fleet.workers.get(worker_id)
        if worker is not None:
            pool = state.fleet.pools.get(worker.report.pool_id)
            _, device = device_of(state, worker)
            load = load_of(state, worker, now_ms, device)
            self._told[worker_id] = _Told(
                worker.report,
                pool.report if pool is not None else None,
                device,
                load,
                state.fleet.speeds.version,
            )
        if row != before:
            is_load = before is not None and but_load(before) == but_load(row)
            changes.append(WorkerLoad(*in_load(row)) if is_load else row)

    def _tell_runs(self, state: QueenState, changes: list[Change]) -> None:
        for job_id in state.touched.runs:
            row = running_row(state, job_id)
            if row is not None:
                self._runs.add(job_id)
                changes.append(row)
            elif job_id in self._runs:
                self._runs.discard(job_id)
                changes.append(Gone("running", (job_id,)))
        state.touched.runs.clear()

    def _tell_prefixes(self, state: QueenState, changes: list[Change]) -> None:
        """Tell who has what jobs wait for; of a block for which none waits any more, that nobody has it."""
        for block in state.prefixes.touched:
            before = self._prefixes.pop(block, {})
            rows = {WorkerId(row.worker_id): row for row in prefix_rows(state, block)}
            changes.extend(row._replace(tokens=0) for w, row in before.items() if w not in rows)
            changes.extend(row for w, row in rows.items() if row != before.get(w))
            if rows:
                self._prefixes[block] = rows
        state.prefixes.touched.clear()

    def _drop_prefixes(self, state: QueenState, worker_id: WorkerId) -> None:
        """Mirrors forget what a worker had when it goes or becomes another; what it has now is told anew."""
        for block, rows in self._prefixes.items():
            if rows.pop(worker_id, None) is not None:
                state.prefixes.touched[block] = None

    def _tell_tenants(self, state: QueenState, changes: list[Change]) -> None:
        for tenant_id in state.touched.tenants:
            if tenant_id in state.tenants:
                changes.append(tenant_row(state, tenant_id))
            else:
                changes.append(Gone("tenant", (tenant_id,)))
        state.touched.tenants.clear()

    def _tell_jobs(self, state: QueenState, changes: list[Change]) -> None:
        self._untold.extend(state.touched.jobs)
        state.touched.jobs.clear()
        for _ in range(min(len(self._untold), limits.JOBS_TOLD_AT_ONCE_MAX)):
            job_id = self._untold.popleft()
            if job_id in state.queue and state.jobs[job_id].held_until_ms is None:
                self._jobs.add(job_id)
                changes.append(job_row(state, state.jobs[job_id]))
            elif job_id in self._jobs:
                self._jobs.discard(job_id)
                changes.append(Gone("job", (job_id,)))

    @staticmethod
    def _tell_history(state: QueenState, changes: list[Change]) -> None:
        for model, device in state.forecast.touched:
            changes.append(history_row(state, model, device))
        state.forecast.touched.clear()


def rows_of(state: QueenState, now_ms: int, known: Projection) -> Iterator[Row]:
    """Yield everything as a policy sees it, in an order that an empty mirror takes in fastest.

    Waiting jobs are cut as they are asked for, so that a long queue need not be cut in one go; what changes meanwhile
    must be told afterwards.

    Args:
        state: The queen's memory.
        now_ms: Monotonic time.
        known: What mirrors were told already: starts and models are told as they were told before.
    """
    yield from fleet_of(state, now_ms, known).rows()
    for job_id in sorted(state.queue.job_ids(), key=lambda each: state.jobs[each].sequence):
        if job_id in state.queue and state.jobs[job_id].held_until_ms is None:
            yield job_row(state, state.jobs[job_id])


def world_of(state: QueenState, now_ms: int, known: Projection) -> World:
    """Return everything as a policy sees it, as tables. Walks all of the state."""
    world = fleet_of(state, now_ms, known)
    waiting = (state.jobs[job_id] for job_id in state.queue.job_ids())
    world.jobs = {job.job_id: job_row(state, job) for job in waiting if job.held_until_ms is None}
    return world


def fleet_of(state: QueenState, now_ms: int, known: Projection) -> World:
    """Return everything but the waiting jobs, as tables."""
    world = World(models={**known.models}, config=dict(state.settings.policy_config))
    promised = promised_bytes(state)
    for pool_id, pool in state.fleet.pools.items():
        world.pools[pool_id] = pool_row(pool, now_ms)
        for gpu in gpu_rows(pool, promised):
            world.gpus[pool_id, gpu.gpu_id] = gpu
    for worker_id in (*state.fleet.workers, *state.wishes):
        row = present_row(state, worker_id, now_ms, known.workers.get(worker_id))
        assert row is not None, worker_id
        world.workers[worker_id] = row
    for lease in state.leases.values():
        run = running_row(state, lease.job_id)
        if run is not None:
            world.running[run.job_id] = run
    for block in state.prefixes.blocks_awaited():
        for prefix in prefix_rows(state, block):
            world.prefixes[prefix.worker_id, prefix.prompt_hash] = prefix
    for model, device in state.forecast.told:
        world.history[model, device] = history_row(state, model, device)
    for tenant_id in state.tenants:
        world.tenants[tenant_id] = tenant_row(state, tenant_id)
    return world
