"""The token stream of a lease, sans I/O: what both ends of `WorkerService.Attach` agree on.

Theory of operation. Tokens of one job are numbered from 0 and never change. A worker numbers what
it generates and keeps it (`outbox.LeaseOutbox`) until the queen says that it is safe; the queen
takes from each lease exactly the next index that it expects (`LeaseInbox`) and writes it down
(`TokenLog`), from which any number of clients read at any index (`LogReader`). So a stream may
break at any point: the worker tells what it still holds, the queen names the index it wants, and
nothing is missing or repeated. The epoch fences: a frame of an older lease of the job is refused,
whoever sends it and whenever it arrives.

What a peer does wrong is a value here, never an exception: the peer may be older, restarted or
hostile. What our own caller does wrong is an assertion.

The hot path is `append` -> `take_frame` on the worker and `receive` -> `append` -> `take` on the
queen. It costs about a microsecond a frame besides copying the tokens: no object is made for a
token, and texts are joined once.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from enum import Enum, unique

from beeyard_core import limits


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
        """Made by `TokenLog.reader`; `position` is of the frame with token `index`, or before."""
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
