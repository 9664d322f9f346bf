"""Nobody waits for ever: one start in so many is for the job that has waited for too long."""

from collections.abc import Callable

from beeyard_core import limits
from beeyard_core.backpressure import QueueSettings
from beeyard_core.event import CancelRequested, JobSubmitted, LeaseFinished
from beeyard_core.ids import JobId, ModelName, PoolId, WorkerId
from beeyard_core.job import Finish, PlacementWish, Priority
from beeyard_core.overdue import counts_start
from beeyard_core.state import QueenState, Settings

from tests.support.apiary import Apiary
from tests.support.core_values import START, fleet_of, job_of, report_of, spec_of

M = ModelName("m")
EVERY = 3


class Flooded:
    """Small interactive jobs without end, on workers with four slots, and whoever else waits."""

    def __init__(self, *, kv_tokens: int = 100, after_ms: int = 1_000) -> None:
        queue = QueueSettings(overdue_after_ms=after_ms, overdue_every=EVERY)
        self.apiary = Apiary(Settings(queue=queue))
        self.apiary.attach(report_of("w1", kv_tokens_total=kv_tokens))
        self.started: list[str] = []
        self._count = 0

    def submit(self, name: str, **changes: object) -> None:
        spec = spec_of(**changes)  # type: ignore[arg-type]
        self.apiary.happen(JobSubmitted(job_id=JobId(name), spec=spec))

    def flood(self) -> None:
        """One more small interactive job."""
        self._count += 1
        name = f"small-{self._count}"
        self.submit(name, priority=Priority.INTERACTIVE, prompt_tokens=5, max_tokens=15)

    def turn(self) -> None:
        """The oldest running job ends, and another small one comes."""
        state = self.apiary.state
        lease = min(state.leases.values(), key=lambda each: each.epoch)
        spoken = (lease.worker_id, lease.lease_id, lease.epoch)
        self.apiary.happen(LeaseFinished(*spoken, 1, Finish(reason="stop")))
        self.flood()

    def turns_until(self, done: Callable[[], bool]) -> int:
        """Go on until something is so; return how many turns that took."""
        for number in range(10 * EVERY):
            if done():
                return number
            self.turn()
        raise AssertionError("never")

    def is_waiting(self, name: str) -> bool:
        return JobId(name) in self.apiary.state.queue

    @property
    def next_job(self) -> str | None:
        return self.apiary.state.next_jobs.get(M)


def test_a_large_job_that_small_ones_overtake_gets_room_in_the_end() -> None:
    yard = Flooded()
    for _ in range(5):
        yard.flood()
    yard.submit("large", prompt_tokens=45, max_tokens=45)
    yard.apiary.advance(1_000)
    assert yard.turns_until(lambda: yard.next_job == "large") <= EVERY
    # From here on nothing else starts, although there are slots, until the memory is there.
    assert yard.turns_until(lambda: not yard.is_waiting("large")) <= 4
    assert yard.next_job is None
    job = yard.apiary.state.jobs[JobId("large")]
    assert job.decision is not None
    assert job.decision.reason == "overdue"


def test_background_work_gets_its_share_of_a_flood_of_urgent_work() -> None:
    yard = Flooded(kv_tokens=4_000)
    for _ in range(5):
        yard.flood()
    for name in ("b1", "b2"):
        yard.submit(name, priority=Priority.BACKGROUND)
    yard.apiary.advance(1_000)
    assert yard.turns_until(lambda: not yard.is_waiting("b1")) <= EVERY + 1
    assert yard.is_waiting("b2"), "the oldest first"
    assert yard.turns_until(lambda: not yard.is_waiting("b2")) <= EVERY + 1


def test_who_has_not_waited_for_long_is_not_overdue() -> None:
    yard = Flooded(after_ms=600_000)
    for _ in range(5):
        yard.flood()
    yard.submit("b", priority=Priority.BACKGROUND)
    for _ in range(3 * EVERY):
        yard.turn()
    assert yard.is_waiting("b")
    assert yard.next_job is None


