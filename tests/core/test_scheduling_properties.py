"""What scheduling promises, in every crowd: random worlds in which more is asked for than there is.

`make test` tries each sentence on 500 worlds, `make nightly` on 10,000.
"""

from collections import Counter
from dataclasses import dataclass, field
from zlib import crc32

import pytest
from beeyard_core.capacity import rooms
from beeyard_core.demand import free_bytes_of, promised_bytes
from beeyard_core.effect import Accept, AnnounceEnded, AnnounceRequeued, Effect, Offer
from beeyard_core.ids import JobId, TenantId
from beeyard_core.job import Job, JobState, Priority
from beeyard_core.overdue import could_run
from beeyard_core.placement import exclusion
from beeyard_core.policy.intent import Intent
from beeyard_core.policy.projection import world_of
from beeyard_core.policy.twin import Twin
from beeyard_core.policy.world import Row
from beeyard_core.refusal import Refusal

from tests.support.core_values import START
from tests.support.crowds import SIZES, Crowd, Moves, in_every_crowd


@in_every_crowd
def test_no_slot_no_kv_memory_no_device_memory_and_no_unit_is_promised_twice(
    world: bytes, moves: Moves
) -> None:
    def check(crowd: Crowd, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Offer):
                worker = crowd.state.fleet.workers[effect.worker_id]
                assert len(worker.leases) <= worker.report.slots_total
                # A job whose estimate exceeds everything gets the memory to itself.
                fits = worker.kv_tokens_used <= worker.report.kv_tokens_total
                assert fits or len(worker.leases) == 1
        promised = promised_bytes(crowd.state)
        for pool in crowd.state.fleet.pools.values():
            for device in pool.report.devices:
                assert free_bytes_of(pool, device, promised) >= 0
        for room in rooms(crowd.state, crowd.now):
            assert 0 <= room.free <= room.usable <= room.total
            assert min(room.leased, room.inference) >= 0

    crowd = Crowd(world, check).play(moves)
    for before, lease in crowd.grants:
        assert lease.units <= before.free
        assert before.rating.is_fresh


@in_every_crowd
def test_no_tenant_has_more_than_its_quota_and_no_session_more_than_its_budget(
    world: bytes, moves: Moves
) -> None:
    used: Counter[tuple[TenantId, str]] = Counter()

    def check(crowd: Crowd, effects: list[Effect]) -> None:
        state = crowd.state
        unfinished = Counter(j.spec.tenant_id for j in state.jobs.values() if not j.is_ended)
        for tenant_id, count in unfinished.items():
            most = state.settings.quotas.of(tenant_id).concurrent_jobs
            assert most is None or count <= most
        for effect in effects:
            if isinstance(effect, AnnounceEnded):
                job = state.jobs[effect.job_id]
                tokens = job.next_index + (job.finish.prompt_tokens if job.finish else 0)
                used[job.spec.tenant_id, job.spec.session_id] += tokens
        for (tenant_id, session_id), tokens in used.items():
            budget = state.settings.quotas.of(tenant_id).session_tokens
            assert not session_id or budget is None or tokens <= budget

    crowd = Crowd(world, check).play(moves)
    _check_rates(crowd)


def _check_rates(crowd: Crowd) -> None:
    """Over all, no more was let in than flowed in, and what one job may overdraw."""
    seconds = (crowd.now.mono_ms - START.mono_ms) / 1_000
    for tenant_id, usage in crowd.state.quotas.usages.items():
        quota = crowd.state.settings.quotas.of(tenant_id)
        if quota.requests_per_second is not None:
            burst = max(quota.requests_per_second, 1.0)
            assert usage.requests_total <= burst + seconds * quota.requests_per_second + 1e-6
        if quota.tokens_per_minute is not None:
            flowed = quota.tokens_per_minute * (1 + seconds / 60)
            assert usage.tokens_total <= flowed + sum(SIZES[-1]) + 1e-6


