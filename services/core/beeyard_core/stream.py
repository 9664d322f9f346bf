"""The token stream of a lease, sans I/O: what both ends of `WorkerService.Attach` agree on.

Theory of operation. Tokens of one job are numbered from 0 and never change. A worker numbers what
it generates and keeps it (`LeaseOutbox`) until the queen says that it is safe; the queen takes from
each lease exactly the next index that it expects (`LeaseInbox`) and writes it down (`TokenLog`),
from which any number of clients read at any index (`LogReader`). So a stream may break at any
point: the worker tells what it still holds, the queen names the index it wants, and nothing is
missing or repeated. The epoch fences: a frame of an older lease of the job is refused, whoever
sends it and whenever it arrives.

What a peer does wrong is a value here, never an exception: the peer may be older, restarted or
hostile. What our own caller does wrong is an assertion.

The hot path is `append` -> `take_frame` on the worker and `receive` -> `append` -> `take` on the
queen. It costs about a microsecond a frame besides copying the tokens: no object is made for a
token, and texts are joined once.
"""

import bisect
import dataclasses
from collections.abc import Iterable, Sequence
from enum import Enum, unique
from typing import Generic, NamedTuple, TypeVar

from beeyard_core import limits

ResultT = TypeVar("ResultT")


@dataclasses.dataclass(slots=True)
class Frame:
    """Consecutive tokens of one job. Treated as a value: nobody changes a frame after it is made.

    Attributes:
        lease_id: The lease under which they were generated.
        epoch: The epoch of that lease.
        first_index: Index of the first token within the job's answer.
        ids: Token ids; empty when the engine does not reveal them, otherwise one for each token.
        text: The text of all tokens.
        text_lengths: For each token, how many code points of `text` belong to it.
    """

    lease_id: str
    epoch: int
    first_index: int
    ids: Sequence[int]
    text: str
    text_lengths: Sequence[int]

    @property
    def count(self) -> int:
        """How many tokens the frame holds."""
        return len(self.text_lengths)

    @property
    def next_index(self) -> int:
        """Index after the last token of the frame."""
        return self.first_index + len(self.text_lengths)

    @property
    def is_well_formed(self) -> bool:
        """Whether the parts of the frame agree with each other; what a peer sends may not."""
        lengths = self.text_lengths
        return (
            0 < len(lengths) <= limits.FRAME_TOKENS_MAX
            and (not self.ids or len(self.ids) == len(lengths))
            and sum(lengths) == len(self.text)
            and self.first_index >= 0
        )


def split_frame(frame: Frame, index: int) -> tuple[Frame, Frame]:
    """Cut a frame in two.

    Args:
        frame: A well-formed frame.
        index: Index within the job's answer of the first token of the second part; strictly inside
            the frame.

    Returns:
        The tokens before `index`, and those from it on.
    """
    tokens = index - frame.first_index
    assert 0 < tokens < frame.count, "the cut lies inside the frame"
    lengths = frame.text_lengths
    points = sum(lengths[:tokens])
    ids = frame.ids
    return (
        Frame(
            frame.lease_id,
            frame.epoch,
            frame.first_index,
            ids[:tokens],
            frame.text[:points],
            lengths[:tokens],
        ),
        Frame(
            frame.lease_id, frame.epoch, index, ids[tokens:], frame.text[points:], lengths[tokens:]
        ),
    )


def merge_frames(frames: Sequence[Frame]) -> Frame:
    """Join consecutive frames into one.

    Args:
        frames: One or more frames, contiguous, all of them with ids or all without.

    Returns:
        One frame with all their tokens, under the lease of the first.
    """
    first = frames[0]
    if len(frames) == 1:
        return first
    ids: list[int] = []
    lengths: list[int] = []
    for frame in frames:
        ids += frame.ids
        lengths += frame.text_lengths
    text = "".join([frame.text for frame in frames])
    return Frame(first.lease_id, first.epoch, first.first_index, ids, text, lengths)


# --- The worker's half ---


class HeldLease(NamedTuple):
    """A worker's claim when it attaches: generated up to `next_index`, kept from `first_kept_index`."""

    lease_id: str
    epoch: int
    next_index: int
    first_kept_index: int


