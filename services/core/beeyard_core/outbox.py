"""The worker's half of the token stream: what was generated and is not yet safe in the queen.

`beeyard_core.stream` tells how the two halves fit together. A lease's tokens and its result stay
here until the queen acknowledges them, so that a broken stream, or a restarted queen, costs
nothing. Room is bounded: an engine whose lease is full pauses until the queen acknowledges.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from beeyard_core import limits
from beeyard_core.stream import Frame

ResultT = TypeVar("ResultT")


class HeldLease(NamedTuple):
    """A worker's claim in its hello: generated up to `next_index`, kept from the other index."""

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
        """Hold a new lease whose first token will be `next_index`; replaces an older of its id."""
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
