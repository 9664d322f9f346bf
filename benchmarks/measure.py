"""How a figure is measured: the subject and its control in turn, the ratio round by round, the median of the ratios.

An absolute number from a shared machine means little, since neighbours slow everything by up to a factor of two. Two
neighbouring rounds are slowed alike, so their ratio holds. A round during which other processes used more than a third
of a core is disturbed and repeated, a bounded number of times; if more rounds than that are disturbed they are counted,
and the figure says so.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

OUT: Final = Path(__file__).parent / "out" / "latest.json"
ROUNDS: Final = 5
DISTURBED_CORES: Final = 0.35
REPEATS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one side.

    Attributes:
        units: What was done: tokens, jobs.
        seconds: In how much wall time.
        cpu_s: CPU seconds of each process that took part, by its role.
    """

    units: int
    seconds: float
    cpu_s: dict[str, float]

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds

    def cpu_us(self, role: str) -> float:
        """CPU microseconds a unit of one process."""
        return self.cpu_s.get(role, 0.0) * 1e6 / max(self.units, 1)


Side = Callable[[], Awaitable[Sample]]


@dataclass(slots=True)
class Figure:
    """One figure as it is reported."""

    figure: str
    unit: str
    control: str
    target: float
    value: float = 0.0
    control_value: float = 0.0
    ratio: float = 0.0
    met: bool = False
    n: int = 0
    spread: tuple[float, float] = (0.0, 0.0)
    disturbed: int = 0
    load_average: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)
    control_cpu_us: dict[str, float] = field(default_factory=dict)
    smaller_is_better: bool = False
    note: str = ""


async def compare(figure: Figure, subject: Side, control: Side, *, rounds: int = ROUNDS) -> Figure:
    """Run subject and control in turn after one warm-up of each, and fill in the figure."""
    await subject()
    await control()
    ours: list[Sample] = []
    theirs: list[Sample] = []
    while len(ours) < rounds:
        idle = _Neighbours()
        pair = await subject(), await control()
        if idle.cores_used(pair) > DISTURBED_CORES:
            figure.disturbed += 1
            if figure.disturbed <= REPEATS_MAX:
                continue
            counted = figure.disturbed - REPEATS_MAX
            figure.note = f"the machine was never quiet: {counted} of {rounds} rounds are disturbed"
        ours.append(pair[0])
        theirs.append(pair[1])
    ratios = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    figure.value = statistics.median(sample.rate for sample in ours)
    figure.control_value = statistics.median(sample.rate for sample in theirs)
    figure.ratio = statistics.median(ratios)
    figure.spread = (min(ratios), max(ratios))
    figure.met = figure.ratio >= figure.target
    figure.n = rounds
    figure.load_average = os.getloadavg()[0]
    figure.cpu_us = _cpu_us(ours)
    figure.control_cpu_us = _cpu_us(theirs)
    return figure


def _cpu_us(samples: list[Sample]) -> dict[str, float]:
    roles = samples[0].cpu_s
    return {role: round(statistics.median(s.cpu_us(role) for s in samples), 2) for role in roles}


class _Neighbours:
    """What everybody else on the machine used while a pair of rounds ran."""

    def __init__(self) -> None:
        self._busy = self._busy_s()
        self._wall = os.times().elapsed

    def cores_used(self, pair: tuple[Sample, Sample]) -> float:
        """Return how many cores other processes kept busy meanwhile.

        Starting and stopping the processes of a round counts as ours: it is taken off with what the rounds report and
        what this process used itself.
        """
        wall = os.times().elapsed - self._wall
        own = sum(sum(sample.cpu_s.values()) for sample in pair)
        # Start-up and warm-up of the round's own processes, which no sample contains: about a second each.
        return max(0.0, self._busy_s() - self._busy - own - 6.0) / wall

    @staticmethod
    def _busy_s() -> float:
        times = psutil.cpu_times()
        return float(times.user + times.system)


def commit() -> str:
    """The commit that is measured."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def write(figures: list[Figure]) -> None:
    """Write the figures as JSON, one object each."""
    OUT.parent.mkdir(exist_ok=True)
    at = commit()
    rows = [
        {name: getattr(figure, name) for name in Figure.__dataclass_fields__} | {"commit": at}
        for figure in figures
    ]
    OUT.write_text(json.dumps(rows, indent=2) + "\n")
