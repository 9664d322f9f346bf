"""Throughput and latency over offered load, with the batch planner and without.

    python -m benchmarks.batching [--plot docs/batching.svg] [--json FILE]     the made-up device, in virtual time
    python -m benchmarks.batching --real                                       llama.cpp with a tiny model, in real time

In virtual time the planner of the core decides and `StepTimes` says what its steps cost; nothing else is run, so the
same command gives the same figures everywhere. Requests come at random (Poisson), with prompts and answers of random
lengths (log-normal); each asks for at most `ASKED_MAX` tokens and ends by itself before, as answers do, so that the
worst case of its memory is far more than it needs. Whoever finds no slot or no memory promised waits in one queue,
as in the queen.

Without the planner means: a fixed number of slots, every prompt computed at once, memory for the worst case.
"""

import argparse
import json
import random
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.sequence import Sequence, SequenceId
from beeyard_core.batching.step_plan import StepBounds
from beeyard_worker.engine.synthetic_steps import StepTimes
from rich.console import Console
from rich.table import Table

#: About what a 7B model takes on a card of the middle class; nobody measured it on one.
TIMES: Final = StepTimes(base=18.0, prefill=0.12, decode=0.35, kv=0.0002)
KV_TOKENS: Final = 32_768
ASKED_MAX: Final = 1_024
TARGET_MS: Final = 50
SECONDS: Final = 240
WARM_UP_S: Final = 40
RATES: Final = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
SEED: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to run the device.

    Attributes:
        slots: At most; all are open where there is no target.
        prefill: Prompt tokens of one step at most.
        target_ms: Of a step; 0: none.
        promised_percent: Memory promised to requests, in percent of what there is.
    """

    name: str
    slots: int
    prefill: int
    target_ms: float
    promised_percent: int = 100


WAYS: Final = (
    Way(name="8 slots", slots=8, prefill=1 << 16, target_ms=0),
    Way(name="32 slots", slots=32, prefill=1 << 16, target_ms=0),
    Way(name="planner", slots=64, prefill=512, target_ms=TARGET_MS),
    Way(name="planner, memory promised 2.5 times", slots=64, prefill=512, target_ms=TARGET_MS,
        promised_percent=250),
)  # fmt: skip


@dataclass(slots=True)
class Request:
    """One request and when what happened to it, in milliseconds."""

    number: int
    at_ms: float
    prompt: int
    answer: int
    first_ms: float = -1.0
    last_ms: float = -1.0
    made: int = 0

    @property
    def promised(self) -> int:
        """Tokens of memory in the worst case, in whole pages."""
        return -(-(self.prompt + ASKED_MAX) // 16) * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One way at one load."""

    way: str
    rate: float
    tokens_per_s: float
    first_p50_ms: float
    first_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    slots: float
    recomputed: int


@dataclass(slots=True)
class World:
    """The device while it runs."""

    way: Way
    planner: BatchPlanner
    requests: list[Request]
    now_ms: float = 0.0
    promised: int = 0
    running: dict[SequenceId, Request] = field(default_factory=dict)
    queue: deque[Request] = field(default_factory=deque)
    gaps_ms: list[float] = field(default_factory=list)
    slots_open: list[int] = field(default_factory=list)
    tokens: int = 0

    def start_what_fits(self) -> None:
        """Let those that wait begin, in their order."""
        limit = KV_TOKENS * self.way.promised_percent // 100
        while self.queue and len(self.running) < self.planner.slots_open:
            head = self.queue[0]
            if self.promised + head.promised > limit:
                return
            self.queue.popleft()
            self.promised += head.promised
            name = SequenceId(str(head.number))
            self.running[name] = head
            self.planner.join(
                Sequence(
                    sequence_id=name,
                    rank=2,
                    prompt_tokens=head.prompt,
                    answer_tokens_max=ASKED_MAX,
                )
            )

    def step(self) -> None:
        """Execute what the planner says."""
        plan = self.planner.begin_step()
        step_ms = TIMES.ms(plan.load)
        self.now_ms += step_ms
        self.slots_open.append(self.planner.slots_open)
        for name in self.planner.end_step(plan, step_ms):
            self._hand_out(name, self.running[name])

    def _hand_out(self, name: SequenceId, request: Request) -> None:
        is_counted = WARM_UP_S * 1_000 <= self.now_ms < SECONDS * 1_000
        self.tokens += is_counted
        if request.made == 0:
            request.first_ms = self.now_ms
        elif is_counted:
            self.gaps_ms.append(self.now_ms - request.last_ms)
        request.last_ms = self.now_ms
        request.made += 1
        if request.made == request.answer:
            self.planner.leave(name)
            self.promised -= request.promised
            del self.running[name]


