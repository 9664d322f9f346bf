"""Brings the workers of this host in line with the queen's last list, over and over.

Restarting is the queen's decision: a worker that ended is reported, and it is tried again only when the queen, after
that report, still names it. A queen that gives each try a new id never needs that. The model's backoff holds in any
case, so neither kind of queen can make this host start processes in a tight loop.
"""

import asyncio
from collections.abc import Mapping

from beeyard_core import limits
from beeyard_core.fleet import DesiredState, DesiredWorker
from beeyard_core.instant import Instant
from beeyard_core.refusal import Refused
from beeyard_runtime.clock import Clock

from beeyard_pool_manager.workers.desired import Actual, Desired, compare
from beeyard_pool_manager.workers.starter import WorkerStarter, unplaced_spec
from beeyard_pool_manager.workers.supervisor import Supervisor


class Reconciler:
    """Applies what the queen wants.

    Args:
        supervisor: The workers.
        starter: Places and starts new ones.
        clock: The time.
        stop_grace_ms: How long a stopped worker's running work may go on, milliseconds.
    """

    def __init__(
        self, *, supervisor: Supervisor, starter: WorkerStarter, clock: Clock, stop_grace_ms: int
    ) -> None:
        self._supervisor = supervisor
        self._starter = starter
        self._clock = clock
        self._stop_grace_ms = stop_grace_ms
        self._desired = Desired()
        self._ended_at: dict[str, Instant] = {}
        self._insisted: frozenset[str] = frozenset()
        self._wake = asyncio.Event()

    def apply(self, desired: Desired) -> None:
        """Take over the queen's list; it replaces the one before. Returns at once."""
        self._insisted = self._supervisor.reported_ends() & _wanted(desired)
        self._desired = desired
        self._wake.set()

    async def run(self) -> None:
        """Compare at each change and at a steady interval, until cancelled."""
        while True:
            self._wake.clear()
            await self.step()
            try:
                async with asyncio.timeout(limits.RECONCILE_INTERVAL_MS / 1_000):
                    await self._wake.wait()
            except TimeoutError:
                pass  # the steady interval: a backoff may have ended

    async def step(self) -> None:
        """Compare once and act."""
        now = self._clock.now()
        workers = self._supervisor.workers()
        running = {
            each.spec.worker_id: Actual(model=each.spec.model, by_hand=each.spec.by_hand)
            for each in workers
            if not each.has_exited and each.pid
        }
        ended = frozenset(each.spec.worker_id for each in workers if each.has_exited)
        self._ended_at = {each: self._ended_at.get(each, now) for each in ended}
        plan = compare(self._desired, running, resting=self._resting(self._ended_at, now))
        for worker_id in plan.stop:
            self._supervisor.stop_later(worker_id, grace_ms=self._stop_grace_ms)
        for wanted in plan.start:
            await self._start(wanted, now)
        self._supervisor.forget_ended(wanted=_wanted(self._desired))

    def _resting(self, ended_at: Mapping[str, Instant], now: Instant) -> frozenset[str]:
        # The queen's answer to the report of the end gets this long to arrive before its old list counts again.
        rest_ms = limits.RESTART_BACKOFF_MIN_MS
        return frozenset(
            worker_id
            for worker_id, at in ended_at.items()
            if worker_id not in self._insisted or now.mono_ms - at.mono_ms < rest_ms
        )

    async def _start(self, wanted: DesiredWorker, now: Instant) -> None:
        spec = unplaced_spec(wanted.worker_id, wanted.model, wanted.device)
        if self._supervisor.backoff.wait_ms(wanted.model, now) > 0:
            self._supervisor.note_unstarted(spec, failure="")
            return
        self._ended_at.pop(wanted.worker_id, None)
        outcome = await self._starter.start(
            worker_id=wanted.worker_id, model=wanted.model, device=wanted.device, by_hand=False
        )
        if isinstance(outcome, Refused):
            # What will pass by itself (a model still being prepared, a driver that restarts) is waiting, not failure.
            failure = "" if outcome.reason.is_transient else outcome.message
            self._supervisor.note_unstarted(spec, failure=failure)


def _wanted(desired: Desired) -> frozenset[str]:
    return frozenset(
        each.worker_id for each in desired.workers if each.state is DesiredState.RUNNING
    )
