"""Crowds: random small worlds in which more is asked for than there is, played fast enough for thousands of cases.

A world is drawn from a few bytes (hosts, workers, quotas, bounds of the queue) and so is what happens in it: jobs of
all classes, sizes, sessions and tenants, workers that end jobs, break them, come and go, and time that passes. Nothing
of the core is left out; what `apiary.py` checks at every step is, so that a case takes milliseconds. The platform
policy decides, by its twin.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TypeAlias

from beeyard_core import limits
from beeyard_core.backpressure import Overflow, QueueSettings
from beeyard_core.capacity import Room, rooms
from beeyard_core.effect import Accept, AnnounceEnded, AnswerWork, Effect, Offer, Refuse
from beeyard_core.event import (
    ApiMeasured,
    CancelRequested,
    Event,
    JobSubmitted,
    LeaseFailed,
    LeaseFinished,
    LeaseStopped,
    OfferRefused,
    PoolReported,
    Ticked,
    WorkAsked,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
)
from beeyard_core.fleet import HostLoad, PoolReport, ProcessReport, WorkerReport, WorkerState
from beeyard_core.ids import JobId, ModelName, PoolId, TenantId, WorkerId, WorkId
from beeyard_core.instant import Instant
from beeyard_core.job import Finish, Job, PlacementWish, Priority
from beeyard_core.lease import Lease
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.quota import Quota, QuotaSettings
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState, Settings
from beeyard_core.step import step
from beeyard_core.work import WorkLease
from beeyard_core.work_ask import Completion, Granted, Submission, WorkAsk
from beeyard_core.work_yard import CapacitySettings, InferenceShare
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_scheduling_cases
from tests.support.core_values import GIB, START, cached_of, device_of, pool_of, report_of, spec_of
from tests.support.heavy_work import IDLE_API, IDLE_HOST, claim_of, wanted, work_spec

Moves: TypeAlias = list[tuple[int, int]]

MODELS = (ModelName("m"), ModelName("n"))
#: What only hosts can load, so that workers must be started for it, and room made.
LOADABLE = (ModelName("x"), ModelName("y"), ModelName("z"))
TENANTS = (TenantId("ann"), TenantId("ben"), TenantId("cat"))
#: Prompt and answer; sizes that differ by a step wait in lines of their own, and those of one line are alike.
SIZES = ((100, 200), (200, 400), (300, 1_000), (600, 2_000))
OVERFLOWS = tuple(Overflow)
QUOTAS = (
    Quota(),
    Quota(concurrent_jobs=3),
    Quota(tokens_per_minute=1_500, session_tokens=4_000),
    Quota(requests_per_second=2.0, vram_bytes=9 * GIB),
    Quota(session_cost_units=6, concurrent_jobs=8),
)


@dataclass
class Crowd:
    """One world and what happened in it.

    Attributes:
        seeds: What the world is drawn from, twelve numbers from 0 to 255.
        grants: Leases of heavy work, each with the units of its host just before.
        after_each: Called after every event with its effects, before the next.
        order: How things are told that have no order: 1 forwards, -1 backwards.
    """

    seeds: bytes
    after_each: Callable[["Crowd", list[Effect]], None] = lambda _crowd, _effects: None
    order: int = 1
    now: Instant = START
    state: QueenState = field(init=False)
    twin: Twin = field(default_factory=Twin)
    projection: Projection = field(default_factory=Projection)
    pools: dict[PoolId, PoolReport] = field(default_factory=dict)
    workers: dict[WorkerId, WorkerReport] = field(default_factory=dict)
    attached: dict[WorkerId, int] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    grants: list[tuple[Room, WorkLease]] = field(default_factory=list)
    jobs_count: int = 0
    works_count: int = 0
    sessions_count: int = 0

    def __post_init__(self) -> None:
        """Draw the world and let everybody come."""
        s = self.seeds
        overflow = {
            Priority(1 + s[0] % 4): OVERFLOWS[s[1] % 3],
        }
        queue = QueueSettings(
            depth_max=3 + s[2] % 6,
            depth_max_by_class={Priority(1 + s[3] % 4): 2 + s[3] % 4},
            overflow=OVERFLOWS[s[4] % 3],
            overflow_by_class=overflow,
            high_water=(0.3, 0.5, 1.0)[s[0] % 3],
            overdue_after_ms=(0, 500, 3_000)[s[5] % 3],
            overdue_every=1 + s[5] % 4,
        )
        quotas = QuotaSettings(
            by_tenant={
                tenant: QUOTAS[seed % 5] for tenant, seed in zip(TENANTS, s[6:], strict=False)
            },
            is_enforced=True,
        )
        capacity = CapacitySettings(
            units_per_host=8, reserve_units=1, inference=tuple(InferenceShare)[s[8] % 3]
        )
        self.state = QueenState(settings=Settings(queue=queue, quotas=quotas, capacity=capacity))
        for number, pool_id in enumerate(("p1", "p2")):
            free = (9, 14, 20)[s[9 + number] % 3] * GIB
            device = device_of(f"gpu-{pool_id}", vram_free_bytes=free)
            models = tuple(
                cached_of(m, required_bytes=(4 + n) * GIB) for n, m in enumerate(LOADABLE)
            )
            self.pools[PoolId(pool_id)] = pool_of(
                pool_id, devices=(device,), models=models, load=IDLE_HOST
            )
        for number in range(2 + s[11] % 4):
            seed = s[number] + s[11 - number]
            worker = report_of(
                f"w{number}", model=MODELS[seed % 3 % 2], pool_id=PoolId(f"p{1 + seed // 3 % 2}"),
                slots_total=1 + seed // 6 % 3, kv_tokens_total=(2_600, 6_000)[seed // 18 % 2], context_tokens=3_000,
                device=f"gpu-p{1 + seed // 3 % 2}", tokens_per_s=float(s[7] % 4),
            )  # fmt: skip
            self.workers[worker.worker_id] = worker
        for pool in list(self.pools.values())[:: self.order]:
            self.happen(PoolReported(pool, is_first=True))
        self.happen(ApiMeasured(IDLE_API))
        for worker_id in list(self.workers)[:: self.order]:
            self.attach(worker_id)

    def play(self, moves: Moves) -> "Crowd":
        """Let everything happen."""
        kinds = (
            *(self.submit,) * 12, *(self.finish,) * 6, *(self.pass_time,) * 2, self.break_off, self.cancel,
            self.come_or_go, self.refuse, self.load, self.work, self.work, self.burden,
        )  # fmt: skip
        for kind, value in moves:
            kinds[kind % len(kinds)](value)
        return self

    def happen(self, *events: Event) -> None:
        """Events that come together, and what is decided after them."""
        effects = [effect for event in events for effect in step(self.state, event, self.now)]
        schedule(self.state, self.projection, self.twin, self.now, effects)
        self.effects += effects
        self.after_each(self, effects)

    # --- Clients ---

    def submit(self, value: int) -> None:
        self.jobs_count += 1
        prompt_tokens, max_tokens = SIZES[value % 4]
        models = (*MODELS, *MODELS, LOADABLE[value % 3])
        spec = spec_of(
            models[value // 4 % 5],
            priority=Priority(1 + value // 8 % 4), tenant_id=TENANTS[value // 32 % 3],
            session_id=("", "s1", "s2", "s3")[value // 5 % 4], prompt_tokens=prompt_tokens,
            max_tokens=max_tokens, deadline_ms=20_000 if value % 11 == 0 else None,
            cost_units=1 + value % 2,
            placement=PlacementWish(pin_pool_id=PoolId("p2") if value % 13 == 0 else None),
        )  # fmt: skip
        self.happen(JobSubmitted(job_id=JobId(f"j{self.jobs_count}"), spec=spec))

    def cancel(self, value: int) -> None:
        waiting = [job.job_id for job in self.state.jobs.values() if not job.is_ended]
        if waiting:
            self.happen(CancelRequested(waiting[value % len(waiting)]))

    # --- Workers ---

    def lease(self, value: int) -> Lease | None:
        """One of the leases that are out, the oldest more often than others."""
        leases = sorted(self.state.leases.values(), key=lambda each: each.epoch)
        return leases[value % len(leases) * (value % 3) // 2] if leases else None

    def finish(self, value: int) -> None:
        lease = self.lease(value)
        if lease is not None:
            most = self.state.jobs[lease.job_id].spec.max_tokens if lease.is_current else 0
            self.end(lease, most if value % 2 else value % 20)

    def end(self, lease: Lease, tokens: int) -> None:
        """A job has its answer, or stopped as it was told."""
        spoken = (lease.worker_id, lease.lease_id, lease.epoch)
        if not lease.is_current:
            self.happen(LeaseStopped(*spoken))
            return
        prompt_tokens = self.state.jobs[lease.job_id].spec.prompt_tokens
        done = Finish(
            reason="stop", prompt_tokens=prompt_tokens, prefill_ms=5.0, decode_ms=10.0 * tokens
        )
        self.happen(LeaseFinished(*spoken, tokens, done))

    def break_off(self, value: int) -> None:
        lease = self.lease(value)
        if lease is not None:
            spoken = (lease.worker_id, lease.lease_id, lease.epoch)
            self.happen(LeaseFailed(*spoken, 0, Refusal.WORKER_ERROR, "it broke"))

    def refuse(self, value: int) -> None:
        lease = self.lease(value)
        if lease is not None:
            spoken = (lease.worker_id, lease.lease_id, lease.epoch)
            self.happen(OfferRefused(*spoken, Refusal.WORKER_BUSY))

    def attach(self, worker_id: WorkerId) -> None:
        """A worker opens its stream; it holds nothing any more."""
        self.sessions_count += 1
        self.attached[worker_id] = self.sessions_count
        self.happen(WorkerAttached(session=self.sessions_count, report=self.workers[worker_id]))

    def come_or_go(self, value: int) -> None:
        worker_id = sorted(self.workers)[value % len(self.workers)]
        session = self.attached.pop(worker_id, None)
        if session is None:
            self.attach(worker_id)
        elif value % 3 == 0:
            self.happen(WorkerDetached(worker_id, session))
        else:
            self.attached[worker_id] = session

    def load(self, value: int) -> None:
        """A host reports the workers that it was asked to start; they take their memory and come."""
        pool_id = PoolId(f"p{1 + value % 2}")
        pool = self.pools[pool_id]
        seen = {process.worker_id for process in pool.processes}
        for wish in list(self.state.wishes.values()):
            model = wish.desired.model
            if wish.pool_id != pool_id or wish.desired.worker_id in seen:
                continue
            needed = next(m.required_bytes for m in pool.models if m.model == model)
            device = pool.devices[0]
            free = device.vram_free_bytes - needed
            process = ProcessReport(
                worker_id=wish.desired.worker_id, model=model, state=WorkerState.READY
            )
            pool = replace(
                pool,
                devices=(replace(device, vram_free_bytes=free),),
                processes=(*pool.processes, process),
            )
            self.pools[pool_id] = pool
            self.happen(PoolReported(pool))
            worker = report_of(
                wish.desired.worker_id, model=model, pool_id=pool_id, slots_total=1,
                kv_tokens_total=6_000, context_tokens=3_000, device=device.uuid,
            )  # fmt: skip
            self.workers[worker.worker_id] = worker
            self.attach(worker.worker_id)
            return

    # --- Heavy work ---

    def work(self, value: int) -> None:
        """Somebody has heavy work, or asks for a lease, or has done it."""
        self.works_count += 1
        ask: WorkAsk
        if value % 3 == 0:
            spec = work_spec(units=(1, 3, 6)[value // 3 % 3], priority=Priority(1 + value % 4))
            ask = Submission(work_id=WorkId(f"work-{self.works_count}"), spec=spec)
        elif value % 3 == 1 or not self.grants:
            ask = wanted("holder", pool_id=PoolId(f"p{1 + value // 3 % 2}"))
        else:
            ask = Completion(claim_of(self.grants[value % len(self.grants)][1]))
        before = {room.pool_id: room for room in rooms(self.state, self.now)}
        asked = len(self.effects)
        self.happen(WorkAsked(self.works_count, ask))
        for effect in self.effects[asked:]:
            if isinstance(effect, AnswerWork) and isinstance(effect.answer, Granted):
                lease = effect.answer.lease
                self.grants.append((before[lease.pool_id], lease))

    def burden(self, value: int) -> None:
        """A host becomes busy, or idle again, and says so, or no longer says how full its memory is."""
        pool_id = PoolId(f"p{1 + value % 2}")
        load = HostLoad(
            cpu_percent=(10.0, 10.0, 70.0, 100.0)[value // 2 % 4],
            memory_percent=(20.0, 20.0, 20.0, 99.0, None)[value // 8 % 5],
        )
        self.pools[pool_id] = replace(self.pools[pool_id], load=load)
        self.happen(PoolReported(self.pools[pool_id]))

    # --- Time ---

    def pass_time(self, value: int) -> None:
        """Up to four ticks, and everybody who is there says so with the last."""
        for _ in range(1 + value % 4):
            self.now = self.now.later(limits.TICK_INTERVAL_MS)
            self.happen(Ticked())
        self.happen(ApiMeasured(IDLE_API))
        pools = [PoolReported(pool) for pool in self.pools.values()]
        workers = [
            WorkerReported(session=session, report=self.workers[worker_id])
            for worker_id, session in self.attached.items()
        ]
        self.happen(*pools[:: self.order], *workers[:: self.order])

    def run_dry(self) -> None:
        """Let what runs end, one after the other, until nothing does and nothing more starts."""
        self.pass_time(0)
        for number in range(20 * (1 + self.jobs_count)):
            leases = self.state.leases
            if not leases:
                break
            if number % 8 == 7:
                self.pass_time(0)
            present = [each for each in leases.values() if each.worker_id in self.attached]
            if present:
                self.end(min(present, key=lambda each: each.epoch), 1)
            else:
                self.pass_time(3)

    # --- What to look at ---

    def waiting(self) -> list[Job]:
        """Every job that waits, the oldest first."""
        jobs = self.state.jobs
        return sorted((jobs[i] for i in self.state.queue.job_ids()), key=lambda job: job.sequence)

    def started(self, effects: list[Effect]) -> list[Job]:
        """The jobs that were leased by these effects, in order."""
        leases = (self.state.leases[e.lease_id] for e in effects if isinstance(e, Offer))
        return [self.state.jobs[lease.job_id] for lease in leases]

    def told(self) -> list[str]:
        """What clients and workers were told, in order."""
        return [
            str(effect)
            for effect in self.effects
            if isinstance(effect, Accept | Refuse | Offer | AnnounceEnded)
        ]


WORLDS = st.binary(min_size=12, max_size=12)
HISTORIES = st.binary(min_size=50, max_size=100).map(
    lambda raw: list(zip(raw[::2], raw[1::2], strict=False))
)


def in_every_crowd(test: Callable[[bytes, Moves], None]) -> Callable[[], None]:
    """Try a property on many worlds and histories: 500 in `make test`, 10,000 in `make nightly`."""

    @wraps(test)
    def told(world: bytes, moves: Moves) -> None:
        try:
            test(world, moves)
        except AssertionError as failure:
            # What a core test needs in order to play the same again.
            failure.add_note(f"Crowd({world!r}).play({moves!r})")
            raise

    tried: Callable[[], None] = in_scheduling_cases(20)(given(WORLDS, HISTORIES)(told))
    return tried
