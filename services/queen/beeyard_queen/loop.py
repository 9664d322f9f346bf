"""The single writer: events in, `step`, the policy's decisions, one commit for the batch, then the effects.

Everything that changes the queen's state passes through here, one event after the other. Events that arrive while a
commit is under way gather and become the next batch, and under load commits keep a batch window apart, so the busier
the queen, the more jobs share one fsync: group commit. Effects run only after their batch is durable, in the order in
which the core gave them.

When the store is unavailable the batch is kept and tried again; whoever waits for an acceptance is told so at once, and
nothing is acknowledged that is not on disk.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from beeyard_core import limits
from beeyard_core.effect import Effect, SaveJob, SaveJobSoon, SaveScale, SaveWork
from beeyard_core.event import Event, Ticked
from beeyard_core.ids import JobId, ModelName, WorkId
from beeyard_core.instant import Instant
from beeyard_core.policy.schedule import is_due
from beeyard_core.state import QueenState
from beeyard_core.step import step
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_queen.store.port import Batch, JobWriter, StoreUnavailable
from beeyard_queen.store.scales import scale_row_of
from beeyard_queen.store.sessions import session_row_of

_log = get_log("loop")
_COMMIT_RETRY_MAX_MS: Final = 2_000
#: A commit of so many jobs says that more are on their way; waiting for them costs less than another fsync.
_LOADED_ROWS: Final = 4


class Scheduler(Protocol):
    """Decides what runs where; the loop asks it between the events of a batch and the commit."""

    def decide(self, now: Instant) -> list[Effect]:
        """Decide what can be decided now; return what the shell must do about it."""
        ...


class Actor(Protocol):
    """Performs effects; the loop's way to the outside."""

    def fill(self, batch: Batch, saved: set[JobId], *, everything: bool) -> None:
        """Add to a batch the rows of the jobs that must be saved, with the tokens and prompts that belong with them.

        `everything` asks, besides, for all tokens that have waited for long; it comes with each tick.
        """
        ...

    def fill_work(self, batch: Batch, saved: set[WorkId]) -> None:
        """Add to a batch the rows of the heavy work that must be saved."""
        ...

    def committed(self, batch: Batch) -> None:
        """Learn that a batch is durable."""
        ...

    async def act(self, effect: Effect) -> None:
        """Perform one effect."""
        ...

    def store_failed(self) -> None:
        """Learn that the present batch could not be committed yet."""
        ...