def test_nobody_waits_for_a_job_that_was_cancelled() -> None:
    yard = Flooded()
    for _ in range(5):
        yard.flood()
    yard.submit("large", prompt_tokens=45, max_tokens=45)
    yard.apiary.advance(1_000)
    yard.turns_until(lambda: yard.next_job == "large")
    yard.turn()
    assert len(yard.apiary.state.leases) == 3, "a slot is kept empty"
    yard.apiary.advance(limits.TICK_INTERVAL_MS)
    assert yard.next_job == "large"
    yard.apiary.happen(CancelRequested(JobId("large")))
    assert yard.next_job is None
    assert len(yard.apiary.state.leases) == 4


def test_nobody_waits_for_a_job_that_no_worker_could_run_any_more() -> None:
    yard = Flooded()
    here = report_of("w2", pool_id=PoolId("p2"), kv_tokens_total=100, slots_total=1)
    yard.apiary.attach(here)
    for _ in range(6):
        yard.flood()
    pinned = PlacementWish(pin_pool_id=PoolId("p2"))
    yard.submit("pinned", placement=pinned, prompt_tokens=45, max_tokens=45)
    yard.apiary.advance(1_000)
    yard.turns_until(lambda: yard.next_job == "pinned")
    yard.apiary.detach(WorkerId("w2"))
    yard.apiary.advance(limits.TICK_INTERVAL_MS)
    assert yard.next_job is None
    assert yard.is_waiting("pinned")
    assert len(yard.apiary.state.leases) == 5, "the others go on"


def test_a_restart_keeps_how_long_somebody_waited_and_counts_anew() -> None:
    yard = Flooded()
    for _ in range(5):
        yard.flood()
    yard.submit("b", priority=Priority.BACKGROUND)
    yard.apiary.advance(1_000)
    yard.turns_until(lambda: yard.next_job == "b")
    yard.apiary.restart()
    assert yard.next_job is None
    assert not yard.apiary.state.jobs[JobId("b")].is_next


def test_what_a_policy_of_its_own_starts_before_it_changes_nothing() -> None:
    state = QueenState(
        settings=Settings(queue=QueueSettings(overdue_after_ms=0, overdue_every=1)),
        fleet=fleet_of(report_of("w1")),
        now_ms=START.mono_ms,
    )
    jobs = [job_of(f"j{number}", number) for number in range(3)]
    for job in jobs:
        state.jobs[job.job_id] = job
        state.queue.push(job)
    counts_start(state, M)
    assert state.next_jobs == {M: "j0"}
    for _ in range(3):
        counts_start(state, M)
    assert state.next_jobs == {M: "j0"}


def test_jobs_of_many_shapes_that_cannot_run_are_not_all_looked_at() -> None:
    state = QueenState(
        settings=Settings(queue=QueueSettings(overdue_after_ms=0, overdue_every=1)),
        fleet=fleet_of(report_of("w1")),
        now_ms=START.mono_ms,
    )
    for number in range(limits.OVERDUE_LOOKED_AT_MAX + 1):
        is_last = number == limits.OVERDUE_LOOKED_AT_MAX
        wish = PlacementWish(pin_pool_id=None if is_last else PoolId(f"away-{number}"))
        job = job_of(f"j{number}", number, spec_of(placement=wish))
        state.jobs[job.job_id] = job
        state.queue.push(job)
    counts_start(state, M)
    assert state.next_jobs == {}
    for number in range(1, limits.OVERDUE_LOOKED_AT_MAX):
        state.queue.remove(state.jobs[JobId(f"j{number}")])
    counts_start(state, M)
    assert state.next_jobs == {M: f"j{limits.OVERDUE_LOOKED_AT_MAX}"}


def test_who_can_run_nowhere_is_never_next() -> None:
    yard = Flooded(kv_tokens=4_000)
    away = PlacementWish(pin_pool_id=PoolId("away"))
    yard.apiary.attach(report_of("w2", pool_id=PoolId("away")))
    yard.submit("pinned", placement=away, priority=Priority.BACKGROUND)
    yard.apiary.detach(WorkerId("w2"))
    yard.apiary.advance(limits.LEASE_TTL_MS + 1_000)
    for _ in range(5):
        yard.flood()
    for _ in range(3 * EVERY):
        yard.turn()
    assert yard.is_waiting("pinned")
    assert yard.next_job is None


def test_starts_are_not_counted_while_nobody_waits() -> None:
    state = QueenState()
    state.starts[M] = 5
    counts_start(state, M)
    assert state.starts == {}
