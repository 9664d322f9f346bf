"""Histories: lists of numbers that become events, honest and hostile workers, restarts at any moment.

They are numbers so that a failing history can be shrunk. Every single step is checked by the apiary.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from beeyard_core import limits
from beeyard_core.effect import (
    Accept,
    AcknowledgeResult,
    AnnounceEnded,
    CountStaleEpoch,
    Effect,
    Offer,
    Refuse,
)
from beeyard_core.event import (
    CancelRequested,
    DrainBegun,
    FirstTokenArrived,
    JobSubmitted,
    LeaseClaim,
    LeaseFailed,
    LeaseFinished,
    LeaseStopped,
    OfferAccepted,
    OfferRefused,
    WorkerStartRequested,
    WorkerStopRequested,
)
from beeyard_core.fleet import PREFIX_CACHE, WorkerState
from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, PoolId, WorkerId
from beeyard_core.job import Finish, PlacementWish, Priority
from beeyard_core.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import cached_of, pool_of, report_of, spec_of

FINISH = Finish(reason="stop", decode_ms=5.0)
MODELS = (ModelName("m"), ModelName("n"))
REASONS = (
    Refusal.WORKER_BUSY,
    Refusal.DRAINING,
    Refusal.WORKER_ERROR,
    Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
)


@dataclass(frozen=True)
class Grant:
    """A lease as it was offered, with what the worker had then."""

    lease_id: LeaseId
    epoch: Epoch
    job_id: JobId
    worker_id: WorkerId


@dataclass
class Player:
    """Plays a history and remembers what the property tests ask about."""

    apiary: Apiary = field(default_factory=Apiary)
    grants: list[Grant] = field(default_factory=list)
    accepted: list[JobId] = field(default_factory=list)
    refused: list[JobId] = field(default_factory=list)
    ended: list[JobId] = field(default_factory=list)
    after_each: Callable[["Player", list[Effect]], None] | None = None
    jobs_count: int = 0

    def play(self, history: list[tuple[int, int]]) -> "Player":
        """Let everything happen, in a world where something can."""
        for value in (0, 1):
            self.report(value)
        for value in (24, 29):
            self.attach(value)
        moves = (
            *(self.submit, self.submit, self.cancel, self.attach, self.attach, self.detach),
            *(self.heartbeat, self.accept, self.refuse, self.first_token, self.finish),
            *(self.fail, self.stopped, self.report, self.advance, self.restart, self.lie),
            *(self.start, self.stop, self.drain),
        )
        for move, value in history:
            moves[move % len(moves)](value)
        return self

    def note(self, effects: list[Effect]) -> None:
        """Remember what the queen promised."""
        for effect in effects:
            match effect:
                case Offer(worker_id, lease_id):
                    lease = self.apiary.state.leases[lease_id]
                    grant = Grant(lease_id, lease.epoch, lease.job_id, worker_id)
                    self.grants.append(grant)
                case Accept(job_id):
                    self.accepted.append(job_id)
                case Refuse(job_id):
                    self.refused.append(job_id)
                case AnnounceEnded(job_id):
                    self.ended.append(job_id)
                case _:
                    pass
        if self.after_each is not None:
            self.after_each(self, effects)

    # --- Clients ---

    def submit(self, value: int) -> None:
        self.jobs_count += 1
        spec = spec_of(
            MODELS[value % 2],
            priority=list(Priority)[value // 2 % 4],
            prompt_tokens=(5, 40, 300)[value % 3],
            deadline_ms=3_000 if value % 7 == 0 else None,
            placement=PlacementWish(pin_pool_id=PoolId("p2") if value % 11 == 0 else None),
            max_attempts=1 + value % 3,
        )
        event = JobSubmitted(
            job_id=JobId(f"j{self.jobs_count}"),
            spec=spec,
            request_id=f"r{value % 4}" if value % 3 == 0 else "",
            digest=bytes([value % 2]),
            # Four conversations over two beginnings.
            prefix=(value % 2, 10 + value % 4, 20 + value % 4)[: value % 5],
        )
        self.note(self.apiary.happen(event))

    def cancel(self, value: int) -> None:
        if self.accepted:
            job_id = self.accepted[value % len(self.accepted)]
            self.note(self.apiary.happen(CancelRequested(job_id)))

    # --- Workers ---

    def attach(self, value: int) -> None:
        worker_id = WorkerId(f"w{value % 4}")
        mine = [grant for grant in self.grants if grant.worker_id == worker_id]
        claims = tuple(
            LeaseClaim(lease_id=each.lease_id, epoch=each.epoch, next_index=0)
            for number, each in enumerate(mine[-6:])
            if value >> number & 1
        )
        report = report_of(
            worker_id,
            model=MODELS[value // 4 % 2],
            pool_id=PoolId(f"p{1 + value % 2}"),
            slots_total=value // 8 % 4,
            kv_tokens_total=(60, 200, 4_000)[value % 3],
            state=(WorkerState.READY, WorkerState.BUSY, WorkerState.STARTING)[value // 16 % 3],
            extensions=frozenset({PREFIX_CACHE} if value % 5 else ()),
        )
        self.note(self.apiary.attach(report, claims))

    def detach(self, value: int) -> None:
        if self.apiary.links:
            workers = sorted(self.apiary.links)
            self.note(self.apiary.detach(workers[value % len(workers)]))

    def heartbeat(self, value: int) -> None:
        """Hear of every worker; half of the time one of them has opened or closed slots since."""
        workers = sorted(self.apiary.links)
        if workers and value % 2:
            link = self.apiary.links[workers[value // 2 % len(workers)]]
            link.report = replace(link.report, slots_total=value // 8 % 4)
        for worker_id in workers:
            self.note(self.apiary.heartbeat(worker_id))

    def spoken(self, value: int) -> tuple[WorkerId, LeaseId, Epoch]:
        """Speak for a lease that was once given out, mostly for a recent one."""
        if not self.grants:
            return WorkerId("w0"), LeaseId("lease-0"), Epoch(0)
        grant = self.grants[-1 - value % min(len(self.grants), 5)]
        return grant.worker_id, grant.lease_id, grant.epoch

    def accept(self, value: int) -> None:
        self.note(self.apiary.happen(OfferAccepted(*self.spoken(value))))

    def refuse(self, value: int) -> None:
        reason = REASONS[value % len(REASONS)]
        self.note(self.apiary.happen(OfferRefused(*self.spoken(value // 4), reason)))

    def first_token(self, value: int) -> None:
        self.note(self.apiary.happen(FirstTokenArrived(*self.spoken(value))))

    def finish(self, value: int) -> None:
        self.note(self.apiary.happen(LeaseFinished(*self.spoken(value), value % 20, FINISH)))

    def fail(self, value: int) -> None:
        reason = REASONS[value % len(REASONS)]
        event = LeaseFailed(*self.spoken(value // 4), value % 20, reason, "it broke")
        self.note(self.apiary.happen(event))

    def stopped(self, value: int) -> None:
        self.note(self.apiary.happen(LeaseStopped(*self.spoken(value))))

    def lie(self, value: int) -> None:
        worker_id, lease_id, epoch = self.spoken(value // 4)
        if value % 2:
            worker_id = WorkerId(f"w{(value // 2) % 4}x")
        else:
            epoch = Epoch(epoch + 1)
        effects = self.apiary.happen(LeaseFinished(worker_id, lease_id, epoch, 1, FINISH))
        # The fence: it is counted, the liar is told to forget it, and no job is touched by it.
        assert effects[:2] == [
            CountStaleEpoch(worker_id, lease_id, epoch),
            AcknowledgeResult(worker_id, lease_id, epoch),
        ]
        assert not [each for each in effects if isinstance(each, AnnounceEnded)]

    # --- The world ---

    def report(self, value: int) -> None:
        models = tuple(cached_of(model) for model in MODELS[: 1 + value % 2])
        fault = "no driver" if value % 5 == 4 else ""
        pool = pool_of(f"p{1 + value % 2}", models=models, inventory_fault=fault)
        self.note(self.apiary.snapshot(pool, is_first=value % 3 == 0))

    def advance(self, value: int) -> None:
        for worker_id in sorted(self.apiary.links):
            self.apiary.links[worker_id].is_mute = value % 4 == 0
        for _ in range((1, 2, 8, 50)[value % 4]):
            self.note([effect for _, effect in self.apiary.advance(limits.TICK_INTERVAL_MS)])

    def restart(self, value: int) -> None:
        self.apiary.restart(away_ms=value * 20)

    def start(self, value: int) -> None:
        request = WorkerStartRequested(
            call_id=value, model=MODELS[value % 2], request_id=f"o{value % 3}" if value % 2 else ""
        )
        self.note(self.apiary.happen(request))

    def stop(self, value: int) -> None:
        worker_id = WorkerId(f"w{value % 4}")
        request = WorkerStopRequested(call_id=value, worker_id=worker_id, keep=value % 2 == 0)
        self.note(self.apiary.happen(request))

    def drain(self, value: int) -> None:
        if value % 4 == 0:
            self.note(self.apiary.happen(DrainBegun()))

    def calm_down(self) -> None:
        """Give the fleet all that it needs and honest workers, until no job is left."""
        self.apiary.restart()
        for number, model in enumerate(MODELS):
            for pool_id in ("p1", "p2"):
                self.note(self.apiary.snapshot(pool_of(pool_id)))
                worker = report_of(
                    f"calm-{number}-{pool_id}", model=model, pool_id=PoolId(pool_id), slots_total=9
                )
                self.note(self.apiary.attach(worker))
        self.advance_until_quiet()

    def advance_until_quiet(self) -> None:
        state = self.apiary.state
        for _ in range(100):
            for lease in [each for each in state.leases.values() if each.is_current]:
                spoken = (lease.worker_id, lease.lease_id, lease.epoch)
                if lease.worker_id.startswith("calm"):
                    self.note(self.apiary.happen(LeaseFinished(*spoken, 1, FINISH)))
            if all(job.is_ended for job in state.jobs.values()):
                return
            self.note([effect for _, effect in self.apiary.advance(1_000)])
        raise AssertionError(f"never ends: {[j for j in state.jobs.values() if not j.is_ended]}")


HISTORIES = st.binary(min_size=100, max_size=200).map(
    lambda raw: list(zip(raw[::2], raw[1::2], strict=False))
)
in_every_history = given(HISTORIES)
as_often_as_is_fast = in_cases(4)