@in_every_crowd
def test_the_queue_takes_nobody_in_beyond_its_bounds_and_drops_only_what_it_may(
    world: bytes, moves: Moves
) -> None:
    depths = [0]

    def check(crowd: Crowd, effects: list[Effect]) -> None:
        state, chosen = crowd.state, crowd.state.settings.queue
        # Who was at a worker and waits again was let in long ago, even if that is more than may wait.
        back = sum(isinstance(effect, AnnounceRequeued) for effect in effects)
        if any(isinstance(effect, Accept) for effect in effects):
            assert len(state.queue) <= max(chosen.depth_max, depths[-1]) + back
        depths.append(len(state.queue))
        fresh = [job.spec.priority for job in crowd.waiting() if job.leased_at is None]
        for priority, most in chosen.depth_max_by_class.items():
            assert fresh.count(priority) <= most
        for effect in effects:
            if isinstance(effect, AnnounceEnded):
                job = state.jobs[effect.job_id]
                if job.failure and job.failure.reason is Refusal.QUEUE_FULL_DROP_LRU:
                    assert job.spec.priority in (Priority.BATCH, Priority.BACKGROUND)
                    assert job.attempt == 0
                    assert job.failure.retry_after_ms
                    newcomer = next(e.job_id for e in effects if isinstance(e, Accept))
                    assert state.jobs[newcomer].spec.priority < job.spec.priority

    Crowd(world, check).play(moves)


@dataclass
class Watch:
    """What happened to one model since a job of it was overdue and could run."""

    starts: int = 0
    older: set[tuple[JobId, int]] = field(default_factory=set)


@dataclass
class Bound:
    """Counts, for every wait of an overdue job that could run, the starts of its model and who was older.

    A wait is over when the job starts. If it comes back, since its worker refused or lost it, it waits anew: it was
    promised a start, and had one.
    """

    watched: dict[tuple[JobId, int], Watch] = field(default_factory=dict)

    def check(self, crowd: Crowd, effects: list[Effect]) -> None:
        started = Counter(job.spec.model for job in crowd.started(effects))
        every = crowd.state.settings.queue.overdue_every
        for job in crowd.waiting():
            wait = (job.job_id, job.attempt)
            if not self._is_overdue(crowd, job):
                self.watched.pop(wait, None)
                continue
            watch = self.watched.setdefault(wait, Watch())
            watch.older |= self._older(crowd, job, effects)
            watch.starts += started[job.spec.model]
            assert watch.starts <= (len(watch.older) + 1) * (every + 1)

    @staticmethod
    def _is_overdue(crowd: Crowd, job: Job) -> bool:
        waited_ms = crowd.now.mono_ms - job.accepted_at.mono_ms
        is_overdue = waited_ms >= crowd.state.settings.queue.overdue_after_ms
        return is_overdue and could_run(crowd.state, job.spec)

    @staticmethod
    def _older(crowd: Crowd, job: Job, effects: list[Effect]) -> set[tuple[JobId, int]]:
        """Every older job of its model that waited, with its attempt: who comes back may be next once more."""
        waited = [(other, other.attempt) for other in crowd.waiting()]
        # Who started by the very event after which the job could run was waiting before it.
        waited += [(other, other.attempt - 1) for other in crowd.started(effects)]
        return {
            (other.job_id, attempt)
            for other, attempt in waited
            if other.spec.model == job.spec.model and other.sequence < job.sequence
        }


@in_every_crowd
def test_nobody_who_could_run_waits_beyond_the_bound(world: bytes, moves: Moves) -> None:
    """Once overdue, a job starts within so many starts of its model for itself and each older job of it."""
    bound = Bound()
    crowd = Crowd(world, bound.check).play(moves)
    crowd.run_dry()
    assert not [job for job in crowd.waiting() if could_run(crowd.state, job.spec)]


def test_who_started_and_came_back_waits_anew() -> None:
    """Found among 10,000 worlds: `j9` starts as the next, is refused twice, and starts of others count from then on."""
    bound = Bound()
    crowd = Crowd(b"\xdf\xfc%i\x9aUi\xdc\xbeY\xa50", bound.check)
    raw = "0 0 12 0 0 0 0 0 0 0 12 0 40 0 124 0 0 0 22 0 0 0 0 0 0 0 12 0 12 0 208 0 0 124 12 0 22 0 190 1 0 4"
    raw += " 0 244 22 1 46 1 48 0 124 0 0 216 124 0 188 0 0 32 0 32"
    numbers = [int(number) for number in raw.split()]
    crowd.play(list(zip(numbers[::2], numbers[1::2], strict=True))).run_dry()
    attempts = sorted(attempt for job_id, attempt in bound.watched if job_id == "j9")
    assert attempts == [1, 3]
    assert crowd.state.jobs[JobId("j9")].is_ended


