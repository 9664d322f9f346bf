"""What holds in every history of heavy work: random submitters, holders honest and not, busy hosts, restarts.

A history is a list of numbers that `Player` turns into asks, so that a failing one can be shrunk. Every single step is
checked by the harness as well: the yard's invariants hold, and nothing is told that is not durable.
"""

from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.capacity import rooms
from beeyard_core.governor import GATED_FROM
from beeyard_core.ids import Epoch, PoolId, WorkId
from beeyard_core.job import Priority
from beeyard_core.refusal import Refused
from beeyard_core.state import Settings
from beeyard_core.work import WorkLease, WorkState
from beeyard_core.work_ask import (
    Claim,
    Completion,
    DenialReason,
    Denied,
    Failure,
    Granted,
    Heartbeat,
    LeaseWanted,
    Progress,
    Renewed,
    Revocation,
    Told,
    Withdrawal,
    WorkAnswer,
)
from beeyard_core.work_yard import CapacitySettings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases
from tests.support.heavy_work import IDLE_HOST, HeavyWork, claim_of, wanted

HOSTS = ("p1", "p2")
KINDS = ("backup", "reindex", "train")


@dataclass
class Player:
    """Plays a history and remembers what the property tests ask about."""

    yard: HeavyWork = field(
        default_factory=lambda: HeavyWork(
            settings=Settings(capacity=CapacitySettings(reserve_units=5)),
            hosts=dict.fromkeys(HOSTS, IDLE_HOST),
        )
    )
    accepted: list[WorkId] = field(default_factory=list)
    answers: list[WorkAnswer] = field(default_factory=list)

    def play(self, history: list[tuple[int, int]]) -> "Player":
        """Let everything happen."""
        moves = (
            *(self.submit, self.submit, self.submit, self.request, self.request, self.request),
            *(self.heartbeat, self.heartbeat, self.report, self.release, self.release, self.lie),
            *(self.revoke, self.withdraw, self.advance, self.advance, self.burden, self.restart),
        )
        for move, value in history:
            moves[move % len(moves)](value)
            self.after_each()
        return self

    def after_each(self) -> None:
        """Something to check after each move; for subclasses."""

    def ask(self, *asks: object) -> None:
        for ask in asks:
            self.answers.append(self.yard.ask(ask))  # type: ignore[arg-type]

    def submit(self, value: int) -> None:
        submission = self.yard.submission(
            KINDS[value % 3],
            units=(1, 10, 40, 95)[value // 3 % 4],
            priority=list(Priority)[value // 12 % 4],
            max_attempts=1 + value % 2,
            deadline_ms=4_000 if value % 11 == 0 else None,
            unique_key=f"u{value % 2}" if value % 7 == 0 else "",
            request_id=f"r{value % 5}" if value % 5 == 0 else "",
        )
        answer = self.yard.ask(submission)
        self.answers.append(answer)
        if isinstance(answer, Told) and answer.work_id not in self.accepted:
            self.accepted.append(answer.work_id)

    def wish(self, value: int) -> LeaseWanted:
        return wanted(
            f"w{value % 3}",
            kinds=frozenset(KINDS[: value % 4]),
            units_max=20 if value % 5 == 0 else 0,
            pool_id=PoolId(HOSTS[value % 2]) if value % 3 == 0 else None,
            request_id=f"g{value % 4}" if value % 6 == 0 else "",
            work_id=self.accepted[value % len(self.accepted)]
            if self.accepted and value % 9 == 0
            else None,
        )

    def request(self, value: int) -> None:
        self.ask(self.wish(value))

    def claim(self, value: int) -> Claim:
        """Speak for a lease that was once given out, mostly a recent one."""
        grants = self.yard.grants
        if not grants:
            return Claim(wanted().holder, Epoch(0), wanted().holder)  # type: ignore[arg-type]
        return claim_of(grants[-1 - value % min(len(grants), 6)])

    def heartbeat(self, value: int) -> None:
        self.ask(Heartbeat(self.claim(value)))

    def report(self, value: int) -> None:
        self.ask(Progress(self.claim(value), value % 11 / 10, "so far"))

    def release(self, value: int) -> None:
        claim = self.claim(value // 3)
        failure = Failure(claim, "it broke", is_retriable=value % 3 == 1)
        self.ask(Completion(claim) if value % 3 == 0 else failure)

    def lie(self, value: int) -> None:
        claim = self.claim(value)
        other = wanted("liar").holder
        false = (
            Claim(claim.lease_id, claim.epoch, other),
            Claim(claim.lease_id, Epoch(claim.epoch + 1), claim.holder),
        )[value % 2]
        answer = self.yard.ask(Heartbeat(false))
        assert isinstance(answer, Refused), "the fence"

    def revoke(self, value: int) -> None:
        claim = self.claim(value // 2)
        self.ask(Revocation(claim.lease_id, Epoch(0), "", is_requeued=value % 2 == 0))

    def withdraw(self, value: int) -> None:
        if self.accepted and value % 3 == 0:
            self.ask(Withdrawal(self.accepted[value % len(self.accepted)], "not needed"))

    def advance(self, value: int) -> None:
        ms = (250, 1_000, 5_000, limits.WORK_LEASE_TTL_MS + 250)[value % 4]
        self.yard.advance(ms, mute=value % 7 == 0)

    def burden(self, value: int) -> None:
        cpu, memory = (10.0, 80.0, 100.0)[value % 3], (20.0, 90.0, 99.0)[value // 3 % 3]
        self.yard.load(cpu=cpu, memory=memory, host=HOSTS[value % 2])

    def restart(self, value: int) -> None:
        if value % 3 == 0:
            self.yard.restart(away_ms=value * 50)

    def calm_down(self) -> None:
        """Let hosts be idle and one honest holder do everything that is left."""
        yard = self.yard
        for host in HOSTS:
            yard.load(host=host)
        for _ in range(200):
            yard.advance(2_000)
            answer = yard.ask(wanted("calm"))
            if isinstance(answer, Granted):
                yard.ask(Completion(claim_of(answer.lease)))
            if all(work.is_ended for work in yard.state.work.works.values()):
                return
        raise AssertionError("some work never ends")


HISTORIES = st.binary(min_size=60, max_size=160).map(
    lambda raw: list(zip(raw[::2], raw[1::2], strict=False))
)
in_every_history = given(HISTORIES)
as_often_as_is_fast = in_cases(6)
History = list[tuple[int, int]]


@as_often_as_is_fast
@in_every_history
def test_no_unit_is_promised_twice(history: History) -> None:
    """A grant fits what is usable on its host at that moment; what others still use is not counted as free."""

    class Watching(Player):
        def request(self, value: int) -> None:
            yard = self.yard
            before = {room.pool_id: room for room in rooms(yard.state, yard.now)}
            known = dict(yard.state.work.grants)
            answer = yard.ask(self.wish(value))
            if isinstance(answer, Granted) and answer.lease.lease_id not in known.values():
                room = before[answer.lease.pool_id]
                assert answer.lease.units <= room.free
                work = yard.work(answer.lease.work_id)
                assert room.rating.busy < GATED_FROM[work.spec.priority]
                assert room.rating.is_fresh

        def after_each(self) -> None:
            for room in rooms(self.yard.state, self.yard.now):
                assert 0 <= room.free <= room.usable <= room.total
                assert room.leased >= 0

    Watching().play(history)


@as_often_as_is_fast
@in_every_history
def test_all_accepted_work_ends_exactly_once(history: History) -> None:
    player = Player().play(history)
    player.calm_down()
    durable = player.yard.durable
    assert set(player.accepted) == set(durable)
    assert all(work.is_ended for work in durable.values())


@as_often_as_is_fast
@in_every_history
def test_no_piece_of_work_is_held_by_two_and_none_more_often_than_it_may(history: History) -> None:
    class Watching(Player):
        def after_each(self) -> None:
            held = [work.lease for work in self.yard.state.work.works.values() if work.lease]
            assert len({lease.epoch for lease in held}) == len(held)
            assert len({lease.work_id for lease in held}) == len(held)

    player = Watching().play(history)
    for work in player.yard.durable.values():
        assert work.attempt <= work.spec.max_attempts


@as_often_as_is_fast
@in_every_history
def test_epochs_of_work_only_grow_also_over_restarts(history: History) -> None:
    player = Player().play(history)
    first_told: dict[Epoch, WorkLease] = {}
    for lease in player.yard.grants:
        first_told.setdefault(lease.epoch, lease)
    assert list(first_told) == sorted(first_told)
    assert len({lease.lease_id for lease in first_told.values()}) == len(first_told)


@as_often_as_is_fast
@in_every_history
def test_a_lease_that_is_renewed_counts_and_one_that_is_over_never_counts_again(
    history: History,
) -> None:
    over: set[Epoch] = set()

    class Watching(Player):
        def after_each(self) -> None:
            live = {w.epoch for w in self.yard.state.work.works.values() if w.lease}
            assert not live & over
            over.update({lease.epoch for lease in self.yard.grants} - live)

        def heartbeat(self, value: int) -> None:
            claim = self.claim(value)
            answer = self.yard.ask(Heartbeat(claim))
            assert isinstance(answer, Renewed) == (claim.lease_id in self.yard.state.work.leases)

    Watching().play(history)


@as_often_as_is_fast
@in_every_history
def test_units_are_not_idle_while_work_that_fits_is_asked_for(history: History) -> None:
    """A caller who can do anything is denied only if nothing that waits fits, or older work is about to get it."""
    player = Player().play(history)
    yard = player.yard
    yard.advance(limits.WORK_AT_THE_DOOR_MS + 250)
    queued = [w for w in yard.state.work.works.values() if w.state is WorkState.QUEUED]
    waited = [yard.now.mono_ms - work.accepted_at.mono_ms for work in queued]
    answer = yard.ask(wanted("anybody"))
    if isinstance(answer, Denied) and all(ms < limits.WORK_PATIENCE_MS for ms in waited):
        there = rooms(yard.state, yard.now)
        assert not any(room.takes(work) for work in queued for room in there)
        expected = DenialReason.NO_WORK if not queued else answer.reason
        assert answer.reason is expected


@as_often_as_is_fast
@in_every_history
def test_the_same_history_of_work_has_the_same_answers(history: History) -> None:
    assert Player().play(history).answers == Player().play(history).answers


@as_often_as_is_fast
@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.integers(1, 40)), max_size=20))
def test_one_caller_gets_what_fits_in_the_order_of_class_and_acceptance(
    asked: list[tuple[Priority, int]],
) -> None:
    yard = HeavyWork()
    ids = [yard.submit(priority=priority, units=units) for priority, units in asked]
    order = sorted(ids, key=lambda each: (yard.work(each).spec.priority, ids.index(each)))
    free, expected = 100, []
    while fitting := [each for each in order if yard.work(each).spec.units <= free]:
        expected.append(fitting[0])
        order.remove(fitting[0])
        free -= yard.work(fitting[0]).spec.units
    got = []
    while isinstance(answer := yard.ask(wanted()), Granted):
        got.append(answer.lease.work_id)
    assert got == expected


@as_often_as_is_fast
@given(st.integers(10, 90), st.lists(st.integers(1, 30), min_size=5, max_size=30))
def test_nothing_starves_beyond_the_patience_and_one_lease_of_what_runs(
    large: int, small: list[int]
) -> None:
    """However much small work streams in, the large piece starts once it waited and what ran before is done."""
    yard = HeavyWork()
    yard.submit("filler", units=100)
    filler = yard.lease("filler")
    big = yard.submit("big", units=large)
    yard.ask(Completion(claim_of(filler)))
    began, running = yard.now.mono_ms, []
    for number in range(1_000):
        units = small[number % len(small)]
        yard.submit("small", units=units)
        # Those who do small work ask first, always.
        answer = yard.ask(wanted(f"s{number}", kinds=frozenset({"small"})))
        if isinstance(answer, Granted):
            running.append((yard.now.mono_ms, answer.lease))
        if isinstance(yard.ask(wanted("b", kinds=frozenset({"big"}))), Granted):
            break
        yard.advance(1_000)
        for at, lease in list(running):
            if yard.now.mono_ms - at >= 10_000:
                yard.ask(Completion(claim_of(lease)))
                running.remove((at, lease))
    assert yard.state_of(big) is WorkState.LEASED
    assert yard.now.mono_ms - began <= limits.WORK_PATIENCE_MS + 12_000
