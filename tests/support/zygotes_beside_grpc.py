"""Starts zygotes in a process that serves gRPC on uvloop, as a queen is: run it by `python -m`, with how many to start.

Prints how many of them came up.
"""

import os
import sys

import uvloop
from beeyard_queen.policy.zygote import Zygote
from beeyard_runtime.faults import StartFailed

from tests.support.attached_worker import attached_worker
from tests.support.running_queen import running_queen


async def main(count: int) -> None:
    """Start them one after the other while streams are open."""
    started = 0
    async with running_queen() as queen, attached_worker(queen.channel):
        for _ in range(count):
            zygote = Zygote()
            try:
                await zygote.start()
                started += 1
            except StartFailed:
                pass  # counted by its absence
            finally:
                await zygote.stop()
    sys.stdout.write(f"started {started}\n")


if __name__ == "__main__":
    os.environ["GRPC_VERBOSITY"] = "NONE"
    uvloop.run(main(int(sys.argv[1])))