def requests_at(rate: float) -> Iterator[Request]:
    """Yield what comes in the time that is measured; the same for every way."""
    chance = random.Random(SEED)
    at_s, number = 0.0, 0
    while (at_s := at_s + chance.expovariate(rate)) < SECONDS:
        yield Request(
            number=number,
            at_ms=at_s * 1_000,
            prompt=min(max(int(chance.lognormvariate(6.3, 1.0)), 8), 4_096),
            answer=min(max(int(chance.lognormvariate(4.8, 0.7)), 1), ASKED_MAX),
        )
        number += 1


def measure(way: Way, rate: float) -> Point:
    """Run one way at one load in virtual time."""
    bounds = StepBounds(step_ms=way.target_ms, prefill_tokens_max=way.prefill)
    planner = BatchPlanner(slots_max=way.slots, kv_tokens=KV_TOKENS, bounds=bounds)
    world = World(way, planner, list(requests_at(rate)))
    arriving = deque(world.requests)
    while world.now_ms < SECONDS * 1_000:
        while arriving and arriving[0].at_ms <= world.now_ms:
            world.queue.append(arriving.popleft())
        world.start_what_fits()
        if world.running:
            world.step()
        elif arriving:
            world.now_ms = arriving[0].at_ms
        else:
            break
    return _point(way, rate, world)


def _point(way: Way, rate: float, world: World) -> Point:
    counted = [r for r in world.requests if r.at_ms >= WARM_UP_S * 1_000]
    # Who still waits at the end has waited until then at least.
    firsts = [(r.first_ms if r.first_ms >= 0 else world.now_ms) - r.at_ms for r in counted]
    return Point(
        way=way.name,
        rate=rate,
        tokens_per_s=world.tokens / (SECONDS - WARM_UP_S),
        first_p50_ms=percentile(firsts, 50),
        first_p99_ms=percentile(firsts, 99),
        gap_p50_ms=percentile(world.gaps_ms, 50),
        gap_p99_ms=percentile(world.gaps_ms, 99),
        slots=statistics.fmean(world.slots_open[len(world.slots_open) // 4 :]),
        recomputed=world.planner.preemptions,
    )


def percentile(values: list[float], percent: int) -> float:
    """Return the value that so many percent do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0.0


def table_of(points: list[Point]) -> Table:
    """Lay the points out for a person."""
    table = Table(title=f"offered load, step target {TARGET_MS} ms")
    for heading in (
        "way", "requests/s", "tokens/s", "first token p50 / p99, s", "gap p50 / p99, ms", "slots open",
        "computed again",
    ):  # fmt: skip
        table.add_column(heading)
    for point in points:
        table.add_row(
            point.way,
            f"{point.rate:g}",
            f"{point.tokens_per_s:,.0f}",
            f"{point.first_p50_ms / 1_000:.2f} / {point.first_p99_ms / 1_000:.2f}",
            f"{point.gap_p50_ms:.0f} / {point.gap_p99_ms:.0f}",
            f"{point.slots:.0f}",
            str(point.recomputed),
        )
    return table


def draw(path: Path, points: list[Point]) -> None:
    """Draw throughput, first token and gap over the load; the same points give the same file."""
    from matplotlib import rc_context  # noqa: PLC0415 - takes a second, and most runs draw nothing
    from matplotlib.figure import Figure  # noqa: PLC0415

    curves: tuple[tuple[str, str, Any], ...] = (
        ("tokens/s", "linear", lambda p: p.tokens_per_s),
        ("first token p99, s", "log", lambda p: p.first_p99_ms / 1_000),
        ("gap between tokens p99, ms", "log", lambda p: p.gap_p99_ms),
    )
    with rc_context({"svg.hashsalt": "beeyard", "font.size": 9}):
        figure = Figure(figsize=(12, 4), layout="constrained")
        for axis, (title, scale, value) in zip(figure.subplots(1, 3), curves, strict=True):
            for way in WAYS:
                mine = [point for point in points if point.way == way.name]
                axis.plot(
                    [p.rate for p in mine], [value(p) for p in mine], marker="o", label=way.name
                )
            axis.set_yscale(scale)
            axis.set_title(title)
            axis.set_xlabel("offered requests/s")
            axis.grid(alpha=0.3)
        figure.axes[2].axhline(TARGET_MS, color="#7f8c8d", linestyle="--", linewidth=1)
        figure.axes[0].legend()
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, and draw if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching")
    parser.add_argument("--plot", type=Path, help="draw a picture, .svg")
    parser.add_argument("--json", type=Path, help="write the points")
    parser.add_argument("--real", action="store_true", help="llama.cpp with a tiny model instead")
    arguments = parser.parse_args()
    if arguments.real:
        from benchmarks.batching_real import measure_and_print  # noqa: PLC0415 - loads llama.cpp

        measure_and_print()
        return
    points = [measure(way, rate) for way in WAYS for rate in RATES]
    Console(width=140).print(table_of(points))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    if arguments.plot:
        draw(arguments.plot, points)


if __name__ == "__main__":
    main()
