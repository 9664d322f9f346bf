"""The worker's half of the token stream: kept until acknowledged, sent again on demand."""

import pytest
from beeyard_core import limits
from beeyard_core.outbox import HeldLease, LeaseOutbox, Outbox
from beeyard_core.stream import Accepted, Frame, LeaseInbox, TokenLog


def feed(lease: LeaseOutbox[str], count: int, *, ids: bool = True) -> int:
    """Append `count` tokens whose id is their index and whose text is its decimal form."""
    first = lease.next_index
    indexes = list(range(first, first + count))
    return lease.append(indexes if ids else [], [str(index) for index in indexes])


def frame_of(first: int, after: int, *, ids: bool = True) -> Frame:
    """Return tokens `first` to `after - 1` of lease-1 as `feed` makes them."""
    words = [str(index) for index in range(first, after)]
    return Frame(
        "lease-1",
        1,
        first,
        list(range(first, after)) if ids else [],
        "".join(words),
        list(map(len, words)),
    )


@pytest.fixture
def lease() -> LeaseOutbox[str]:
    """Return an empty lease that starts at token 0."""
    return LeaseOutbox("lease-1", 1)


def test_each_token_is_sent_once(lease: LeaseOutbox[str]) -> None:
    assert not lease.has_unsent
    assert lease.take_frame() is None
    feed(lease, 3)
    assert lease.has_unsent
    assert lease.take_frame() == frame_of(0, 3)
    assert not lease.has_unsent
    feed(lease, 2)
    assert lease.take_frame() == frame_of(3, 5)
    assert lease.take_frame() is None


def test_frames_are_bounded(lease: LeaseOutbox[str]) -> None:
    feed(lease, 100, ids=False)
    assert lease.take_frame() == frame_of(0, limits.FRAME_TOKENS_MAX, ids=False)
    assert lease.take_frame() == frame_of(limits.FRAME_TOKENS_MAX, 100, ids=False)


def test_a_full_lease_pauses_its_engine_until_the_queen_acknowledges(
    lease: LeaseOutbox[str],
) -> None:
    assert feed(lease, limits.UNACKNOWLEDGED_TOKENS_MAX - 1) == 1
    assert not lease.is_full
    assert feed(lease, 2) == -1
    assert lease.is_full
    lease.acknowledge(2)
    assert lease.room == 1
    assert not lease.is_full


def test_the_result_follows_the_last_token_and_is_kept(lease: LeaseOutbox[str]) -> None:
    feed(lease, 1)
    assert lease.take_result() is None
    lease.finish("done")
    assert lease.take_result() is None, "its token was not sent yet"
    lease.take_frame()
    assert lease.has_unsent
    assert lease.take_result() == "done"
    assert lease.take_result() is None, "sent once a stream"
    assert not lease.has_unsent
    assert lease.result == "done"


def test_nothing_follows_the_result(lease: LeaseOutbox[str]) -> None:
    lease.finish("done")
    with pytest.raises(AssertionError):
        feed(lease, 1)
    with pytest.raises(AssertionError):
        lease.finish("again")
    assert lease.next_index == 0


def test_tokens_with_and_without_ids_never_mix(lease: LeaseOutbox[str]) -> None:
    feed(lease, 2)
    with pytest.raises(AssertionError):
        feed(lease, 1, ids=False)


def test_acknowledged_tokens_are_forgotten_and_the_rest_is_sent_again(
    lease: LeaseOutbox[str],
) -> None:
    feed(lease, 10)
    lease.take_frame()
    lease.acknowledge(4)
    lease.acknowledge(3)
    assert lease.held == HeldLease("lease-1", 1, 10, 4)
    lease.resend_from(6)
    assert lease.take_frame() == frame_of(6, 10)
    lease.resend_from(0)
    assert lease.take_frame() == frame_of(4, 10)
    lease.resend_from(99)
    assert lease.take_frame() is None


def test_an_acknowledgement_beyond_what_exists_forgets_what_exists(
    lease: LeaseOutbox[str],
) -> None:
    feed(lease, 3)
    lease.acknowledge(1_000)
    assert lease.held == HeldLease("lease-1", 1, 3, 3)
    assert lease.take_frame() is None
    feed(lease, 1)
    assert lease.take_frame() == frame_of(3, 4)


