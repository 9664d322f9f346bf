"""A worker that was started by a pool manager does not outlive all pool managers.

A pool manager may die and its successor adopt the worker, so the worker goes on serving meanwhile. But
if nobody calls for a whole grace period, nobody ever will: the worker drains and exits, and its device
is free again.
"""

from collections.abc import Callable

from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

_log = get_log("supervision")


class Supervision:
    """Watches for the calls of a supervisor."""

    def __init__(self, *, grace_ms: int, clock: Clock, on_abandoned: Callable[[], None]) -> None:
        """Call `on_abandoned` once when no supervisor called for `grace_ms` milliseconds."""
        self._grace_ms = grace_ms
        self._clock = clock
        self._on_abandoned = on_abandoned
        self._heard_ms = clock.now().mono_ms
        self._supervisor_id = ""

    def heard(self, supervisor_id: str) -> None:
        """Note a call of this supervisor; another one than before has adopted the worker."""
        if supervisor_id != self._supervisor_id:
            _log.info("supervised", supervisor_id=supervisor_id)
            self._supervisor_id = supervisor_id
        self._heard_ms = self._clock.now().mono_ms

    async def watch(self) -> None:
        """Return after the grace period has passed without a call."""
        while (rest_ms := self._heard_ms + self._grace_ms - self._clock.now().mono_ms) > 0:
            await self._clock.sleep_ms(rest_ms)
        _log.warning("abandoned", grace_ms=self._grace_ms, supervisor_id=self._supervisor_id)
        self._on_abandoned()
