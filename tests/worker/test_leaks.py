"""What hundreds of jobs leave behind in a worker: nothing. Counted, so that no clock and no neighbour matters."""

import gc
import sys
from collections import Counter

from tests.support.attached_queen import Attachment
from tests.support.eventually import eventually
from tests.worker.conftest import OpenRig, Rig

#: After fewer, caches are still being filled: by some 400 blocks more.
WARM_UP = 500
JOBS = 600
#: What leaks grows in each of them. Cancelled timers, which the loop keeps until they are many, do not: they are 200
#: blocks more or less.
ROUNDS = 3
#: Fewer of a kind are the loop's and gRPC's, which come and go.
KEPT_MAX = JOBS // 10
BLOCKS_MAX = JOBS // 2


class Chores:
    """Jobs that a worker does one after the other, every tenth of them taken back in the middle."""

    def __init__(self, rig: Rig, stream: Attachment) -> None:
        self._rig = rig
        self._stream = stream
        self._epoch = 0
        self.kept: list[object] = []

    async def do(self, count: int, *, keeps: bool = False) -> tuple[Counter[str], int]:
        """Do so many; return what lives by its type, and the blocks that Python has allocated.

        Args:
            count: How many.
            keeps: Whether what the queen was told is kept here, which a leak would look like.
        """
        for _ in range(count):
            self._epoch += 1
            await self._one(self._epoch)
            self.kept += self._stream.reports if keeps else ()
            # Of the test's own, which would hide the worker's.
            self._stream.reports.clear()
        gc.collect()
        live = Counter(type(each).__qualname__ for each in gc.get_objects())
        return live, sys.getallocatedblocks()

    async def _one(self, epoch: int) -> None:
        rig, stream = self._rig, self._stream
        # One prompt for all: the scripted engine keeps what it was asked by that.
        await stream.offer(epoch, "bee")
        await rig.engine.until(lambda engine: "bee" in engine.running)
        if epoch % 10:
            rig.engine.emit("bee", 3)
            rig.engine.finish("bee")
        else:
            await stream.revoke(epoch)
        await stream.until(lambda told: told.results(epoch))
        await stream.acknowledge(epoch, 3, committed=True)
        await eventually(lambda: rig.leases.is_idle and not rig.engine.running, "it is over")


async def test_jobs_leave_nothing_behind_in_a_worker(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await rig.queen.attachment()
        await stream.welcome()
        chores = Chores(rig, stream)
        await chores.do(WARM_UP)
        live, blocks = await chores.do(0)
        growths = []
        for _ in range(ROUNDS):
            later_live, later_blocks = await chores.do(JOBS)
            growths.append(later_blocks - blocks)
            blocks = later_blocks
        grown = {kind: n for kind, n in (later_live - live).items() if n > KEPT_MAX}
        assert grown == {}
        assert min(growths) < BLOCKS_MAX, growths
        # The control: kept messages would have been seen.
        _, kept_blocks = await chores.do(JOBS, keeps=True)
        assert kept_blocks - blocks > JOBS