class LeaseOutbox(Generic[ResultT]):
    """Tokens and result of one lease, kept by the worker until the queen has them.

    Three indexes move, and only forward but for a resend:
    `first_kept_index <= sent_index <= next_index`.
    """

    __slots__ = (
        "_ids",
        "_result_sent",
        "_texts",
        "epoch",
        "first_kept_index",
        "lease_id",
        "next_index",
        "result",
        "sent_index",
    )

    def __init__(self, lease_id: str, epoch: int, next_index: int = 0) -> None:
        """Start empty; `next_index` is that of the first token that this lease will generate."""
        self.lease_id = lease_id
        self.epoch = epoch
        self.first_kept_index = next_index
        self.sent_index = next_index
        self.next_index = next_index
        self.result: ResultT | None = None
        self._result_sent = False
        self._ids: list[int] = []
        self._texts: list[str] = []

    @property
    def room(self) -> int:
        """How many more tokens may be appended before the engine has to pause."""
        return limits.UNACKNOWLEDGED_TOKENS_MAX - (self.next_index - self.first_kept_index)

    @property
    def is_full(self) -> bool:
        """Whether the engine has to pause until the queen acknowledges something."""
        return self.next_index - self.first_kept_index >= limits.UNACKNOWLEDGED_TOKENS_MAX

    @property
    def has_unsent(self) -> bool:
        """Whether tokens or a result wait to be sent."""
        return self.sent_index < self.next_index or (
            self.result is not None and not self._result_sent
        )

    @property
    def held(self) -> HeldLease:
        """The claim of this lease for a hello."""
        return HeldLease(self.lease_id, self.epoch, self.next_index, self.first_kept_index)

    def append(self, ids: Sequence[int], texts: Sequence[str]) -> int:
        """Keep newly generated tokens.

        Args:
            ids: Their ids; empty if the engine reveals none, which then holds for the whole lease.
            texts: Their texts, one for each token.

        Returns:
            The room that is left, in tokens; at 0 or below the engine has to pause. One engine step
            may overshoot.
        """
        assert self.result is None, "no token follows the result"
        self._ids += ids
        self._texts += texts
        assert not self._ids or len(self._ids) == len(self._texts), "ids for all tokens or none"
        self.next_index += len(texts)
        return self.room

    def finish(self, result: ResultT) -> None:
        """Keep the result; it is sent once every token before it is."""
        assert self.result is None, "a lease ends once"
        self.result = result

    def take_frame(self) -> Frame | None:
        """Return the next tokens that were not sent yet and count them as sent.

        Returns:
            A frame of at most `limits.FRAME_TOKENS_MAX` tokens; None if all were sent.
        """
        first = self.sent_index
        if first == self.next_index:
            return None
        start = first - self.first_kept_index
        texts = self._texts[start : start + limits.FRAME_TOKENS_MAX]
        ids = self._ids[start : start + limits.FRAME_TOKENS_MAX]
        self.sent_index = first + len(texts)
        return Frame(self.lease_id, self.epoch, first, ids, "".join(texts), list(map(len, texts)))

    def take_result(self) -> ResultT | None:
        """Return the result once, when every token before it was sent; None otherwise."""
        if self._result_sent or self.sent_index < self.next_index:
            return None
        self._result_sent = self.result is not None
        return self.result

    def acknowledge(self, next_index: int) -> None:
        """Forget the tokens before `next_index`; they are safe in the queen."""
        # A queen that claims more than was generated is wrong; it still loses nothing by our
        # trusting what exists.
        upto = min(next_index, self.next_index)
        count = upto - self.first_kept_index
        if count <= 0:
            return
        del self._texts[:count]
        del self._ids[:count]
        self.first_kept_index = upto
        self.sent_index = max(self.sent_index, upto)

    def resend_from(self, index: int) -> None:
        """Send again from `index` on, or from the oldest token kept; the result follows again."""
        self.sent_index = max(self.first_kept_index, min(index, self.sent_index))
        self._result_sent = False


