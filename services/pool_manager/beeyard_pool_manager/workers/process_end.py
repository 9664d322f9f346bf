"""Waits for the end of any process, whether it is a child of this one or not."""

import asyncio
import os
from collections.abc import Callable

from beeyard_core import limits
from beeyard_runtime.clock import Clock


async def process_end(pid: int, runs: Callable[[], bool], clock: Clock) -> None:
    """Return once the process has ended, at once where the kernel can tell and soon where it must be asked.

    Args:
        pid: The process.
        runs: Whether the process that is meant still runs; the pid alone may name another one by now.
        clock: The time.
    """
    try:
        watch = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # Not Linux, or an old kernel, or gone already.
        while runs():
            await clock.sleep_ms(limits.PROCESS_POLL_MS)
        return
    try:
        # Asked after the kernel was told to watch: the watched process cannot be a later one of the same pid.
        if runs():
            await _readable(watch)
    finally:
        os.close(watch)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
