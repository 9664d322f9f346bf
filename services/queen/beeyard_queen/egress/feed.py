"""The feed of one job: its tokens and events, kept once and read by any number of followers.

A follower owns nothing but its place in the feed, so a client that does not read costs the queen no memory beyond what
gRPC buffers for it: its `write` blocks, and when it goes on it finds everything that came meanwhile, joined. Tokens are
never dropped. Progress is: a follower is shown only the latest.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.ids import Epoch, JobId
from beeyard_core.refusal import Refused
from beeyard_core.stream import Frame, LeaseInbox, LogReader, TokenLog


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """An attempt began; tokens from `first_index` on are its."""

    first_index: int
    epoch: Epoch
    worker_id: str
    worker_address: str
    model: str
    device: str
    attempt: int
    policy_version: str
    decision: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job is over. The follower reads how from the job's record."""


@dataclass(frozen=True, slots=True)
class FeedClosed:
    """The queen stops sending, though the job goes on: the follower comes back later."""

    refused: Refused


FeedItem = AttemptStarted | Frame | JobEnded | FeedClosed


@dataclass(slots=True)
class JobFeed:
    """What followers of one job can read.

    Attributes:
        log: Every token delivered so far.
        inbox: What is expected next of the current lease; None between attempts.
        awaits_first: Whether no token of the last attempt came yet.
        saved_index: Tokens before it are durable.
        unsaved_since_ms: Monotonic time of the oldest token that is not durable; None: all are.
        followers: Those that read it, in the order in which they came; they are woken in that order, so that the same
            events always have the same consequences.
    """

    job_id: JobId
    log: TokenLog = field(default_factory=TokenLog)
    inbox: LeaseInbox | None = None
    awaits_first: bool = False
    attempts: list[AttemptStarted] = field(default_factory=list)
    saved_index: int = 0
    unsaved_since_ms: int | None = None
    ending: JobEnded | FeedClosed | None = None
    followers: dict["Follower", None] = field(default_factory=dict)

    def begin_attempt(self, started: AttemptStarted, lease_id: str) -> None:
        """Expect the tokens of a lease; told to followers once, however often it is said."""
        if self.attempts and self.attempts[-1].epoch == started.epoch:
            return
        self.inbox = LeaseInbox(lease_id, self.log.next_index)
        self.awaits_first = True
        self.attempts.append(started)
        self.wake()

    def append(self, frame: Frame, now_ms: int) -> None:
        """Deliver tokens that continue the log."""
        self.log.append(frame)
        if self.unsaved_since_ms is None:
            self.unsaved_since_ms = now_ms
        for follower in self.followers:
            follower.wake()

    def end(self, ending: JobEnded | FeedClosed) -> None:
        """Say the last thing that followers hear."""
        self.ending = ending
        self.wake()

    def wake(self) -> None:
        """Let every follower look."""
        for follower in self.followers:
            follower.wake()

    @property
    def unsaved_count(self) -> int:
        """Tokens that are not durable yet."""
        return self.log.next_index - self.saved_index

    def needs_saving(self, now_ms: int) -> bool:
        """Whether enough tokens, or old enough ones, wait to be made durable."""
        since = self.unsaved_since_ms
        if since is None:
            return False
        late = now_ms - since >= limits.CHECKPOINT_INTERVAL_MS
        return late or self.unsaved_count >= limits.CHECKPOINT_TOKENS

    def unsaved(self) -> list[Frame]:
        """Return every token that is not durable yet; `mark_saved` follows once they are."""
        reader = self.log.reader(self.saved_index)
        frames = []
        while (frame := reader.take(limits.MAX_TOKENS_LIMIT)) is not None:
            frames.append(frame)
        return frames

    def mark_saved(self, next_index: int, now_ms: int) -> None:
        """Record that tokens before `next_index` are durable."""
        self.saved_index = max(self.saved_index, next_index)
        self.unsaved_since_ms = now_ms if self.unsaved_count else None


class Follower:
    """One client's place in a feed."""

    __slots__ = ("_attempt", "_feed", "_reader", "_woken")

    def __init__(self, feed: JobFeed, from_index: int) -> None:
        """Start at token `from_index`, which may lie in the future. Closed by `close`."""
        self._feed = feed
        self._reader: LogReader = feed.log.reader(from_index)
        self._woken = asyncio.Event()
        self._woken.set()
        # Attempts that ended before the start are of no interest to this client; the last one before it is.
        begun = [i for i, a in enumerate(feed.attempts) if a.first_index <= from_index]
        self._attempt = begun[-1] if begun and from_index else 0
        feed.followers[self] = None

    @property
    def has_started(self) -> bool:
        """Whether an attempt has begun before this follower's place."""
        return self._attempt > 0

    @property
    def index(self) -> int:
        """Index of the next token that this follower will see."""
        return self._reader.index

    def wake(self) -> None:
        """Let the follower look."""
        self._woken.set()

    async def wait(self, timeout_ms: int | None) -> bool:
        """Return True when there may be something new, or False after `timeout_ms` milliseconds."""
        if timeout_ms is None:
            await self._woken.wait()
        else:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await self._woken.wait()
            except TimeoutError:
                return False
        self._woken.clear()
        return True

    def take(self) -> Iterator[FeedItem]:
        """Yield everything new in order: attempts where they began, tokens joined up, the ending last."""
        feed = self._feed
        # After a restart there may be tokens before their attempt is known again: they wait for it, or for the end.
        while feed.attempts or feed.ending is not None:
            coming = feed.attempts[self._attempt] if self._attempt < len(feed.attempts) else None
            if coming is not None and coming.first_index <= self._reader.index:
                self._attempt += 1
                yield coming
                continue
            room = limits.FRAME_TOKENS_MAX
            if coming is not None:
                room = min(room, coming.first_index - self._reader.index)
            frame = self._reader.take(room)
            if frame is None:
                break
            yield frame
        if feed.ending is not None:
            yield feed.ending

    def close(self) -> None:
        """Leave the feed. Idempotent."""
        self._feed.followers.pop(self, None)


@dataclass(slots=True)
class Feeds:
    """The feeds of all jobs that somebody produces for or follows."""

    by_job: dict[JobId, JobFeed] = field(default_factory=dict)
    #: Jobs with tokens that are not durable yet.
    unsaved: set[JobId] = field(default_factory=set)
    #: Those of them that should be made durable with the next commit.
    due: set[JobId] = field(default_factory=set)

    def open(self, job_id: JobId) -> JobFeed:
        """Return the feed of a job that has not ended."""
        feed = self.by_job.get(job_id)
        if feed is None:
            feed = self.by_job[job_id] = JobFeed(job_id)
        return feed

    def drop(self, job_id: JobId) -> JobFeed | None:
        """Take an ended job's feed out; its followers keep it until they have read it."""
        self.unsaved.discard(job_id)
        return self.by_job.pop(job_id, None)

    def drop_if_idle(self, job_id: JobId) -> None:
        """Forget a feed that nobody follows and that holds nothing."""
        feed = self.by_job.get(job_id)
        if feed is not None and not (feed.followers or feed.attempts or feed.log.next_index):
            del self.by_job[job_id]

    def close_all(self, refused: Refused) -> None:
        """Tell every follower to come back later."""
        for feed in self.by_job.values():
            feed.end(FeedClosed(refused))
