"""An hour of jobs of which every tenth is cancelled: memory stays level, and no descriptor or task is left behind.

`make soak` runs it, for BEEYARD_SOAK_MINUTES. What the queen keeps of ended jobs is filled first.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from beeyard_client import BeeyardClient
from beeyard_client.events import Cancelled, Finished, Tokens
from beeyard_core import limits
from beeyard_runtime.clock import SystemClock

from tests.support.footprint import Footprint, Tasks, footprint, rss_mb, slope
from tests.support.soak import IS_SOAK, drawn_seed, figure_of
from tests.support.stack import Stack

MINUTES = float(os.environ.get("BEEYARD_SOAK_MINUTES") or 60)
#: In less than this, what comes and goes weighs more than what leaks: the slope is told, and not judged.
MINUTES_JUDGED_MIN = 60
SLOPE_MB_H_MAX = 1.0
AT_ONCE = 20
CANCEL_EVERY = 10
MAX_TOKENS = 8
#: Of a job that is cancelled after its first: too many to be through before.
MANY_TOKENS = 500
IS_JUDGED = MINUTES >= MINUTES_JUDGED_MIN
#: Until the queen holds all the ended jobs that it may; a slope that is judged must wait, too, until SQLite's cache of
#: pages is full: 64 MiB, of which a job takes 1.5 to 2.4 KiB.
WARM_UP_JOBS = 50_000 if IS_JUDGED else limits.ENDED_JOBS_KEPT_MAX + 1_000
SAMPLES = 120


class Load:
    """Clients that ask without end.

    Attributes:
        endings: How jobs ended, by the name of the ending.
        cancels: Jobs that were cancelled in the middle.
    """

    def __init__(self, client: BeeyardClient, chance: random.Random) -> None:
        """Ask this queen; `chance` draws the seeds of the answers."""
        self.endings: Counter[str] = Counter()
        self.cancels = 0
        self._client = client
        self._chance = chance
        self._asked = 0

    @property
    def ended(self) -> int:
        """How many jobs have ended."""
        return self.endings.total()

    async def until(self, is_over: Callable[[], bool]) -> None:
        """Run jobs side by side until it is over, and then to the end of those that run."""

        async def ask() -> None:
            while not is_over():
                await self._one()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(ask())

    async def _one(self) -> None:
        self._asked += 1
        number = self._asked
        is_cancelled = number % CANCEL_EVERY == 0
        stream = self._client.infer(
            f"bee {number}",
            model="tiny",
            max_tokens=MANY_TOKENS if is_cancelled else MAX_TOKENS,
            seed=self._chance.randrange(1 << 31),
        )
        async for event in stream:
            if is_cancelled and isinstance(event, Tokens):
                is_cancelled = False
                self.cancels += 1
                await stream.cancel()
        self.endings[type(stream.ending).__name__] += 1


async def at_rest(stack: Stack, tasks: Tasks) -> dict[str, Footprint]:
    """Return what each process holds when nothing is left to do."""
    fleet = await stack.wait_for(
        lambda fleet: not fleet.jobs_queued + fleet.jobs_running and all(w.pid for w in fleet.workers),
        "nothing is left to do",
    )  # fmt: skip
    return {
        name: await footprint(pid, tasks)
        for name, pid in pids_of(stack, fleet.workers[0].pid).items()
    }


def pids_of(stack: Stack, worker: int) -> dict[str, int]:
    """Return the processes that are watched."""
    return {"queen": stack.queen.pid, "pool_manager": stack.pool_manager.pid, "worker": worker}


async def sampled(load: Load, pids: dict[str, int]) -> dict[str, list[tuple[float, float]]]:
    """Keep the load up for as long as was asked; return (hours, MB) of each process."""
    clock = SystemClock()
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
    done = asyncio.Event()

    async def sample() -> None:
        begun_ms = clock.now().mono_ms
        for _ in range(SAMPLES):
            await clock.sleep_ms(round(MINUTES * 60_000 / SAMPLES))
            hours = (clock.now().mono_ms - begun_ms) / 3_600_000
            for name, pid in pids.items():
                points[name].append((hours, rss_mb(pid)))
        done.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(sample())
        group.create_task(load.until(done.is_set))
    return points


def test_a_slope_is_that_of_the_nearest_line() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == (2, 0)
    found, error = slope([(0, 1), (1, 4), (2, 4), (3, 7)])
    assert found == pytest.approx(1.8)
    assert error == pytest.approx((1.8 / 2 / 5) ** 0.5)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(not IS_SOAK, reason="runs in `make soak`")
@pytest.mark.timeout(MINUTES * 60 + 3_600)
async def test_an_hour_of_jobs_and_cancellations_leaves_nothing_behind(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = drawn_seed()
    tasks = Tasks(tmp_path)
    models = {"tiny": "synthetic:500"}
    slots = ("--slots", str(AT_ONCE))
    async with (
        Stack(models=models, pool_manager_flags=slots, env=tasks.environment) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        load = Load(client, random.Random(seed))
        empty_mb = rss_mb(stack.queen.pid)
        await load.until(lambda: load.ended >= WARM_UP_JOBS)
        # The control: what the queen keeps of ended jobs is seen to take memory.
        filled_mb = rss_mb(stack.queen.pid) - empty_mb
        assert filled_mb > 10 * SLOPE_MB_H_MAX
        before = await at_rest(stack, tasks)
        [worker] = (await stack.fleet()).workers
        warm = load.ended
        points = await sampled(load, pids_of(stack, worker.pid))
        after = await at_rest(stack, tasks)
    slopes = {name: slope(series) for name, series in points.items()}
    figure_of(
        record_property,
        "soak with a cancel every tenth call",
        minutes=MINUTES,
        n=load.ended - warm,
        warm_up=warm,
        warm_up_mb=round(filled_mb),
        cancelled=load.endings[Cancelled.__name__],
        mb_per_hour={name: f"{mb:+.2f}±{error:.2f}" for name, (mb, error) in slopes.items()},
        rss_mb={
            name: f"{series[0][1]:.0f} to {series[-1][1]:.0f}" for name, series in points.items()
        },
        before=before,
        after=after,
        seed=seed,
    )
    assert set(load.endings) <= {Finished.__name__, Cancelled.__name__}
    # The control: nearly all that were to be cancelled were in the middle.
    assert load.endings[Cancelled.__name__] >= 0.9 * load.cancels > 0
    for name, held in after.items():
        assert held.tasks <= before[name].tasks, f"{name}: {before[name]}, then {held}"
        assert held.descriptors <= before[name].descriptors, f"{name}: {before[name]}, then {held}"
    if IS_JUDGED:
        assert all(mb < SLOPE_MB_H_MAX for mb, _ in slopes.values()), slopes
