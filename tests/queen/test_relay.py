"""Tokens count only under a lease that counts; everything else is counted, answered and changes nothing."""

from dataclasses import dataclass, field

import pytest
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.event import (
    CancelRequested,
    Event,
    FirstTokenArrived,
    JobSubmitted,
    LeaseFailed,
    LeaseFinished,
    LeaseStopped,
    OfferAccepted,
    OfferRefused,
    WorkerAttached,
)
from beeyard_core.ids import JobId, ModelName, WorkerId
from beeyard_core.job import JobSpec
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_core.step import step
from beeyard_queen.egress.feed import Feeds, JobFeed
from beeyard_queen.egress.links import Links, WorkerLink
from beeyard_queen.egress.relay import Relay
from beeyard_queen.ingress.worker_wire import report_of
from beeyard_queen.metrics import QueenMetrics
from beeyard_queen.timelines import Timelines
from beeyard_runtime.metrics import Figures
from beeyard_runtime.testing import ManualClock

from tests.support.attached_worker import failed_of, finished_of, frame_of, status_of, stopped_of

JOB = JobId("job-1")


@dataclass
class Rig:
    """A relay over a state in which `w1` holds lease-1 of `job-1`."""

    state: QueenState = field(default_factory=QueenState)
    feeds: Feeds = field(default_factory=Feeds)
    links: Links = field(default_factory=Links)
    clock: ManualClock = field(default_factory=ManualClock)
    posted: list[Event] = field(default_factory=list)
    twin: Twin = field(default_factory=Twin)
    projection: Projection = field(default_factory=Projection)
    pokes: int = 0

    def __post_init__(self) -> None:
        metrics = QueenMetrics(Figures())
        self.relay = Relay(
            self.state, self.feeds, self.clock, self.posted.append, self.poke, metrics, Timelines()
        )
        self.link = self.attach("w1")
        spec = JobSpec(model=ModelName("tiny"), prompt_tokens=1, max_tokens=1_000)
        self.step(JobSubmitted(job_id=JOB, spec=spec))

    def poke(self) -> None:
        self.pokes += 1

    def step(self, event: Event) -> None:
        now = self.clock.now()
        schedule(self.state, self.projection, self.twin, now, step(self.state, event, now))

    def attach(self, worker_id: str) -> WorkerLink:
        link = self.links.open(WorkerId(worker_id))
        report = report_of(status_of(worker_id), "none", "")
        self.step(WorkerAttached(session=link.session, report=report))
        return link

    def take(self, link: WorkerLink | None = None, **parts: object) -> None:
        self.relay.take(link or self.link, pb.Report(**parts))  # type: ignore[arg-type]

    @property
    def feed(self) -> JobFeed:
        return self.feeds.by_job[JOB]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.posted if type(event) is kind]


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def orders_of(link: WorkerLink) -> pb.Orders:
    link.greet()
    orders = await link.orders()
    assert orders is not None
    return orders