@in_every_crowd
def test_no_job_waits_while_a_worker_could_take_it_unless_an_overdue_one_of_its_model_is_next(
    world: bytes, moves: Moves
) -> None:
    def check(crowd: Crowd, _effects: list[Effect]) -> None:
        state, now_ms = crowd.state, crowd.now.mono_ms
        for model, job_id in state.next_jobs.items():
            job = state.jobs[job_id]
            assert (job.state, job.spec.model, job.is_next) == (JobState.QUEUED, model, True)
            assert now_ms - job.accepted_at.mono_ms >= state.settings.queue.overdue_after_ms
        for job in crowd.waiting():
            model = job.spec.model
            if model in state.next_jobs and not job.is_next:
                continue
            for worker_id in state.fleet.by_model.get(model, ()):
                worker = state.fleet.workers[worker_id]
                assert exclusion(job.spec, state.fleet, worker, now_ms) is not None

    Crowd(world, check).play(moves)


@in_every_crowd
def test_what_is_decided_does_not_depend_on_the_order_in_which_a_mirror_was_told(
    world: bytes, moves: Moves
) -> None:
    """A mirror that lived through it all, and ones that were told of the same world forwards, backwards and mixed."""
    crowd = Crowd(world).play(moves)
    state, now_ms = crowd.state, crowd.now.mono_ms
    state.touched.jobs.update(dict.fromkeys(state.queue.job_ids()))
    crowd.twin.take(crowd.projection.drain(state, now_ms))
    rows = list(world_of(state, now_ms, crowd.projection).rows())
    expected = crowd.twin.decide(now_ms)
    for told in (rows, rows[::-1], sorted(rows, key=lambda row: hash_of(row, world))):
        assert decided(told, now_ms) == expected


def hash_of(row: Row, world: bytes) -> int:
    return crc32(repr(row).encode(), crc32(world))


def decided(rows: list[Row], now_ms: int) -> Intent:
    """What a fresh mirror decides that was told these rows, kind by kind."""
    kinds = {name: number for number, name in enumerate(ORDER_OF_KINDS)}
    twin = Twin()
    for row in sorted(rows, key=lambda each: kinds[type(each).__name__]):
        twin.put(row)
    return twin.decide(now_ms)


ORDER_OF_KINDS = (
    "ModelRow",
    "PoolRow",
    "GpuRow",
    "TenantRow",
    "WorkerRow",
    "RunningRow",
    "JobRow",
    "HistoryRow",
)


@in_every_crowd
def test_what_happens_does_not_depend_on_the_order_in_which_hosts_and_workers_report(
    world: bytes, moves: Moves
) -> None:
    forwards = Crowd(world, order=1).play(moves)
    backwards = Crowd(world, order=-1).play(moves)
    assert forwards.told() == backwards.told()


@in_every_crowd
def test_of_the_sessions_of_a_tenant_that_wait_alike_none_is_served_twice_before_another(
    world: bytes, moves: Moves
) -> None:
    """Of jobs of one tenant, class, model and need, without deadlines, those start first whose place is first."""

    def check(crowd: Crowd, effects: list[Effect]) -> None:
        for job in crowd.started(effects):
            if job.was_next or job.spec.deadline_ms is not None:
                continue
            for other in crowd.waiting():
                if alike(job, other) and other.spec.deadline_ms is None:
                    assert (job.place, job.sequence) < (other.place, other.sequence)

    Crowd(world, check).play(moves)


def alike(one: Job, other: Job) -> bool:
    fields = ("tenant_id", "priority", "model", "prompt_tokens", "max_tokens", "placement")
    return all(getattr(one.spec, name) == getattr(other.spec, name) for name in fields)


class _Deaf(Twin):
    """A policy that does not mind who is next."""

    def _next_job(self) -> None:
        self._held.clear()


def test_the_bound_would_notice_a_policy_that_lets_somebody_wait() -> None:
    """The property can fail: without the rule, a flood of urgent work keeps background work out."""

    def flood(crowd: Crowd) -> None:
        for job in (URGENT_JOB, URGENT_JOB, URGENT_JOB, BACKGROUND_JOB):
            crowd.submit(job)
        for _ in range(20):
            crowd.submit(URGENT_JOB)
            crowd.finish(0)

    flood(Crowd(bytes(12), Bound().check))
    with pytest.raises(AssertionError):
        flood(Crowd(bytes(12), Bound().check, twin=_Deaf()))


#: Numbers of which `Crowd.submit` makes a job for the model that all workers of the plainest world serve.
BACKGROUND_JOB, URGENT_JOB = 29, 1