class Outbox(Generic[ResultT]):
    """All leases of one worker, each from its acceptance until it is acknowledged or dropped."""

    def __init__(self) -> None:
        """Start with no lease."""
        self._leases: dict[str, LeaseOutbox[ResultT]] = {}

    def __len__(self) -> int:
        """How many leases are held."""
        return len(self._leases)

    @property
    def has_unsent(self) -> bool:
        """Whether any lease has tokens or a result to send."""
        return any(lease.has_unsent for lease in self._leases.values())

    def accept(self, lease_id: str, epoch: int, next_index: int = 0) -> LeaseOutbox[ResultT]:
        """Hold a new lease whose first token will be `next_index`; it replaces an older of its id."""
        lease: LeaseOutbox[ResultT] = LeaseOutbox(lease_id, epoch, next_index)
        self._leases[lease_id] = lease
        return lease

    def find(self, lease_id: str, epoch: int) -> LeaseOutbox[ResultT] | None:
        """Return the lease, or None if it is not held under this epoch."""
        lease = self._leases.get(lease_id)
        return lease if lease is not None and lease.epoch == epoch else None

    def forget(self, lease_id: str, epoch: int) -> LeaseOutbox[ResultT] | None:
        """Drop a lease with all it keeps; return it, or None if not held under this epoch."""
        lease = self.find(lease_id, epoch)
        if lease is not None:
            del self._leases[lease_id]
        return lease

    def acknowledge(
        self, lease_id: str, epoch: int, next_index: int, *, result_committed: bool
    ) -> LeaseOutbox[ResultT] | None:
        """Forget what is safe in the queen: tokens before `next_index`, or the whole lease.

        Returns:
            The lease, whose engine may go on now; None if it is not held under this epoch.
        """
        if result_committed:
            return self.forget(lease_id, epoch)
        lease = self.find(lease_id, epoch)
        if lease is not None:
            lease.acknowledge(next_index)
        return lease

    def resend_from(self, lease_id: str, epoch: int, index: int) -> None:
        """Send a lease's tokens again from `index` on; nothing if not held under this epoch."""
        lease = self.find(lease_id, epoch)
        if lease is not None:
            lease.resend_from(index)

    def adopt(self, adopted: Iterable[tuple[str, int, int]]) -> list[LeaseOutbox[ResultT]]:
        """Go on with the leases that a welcome confirms, and drop all others.

        Args:
            adopted: Triples of lease id, epoch and index of the first token that the queen misses.

        Returns:
            The leases that were dropped; whoever works on them has to stop.
        """
        kept: dict[str, LeaseOutbox[ResultT]] = {}
        for lease_id, epoch, index in adopted:
            lease = self.find(lease_id, epoch)
            if lease is not None:
                # The queen may have got more than it committed before the break, so the index may
                # lie below what was sent, never below what it acknowledged.
                lease.sent_index = lease.next_index
                lease.resend_from(index)
                kept[lease_id] = lease
        dropped = [lease for lease_id, lease in self._leases.items() if lease_id not in kept]
        self._leases = kept
        return dropped

    def held(self) -> list[HeldLease]:
        """Return the claims for a hello."""
        return [lease.held for lease in self._leases.values()]

    def take_frames(self) -> list[Frame]:
        """Return what to send next: at most one frame a lease, which also bounds the message."""
        frames = []
        for lease in self._leases.values():
            if lease.sent_index < lease.next_index:
                frame = lease.take_frame()
                assert frame is not None, "an unsent token makes a frame"
                frames.append(frame)
        return frames

    def take_results(self) -> list[tuple[LeaseOutbox[ResultT], ResultT]]:
        """Return results whose tokens were all sent, each once; kept until acknowledged."""
        results = []
        for lease in self._leases.values():
            if lease.result is not None:
                result = lease.take_result()
                if result is not None:
                    results.append((lease, result))
        return results


# --- The queen's half ---


@dataclasses.dataclass(slots=True)
class Accepted:
    """The frame continues the stream; `frame` is what is new of it, a known prefix is cut off."""

    frame: Frame


@dataclasses.dataclass(slots=True)
class Gap:
    """Tokens are missing: drop the frame, ask the worker to send from `resend_from` on."""

    resend_from: int


@unique
class Dropped(Enum):
    """Why a frame is dropped without an answer."""

    # Every token of it is known already.
    DUPLICATE = "duplicate"
    # It belongs to the future, and the worker was already asked to resend from the gap.
    AWAITING_RESEND = "awaiting_resend"
    # Its epoch is not the job's current one: count it, and tell the worker to stop.
    STALE_EPOCH = "stale_epoch"
    # Its parts do not agree, or it names another lease.
    MALFORMED = "malformed"


class LeaseInbox:
    """What the queen expects of one lease: nothing but the next index."""

    __slots__ = ("_asked_from", "lease_id", "next_index")

    def __init__(self, lease_id: str, next_index: int = 0) -> None:
        """Expect `next_index` first."""
        self.lease_id = lease_id
        self.next_index = next_index
        self._asked_from = -1

    def receive(self, frame: Frame, current_epoch: int) -> Accepted | Gap | Dropped:
        """Take one frame.

        Args:
            frame: As the worker sent it; need not be well-formed.
            current_epoch: The epoch of the job's current lease.

        Returns:
            `Accepted` if it brings new tokens, which count as received from now on; otherwise what
            to do.
        """
        if frame.epoch != current_epoch:
            return Dropped.STALE_EPOCH
        if frame.lease_id != self.lease_id or not frame.is_well_formed:
            return Dropped.MALFORMED
        expected = self.next_index
        if frame.first_index > expected:
            return self._gap(expected)
        if frame.next_index <= expected:
            return Dropped.DUPLICATE
        if frame.first_index < expected:
            frame = split_frame(frame, expected)[1]
        self.next_index = frame.next_index
        return Accepted(frame)

    def reattach(self) -> None:
        """Expect a new stream of the same worker: what was asked for on the old one is void."""
        self._asked_from = -1

    def _gap(self, expected: int) -> Gap | Dropped:
        # Frames that were under way behind the missing one make the same gap again; one request is
        # enough.
        if self._asked_from == expected:
            return Dropped.AWAITING_RESEND
        self._asked_from = expected
        return Gap(expected)