async def test_tokens_reach_the_feed_and_the_first_is_told(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the", " bee")])
    rig.take(frames=[frame_of(1, 2, " finds")])
    assert rig.feed.log.text() == " the bee finds"
    assert rig.feed.log.ids() == [1_000, 1_001, 1_002]
    assert len(rig.of(FirstTokenArrived)) == 1
    assert JOB in rig.feeds.unsaved


async def test_tokens_whose_acceptance_was_lost_begin_the_attempt_themselves(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the")])
    (started,) = rig.feed.attempts
    assert (started.worker_id, started.attempt, started.model) == ("w1", 1, "tiny")
    rig.take(replies=[pb.OfferReply(lease_id="lease-1", epoch=1, accepted=True)])
    assert len(rig.feed.attempts) == 1


async def test_replies_are_handed_to_the_writer(rig: Rig) -> None:
    rig.take(replies=[pb.OfferReply(lease_id="lease-1", epoch=1, accepted=True)])
    rig.take(
        replies=[pb.OfferReply(lease_id="lease-1", epoch=1, accepted=False, reason="WORKER_BUSY")]
    )
    assert rig.of(OfferAccepted)
    (refused,) = rig.of(OfferRefused)
    assert isinstance(refused, OfferRefused)
    assert refused.reason is Refusal.WORKER_BUSY


@pytest.mark.parametrize("epoch", [0, 2, 99])
async def test_a_stale_epoch_is_counted_revoked_and_never_delivered(rig: Rig, epoch: int) -> None:
    frame = frame_of(1, 0, " the")
    frame.epoch = epoch
    rig.take(frames=[frame])
    assert rig.relay.stale_epoch_writes_count == 1
    assert JOB not in rig.feeds.by_job
    orders = await orders_of(rig.link)
    assert [(r.lease_id, r.epoch) for r in orders.revocations] == [("lease-1", epoch)]


async def test_nobody_speaks_for_the_lease_of_another_worker(rig: Rig) -> None:
    other = rig.attach("w2")
    rig.take(other, frames=[frame_of(1, 0, " the")], results=[finished_of(1, 0)])
    assert rig.relay.stale_epoch_writes_count == 1
    assert JOB not in rig.feeds.by_job
    assert [r.epoch for r in (await orders_of(other)).revocations] == [1]
    # The result is judged by the core, which knows the speaker by the event.
    (finished,) = rig.of(LeaseFinished)
    rig.step(finished)
    assert not rig.state.jobs[JOB].is_ended


async def test_no_token_of_a_revoked_lease_counts(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the")])
    rig.step(CancelRequested(JOB))
    rig.take(frames=[frame_of(1, 1, " bee")])
    assert rig.feed.log.text() == " the"
    assert rig.relay.stale_epoch_writes_count == 1


async def test_a_gap_is_asked_for_once_and_closed_by_the_resend(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the")])
    rig.take(frames=[frame_of(1, 2, " finds")])
    rig.take(frames=[frame_of(1, 3, " its")])
    assert rig.feed.log.text() == " the"
    orders = await orders_of(rig.link)
    assert [(r.epoch, r.from_index) for r in orders.resends] == [(1, 1)]
    rig.take(frames=[frame_of(1, 1, " bee", " finds", " its")])
    assert rig.feed.log.text() == " the bee finds its"
    assert not (await orders_of(rig.link)).resends


async def test_a_repeated_token_is_delivered_once(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the", " bee")])
    rig.take(frames=[frame_of(1, 0, " the", " bee"), frame_of(1, 1, " bee", " finds")])
    assert rig.feed.log.text() == " the bee finds"


async def test_a_frame_that_contradicts_itself_breaks_the_attempt(rig: Rig) -> None:
    frame = frame_of(1, 0, " the", " bee")
    frame.text = " the"
    rig.take(frames=[frame])
    (failed,) = rig.of(LeaseFailed)
    assert isinstance(failed, LeaseFailed)
    assert failed.reason is Refusal.STREAM_READ_ERROR
    assert rig.feed.log.next_index == 0


async def test_a_frame_larger_than_agreed_breaks_the_attempt(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, *[" b"] * (limits.FRAME_TOKENS_MAX + 1))])
    assert rig.of(LeaseFailed)


async def test_a_result_waits_for_its_tokens(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the")], results=[finished_of(1, 3)])
    assert not rig.of(LeaseFinished)
    orders = await orders_of(rig.link)
    assert [(r.epoch, r.from_index) for r in orders.resends] == [(1, 1)]
    rig.take(frames=[frame_of(1, 1, " bee", " finds")], results=[finished_of(1, 3)])
    (finished,) = rig.of(LeaseFinished)
    assert isinstance(finished, LeaseFinished)
    assert (finished.next_index, finished.finish.reason) == (3, "length")


async def test_an_answer_may_be_empty(rig: Rig) -> None:
    rig.take(results=[finished_of(1, 0)])
    assert rig.of(LeaseFinished)


async def test_failures_and_stops_are_handed_to_the_writer(rig: Rig) -> None:
    rig.take(frames=[frame_of(1, 0, " the")], results=[failed_of(1, "NEVER_HEARD_OF")])
    rig.take(results=[stopped_of(1)])
    (failed,) = rig.of(LeaseFailed)
    assert isinstance(failed, LeaseFailed)
    assert (failed.reason, failed.next_index) == (Refusal.WORKER_ERROR, 1)
    assert rig.of(LeaseStopped)


async def test_the_writer_is_poked_once_when_enough_tokens_wait(rig: Rig) -> None:
    frame = limits.FRAME_TOKENS_MAX
    for index in range(0, 3 * limits.CHECKPOINT_TOKENS, frame):
        rig.take(frames=[frame_of(1, index, *[" b"] * frame)])
        assert rig.pokes == (index + frame >= limits.CHECKPOINT_TOKENS)
    assert rig.feeds.due == {JOB}
