"""Starts processes in a process that serves gRPC on uvloop, as every service is; prints how many came up.

Run by `python -m`, with what to start, `zygote` or `child`, and how many.
"""

# First, as in the services: gRPC reads what this sets when it is imported.
import beeyard_runtime  # noqa: F401, I001

import asyncio
import sys
from collections.abc import Awaitable, Callable

import uvloop
from beeyard_queen.policy.zygote import Zygote
from beeyard_runtime.faults import StartFailed

from tests.support.attached_worker import attached_worker
from tests.support.running_queen import running_queen


async def zygote() -> bool:
    """Start a zygote and end it."""
    started = Zygote()
    try:
        await started.start()
    except StartFailed:
        return False
    finally:
        await started.stop()
    return True


async def child() -> bool:
    """Start a process by the event loop and wait for its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", "pass", stdin=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    return await process.wait() == 0


async def main(start: Callable[[], Awaitable[bool]], count: int) -> None:
    """Start them one after the other while streams are open."""
    async with running_queen() as queen, attached_worker(queen.channel):
        came_up = [await start() for _ in range(count)]
    sys.stdout.write(f"{sum(came_up)} of {count}\n")


if __name__ == "__main__":
    uvloop.run(main({"zygote": zygote, "child": child}[sys.argv[1]], int(sys.argv[2])))
