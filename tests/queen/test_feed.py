"""One feed, many followers: each sees everything from its place on, in order, and costs nothing while idle."""

import pytest
from beeyard_core import limits
from beeyard_core.ids import Epoch, JobId
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.stream import Frame
from beeyard_queen.egress.feed import (
    AttemptStarted,
    FeedClosed,
    FeedItem,
    Feeds,
    Follower,
    JobEnded,
    JobFeed,
)

WORDS = [" the", " bee", " finds", " its", " hive", " at", " last"]


def attempt(number: int, first_index: int) -> AttemptStarted:
    return AttemptStarted(
        first_index=first_index,
        epoch=Epoch(number),
        worker_id=f"w{number}",
        worker_address="",
        model="tiny",
        device="cpu",
        attempt=number,
        policy_version="built-in@1",
        decision="",
    )


def frame(first_index: int, *words: str) -> Frame:
    ids = range(1_000 + first_index, 1_000 + first_index + len(words))
    return Frame("lease-1", 1, first_index, list(ids), "".join(words), list(map(len, words)))


def two_attempts() -> JobFeed:
    """A job whose first attempt gave three tokens and whose second gave the rest."""
    feed = JobFeed(JobId("job-1"))
    feed.begin_attempt(attempt(1, 0), "lease-1")
    feed.append(frame(0, *WORDS[:2]), 0)
    feed.append(frame(2, WORDS[2]), 0)
    feed.begin_attempt(attempt(2, 3), "lease-2")
    feed.append(frame(3, *WORDS[3:]), 0)
    feed.end(JobEnded())
    return feed


def story(items: list[FeedItem]) -> list[object]:
    """Frames as their text, attempts as their number, the ending as itself."""
    told: list[object] = []
    for item in items:
        match item:
            case Frame():
                told.append(item.text)
            case AttemptStarted():
                told.append(item.attempt)
            case _:
                told.append(item)
    return told


@pytest.mark.parametrize("index", range(len(WORDS) + 1))
def test_a_follower_at_any_index_sees_every_token_from_there_on(index: int) -> None:
    items = list(Follower(two_attempts(), index).take())
    frames = [item for item in items if isinstance(item, Frame)]
    assert "".join(f.text for f in frames) == "".join(WORDS[index:])
    assert [token for f in frames for token in f.ids] == list(range(1_000 + index, 1_007))
    assert items[-1] == JobEnded()


def test_attempts_stand_where_they_began() -> None:
    feed = two_attempts()
    assert story(list(Follower(feed, 0).take())) == [
        1,
        " the bee finds",
        2,
        " its hive at last",
        JobEnded(),
    ]
    # The attempt that made the token at the follower's place is told, those before it are not.
    assert story(list(Follower(feed, 1).take()))[:3] == [1, " bee finds", 2]
    assert story(list(Follower(feed, 5).take())) == [2, " at last", JobEnded()]


def test_what_comes_in_small_pieces_is_read_in_large_ones() -> None:
    feed = JobFeed(JobId("job-1"))
    feed.begin_attempt(attempt(1, 0), "lease-1")
    follower = Follower(feed, 0)
    tokens = 3 * limits.FRAME_TOKENS_MAX + 5
    for index in range(tokens):
        feed.append(frame(index, " b"), 0)
    counts = [item.count for item in follower.take() if isinstance(item, Frame)]
    assert counts == [limits.FRAME_TOKENS_MAX] * 3 + [5]
    assert list(follower.take()) == []


def test_a_follower_that_does_not_read_loses_no_token() -> None:
    feed = JobFeed(JobId("job-1"))
    feed.begin_attempt(attempt(1, 0), "lease-1")
    slow, fast = Follower(feed, 0), Follower(feed, 0)
    seen = 0
    for index in range(10_000):
        feed.append(frame(index, " b"), 0)
        seen += sum(item.count for item in fast.take() if isinstance(item, Frame))
    late = [item for item in slow.take() if isinstance(item, Frame)]
    assert seen == sum(f.count for f in late) == 10_000
    assert [f.first_index for f in late] == sorted(f.first_index for f in late)


