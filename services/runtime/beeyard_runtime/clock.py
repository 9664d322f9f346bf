"""The one place that reads time, so that everything below it can be run on a clock that a test moves by hand."""

import asyncio
import time
from typing import Protocol

from beeyard_core.instant import Instant

_NS_PER_MS = 1_000_000


class Clock(Protocol):
    """Where a shell gets the time from. Handed in at the composition root; never imported as a global."""

    def now(self) -> Instant:
        """Return this moment on both clocks."""
        ...

    async def sleep_ms(self, ms: int) -> None:
        """Return `ms` milliseconds of the monotonic clock later; at once, after one turn of the loop, if `ms` <= 0."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Instant:
        """Return this moment on both clocks."""
        return Instant(time.monotonic_ns() // _NS_PER_MS, time.time_ns() // _NS_PER_MS)

    async def sleep_ms(self, ms: int) -> None:
        """Sleep `ms` milliseconds."""
        await asyncio.sleep(max(ms, 0) / 1_000)
