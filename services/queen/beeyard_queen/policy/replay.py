"""Recorded decisions, made again: by the platform policy in this process, by others in a real policy host.

Each decision is asked with what the journal says it depended on: the world as it was told until then, the instant, the
seed, what `context.state` held. Its bytes must be those that were recorded.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from beeyard_queen.policy.deltas import Delta
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.journal_file import (
    BEFORE,
    DecisionEntry,
    DeltasEntry,
    Entry,
    JournalReader,
    Opening,
    PolicyEntry,
    StateEntry,
    WorldEntry,
    context_digest,
    platform_digest,
)
from beeyard_queen.policy.replay_policies import Again, InHost, InProcess
from beeyard_queen.policy.reply import ReplyInvalid, unpack
from beeyard_queen.policy.zygote import Zygote

#: What a policy was told but may not have seen when it was asked; what is older is applied ahead of its next decision.
_PENDING_MAX: Final = 1_000


@dataclass(frozen=True)
class Difference:
    """A decision that came out otherwise.

    Attributes:
        number: Which decision of the file it is, from 1.
        entry: What was recorded.
        made: The bytes that were made now; or, in words, why there are none.
    """

    number: int
    entry: DecisionEntry
    made: bytes | str

    def told(self) -> str:
        """Return it in words, in several lines."""
        entry = self.entry
        made = self.made if isinstance(self.made, str) else _readable(self.made)
        return (
            f"decision {self.number} of {entry.label}, state version {entry.state_version}, "
            f"now {entry.now_ms}, seed {entry.seed}\n"
            f"  recorded: {_readable(entry.decided)}\n"
            f"  replayed: {made}"
        )


@dataclass
class Replayed:
    """What came of a file.

    Attributes:
        decisions: How many were made again.
        by_label: The same for each policy.
        differences: How many were not equal.
        first: The first of these.
        skipped: How many were not made again, by the reason.
        remarks: What else should be known.
    """

    decisions: int = 0
    by_label: Counter[str] = field(default_factory=Counter)
    differences: int = 0
    first: Difference | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


@dataclass
class _Follower:
    """A policy that follows what the journal says the mirrors were told.

    Attributes:
        seen: How many `deltas` entries are in its mirror.
        pending: Those that it has not seen yet, each with its number.
    """

    policy: Again
    seen: int = 0
    pending: list[tuple[int, list[Delta]]] = field(default_factory=list)

    async def follow(self, number: int, deltas: list[Delta]) -> None:
        """Take note of an entry."""
        self.pending.append((number, deltas))
        if len(self.pending) > _PENDING_MAX:
            await self.catch_up(self.pending[_PENDING_MAX // 2][0])

    async def catch_up(self, upto: int) -> None:
        """Apply what was told up to an entry."""
        news = [each for each in self.pending if each[0] <= upto]
        if news:
            del self.pending[: len(news)]
            self.seen = news[-1][0]
            await self.policy.apply([delta for _, deltas in news for delta in deltas])


class Replay:
    """One file, decided again."""

    def __init__(self, zygote: Zygote, path: Path) -> None:
        """Prepare.

        Args:
            zygote: Where hosts come from; started.
            path: The file.
        """
        self.report = Replayed()
        self._zygote = zygote
        self._path = path
        self._number = 0
        self._told = 0
        self._policies: dict[str, PolicyEntry] = {}
        self._states: dict[str, bytes] = {}
        self._followers: dict[str, _Follower] = {}

    async def run(self, progress: Callable[[int], None]) -> Replayed:
        """Make every decision again.

        Args:
            progress: Called with the number of bytes that are done, after each entry.

        Raises:
            JournalInvalid: The file is no journal.
            OSError: It cannot be read.
            HostGone: The sandbox does not work here.
        """
        reader = JournalReader(self._path)
        try:
            for at, entry in reader.entries():
                await self._take(entry)
                progress(at)
        finally:
            for follower in self._followers.values():
                follower.policy.end()
        if reader.torn_bytes:
            self.report.remarks.append(
                f"the last {reader.torn_bytes} bytes are no whole entry: the queen ended while it wrote"
            )
        return self.report

    async def _take(self, entry: Entry) -> None:
        match entry:
            case Opening():
                if entry.context != context_digest():
                    self.report.remarks.append(
                        "the journal was written by a Beeyard with other functions for policies"
                    )
            case WorldEntry():
                pass  # each policy gets it when it first decides, see `_joined`
            case PolicyEntry():
                self._policies[entry.digest] = entry
            case StateEntry():
                self._states[entry.digest] = entry.state
            case DeltasEntry():
                self._told += 1
                for follower in self._followers.values():
                    await follower.follow(self._told, entry.deltas)
            case DecisionEntry():
                await self._decide(entry)

    async def _decide(self, entry: DecisionEntry) -> None:
        self._number += 1
        why_not = self._unable(entry)
        if why_not:
            self.report.skipped[why_not] += 1
        else:
            made = await self._made(entry)
            self.report.decisions += 1
            self.report.by_label[entry.label] += 1
            if made != entry.decided:
                self.report.differences += 1
                self.report.first = self.report.first or Difference(self._number, entry, made)
        if entry.state is not None:
            self._states[entry.digest] = entry.state

    def _unable(self, entry: DecisionEntry) -> str:
        follower = self._followers.get(entry.digest)
        if entry.position == BEFORE:
            return "asked before the file began"
        if follower is not None and entry.position < follower.seen:
            return "asked too long before it was answered"
        if entry.digest == platform_digest() or entry.digest in self._policies:
            return ""
        if entry.label.startswith("platform@"):
            return "made by another version of the platform policy"
        return "the policy's text is not in the file"

    async def _made(self, entry: DecisionEntry) -> bytes | str:
        try:
            follower = self._followers.get(entry.digest) or await self._joined(entry)
            await follower.catch_up(entry.position)
            return await follower.policy.decide(entry, self._states.get(entry.digest, b""))
        except HostGone as gone:
            lost = self._followers.pop(entry.digest, None)
            if lost is not None:
                lost.policy.end()
            return f"none: {gone}"

    async def _joined(self, entry: DecisionEntry) -> _Follower:
        """Return a policy that decides for the first time, with all that was told so far.

        The file is read again for it, so that nobody has to keep what may never be needed.
        """
        policy = self._policies.get(entry.digest)
        again = InProcess() if policy is None else await InHost.open(self._zygote, policy.source)
        follower = self._followers[entry.digest] = _Follower(again)
        number = 0
        for _, each in JournalReader(self._path).entries():
            if isinstance(each, WorldEntry):
                await again.apply(each.deltas)
            elif isinstance(each, DeltasEntry):
                if number == self._told:
                    break
                number += 1
                await follower.follow(number, each.deltas)
        return follower


def _readable(body: bytes) -> str:
    # What a host says of a decision lacks the last of its fields, the instructions.
    for end in (b"", b"\xc0"):
        try:
            return repr(unpack(body + end))
        except ReplyInvalid:
            pass
    return body.hex()
