"""returned_worker: a worker comes back after its model had none, and jobs have waited meanwhile.

Measured from the moment at which the worker's process listens, which is when any router could reach it, to the moment
at which the client of a waiting job hears that it runs there. Beside it the start of that process, which everybody
pays. Two routers of others that were measured side by side answered 503 for 36 s; here nobody may be refused, and every
job must end.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterable, Callable
from contextlib import aclosing
from typing import Final

from beeyard_client import BeeyardClient
from beeyard_client.events import Event, Finished, Started
from beeyard_client.fleet import Fleet

from benchmarks.measure import Figure
from benchmarks.processes import Group, stack

_WAITING: Final = 20
_LOOK_MS: Final = 100
_FLAGS: Final = (
    "--pool-id=bench",
    "--listen=127.0.0.1:0",
    "--engine=synthetic",
    "--model-source=0",
    f"--slots={_WAITING}",
    "--context-tokens=4096",
    "--log-level=warning",
)


async def measure(rounds: int) -> Figure:
    """Measure the figure."""
    figure = Figure(
        "returned_worker", "s", "start of the worker's process", 1.0, smaller_is_better=True
    )
    ours: list[float] = []
    starts: list[float] = []
    async with (
        stack(rate="0", slots=_WAITING) as (processes, queen),
        BeeyardClient(queen) as client,
    ):
        # Somebody must be there, or the queen would rightly say that nobody is.
        await _start(processes, queen, role="other", model="other")
        await _see(client, lambda fleet: sum(each.attached for each in fleet.workers) == 2)
        for number in range(rounds):
            start_s, running_s = await _round(processes, queen, client, number)
            starts.append(start_s)
            ours.append(running_s)
    figure.value, figure.control_value = statistics.median(ours), statistics.median(starts)
    ratios = [a / b for a, b in zip(ours, starts, strict=True)]
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    figure.met = figure.value <= figure.target
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    figure.note = (
        f"the target is in seconds; the slowest round took {max(ours):.2f} s; "
        f"{_WAITING} jobs waited in each round, none was refused and all ended"
    )
    return figure


async def _round(
    processes: Group, queen: str, client: BeeyardClient, number: int
) -> tuple[float, float]:
    """Take the worker away, let jobs wait, bring one back; return how long its start and the first job took."""
    worker = processes.running.pop("worker")
    worker.kill()
    await worker.wait()
    await _see(client, lambda fleet: sum(each.attached for each in fleet.workers) == 1)
    started: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    jobs = [
        asyncio.create_task(_ended(client.infer("bee", model="synthetic", max_tokens=1), started))
        for _ in range(_WAITING)
    ]
    await _see(client, lambda fleet: fleet.jobs_queued == _WAITING)
    began = time.perf_counter()
    await _start(processes, queen, role="worker", model="synthetic", number=number)
    listens = time.perf_counter()
    await asyncio.gather(*jobs)
    return listens - began, await started - listens


async def _start(processes: Group, queen: str, *, role: str, model: str, number: int = 0) -> None:
    """Start a worker and return when its process listens."""
    ids = (f"--worker-id={model}-{number}", f"--model={model}", f"--queen={queen}")
    await processes.start(role, "beeyard_worker", *ids, *_FLAGS)


async def _see(client: BeeyardClient, holds: Callable[[Fleet], bool]) -> None:
    """Return once a snapshot of the fleet shows it."""
    async with aclosing(client.watch_fleet(_LOOK_MS)) as snapshots:
        async for fleet in snapshots:
            if holds(fleet):
                return


async def _ended(events: AsyncIterable[Event], started: "asyncio.Future[float]") -> None:
    """Follow a job to its end, which must be a good one; note when the first of all started."""
    last: Event | None = None
    async for last in events:
        if isinstance(last, Started) and not started.done():
            started.set_result(time.perf_counter())
    if not isinstance(last, Finished):
        raise SystemExit(f"returned_worker: a job that waited ended as {last}")
