"""The clock moved by hand behaves like a clock, only on command."""

import asyncio

from beeyard_runtime.clock import Clock, SystemClock
from beeyard_runtime.testing import ManualClock


async def test_sleepers_wake_in_order_each_at_its_own_moment() -> None:
    clock: Clock
    clock = manual = ManualClock()
    start = clock.now().mono_ms
    woken: list[tuple[str, int]] = []

    async def sleep(name: str, ms: int) -> None:
        await clock.sleep_ms(ms)
        woken.append((name, clock.now().mono_ms - start))

    tasks = [asyncio.create_task(sleep(*it)) for it in (("late", 30), ("early", 10), ("tie", 10))]
    await manual.advance(0)
    assert manual.sleepers == 3

    await manual.advance(10)
    assert woken == [("early", 10), ("tie", 10)]
    await manual.advance(100)
    assert woken == [("early", 10), ("tie", 10), ("late", 30)]
    assert clock.now().mono_ms - start == 110
    await asyncio.gather(*tasks)


async def test_a_sleeper_that_sleeps_again_is_woken_within_the_same_advance() -> None:
    clock = ManualClock()
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            await clock.sleep_ms(250)
            ticks.append(clock.now().mono_ms - 1_000_000)

    task = asyncio.create_task(tick())
    await clock.advance(1_000)
    assert ticks == [250, 500, 750, 1_000]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await clock.advance(1_000)
    assert len(ticks) == 4


async def test_both_clocks_move_together_and_no_sleep_is_no_wait() -> None:
    clock = ManualClock(mono_ms=5, wall_ms=1_000)
    await clock.sleep_ms(0)
    await clock.advance(7)
    assert clock.now() == (12, 1_007)


async def test_the_system_clock_never_goes_back_and_sleeps_at_least_as_long_as_asked() -> None:
    clock: Clock = SystemClock()
    before = clock.now()
    await clock.sleep_ms(5)
    await clock.sleep_ms(-1)
    assert clock.now().mono_ms - before.mono_ms >= 4
    assert before.wall_ms > 1_700_000_000_000
