"""One policy at work: its host, a warm one beside it, and what happens when a host is lost.

The queen notes every change of its world here and asks for decisions. It is never kept waiting: an answer that takes
longer than its patience comes back as LATE, and the queen decides by the platform policy while the host finishes or is
killed. A host that was killed, ran out of memory or answered nonsense is never used again; the standby, which has the
policy loaded already, gets a fresh picture of the world and takes its place. What keeps going wrong is suspended.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from itertools import islice
from typing import assert_never

from beeyard_core import limits
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_queen.policy.breaker import Breaker, Mishap
from beeyard_queen.policy.host_process import HostGone, HostProcess, StillBusy
from beeyard_queen.policy.reply import Reply, ReplyInvalid, Status, read_reply
from beeyard_queen.policy.zygote import Terms, Zygote

Delta = Sequence[str | int | float | bool | None]

_log = get_log("policy")


@unique
class Outcome(Enum):
    """What became of asking a policy for a decision."""

    DECIDED = "decided"
    FAILED = "failed"
    """It raised an error, returned no decision or ran out of memory."""
    KILLED = "killed"
    """It had to be ended."""
    LATE = "late"
    """It has not answered yet, or is just being replaced."""
    SUSPENDED = "suspended"
    """It failed too often; it is not asked any more."""


@dataclass(frozen=True)
class Ruling:
    """The answer to one question.

    Attributes:
        outcome: Whether there is a decision, and if not, why.
        reply: What the host said; empty if it said nothing.
        elapsed_ms: Wall time of the question.
    """

    outcome: Outcome
    reply: Reply
    elapsed_ms: float = 0.0

    @property
    def reason(self) -> str:
        """What went wrong, with the policy's line if known; empty if nothing did."""
        where = f"line {self.reply.line}: " if self.reply.line is not None else ""
        return where + self.reply.text


@dataclass
class Counts:
    """How often what happened to one policy."""

    decided: int = 0
    failed: int = 0
    killed: int = 0
    late: int = 0
    replaced: int = 0


