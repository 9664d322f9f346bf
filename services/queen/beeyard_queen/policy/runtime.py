"""What decides in a queen: the platform policy in this process, or a policy of the operator's own in its hosts.

The writer loop calls `decide` between its events and its commit. The platform policy answers on the spot. A policy in a
host is asked without waiting: the answer comes with a later turn of the loop and is held against the state as it is
then. When it fails, is late or is just being replaced, that decision, and whatever else can be decided at that moment,
is made by the platform policy, whose mirror is always up to date; so the queue never waits for longer than the
policy's patience.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from beeyard_core import limits
from beeyard_core.effect import Effect
from beeyard_core.instant import Instant
from beeyard_core.policy.apply import apply
from beeyard_core.policy.changes import Change
from beeyard_core.policy.cutting import job_row
from beeyard_core.policy.decision import DroppedIntent, read_answer
from beeyard_core.policy.intent import Intent, Wait
from beeyard_core.policy.projection import Projection, fleet_of, rows_of
from beeyard_core.policy.schedule import is_due, schedule, seed_of
from beeyard_core.refusal import Refused
from beeyard_core.state import QueenState
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_queen.policy.considered import Considered, considered
from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.decision_feed import DecisionFeed, DecisionRecord
from beeyard_queen.policy.deltas import Delta, deltas_of
from beeyard_queen.policy.hosts import Outcome, PolicyHost, Ruling
from beeyard_queen.policy.in_process import PLATFORM_LABEL, PlatformPolicy
from beeyard_queen.policy.journal import DecisionJournal
from beeyard_queen.policy.journal_file import intent_bytes, platform_digest
from beeyard_queen.policy.reply import Reply, Status
from beeyard_queen.policy.sandbox import Sandbox
from beeyard_queen.policy.zygote import Terms

_log = get_log("policy")
_LEVELS: Final = {"debug": _log.debug, "info": _log.info, "warn": _log.warning, "error": _log.error}


@dataclass(slots=True)
class _Hosted:
    """The operator's policy at work, and the question that it was asked last.

    Attributes:
        digest: Of its text.
        asked_version: The version of the state that the question is about; `asked_ms` its instant, `asked_position`
            its place in the decision journal.
        has_news: Something changed since it was asked.
        is_late: It did not answer the last question in time.
        rest: What is still to be applied of its last answer.
    """

    host: PolicyHost
    label: str
    digest: str = ""
    question: asyncio.Task[Ruling] | None = None
    asked_version: int = 0
    asked_ms: int = 0
    asked_position: int = 0
    ruling: Ruling | None = None
    has_news: bool = False
    is_late: bool = False
    rest: Iterator[Intent | DroppedIntent] | None = None


@dataclass(slots=True)
class _Both:
    """The platform policy as a stand-in: what it is told, the operator's policy is told as well."""

    platform: PlatformPolicy
    tell: Callable[[Sequence[Change]], None]
    journal: Callable[[int, int, Intent], None]
    look: Callable[[Intent], tuple[Considered, ...]]
    spent_ns: list[int] = field(default_factory=list)
    seen: list[tuple[Considered, ...]] = field(default_factory=list)
    label: str = PLATFORM_LABEL

    def take(self, changes: Sequence[Change]) -> None:
        """Bring every mirror up to date."""
        self.tell(changes)

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        """Return what the platform policy decides, and note what it took."""
        began = time.thread_time_ns()
        intent = self.platform.decide(now_ms, seed)
        self.spent_ns.append(time.thread_time_ns() - began)
        self.journal(now_ms, seed, intent)
        self.seen.append(self.look(intent))
        return intent


@dataclass(slots=True)
class DecisionCounts:
    """How often what was decided, and how it came out.

    Attributes:
        decisions: By action and by `applied`, `dropped` or `fallback`.
        fallbacks: Decisions of the platform policy in another's place, by the reason.
        errors: Calls of a policy that failed or were killed.
        timeouts: Calls that were not answered in time.
        metrics: What policies emitted, by policy and name.
    """

    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    timeouts: int = 0
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)


