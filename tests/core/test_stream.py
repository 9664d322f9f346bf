"""The queen's half of the token stream: nothing missing, nothing repeated, nothing stale."""

import itertools
import random

import pytest
from beeyard_core import limits
from beeyard_core.stream import (
    Accepted,
    Dropped,
    Frame,
    Gap,
    LeaseInbox,
    TokenLog,
    merge_frames,
    split_frame,
)

EPOCH = 7


def word(index: int) -> str:
    """Return the text of token `index`: of varying length, sometimes empty, not only ASCII."""
    return ("", "a", "bé", "cde", "\N{HONEYBEE}")[index % 5]


def frame_of(first: int, after: int, *, ids: bool = True, epoch: int = EPOCH) -> Frame:
    """Return tokens `first` to `after - 1` as one frame of lease-7."""
    words = [word(index) for index in range(first, after)]
    return Frame(
        "lease-7",
        epoch,
        first,
        list(range(first, after)) if ids else [],
        "".join(words),
        [len(text) for text in words],
    )


def test_a_frame_is_cut_at_a_token_and_not_at_a_code_point() -> None:
    left, right = split_frame(frame_of(3, 12), 6)
    assert left == frame_of(3, 6)
    assert right == frame_of(6, 12)
    assert (left.count, left.next_index, right.count, right.next_index) == (3, 6, 6, 12)


def test_a_frame_without_ids_is_cut_without_ids() -> None:
    assert split_frame(frame_of(0, 4, ids=False), 1)[1] == frame_of(1, 4, ids=False)


@pytest.mark.parametrize("index", [3, 12])
def test_a_cut_at_the_edge_of_a_frame_is_a_bug(index: int) -> None:
    with pytest.raises(AssertionError):
        split_frame(frame_of(3, 12), index)


def test_frames_join_to_what_they_were_cut_from() -> None:
    whole = frame_of(0, 20)
    left, rest = split_frame(whole, 7)
    middle, right = split_frame(rest, 11)
    assert merge_frames([left, middle, right]) == whole
    assert merge_frames([whole]) is whole


def test_the_next_frame_is_accepted_as_it_is() -> None:
    inbox = LeaseInbox("lease-7")
    for first, after in [(0, 1), (1, 9), (9, 73)]:
        frame = frame_of(first, after)
        assert inbox.receive(frame, EPOCH) == Accepted(frame)
        assert inbox.next_index == after


def test_a_known_prefix_is_cut_off() -> None:
    inbox = LeaseInbox("lease-7", 5)
    assert inbox.receive(frame_of(2, 9), EPOCH) == Accepted(frame_of(5, 9))
    assert inbox.next_index == 9


@pytest.mark.parametrize("after", [3, 5])
def test_a_frame_that_brings_nothing_new_is_a_duplicate(after: int) -> None:
    inbox = LeaseInbox("lease-7", 5)
    assert inbox.receive(frame_of(2, after), EPOCH) is Dropped.DUPLICATE
    assert inbox.next_index == 5


def test_a_gap_is_asked_for_once() -> None:
    inbox = LeaseInbox("lease-7", 5)
    assert inbox.receive(frame_of(7, 8), EPOCH) == Gap(5)
    assert inbox.receive(frame_of(8, 9), EPOCH) is Dropped.AWAITING_RESEND
    assert inbox.receive(frame_of(5, 9), EPOCH) == Accepted(frame_of(5, 9))
    assert inbox.receive(frame_of(10, 11), EPOCH) == Gap(9)


def test_a_gap_is_asked_for_again_on_a_new_stream() -> None:
    inbox = LeaseInbox("lease-7")
    assert inbox.receive(frame_of(7, 8), EPOCH) == Gap(0)
    inbox.reattach()
    assert inbox.receive(frame_of(7, 8), EPOCH) == Gap(0)


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_a_frame_of_another_epoch_is_stale_even_if_it_would_fit(epoch: int) -> None:
    inbox = LeaseInbox("lease-7")
    assert inbox.receive(frame_of(0, 3, epoch=epoch), EPOCH) is Dropped.STALE_EPOCH
    assert inbox.next_index == 0