class PolicyHost:
    """Runs one policy in a sandbox; one event loop, one caller."""

    def __init__(
        self,
        zygote: Zygote,
        *,
        name: str,
        clock: Clock,
        snapshot: Callable[[], Iterable[Delta]],
        terms: Callable[[], Terms] = Terms,
        patience_ms: int = limits.POLICY_PATIENCE_MS,
        keeps_standby: bool = True,
        state: bytes = b"",
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            zygote: Where hosts come from; started.
            name: What logs call the policy.
            clock: For the circuit breaker.
            snapshot: Yields deltas that build the whole world; what changes while they are read is noted besides.
            terms: Returns what a host that is opened now may use.
            patience_ms: Wall time after which `decide` stops waiting.
            keeps_standby: Whether a second host is kept ready.
            state: What `context.state` holds at first, as an earlier reply had it.
        """
        #: What `context.state` holds after the last decision that was in time, packed. Every host gets it from here.
        self.state = state
        self.counts = Counts()
        self.breaker = Breaker()
        self._zygote = zygote
        self._name = name
        self._clock = clock
        self._snapshot = snapshot
        self._terms = terms
        self._patience_ms = patience_ms
        self._keeps_standby = keeps_standby
        self._source = b""
        self._current: HostProcess | None = None
        self._standby: HostProcess | None = None
        self._noted: list[Delta] = []
        self._has_state = False
        self._follows = False
        self._is_stopped = False
        self._errand: asyncio.Task[None] | None = None

    @property
    def current(self) -> HostProcess | None:
        """The host that is asked; None while it is being replaced."""
        return self._current

    async def start(self, source: bytes) -> Reply:
        """Load a policy in a fresh host.

        Args:
            source: Its text.

        Returns:
            The host's reply: OK, or why the text is not accepted (REJECTED, KILLED or MEMORY).

        Raises:
            HostGone: The sandbox itself does not work.
        """
        self._source = source
        host = await HostProcess.open(self._zygote, self._terms())
        reply = await self._load(host)
        if reply.status is Status.OK:
            await self._catch_up(host)
            self._current = host
            self._tend_soon()
        return reply

    def note(self, deltas: Sequence[Delta]) -> None:
        """Remember changes of the world; they travel with the next question."""
        if not self._follows:
            return  # the host that comes gets a picture of everything
        self._noted += deltas
        if len(self._noted) > limits.POLICY_DELTAS_KEPT_MAX:
            self._replace("it fell too far behind")

    async def decide(self, *, seed: int, now_ms: int) -> Ruling:
        """Ask for one decision; return within the patience, with or without one.

        Args:
            seed: Of everything that the policy draws by chance; 0 to 2^63 - 1.
            now_ms: The instant that the policy sees.
        """
        if self.breaker.suspended:
            return _without(Outcome.SUSPENDED, self.breaker.suspended)
        host = self._current
        if host is None or host.is_busy:
            self.counts.late += 1
            self._tend_soon()
            return _without(Outcome.LATE, "its host is busy" if host else "its host is replaced")
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = host.request(
            "decide", seed, now_ms, limits.POLICY_CPU_MS, limits.POLICY_INSTRUCTIONS_MAX,
            self._noted, None if self._has_state else self.state,
            cpu_ms_max=limits.POLICY_KILL_CPU_MS, patience_ms=self._patience_ms,
        )  # fmt: skip
        self._noted, self._has_state = [], True
        try:
            await answer
        except StillBusy as busy:
            self.counts.late += 1
            # The host goes on from the state before, also if it is asked between its answer and what settles that.
            self._has_state = False
            busy.answer.add_done_callback(lambda late: self._settle_late(host, late))
            return _without(Outcome.LATE, str(busy), loop.time() - began)
        except HostGone:
            pass  # settled below
        except asyncio.CancelledError:
            # Nobody takes the answer, and the next question must not get it.
            self._replace("its question was withdrawn")
            raise
        return self._settle(host, answer, (loop.time() - began) * 1_000)

    async def digest(self) -> str:
        """Return the digest of the host's mirror, with everything noted so far in it.

        Raises:
            HostGone: There is no host now.
        """
        if self._current is None:
            raise HostGone("its host is replaced")
        noted, self._noted = self._noted, []
        await self._apply(self._current, noted)
        return str(await self._current.ask("digest", cpu_ms_max=limits.POLICY_LOAD_KILL_CPU_MS))

    async def settle(self) -> None:
        """Return once a replacement that is under way is done."""
        while self._errand is not None and not self._errand.done():
            await asyncio.wait((self._errand,))

    async def stop(self) -> None:
        """End all hosts of the policy."""
        self._is_stopped = True
        if self._errand is not None:
            self._errand.cancel()
            await asyncio.wait((self._errand,))
        for host in (self._current, self._standby):
            if host is not None:
                host.kill("the policy was stopped")
        self._current = self._standby = None

    # --- after an answer ---

    def _settle_late(self, host: HostProcess, answer: asyncio.Future[bytes]) -> None:
        # What came too late did not happen: somebody else decided. So the state is the one before.
        before = self.state
        self._settle(host, answer)
        self.state = before

    def _settle(
        self, host: HostProcess, answer: asyncio.Future[bytes], elapsed_ms: float = 0.0
    ) -> Ruling:
        try:
            ruling = _ruling(read_reply(answer.result()), elapsed_ms)
        except HostGone as gone:
            ruling = _without(Outcome.KILLED, str(gone))
        except ReplyInvalid as fault:
            ruling = _without(Outcome.KILLED, f"its host answered nonsense: {fault}")
        match ruling.outcome:
            case Outcome.DECIDED:
                self.counts.decided += 1
                if ruling.reply.state is not None:
                    self.state = ruling.reply.state
                return ruling
            case Outcome.FAILED:
                self.counts.failed += 1
                self._mishap(Mishap.FAILURE, ruling)
            case Outcome.KILLED:
                self.counts.killed += 1
                self._mishap(Mishap.KILL, ruling)
            case Outcome.LATE | Outcome.SUSPENDED:
                raise AssertionError("no host says so")
            case _:
                assert_never(ruling.outcome)
        if ruling.reply.status not in {Status.FAILED, Status.MALFORMED} and host is self._current:
            self._replace(ruling.reply.text)
        return ruling

    def _mishap(self, mishap: Mishap, ruling: Ruling) -> None:
        if self._is_stopped:
            return  # it was ended by us
        reply = ruling.reply
        _log.warning(
            "policy_fallback", policy=self._name, outcome=ruling.outcome.value,
            reason=reply.text, line=reply.line,
        )  # fmt: skip
        self.breaker = self.breaker.after(mishap, self._clock.now().mono_ms)
        if self.breaker.suspended:
            _log.error("policy_suspended", policy=self._name, reason=self.breaker.suspended)

    # --- replacing a host ---

    def _replace(self, reason: str) -> None:
        if self._current is not None:
            self._current.kill(reason)
            self._current = None
        self._noted = []
        self._follows = False
        self.counts.replaced += 1
        self._tend_soon()

    def _tend_soon(self) -> None:
        if self._errand is None or self._errand.done():
            self._errand = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        """Bring up what is missing: first a host that is asked, then the one beside it."""
        while not self.breaker.suspended:
            try:
                if self._current is None:
                    await self._bring_up()
                elif self._keeps_standby and (self._standby is None or self._standby.is_gone):
                    self._standby = await self._loaded()
                else:
                    return
            except HostGone as gone:
                self._mishap(Mishap.KILL, _without(Outcome.KILLED, str(gone)))
                return

    async def _bring_up(self) -> None:
        host, self._standby = self._standby, None
        if host is None or host.is_gone:
            host = await self._loaded()
        await self._catch_up(host)
        self._current = host

    async def _loaded(self) -> HostProcess:
        host = await HostProcess.open(self._zygote, self._terms())
        reply = await self._load(host)
        if reply.status is not Status.OK:
            raise HostGone(f"the policy does not load any more: {reply.text}")
        return host

    async def _load(self, host: HostProcess) -> Reply:
        """Load the policy; a host that does not take it is ended."""
        reply = Reply(Status.KILLED, "it was not waited for")
        try:
            reply = read_reply(
                await host.request(
                    "load", self._source, limits.POLICY_LOAD_CPU_MS, limits.POLICY_INSTRUCTIONS_MAX,
                    cpu_ms_max=limits.POLICY_LOAD_KILL_CPU_MS,
                )
            )  # fmt: skip
        except HostGone as gone:
            reply = Reply(Status.KILLED, str(gone))
        except ReplyInvalid as fault:
            reply = Reply(Status.KILLED, f"its host answered nonsense: {fault}")
        finally:
            if reply.status is not Status.OK:
                host.kill("its policy was not accepted")
        return reply

    async def _catch_up(self, host: HostProcess) -> None:
        """Send the whole world; what changes meanwhile is noted and follows."""
        self._noted, self._follows, self._has_state = [], True, False
        try:
            await self._apply(host, self._snapshot())
        except BaseException:
            host.kill("it could not be told the state of the world")
            raise

    async def _apply(self, host: HostProcess, deltas: Iterable[Delta]) -> None:
        rest = iter(deltas)
        while part := list(islice(rest, limits.POLICY_DELTAS_PER_MESSAGE)):
            await host.ask("apply", part, cpu_ms_max=limits.POLICY_LOAD_KILL_CPU_MS)


def _ruling(reply: Reply, elapsed_ms: float) -> Ruling:
    match reply.status:
        case Status.OK:
            return Ruling(Outcome.DECIDED, reply, elapsed_ms)
        case Status.FAILED | Status.MALFORMED | Status.MEMORY | Status.REJECTED:
            return Ruling(Outcome.FAILED, reply, elapsed_ms)
        case Status.KILLED:
            return Ruling(Outcome.KILLED, reply, elapsed_ms)
        case _:
            assert_never(reply.status)


def _without(outcome: Outcome, reason: str, elapsed_s: float = 0.0) -> Ruling:
    status = Status.KILLED if outcome is Outcome.KILLED else Status.FAILED
    return Ruling(outcome, Reply(status, reason), elapsed_s * 1_000)
