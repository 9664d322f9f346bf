"""A policy in its sandbox, asked in virtual time: the real host, the real limits, one decision at a time.

Virtual time stands still while a host decides, and while one that was lost is replaced; so a policy is never late here,
as it may be in a queen under load. Everything else is as there: an error, a nonsensical answer or a kill costs the
decision, the platform policy decides instead, and the circuit breaker suspends what fails too often.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from beeyard_core import limits
from beeyard_core.effect import Effect
from beeyard_core.instant import Instant
from beeyard_core.policy.apply import apply
from beeyard_core.policy.changes import Change
from beeyard_core.policy.decision import DroppedIntent, read_answer
from beeyard_core.policy.intent import Intent
from beeyard_core.policy.projection import Projection, rows_of
from beeyard_core.policy.schedule import is_due, schedule, seed_of
from beeyard_core.state import QueenState

from beeyard_queen.policy.deltas import Delta, deltas_of
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.hosts import Outcome, PolicyHost, Ruling
from beeyard_queen.policy.in_process import PLATFORM_LABEL, PlatformPolicy
from beeyard_queen.policy.reply import Status
from beeyard_queen.policy.zygote import Terms, Zygote
from beeyard_queen.simulator.simulation import Place
from beeyard_queen.simulator.tally import Tally

#: Longer than any limit of the host itself: virtual time waits, so that the same request gets the same report.
_PATIENCE_MS: Final = 2 * limits.POLICY_WALL_MS


class _StandingClock:
    """The clock of the circuit breaker: virtual time, set before each decision."""

    def __init__(self) -> None:
        self.instant = Instant(0, 0)

    def now(self) -> Instant:
        return self.instant

    async def sleep_ms(self, ms: int) -> None:
        await asyncio.sleep(0)


class _StandIn:
    """The platform policy in the place of one that failed; what it is told, the other one is told as well."""

    label = PLATFORM_LABEL

    def __init__(self, sandboxed: "Sandboxed") -> None:
        self.take = sandboxed.take
        self.decide = sandboxed.decide_by_platform


class Sandboxed(AbstractContextManager[Place]):
    """Keeps a policy's host for the time of a block and lets it decide. Not within a running event loop."""

    def __init__(self, name: str, lua: bytes, tally: Tally) -> None:
        """Prepare; nothing runs until the block is entered.

        Args:
            name: What decisions are signed with.
            lua: The policy's text.
            tally: What it does is counted here.
        """
        self.label = name
        self._lua = lua
        self._tally = tally
        self._loop = asyncio.new_event_loop()
        self._clock = _StandingClock()
        self._zygote = Zygote()
        self._platform = PlatformPolicy()
        self._projection = Projection()
        self._state = QueenState()
        self._host = PolicyHost(
            self._zygote, name=name, clock=self._clock, snapshot=self._snapshot,
            terms=lambda: Terms.for_queue(len(self._state.queue)),
            patience_ms=_PATIENCE_MS, keeps_standby=False,
        )  # fmt: skip

    def __enter__(self) -> Place:
        """Start the host.

        Raises:
            PolicyInvalid: The text does not load.
            StartFailed: The sandbox does not work on this machine.
        """
        try:
            self._loop.run_until_complete(self._start())
        except BaseException:
            self._close()
            raise
        return self._place

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the host."""
        self._close()

    async def _start(self) -> None:
        await self._zygote.start()
        reply = await self._host.start(self._lua)
        if reply.status is not Status.OK:
            raise PolicyInvalid(reply.text, reply.line)

    def _close(self) -> None:
        async def stop() -> None:
            await self._host.stop()
            await self._zygote.stop()

        self._loop.run_until_complete(stop())
        self._loop.close()

    def _snapshot(self) -> Iterator[Delta]:
        for row in rows_of(self._state, self._clock.instant.mono_ms, self._projection):
            yield from deltas_of((row,))

    def _place(self, state: QueenState, now: Instant, effects: list[Effect]) -> None:
        """Ask until the policy waits, or until nothing of an answer could be applied."""
        self._state, self._clock.instant = state, now
        for _ in range(limits.DECISIONS_PER_ROUND_MAX):
            changes = self._projection.drain(state, now.mono_ms)
            while self._projection.is_behind:
                changes += self._projection.drain(state, now.mono_ms)
            self.take(changes)
            if not changes and not is_due(state, now):
                return
            state.ask_at_ms = None
            seed = seed_of(self._projection.version)
            ruling = self._ask(seed, now)
            if ruling.outcome is not Outcome.DECIDED:
                self._fall_back(ruling, state, now, effects)
                return
            self._apply(ruling.reply.decisions, state, now, effects)
        state.ask_at_ms = now.mono_ms

    def take(self, changes: Sequence[Change]) -> None:
        """Bring both mirrors up to date: the policy's, and that of the platform policy, which stands in for it."""
        if changes:
            deltas = deltas_of(changes)
            self._platform.apply(deltas)
            self._host.note(deltas)

    def _apply(
        self, answer: object, state: QueenState, now: Instant, effects: list[Effect]
    ) -> None:
        """Do what the policy wants, as far as the state allows it."""
        for intent in read_answer(answer):
            if isinstance(intent, DroppedIntent):
                action, refused = intent.action or "unreadable", intent.refused
            else:
                action = intent.action
                found = apply(state, intent, now, effects, label=self.label)
                if found is None:
                    self._tally.count(action, None)
                    continue
                refused = found
            self._tally.count(action, refused)
            # The same question would get the same answer, unless something changes.
            state.ask_at_ms = now.mono_ms + limits.POLICY_RETRY_MS

    def _fall_back(
        self, ruling: Ruling, state: QueenState, now: Instant, effects: list[Effect]
    ) -> None:
        """Let the platform policy decide until it waits, as the queen would."""
        self._count_fallback(ruling, now)
        state.ask_at_ms = now.mono_ms  # it is asked even if nothing changed since
        for outcome in schedule(
            state, self._projection, _StandIn(self), now, effects, is_fallback=True
        ):
            self._tally.count(outcome.intent.action, outcome.refused)

    def decide_by_platform(self, now_ms: int, seed: int = 0) -> Intent:
        """Return what the platform policy decides."""
        return self._platform.decide(now_ms, seed)

    def _ask(self, seed: int, now: Instant) -> Ruling:
        began = time.perf_counter_ns()
        ruling = self._loop.run_until_complete(self._asked(seed, now.mono_ms))
        self._tally.spent_ns.append(time.perf_counter_ns() - began)
        return ruling

    async def _asked(self, seed: int, now_ms: int) -> Ruling:
        ruling = await self._host.decide(seed=seed, now_ms=now_ms)
        if ruling.outcome is not Outcome.DECIDED:
            # A host that was lost is replaced before time goes on.
            await self._host.settle()
        return ruling

    def _count_fallback(self, ruling: Ruling, now: Instant) -> None:
        tally = self._tally
        tally.fallbacks[ruling.outcome.value] += 1
        if ruling.outcome is not Outcome.SUSPENDED:
            tally.reasons[ruling.outcome.value] = ruling.reason
        if self._host.breaker.suspended and tally.suspended_at is None:
            tally.suspended_at, tally.suspension = now.mono_ms, self._host.breaker.suspended