@pytest.mark.parametrize(
    "frame",
    [
        Frame("lease-8", EPOCH, 0, [1], "a", [1]),
        Frame("lease-7", EPOCH, 0, [], "", []),
        Frame("lease-7", EPOCH, 0, [1, 2], "a", [1]),
        Frame("lease-7", EPOCH, 0, [1], "ab", [1]),
        Frame("lease-7", EPOCH, -1, [1, 2], "ab", [1, 1]),
        frame_of(0, limits.FRAME_TOKENS_MAX + 1),
    ],
    ids=["other lease", "empty", "too many ids", "too much text", "negative", "too large"],
)
def test_a_malformed_frame_changes_nothing(frame: Frame) -> None:
    inbox = LeaseInbox("lease-7")
    assert inbox.receive(frame, EPOCH) is Dropped.MALFORMED
    assert inbox.next_index == 0


def log_of(*edges: int, ids: bool = True) -> TokenLog:
    """Return a log whose frames lie between these edges."""
    log = TokenLog(edges[0])
    for first, after in itertools.pairwise(edges):
        log.append(frame_of(first, after, ids=ids))
    return log


def test_a_log_takes_only_the_next_index() -> None:
    log = log_of(0, 3)
    with pytest.raises(AssertionError):
        log.append(frame_of(4, 5))
    assert log.next_index == 3


def test_a_log_gives_back_everything_for_the_store_and_takes_it_again() -> None:
    log = log_of(0, 3, 64, 100)
    whole = Frame("lease-7", EPOCH, 0, log.ids(), log.text(), log.text_lengths())
    assert whole == frame_of(0, 100)
    restored = TokenLog()
    restored.append(whole)
    assert restored.next_index == 100
    assert restored.reader(70).take() == frame_of(70, 100)
    assert restored.reader(0).take() == frame_of(0, 64)


def test_an_answer_with_unknown_ids_resumes_by_text_only() -> None:
    log = log_of(0, 3)
    log.append(frame_of(3, 6, ids=False))
    assert log.ids() == []
    assert log.text() == frame_of(0, 6).text


def test_a_reader_starts_anywhere_and_joins_small_frames() -> None:
    log = log_of(0, 2, 5, 6, 40, 60)
    for start in range(60):
        reader = log.reader(start)
        taken = []
        while (frame := reader.take()) is not None:
            taken.append(frame)
        assert merge_frames(taken) == frame_of(start, 60)
        assert not reader.is_behind


def test_a_reader_takes_at_least_a_frame_and_then_stays_within_its_bound() -> None:
    reader = log_of(0, 10, 12, 14, 16).reader(0)
    assert reader.take(4) == frame_of(0, 10)
    assert reader.is_behind
    assert reader.take(4) == frame_of(10, 14)
    assert reader.take(4) == frame_of(14, 16)
    assert reader.take(4) is None


def test_a_reader_follows_a_growing_log() -> None:
    log = TokenLog()
    reader = log.reader(0)
    assert reader.take() is None
    for index in range(200):
        log.append(frame_of(index, index + 1))
        assert reader.take() == frame_of(index, index + 1)


def test_a_reader_may_wait_for_the_future() -> None:
    log = log_of(0, 2)
    reader = log.reader(5)
    log.append(frame_of(2, 4))
    assert reader.take() is None
    log.append(frame_of(4, 8))
    assert reader.take() == frame_of(5, 8)


def test_a_reader_never_mixes_tokens_with_and_without_ids() -> None:
    log = log_of(0, 2)
    log.append(frame_of(2, 4, ids=False))
    reader = log.reader(0)
    assert reader.take() == frame_of(0, 2)
    assert reader.take() == frame_of(2, 4, ids=False)


def test_a_log_that_lost_its_start_says_so() -> None:
    log = log_of(10, 12)
    assert not log.holds(9)
    assert log.holds(10)
    with pytest.raises(AssertionError):
        log.reader(9)
    assert log.reader(11).take() == frame_of(11, 12)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_frames_delivers_each_token_once(seed: int) -> None:
    chance = random.Random(seed)
    inbox = LeaseInbox("lease-7")
    log = TokenLog()
    while inbox.next_index < 300:
        first = max(0, inbox.next_index + chance.randint(-20, 4))
        frame = frame_of(first, first + chance.randint(1, 40), epoch=chance.choice((6, 7, 7, 7)))
        outcome = inbox.receive(frame, EPOCH)
        if isinstance(outcome, Accepted):
            log.append(outcome.frame)
    assert log.text() == frame_of(0, log.next_index).text
    assert log.ids() == list(range(log.next_index))
