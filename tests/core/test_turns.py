"""Sessions of one tenant take turns: one with many jobs does not hold back another."""

from collections.abc import Sequence

from beeyard_core import limits
from beeyard_core.effect import Effect, Offer
from beeyard_core.event import JobSubmitted, LeaseFailed, LeaseFinished
from beeyard_core.ids import JobId, ModelName, TenantId
from beeyard_core.job import Finish, Priority
from beeyard_core.refusal import Refusal
from beeyard_core.turns import Turns
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import report_of, spec_of

ROUND = limits.SESSION_ROUND_STEPS


class OneSlot:
    """A worker with one slot: what starts, starts in order. Jobs are named by session and number."""

    def __init__(self) -> None:
        self.apiary = Apiary()
        self.started: list[str] = []
        self.take(self.apiary.attach(report_of("w1", slots_total=1)))
        self._numbers: dict[str, int] = {}

    def submit(self, *sessions: str, **changes: object) -> None:
        """One more job of each of these sessions."""
        for session in sessions:
            number = self._numbers[session] = self._numbers.get(session, 0) + 1
            spec = spec_of(session_id=session.strip("-"), **changes)  # type: ignore[arg-type]
            event = JobSubmitted(job_id=JobId(f"{session}{number}"), spec=spec)
            self.take(self.apiary.happen(event))

    def take(self, effects: Sequence[Effect]) -> None:
        leases = self.apiary.state.leases
        self.started += [leases[e.lease_id].job_id for e in effects if isinstance(e, Offer)]

    def finish(self, count: int = 1) -> None:
        """What runs ends, so often."""
        for _ in range(count):
            (lease,) = self.apiary.state.leases.values()
            spoken = (lease.worker_id, lease.lease_id, lease.epoch)
            self.take(self.apiary.happen(LeaseFinished(*spoken, 1, Finish(reason="stop"))))

    def run_dry(self) -> list[str]:
        """Let everything end; return what started after what had started already."""
        before = len(self.started)
        while self.apiary.state.leases:
            self.finish()
        return self.started[before:]


def test_a_session_with_many_jobs_does_not_hold_back_another() -> None:
    yard = OneSlot()
    yard.submit(*"aaaaa", "b", "b", "c")
    assert yard.run_dry() == ["b1", "c1", "a2", "b2", "a3", "a4", "a5"]


def test_a_session_that_comes_later_joins_where_the_others_are() -> None:
    yard = OneSlot()
    yard.submit(*"aaaaaa")
    yard.finish(2)
    yard.submit("b", "b", "b")
    assert yard.run_dry() == ["b1", "a4", "b2", "a5", "b3", "a6"]


def test_a_session_that_asks_one_thing_at_a_time_shares_with_one_that_asked_all_at_once() -> None:
    yard = OneSlot()
    yard.submit(*"aaaa")
    for _ in range(4):
        yard.submit("b")
        yard.finish()
    assert yard.run_dry() == ["b3", "a4", "b4"]
    assert yard.started[:5] == ["a1", "b1", "a2", "b2", "a3"]


def test_jobs_without_a_session_are_one_session() -> None:
    yard = OneSlot()
    yard.submit("-", "-", "-", "b", "b")
    assert yard.run_dry() == ["b1", "-2", "b2", "-3"]


def test_sessions_are_told_apart_by_tenant_class_and_model() -> None:
    yard = OneSlot()
    yard.submit("a", "a")
    yard.submit("a", priority=Priority.BATCH)
    yard.submit("a", tenant_id=TenantId("other"))
    tenant = yard.apiary.state.tenants[TenantId("default")]
    assert set(tenant.turns) == {(Priority.NORMAL, "m"), (Priority.BATCH, "m")}
    assert {job.job_id: job.place for job in yard.apiary.state.jobs.values()} == {
        "a1": 0,
        "a2": ROUND,
        "a3": 0,
        "a4": 0,
    }
    yard.run_dry()
    yard.submit("b")
    assert list(tenant.turns[Priority.NORMAL, ModelName("m")].last) == ["b"], "it was idle"


def test_a_job_that_waits_again_keeps_its_turn() -> None:
    yard = OneSlot()
    yard.submit("a", "a", "b")
    (lease,) = yard.apiary.state.leases.values()
    spoken = (lease.worker_id, lease.lease_id, lease.epoch)
    broken = LeaseFailed(*spoken, 0, Refusal.WORKER_ERROR, "it broke")
    yard.take(yard.apiary.happen(broken))
    assert yard.run_dry() == ["b1", "a2"]
    assert yard.started[:2] == ["a1", "a1"]


def test_after_a_restart_sessions_take_turns_again_and_what_ran_comes_first() -> None:
    yard = OneSlot()
    yard.submit(*"aaa", "b")
    yard.apiary.restart()
    places = {job.job_id: job.place for job in yard.apiary.state.jobs.values()}
    assert places == {"a1": 0, "a2": ROUND, "a3": 2 * ROUND, "b1": 0}


def test_new_sessions_cannot_keep_an_old_one_from_its_turn_for_ever() -> None:
    yard = OneSlot()
    yard.submit("a", "a")
    for number in range(2 * ROUND):
        yard.submit(f"new{number}-")
        yard.finish()
        if "a2" in yard.started:
            break
    assert yard.started.index("a2") <= ROUND + 1


def test_the_places_of_sessions_that_are_served_are_forgotten() -> None:
    turns = Turns()
    for number in range(1_000):
        turns.serve(turns.join(f"s{number}"))
    assert len(turns.last) <= 3 * ROUND


@in_cases(50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=60))
def test_of_sessions_that_wait_none_gets_more_than_two_starts_ahead_of_another(
    history: list[tuple[str, bool]],
) -> None:
    """Over any stretch in which two sessions wait, what starts of them differs by two jobs at most.

    One of each, which is the bound of start-time fair queueing (Goyal, Vin, Cheng, 1996, theorem 1).
    """
    turns, waiting, started = Turns(), list[tuple[int, int, str]](), list[str]()
    since: dict[str, int] = {}
    for number, (session, serves) in enumerate(history):
        if session not in {name for *_, name in waiting}:
            since[session] = len(started)
        waiting.append((turns.join(session), number, session))
        if not serves:
            continue
        place, at, served = min(waiting)
        waiting.remove((place, at, served))
        turns.serve(place)
        started.append(served)
        names = {name for *_, name in waiting}
        for one in names:
            for other in names - {one}:
                stretch = started[max(since[one], since[other]) :]
                assert abs(stretch.count(one) - stretch.count(other)) <= 2


def test_turns_are_of_one_model() -> None:
    yard = OneSlot()
    yard.take(yard.apiary.attach(report_of("w2", model=ModelName("n"), slots_total=1)))
    yard.submit(*"aaa")
    yard.submit("a", model="n")
    assert yard.apiary.state.jobs[JobId("a4")].place == 0
