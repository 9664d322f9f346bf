"""What real processes hold: memory, descriptors, threads, and the tasks of their event loops."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.eventually import eventually

#: Runs at the start of every Python process that finds it: a process that is asked by a signal writes down its tasks.
_TELLS_TASKS = """
import signal

def tell(*_):
    import asyncio, os
    from pathlib import Path
    told = Path(__file__).parent / f"{os.getpid()}.tasks"
    fresh = told.with_suffix(".new")
    fresh.write_text(str(len(asyncio.all_tasks())))
    fresh.replace(told)

signal.signal(signal.SIGUSR2, tell)
"""


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    descriptors: int
    threads: int
    tasks: int


class Tasks:
    """Asks processes for the number of their tasks; only those that were started with `environment` understand."""

    def __init__(self, folder: Path) -> None:
        """Keep what makes them understand, and their answers, in this folder of its own."""
        self._folder = folder
        (folder / "sitecustomize.py").write_text(_TELLS_TASKS)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process, and all that it starts, tell."""
        return {"PYTHONPATH": str(self._folder)}

    async def of(self, pid: int) -> int:
        """Return how many tasks the event loop of a process has."""
        told = self._folder / f"{pid}.tasks"
        told.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR2)
        await eventually(told.exists, f"{pid} tells its tasks", 60.0, look_again_s=0.01)
        return int(told.read_text())


async def footprint(pid: int, tasks: Tasks) -> Footprint:
    """Return what a process holds now."""
    process = psutil.Process(pid)
    return Footprint(process.num_fds(), process.num_threads(), await tasks.of(pid))


def rss_mb(pid: int) -> float:
    """Return the memory of a process, in units of 2^20 bytes."""
    return float(psutil.Process(pid).memory_info().rss) / (1 << 20)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line by least squares; return its slope and the standard error of that."""
    count = len(points)
    mean_x, mean_y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    found = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - found * (x - mean_x)) ** 2 for x, y in points)
    return found, float((rest / (count - 2) / spread) ** 0.5)