def test_a_follower_of_the_future_waits_there() -> None:
    feed = JobFeed(JobId("job-1"))
    feed.begin_attempt(attempt(1, 0), "lease-1")
    follower = Follower(feed, 5)
    feed.append(frame(0, *WORDS[:4]), 0)
    assert story(list(follower.take())) == [1]
    feed.append(frame(4, *WORDS[4:]), 0)
    assert story(list(follower.take())) == [" at last"]


def test_tokens_of_before_a_restart_wait_for_their_attempt() -> None:
    feed = JobFeed(JobId("job-1"))
    feed.log.append(frame(0, *WORDS[:4]))
    follower = Follower(feed, 0)
    assert list(follower.take()) == []
    feed.begin_attempt(attempt(2, 0), "lease-2")
    assert story(list(follower.take())) == [2, "".join(WORDS[:4])]


def test_tokens_of_before_a_restart_are_told_when_no_attempt_comes() -> None:
    feed = JobFeed(JobId("job-1"))
    feed.log.append(frame(0, *WORDS[:4]))
    feed.end(JobEnded())
    assert story(list(Follower(feed, 0).take())) == ["".join(WORDS[:4]), JobEnded()]


def test_an_attempt_begins_once_however_often_it_is_said() -> None:
    feed = JobFeed(JobId("job-1"))
    for _ in range(3):
        feed.begin_attempt(attempt(1, 0), "lease-1")
    assert len(feed.attempts) == 1


async def test_waiting_ends_by_tokens_by_an_ending_and_by_time() -> None:
    feed = JobFeed(JobId("job-1"))
    follower = Follower(feed, 0)
    await follower.wait(None)  # a follower looks once before it waits
    await follower.wait(1)
    feed.append(frame(0, " the"), 0)
    await follower.wait(None)
    refused = Refused(reason=Refusal.DRAINING, message="come back")
    feed.end(FeedClosed(refused))
    await follower.wait(None)
    assert story(list(follower.take())) == [" the", FeedClosed(refused)]


def test_a_closed_follower_is_forgotten() -> None:
    feeds = Feeds()
    feed = feeds.open(JobId("job-1"))
    follower = Follower(feed, 0)
    feeds.drop_if_idle(feed.job_id)
    assert feeds.by_job, "it is followed"
    follower.close()
    follower.close()
    feeds.drop_if_idle(feed.job_id)
    feeds.drop_if_idle(feed.job_id)
    assert not feeds.by_job


def test_a_feed_that_somebody_produces_for_stays() -> None:
    feeds = Feeds()
    feeds.open(JobId("job-1")).begin_attempt(attempt(1, 0), "lease-1")
    feeds.drop_if_idle(JobId("job-1"))
    assert feeds.by_job
    feeds.unsaved.add(JobId("job-1"))
    assert feeds.drop(JobId("job-1")) is not None
    assert feeds.drop(JobId("job-1")) is None
    assert not feeds.unsaved


def test_tokens_are_due_for_the_store_by_number_and_by_age() -> None:
    feed = JobFeed(JobId("job-1"))
    assert not feed.needs_saving(10**9)
    feed.append(frame(0, " the"), 100)
    assert not feed.needs_saving(100 + limits.CHECKPOINT_INTERVAL_MS - 1)
    assert feed.needs_saving(100 + limits.CHECKPOINT_INTERVAL_MS)
    for index in range(1, limits.CHECKPOINT_TOKENS):
        feed.append(frame(index, " b"), 100)
    assert feed.needs_saving(100)
    (one,) = feed.unsaved()
    assert (one.first_index, one.count) == (0, limits.CHECKPOINT_TOKENS)


def test_tokens_that_came_during_a_commit_count_from_its_end() -> None:
    feed = JobFeed(JobId("job-1"))
    feed.append(frame(0, " the", " bee"), 100)
    feed.append(frame(2, " finds"), 200)
    feed.mark_saved(2, 300)
    assert feed.unsaved_count == 1
    assert [f.text for f in feed.unsaved()] == [" finds"]
    assert feed.unsaved_since_ms == 300
    feed.mark_saved(3, 400)
    assert feed.unsaved_since_ms is None
    # An older commit that ends later takes nothing back.
    feed.mark_saved(2, 500)
    assert feed.saved_index == 3
