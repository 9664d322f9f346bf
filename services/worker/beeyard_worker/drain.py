"""How a worker ends: no new work, running work ends, results are delivered, then the process may exit.

Whoever asks (a signal, the queen, EngineService.Drain, missing supervision) asks here, once or often.
What still runs when the grace is over fails with DRAINING, so that the queen places it elsewhere at once
instead of waiting for the lease to expire.
"""

import asyncio
from collections.abc import Callable

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_worker.status import WorkerStatus

_log = get_log("drain")


class Drain:
    """The wish that this worker ends, and the way there."""

    def __init__(self, *, status: WorkerStatus, clock: Clock, grace_ms: int) -> None:
        """Prepare; `grace_ms` milliseconds are given to those who name no grace of their own."""
        self._status = status
        self._clock = clock
        self._default_ms = grace_ms
        self._grace_ms = grace_ms
        self._requested = asyncio.Event()
        self._rested = asyncio.Event()

    def begin(self, grace_ms: int = 0) -> None:
        """Take no new work from now on, and end. Idempotent: the first grace counts.

        Args:
            grace_ms: How long running work may go on, in milliseconds; 0 or less: the default.
        """
        if self._requested.is_set():
            return
        self._grace_ms = grace_ms if grace_ms > 0 else self._default_ms
        _log.info("draining", grace_ms=self._grace_ms)
        self._status.draining()
        self._requested.set()

    def nudge(self) -> None:
        """Look again whether everything has ended; called after each end of something."""
        self._rested.set()

    async def requested(self) -> None:
        """Return once somebody has asked for the end."""
        await self._requested.wait()

    async def finish(
        self, is_idle: Callable[[], bool], fail_running: Callable[[Refusal, str], None]
    ) -> None:
        """Return when everything has ended and is delivered, or no later than shortly after the grace.

        Args:
            is_idle: Whether nothing runs and nothing is left to deliver.
            fail_running: Ends what runs; its failures are then delivered like results.
        """
        if await self._idle_within(self._grace_ms, is_idle):
            return
        _log.warning("drain_grace_over", grace_ms=self._grace_ms)
        fail_running(Refusal.DRAINING, "the worker was drained before the answer was complete")
        await self._idle_within(limits.DRAIN_DELIVERY_MS, is_idle)

    async def _idle_within(self, ms: int, is_idle: Callable[[], bool]) -> bool:
        over = asyncio.ensure_future(self._clock.sleep_ms(ms))
        try:
            while not is_idle():
                self._rested.clear()
                rested = asyncio.ensure_future(self._rested.wait())
                try:
                    await asyncio.wait([over, rested], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    rested.cancel()
                if over.done():
                    return is_idle()
            return True
        finally:
            over.cancel()
