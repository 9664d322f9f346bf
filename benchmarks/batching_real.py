"""llama.cpp with a tiny model under a growing number of clients, its slots fixed and its slots by a target.

Real time on whatever machine this is: the model is made of random weights and some hundred kilobytes, so that a step
takes about a millisecond and a run some seconds. Each client asks again as soon as it has its answer; no more run at
once than slots are open, as the queen sees to.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from beeyard_worker.engine.llamacpp import LlamaCppEngine
from beeyard_worker.engine.llamacpp_options import LlamaOptions
from beeyard_worker.engine.port import Finish, Generation
from rich.console import Console
from rich.table import Table

from benchmarks.batching import percentile
from scripts.tiny_gguf import write_tiny_gguf

CLIENTS: Final = (1, 4, 16, 32)
SLOTS: Final = 32
TARGET_MS: Final = 10
CONTEXT: Final = 1_024
SECONDS: Final = 6.0
WARM_UP_S: Final = 3.0


@dataclass(slots=True)
class Run:
    """What clients saw after the warm-up."""

    begun: float
    tokens: int = 0
    firsts_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    @property
    def counts(self) -> bool:
        """Whether the warm-up is over."""
        return time.perf_counter() - self.begun > WARM_UP_S


class Gate:
    """Lets as many in as slots are open, in the order in which they came."""

    def __init__(self, opened: int) -> None:
        """Open so many."""
        self.opened = opened
        self._inside = 0
        self._line: deque[asyncio.Event] = deque()

    def open(self, count: int) -> None:
        """Open so many from now on."""
        self.opened = count
        self._admit()

    async def __aenter__(self) -> None:
        mine = asyncio.Event()
        self._line.append(mine)
        self._admit()
        await mine.wait()

    async def __aexit__(self, *_: object) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._line and self._inside < self.opened:
            self._inside += 1
            self._line.popleft().set()


def generation(chance: random.Random) -> Generation:
    """Return a prompt of 20 to 400 tokens and an answer of 20 to 120."""
    return Generation(
        prompt=" ".join(f"bee{chance.randrange(100)}" for _ in range(chance.randint(5, 100))),
        messages=(),
        max_tokens=chance.randint(20, 120),
        temperature=0.8,
        top_p=0.95,
        top_k=40,
        seed=chance.randrange(1 << 30),
        stop=(),
    )


async def client(engine: LlamaCppEngine, gate: Gate, run: Run, number: int) -> None:
    """Ask until the time is over."""
    chance = random.Random(number)
    while time.perf_counter() - run.begun < WARM_UP_S + SECONDS:
        last = time.perf_counter()
        is_first = True
        async with gate:
            async for step in engine.generate(generation(chance)):
                now = time.perf_counter()
                if isinstance(step, Finish):
                    continue
                if run.counts:
                    run.tokens += len(step)
                    (run.firsts_ms if is_first else run.gaps_ms).append((now - last) * 1_000)
                    run.slots.append(gate.opened)
                is_first, last = False, now


async def one(path: Path, clients: int, target_ms: int, prefill: int) -> Run:
    """Run so many clients against one engine."""
    options = LlamaOptions(
        slots=SLOTS,
        context_tokens=CONTEXT,
        threads=1,
        step_target_ms=target_ms,
        prefill_tokens_max=prefill,
    )
    engine = LlamaCppEngine(path, options)
    await engine.load(lambda _: None)
    gate = Gate(SLOTS)
    engine.watch_slots(gate.open)
    run = Run(time.perf_counter())
    await asyncio.gather(*(client(engine, gate, run, number) for number in range(clients)))
    await engine.close()
    return run


def measure_and_print() -> None:
    """Measure both ways at every number of clients, in turn."""
    table = Table(title=f"llama.cpp, tiny model, {SLOTS} slots at most")
    for heading in (
        "way", "clients", "tokens/s", "first token p50 / p99, ms", "gap p50 / p99, ms", "slots open",
    ):  # fmt: skip
        table.add_column(heading)
    with tempfile.TemporaryDirectory() as folder:
        path = write_tiny_gguf(Path(folder) / "tiny.gguf", seed=0, context_tokens=CONTEXT)
        for clients in CLIENTS:
            for name, target_ms, prefill in (
                (f"{SLOTS} slots", 0, 512),
                (f"target {TARGET_MS} ms", TARGET_MS, 64),
            ):
                run = asyncio.run(one(path, clients, target_ms, prefill))
                table.add_row(
                    name,
                    str(clients),
                    f"{run.tokens / SECONDS:,.0f}",
                    f"{percentile(run.firsts_ms, 50):.0f} / {percentile(run.firsts_ms, 99):.0f}",
                    f"{percentile(run.gaps_ms, 50):.1f} / {percentile(run.gaps_ms, 99):.1f}",
                    f"{statistics.fmean(run.slots):.0f}",
                )
    Console(width=140).print(table)