@dataclass(slots=True)
class _Inbox:
    """Events that wait for the writer, bounded."""

    events: deque[Event] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class WriterLoop:
    """Owns the state and runs `step`. One instance, one task, for as long as the queen lives."""

    def __init__(self, state: QueenState, store: JobWriter, clock: Clock) -> None:
        """Make a loop that `run` drives.

        Args:
            state: The core's state, which from now on only this loop changes.
            store: Where batches become durable.
            clock: Read once for each event.
        """
        self.state = state
        self._store = store
        self._clock = clock
        self._inbox = _Inbox()
        self._soon: set[JobId] = set()
        self._saved_epoch = state.epoch
        self._known_models = set(state.fleet.known_models)
        self._stopping = False
        self._is_poked = False
        self._last_commit_ms = 0
        self._last_rows_count = 0
        self._turn_over: asyncio.Future[None] | None = None
        self.is_store_healthy = True
        self.commits_count = 0
        self.events_count = 0

    @property
    def is_full(self) -> bool:
        """Whether so many events wait that new work should be turned away."""
        return len(self._inbox.events) >= limits.INBOX_EVENTS_MAX

    def post(self, event: Event) -> None:
        """Hand in an event. Callers that bring new work ask `is_full` first; reports of what is are always taken."""
        self._inbox.events.append(event)
        self._inbox.woken.set()

    def poke(self) -> None:
        """Ask for a batch soon, though there is no event: tokens wait to be made durable."""
        self._is_poked = True
        self._inbox.woken.set()

    def stop(self) -> None:
        """Let `run` finish what is there and return."""
        self._stopping = True
        self._inbox.woken.set()

    async def run(self, actor: Actor, scheduler: Scheduler) -> None:
        """Process events until `stop`; returns when everything taken in is durable and acted upon."""
        while True:
            await self._inbox.woken.wait()
            self._inbox.woken.clear()
            while self._inbox.events or self._is_poked:
                await self._gather()
                await self._turn(actor, scheduler)
            if self._stopping:
                await self._turn(actor, scheduler, everything=True)
                return

    async def tick(self) -> None:
        """Post a tick every interval, for ever."""
        while True:
            await self._clock.sleep_ms(limits.TICK_INTERVAL_MS)
            self.post(Ticked())

    async def settled(self) -> None:
        """Return once what `step` has decided so far is durable, so that the store may be asked about it."""
        if self._turn_over is not None:
            await asyncio.shield(self._turn_over)

    async def _turn(self, actor: Actor, scheduler: Scheduler, *, everything: bool = False) -> None:
        """Take one batch through step, commit and effects."""
        self._turn_over = asyncio.get_running_loop().create_future()
        try:
            await self._process(actor, scheduler, everything=everything)
        finally:
            self._turn_over.set_result(None)
            self._turn_over = None

    async def _process(self, actor: Actor, scheduler: Scheduler, *, everything: bool) -> None:
        self._is_poked = False
        effects: list[Effect] = []
        urgent: set[JobId] = set()
        work: set[WorkId] = set()
        scales: set[ModelName] = set()
        ticked = everything
        for _ in range(min(len(self._inbox.events), limits.BATCH_EVENTS_MAX)):
            event = self._inbox.events.popleft()
            ticked = ticked or isinstance(event, Ticked)
            self._sort(step(self.state, event, self._clock.now()), urgent, work, scales, effects)
            self.events_count += 1
        self._sort(scheduler.decide(self._clock.now()), urgent, work, scales, effects)
        if is_due(self.state, self._clock.now()):
            # A round was not enough for all that can be decided; whoever else waits has a turn before the next.
            self.poke()
            await self._clock.sleep_ms(0)
        batch = Batch()
        # Nothing waits for what is to be saved soon: it rides along with the next commit, or with the next tick.
        if urgent or ticked:
            urgent |= self._soon
            self._soon.clear()
        actor.fill(batch, urgent, everything=ticked)
        actor.fill_work(batch, work)
        said = self.state.scales.by_model
        batch.scales = {m: scale_row_of(m, said[m]) if m in said else None for m in scales}
        unsaved, now = self.state.quotas.sessions.take_unsaved(), self._clock.now()
        batch.sessions = [session_row_of(key, spent, now) for key, spent in unsaved]
        self._add_counters(batch)
        if not batch.is_empty and not await self._commit(batch, actor):
            return
        for effect in effects:
            await actor.act(effect)

    def _sort(
        self,
        made: list[Effect],
        urgent: set[JobId],
        work: set[WorkId],
        scales: set[ModelName],
        effects: list[Effect],
    ) -> None:
        """Part what must be saved from what is to be done afterwards."""
        for effect in made:
            match effect:
                case SaveJob(job_id):
                    urgent.add(job_id)
                case SaveJobSoon(job_id):
                    self._soon.add(job_id)
                case SaveWork(work_id):
                    work.add(work_id)
                case SaveScale(model):
                    scales.add(model)
                case _:
                    effects.append(effect)

    def _add_counters(self, batch: Batch) -> None:
        """Add what has changed of the state besides jobs."""
        if self.state.epoch != self._saved_epoch:
            batch.epoch = self._saved_epoch = self.state.epoch
        known = self.state.fleet.known_models
        if len(known) != len(self._known_models):
            batch.models = sorted(known - self._known_models)
            self._known_models = set(known)

    async def _commit(self, batch: Batch, actor: Actor) -> bool:
        """Make the batch durable, however often it takes; give up only on the way out, when nobody was told of it."""
        self._last_commit_ms = self._clock.now().mono_ms
        self._last_rows_count = len(batch.jobs)
        delay_ms = limits.RECONNECT_MIN_MS
        while True:
            try:
                await self._store.commit(batch)
                break
            except StoreUnavailable as fault:
                if self.is_store_healthy:
                    _log.error("store_unavailable", fault=str(fault))
                self.is_store_healthy = False
                actor.store_failed()
                if self._stopping:
                    _log.error("stopped_before_the_store_healed", jobs=len(batch.jobs))
                    return False
                await self._clock.sleep_ms(delay_ms)
                delay_ms = min(2 * delay_ms, _COMMIT_RETRY_MAX_MS)
        if not self.is_store_healthy:
            self.is_store_healthy = True
            _log.info("store_healed")
        self.commits_count += 1
        actor.committed(batch)
        return True

    async def _gather(self) -> None:
        """Under load, let the events of a batch window share one commit; a queen with little to do never waits."""
        waited_ms = self._clock.now().mono_ms - self._last_commit_ms
        remaining_ms = limits.BATCH_WINDOW_MS - waited_ms
        is_loaded = self._last_rows_count >= _LOADED_ROWS
        if is_loaded and remaining_ms > 0 and len(self._inbox.events) < limits.BATCH_EVENTS_MAX:
            await self._clock.sleep_ms(remaining_ms)


async def every(clock: Clock, interval_ms: int, act: Callable[[], Awaitable[None]]) -> None:
    """Call `act` every `interval_ms` milliseconds, for ever."""
    while True:
        await clock.sleep_ms(interval_ms)
        await act()