# --- What the queen keeps for its clients ---


class TokenLog:
    """The answer of one job, as far as it was delivered, over all its attempts."""

    __slots__ = ("_first_indexes", "_frames", "first_index", "next_index")

    def __init__(self, first_index: int = 0) -> None:
        """Start empty; `first_index` is above 0 when the tokens before it are not kept."""
        self.first_index = first_index
        self.next_index = first_index
        self._frames: list[Frame] = []
        self._first_indexes: list[int] = []

    def append(self, frame: Frame) -> None:
        """Add the next tokens; a frame larger than the wire allows, as from a store, is cut up."""
        assert frame.first_index == self.next_index, "the inbox lets only the next index through"
        count = len(frame.text_lengths)
        if count > limits.FRAME_TOKENS_MAX:
            self._append_large(frame)
            return
        self._frames.append(frame)
        self._first_indexes.append(frame.first_index)
        self.next_index += count

    def holds(self, index: int) -> bool:
        """Whether a reader may start at `index`; it may lie in the future."""
        return index >= self.first_index

    def reader(self, index: int) -> "LogReader":
        """Return a reader that starts at token `index`, which must not lie before `first_index`."""
        assert self.holds(index), "the caller answers RESUME_OFFSET_GONE"
        position = max(0, bisect.bisect_right(self._first_indexes, index) - 1)
        return LogReader(self, index, position)

    def ids(self) -> list[int]:
        """Return the ids of all tokens; empty if any attempt revealed none: then resume by text."""
        ids: list[int] = []
        for frame in self._frames:
            if not frame.ids:
                return []
            ids += frame.ids
        return ids

    def text(self) -> str:
        """Return the text of all tokens."""
        return "".join([frame.text for frame in self._frames])

    def text_lengths(self) -> list[int]:
        """Return for each token how many code points of `text()` belong to it."""
        lengths: list[int] = []
        for frame in self._frames:
            lengths += frame.text_lengths
        return lengths

    def _append_large(self, frame: Frame) -> None:
        step = limits.FRAME_TOKENS_MAX
        start = 0
        for offset in range(0, frame.count, step):
            lengths = frame.text_lengths[offset : offset + step]
            end = start + sum(lengths)
            self.append(
                Frame(
                    frame.lease_id,
                    frame.epoch,
                    frame.first_index + offset,
                    frame.ids[offset : offset + step],
                    frame.text[start:end],
                    lengths,
                )
            )
            start = end


class LogReader:
    """One client's place in a log: O(1) a frame however long the answer, no tokens of its own."""

    __slots__ = ("_log", "_position", "index")

    def __init__(self, log: TokenLog, index: int, position: int) -> None:
        """Made by `TokenLog.reader`; `position` is of the frame with token `index`, or before it."""
        self._log = log
        self._position = position
        self.index = index

    @property
    def is_behind(self) -> bool:
        """Whether the log holds tokens that this reader did not take yet."""
        return self.index < self._log.next_index

    def take(self, tokens_max: int = limits.FRAME_TOKENS_MAX) -> Frame | None:
        """Return the next tokens as one frame and move behind them.

        Args:
            tokens_max: Frames are joined while they stay within this many tokens; at least one is
                returned.

        Returns:
            A frame, either with an id for each token or with none; None if there is nothing new.
        """
        if self.index >= self._log.next_index:
            return None
        frames = self._log._frames  # noqa: SLF001 - the reader is the other half of the log
        position = self._position
        # A reader that started in the future skips what came before its start.
        while frames[position].next_index <= self.index:
            position += 1
        first = frames[position]
        position += 1
        if first.first_index < self.index:
            first = split_frame(first, self.index)[1]
        run = [first]
        count = first.count
        while position < len(frames):
            frame = frames[position]
            count += frame.count
            # A later attempt may run on an engine that reveals no ids; one frame never mixes the
            # two.
            if count > tokens_max or bool(frame.ids) != bool(first.ids):
                break
            run.append(frame)
            position += 1
        self._position = position
        self.index = run[-1].next_index
        return merge_frames(run)