class PolicyRuntime:
    """Decides for one writer loop, on its event loop."""

    def __init__(
        self,
        state: QueenState,
        clock: Clock,
        poke: Callable[[], None],
        sandbox: Sandbox,
        journal_folder: Path | None = None,
    ) -> None:
        """Begin with the platform policy.

        Args:
            state: The queen's memory, which only `decide` changes from here, within a turn of the loop.
            clock: For the circuit breaker.
            poke: Asks the writer loop for a turn although nothing happened: an answer came in.
            sandbox: Where hosts come from; whoever made it closes it, after this.
            journal_folder: Where the decision journal is written; None: nowhere.

        Raises:
            OSError: A decision journal is there and cannot be read.
        """
        self.decisions = DecisionFeed()
        self.counts = DecisionCounts()
        #: Wall time after which a policy that is activated from now on is not waited for, in milliseconds.
        self.patience_ms = limits.POLICY_PATIENCE_MS
        self.on_suspended: Callable[[str, str], None] | None = None
        #: Told of every decision, waits among them.
        self.on_decided: Callable[[DecisionRecord, str], None] | None = None
        self._state = state
        self._clock = clock
        self._poke = poke
        self._projection = Projection()
        self._platform = PlatformPolicy()
        self._platform.apply(self._config())
        self._both = _Both(self._platform, self._tell, self._journal_platform, self._look)
        self._turn_ms = 0
        self._journal: DecisionJournal | None = None
        if journal_folder is not None:
            self._journal = DecisionJournal(journal_folder, self._snapshot_of_turn)
        self._sandbox = sandbox
        self._hosted: _Hosted | None = None
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def label(self) -> str:
        """What decides now, as `name@version`."""
        return self._hosted.label if self._hosted else PLATFORM_LABEL

    async def scene(self) -> Scene:
        """Return the world as a policy would see it now.

        A long queue is cut in pieces, between which the queen goes on; what is placed meanwhile is left out.
        """
        state, now_ms = self._state, self._clock.now().mono_ms
        world = fleet_of(state, now_ms, self._projection)
        for at, job_id in enumerate(list(state.queue.job_ids()), start=1):
            if at % limits.POLICY_DELTAS_PER_MESSAGE == 0:
                await self._clock.sleep_ms(0)
            if job_id in state.queue:
                world.jobs[job_id] = job_row(state, state.jobs[job_id])
        return Scene(world, now_ms)

    @property
    def is_behind(self) -> bool:
        """Whether policies have not been told of all that wait yet, so that nothing is placed."""
        return self._projection.is_behind

    def digest(self) -> str:
        """Return the digest of the platform policy's mirror, to compare with the world's."""
        return self._platform.digest()

    # --- Which policy ---

    async def activate(self, source: bytes, label: str) -> Reply:
        """Load a policy in hosts of its own; from the next decision on it decides.

        Args:
            source: Its text, Lua.
            label: What its decisions are signed with, as `name@version`.

        Returns:
            How the text loaded. If not OK, whatever decided before goes on.

        Raises:
            StartFailed: The sandbox itself does not work.
            HostGone: The same.
        """
        digest = hashlib.sha256(source).hexdigest()
        host = PolicyHost(
            await self._sandbox.zygote(),
            name=label,
            clock=self._clock,
            snapshot=self._snapshot,
            terms=lambda: Terms.for_queue(len(self._state.queue)),
            patience_ms=self.patience_ms,
            state=self._journal.state_of(digest) if self._journal else b"",
        )
        try:
            reply = await host.start(source)
        except BaseException:
            await host.stop()
            raise
        if reply.status is not Status.OK:
            await host.stop()
            return reply
        self._retire()
        if self._journal is not None:
            self._journal.learn(digest, label, source)
        self._hosted = _Hosted(host, label, digest)
        _log.info("policy_activated", policy=label)
        self._wake()
        return reply

    def use_platform(self) -> None:
        """Let the platform policy decide from the next decision on."""
        if self._hosted is not None:
            self._retire()
            _log.info("policy_activated", policy=PLATFORM_LABEL)
            self._wake()

    async def close(self) -> None:
        """End every host."""
        self._retire()
        self.decisions.close()
        while self._endings:
            await asyncio.wait(self._endings)
        if self._journal is not None:
            await asyncio.to_thread(self._journal.close)

    def _wake(self) -> None:
        """Have the policy asked although nothing changed: another one decides now."""
        self._state.ask_at_ms = self._clock.now().mono_ms
        self._poke()

    def _retire(self) -> None:
        """Stop asking the present policy; its hosts end in the background."""
        hosted, self._hosted = self._hosted, None
        if hosted is None:
            return
        if hosted.question is not None:
            hosted.question.cancel()
        ending = asyncio.create_task(hosted.host.stop())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def _config(self) -> list[Delta]:
        return [("config", name, value) for name, value in self._state.settings.policy_config]

    def _snapshot(self) -> Iterator[Delta]:
        """Everything that a mirror must be told that begins now."""
        return self._snapshot_at(self._clock.now().mono_ms)

    def _snapshot_of_turn(self) -> Iterator[Delta]:
        """Everything that mirrors were told in this turn of the loop and before."""
        return self._snapshot_at(self._turn_ms)

    def _snapshot_at(self, now_ms: int) -> Iterator[Delta]:
        yield from self._config()
        for row in rows_of(self._state, now_ms, self._projection):
            yield from deltas_of((row,))

    # --- A turn of the writer loop ---

    def decide(self, now: Instant) -> list[Effect]:
        """Decide what can be decided now; return what the shell must do about it."""
        effects: list[Effect] = []
        self._turn_ms = now.mono_ms
        hosted = self._hosted
        if hosted is None:
            self._by_platform(now, effects, because="")
            return effects
        ruling, hosted.ruling = hosted.ruling, None
        if ruling is not None:
            self._take_ruling(hosted, ruling, now, effects)
        elif hosted.rest is not None:
            self._apply(hosted, hosted.rest, 0, now, effects)
        changes = self._projection.drain(self._state, now.mono_ms)
        self._tell(changes)
        may_ask = hosted.question is None and hosted.rest is None and self._hosted is hosted
        if self._state.is_draining:
            self._state.ask_at_ms = None
        elif self._projection.is_behind:
            self._state.ask_at_ms = now.mono_ms  # the next turn tells more, and comes at once
        elif may_ask and (hosted.has_news or is_due(self._state, now)):
            self._ask(hosted, now)
        return effects

    def _tell(self, changes: Sequence[Change]) -> None:
        """Bring every mirror up to date."""
        if not changes:
            return
        deltas = deltas_of(changes)
        self._platform.apply(deltas)
        if self._journal is not None:
            self._journal.note(deltas)
        if self._hosted is not None:
            self._hosted.host.note(deltas)
            self._hosted.has_news = True

    def _by_platform(self, now: Instant, effects: list[Effect], *, because: str) -> None:
        """Let the platform policy decide until it waits; `because` says why another one did not."""
        if because:
            self.counts.fallbacks[because] += 1
            self._state.ask_at_ms = now.mono_ms  # it is asked even if nothing changed since
        self._both.spent_ns.clear()
        self._both.seen.clear()
        outcomes = schedule(
            self._state, self._projection, self._both, now, effects, is_fallback=bool(because)
        )
        both = zip(outcomes, self._both.spent_ns, self._both.seen, strict=True)
        for outcome, spent_ns, seen in both:
            self._record(
                now, PLATFORM_LABEL, outcome.state_version, outcome.intent, outcome.refused,
                is_fallback=bool(because), cpu_us=spent_ns // 1000, seen=seen,
            )  # fmt: skip

    def _ask(self, hosted: _Hosted, now: Instant) -> None:
        """Ask the operator's policy; its answer comes with a later turn."""
        self._state.ask_at_ms, hosted.has_news = None, False
        hosted.asked_version, hosted.asked_ms = self._projection.version, now.mono_ms
        hosted.asked_position = self._journal.position if self._journal else 0
        seed = seed_of(hosted.asked_version)
        hosted.question = asyncio.create_task(hosted.host.decide(seed=seed, now_ms=now.mono_ms))
        hosted.question.add_done_callback(lambda task: self._answered(hosted, task))

    def _answered(self, hosted: _Hosted, task: asyncio.Task[Ruling]) -> None:
        hosted.question = None
        if task.cancelled() or self._hosted is not hosted:
            return
        hosted.ruling = task.result()
        self._poke()

    # --- Answers of a policy in a host ---

    def _take_ruling(
        self, hosted: _Hosted, ruling: Ruling, now: Instant, effects: list[Effect]
    ) -> None:
        self._pass_on(hosted.label, ruling.reply)
        self._journal_ruling(hosted, ruling)
        match ruling.outcome:
            case Outcome.DECIDED:
                hosted.is_late = False
                cpu_us = int(ruling.elapsed_ms * 1000)
                self._apply(hosted, read_answer(ruling.reply.decisions), cpu_us, now, effects)
                return
            case Outcome.LATE:
                self.counts.timeouts += 1
                if not hosted.is_late:  # once, and not for every decision until it answers
                    _log.warning(
                        "policy_fallback", policy=hosted.label, outcome="late",
                        reason=ruling.reply.text, line=ruling.reply.line,
                    )  # fmt: skip
            case _:
                self.counts.errors += 1
        hosted.is_late = ruling.outcome is Outcome.LATE
        if ruling.outcome is Outcome.SUSPENDED:
            self._suspend(hosted, ruling.reason)
        self._by_platform(now, effects, because=ruling.outcome.value)

    def _apply(
        self,
        hosted: _Hosted,
        answer: Iterator[Intent | DroppedIntent],
        cpu_us: int,
        now: Instant,
        effects: list[Effect],
    ) -> None:
        """Do what the policy wants, as far as the state allows it now.

        A long answer goes on with the next turns: a thousand intents at once would hold the loop up.
        """
        version = hosted.asked_version
        intent: Intent | None
        refused: Refused | None
        part = list(islice(answer, limits.DECISIONS_PER_ROUND_MAX))
        for read in part:
            seen: tuple[Considered, ...] = ()
            if isinstance(read, DroppedIntent):
                intent, refused = None, read.refused
            else:
                intent, seen = read, self._look(read)
                refused = apply(self._state, read, now, effects, label=hosted.label)
            if refused is not None:
                # The same question would get the same answer, unless something changes.
                self._state.ask_at_ms = now.mono_ms + limits.POLICY_RETRY_MS
            self._record(
                now, hosted.label, version, intent, refused, is_fallback=False, cpu_us=cpu_us, seen=seen
            )  # fmt: skip

        is_over = len(part) < limits.DECISIONS_PER_ROUND_MAX
        hosted.rest = None if is_over else answer
        if not is_over:
            self._poke()

    def _journal_platform(self, now_ms: int, seed: int, intent: Intent) -> None:
        if self._journal is not None:
            self._journal.record(
                now_ms=now_ms, seed=seed, label=PLATFORM_LABEL, digest=platform_digest(),
                decided=intent_bytes(intent), state_version=self._projection.version,
            )  # fmt: skip

    def _journal_ruling(self, hosted: _Hosted, ruling: Ruling) -> None:
        """Record what the operator's policy answered in time, be it an error; not that it was killed."""
        if self._journal is None or ruling.outcome not in {Outcome.DECIDED, Outcome.FAILED}:
            return
        if ruling.reply.decided:
            self._journal.record(
                now_ms=hosted.asked_ms, seed=seed_of(hosted.asked_version), label=hosted.label,
                digest=hosted.digest, decided=ruling.reply.decided, state=ruling.reply.state,
                state_version=hosted.asked_version, position=hosted.asked_position,
            )  # fmt: skip

    def _suspend(self, hosted: _Hosted, reason: str) -> None:
        """Ask the policy no more; who deployed it hears of it and may restore another."""
        self._retire()
        _log.error("policy_suspended", policy=hosted.label, reason=reason)
        if self.on_suspended is not None:
            self.on_suspended(hosted.label, reason)

    def _pass_on(self, label: str, reply: Reply) -> None:
        """Log what the policy logged, and keep what it measured, within bounds."""
        for level, text in reply.logs:
            _LEVELS.get(level, _log.info)("policy_says", policy=label, text=text)
        metrics = self.counts.metrics
        for name, value in reply.metrics:
            if (label, name) in metrics or len(metrics) < limits.POLICY_METRICS_MAX:
                metrics[label, name] = value

    def _look(self, intent: Intent) -> tuple[Considered, ...]:
        """Return how workers look to a placement that is not applied yet, if anybody watches."""
        return (
            considered(self._state, intent, self._clock.now()) if self.decisions.is_watched else ()
        )

    def _record(
        self,
        now: Instant,
        label: str,
        version: int,
        intent: Intent | None,
        refused: Refused | None,
        *,
        is_fallback: bool,
        cpu_us: int,
        seen: tuple[Considered, ...],
    ) -> None:
        action = intent.action if intent is not None else "unreadable"
        result = "dropped" if refused else "fallback" if is_fallback else "applied"
        self.counts.decisions[action, result] += 1
        if refused is not None:
            _log.warning(
                "intent_dropped", policy=label, action=action, reason=refused.reason.value,
                detail=refused.message,
            )  # fmt: skip
        record = DecisionRecord(
            at=now,
            label=label,
            state_version=version,
            seed=seed_of(version),
            intent=intent,
            refused=refused,
            is_fallback=is_fallback,
            cpu_us=cpu_us,
            considered=seen,
        )
        if self.on_decided is not None:
            self.on_decided(record, result)
        if not isinstance(intent, Wait) or self.decisions.is_watched:
            self.decisions.tell(record)