def test_a_resend_brings_the_result_again(lease: LeaseOutbox[str]) -> None:
    feed(lease, 2)
    lease.finish("done")
    lease.take_frame()
    assert lease.take_result() == "done"
    lease.resend_from(1)
    assert lease.take_result() is None
    assert lease.take_frame() == frame_of(1, 2)
    assert lease.take_result() == "done"


def test_a_report_holds_one_frame_of_each_lease() -> None:
    outbox: Outbox[str] = Outbox()
    first, second = outbox.accept("lease-1", 1), outbox.accept("lease-2", 2, 40)
    outbox.accept("lease-3", 3)
    assert not outbox.has_unsent
    feed(first, 70)
    feed(second, 1)
    assert [(f.lease_id, f.first_index, f.count) for f in outbox.take_frames()] == [
        ("lease-1", 0, 64),
        ("lease-2", 40, 1),
    ]
    assert outbox.has_unsent
    assert [(f.lease_id, f.first_index, f.count) for f in outbox.take_frames()] == [
        ("lease-1", 64, 6)
    ]
    assert outbox.take_frames() == []


def test_results_are_kept_until_they_are_committed() -> None:
    outbox: Outbox[str] = Outbox()
    first, second = outbox.accept("lease-1", 1), outbox.accept("lease-2", 2)
    outbox.accept("lease-3", 3)
    feed(first, 1)
    first.finish("one")
    second.finish("two")
    assert outbox.take_results() == [(second, "two")]
    outbox.take_frames()
    assert outbox.take_results() == [(first, "one")]
    assert len(outbox) == 3
    outbox.acknowledge("lease-1", 1, 1, result_committed=True)
    assert outbox.find("lease-1", 1) is None
    assert len(outbox) == 2


def test_orders_for_another_epoch_touch_nothing() -> None:
    outbox: Outbox[str] = Outbox()
    lease = outbox.accept("lease-1", 2)
    feed(lease, 3)
    outbox.take_frames()
    assert outbox.acknowledge("lease-1", 1, 3, result_committed=False) is None
    assert outbox.acknowledge("lease-1", 1, 3, result_committed=True) is None
    outbox.resend_from("lease-1", 1, 0)
    assert outbox.forget("lease-1", 1) is None
    assert outbox.held() == [HeldLease("lease-1", 2, 3, 0)]
    assert not outbox.has_unsent


def test_orders_for_the_right_epoch_are_carried_out() -> None:
    outbox: Outbox[str] = Outbox()
    lease = outbox.accept("lease-1", 1)
    feed(lease, 3)
    outbox.take_frames()
    assert outbox.acknowledge("lease-1", 1, 1, result_committed=False) is lease
    outbox.resend_from("lease-1", 1, 2)
    assert outbox.take_frames() == [frame_of(2, 3)]
    assert outbox.forget("lease-1", 1) is lease
    assert len(outbox) == 0


def test_a_welcome_adopts_some_leases_and_drops_the_others() -> None:
    outbox: Outbox[str] = Outbox()
    adopted, dropped = outbox.accept("lease-1", 1), outbox.accept("lease-2", 2)
    stale = outbox.accept("lease-3", 3)
    feed(adopted, 10)
    adopted.finish("done")
    adopted.acknowledge(2)
    assert outbox.adopt([("lease-1", 1, 5), ("lease-3", 9, 0), ("lease-4", 4, 0)]) == [
        dropped,
        stale,
    ]
    assert outbox.held() == [HeldLease("lease-1", 1, 10, 2)]
    assert outbox.take_frames() == [frame_of(5, 10)]
    assert outbox.take_results() == [(adopted, "done")]


def test_a_stream_that_breaks_anywhere_loses_and_repeats_nothing() -> None:
    for lost_from in range(0, 300, 7):
        outbox: Outbox[str] = Outbox()
        lease = outbox.accept("lease-1", 1)
        inbox, log = LeaseInbox("lease-1"), TokenLog()
        for step in range(30):
            feed(lease, 10)
            for frame in outbox.take_frames():
                if step * 10 < lost_from:
                    outcome = inbox.receive(frame, 1)
                    assert isinstance(outcome, Accepted)
                    log.append(outcome.frame)
        outbox.adopt([("lease-1", 1, max(0, log.next_index - 3))])
        while frames := outbox.take_frames():
            for frame in frames:
                outcome = inbox.receive(frame, 1)
                if isinstance(outcome, Accepted):
                    log.append(outcome.frame)
        assert log.ids() == list(range(300))
