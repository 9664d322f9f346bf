"""A worker outlives its pool manager for a grace period, and no longer."""

import asyncio

from beeyard_runtime.testing import ManualClock
from beeyard_worker.supervision import Supervision


async def test_a_worker_that_nobody_calls_is_abandoned_after_the_grace() -> None:
    clock, calls = ManualClock(), list[str]()
    supervision = Supervision(
        grace_ms=1_000, clock=clock, on_abandoned=lambda: calls.append("abandoned")
    )
    watch = asyncio.create_task(supervision.watch())
    await clock.advance(900)
    supervision.heard("pool-1/1")
    await clock.advance(900)
    supervision.heard("pool-1/2")
    await clock.advance(999)
    assert calls == []
    await clock.advance(1)
    assert calls == ["abandoned"]
    await watch
