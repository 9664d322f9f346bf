"""The figures of policy hosts: a question's way there and back, a fresh host, and what one weighs."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from beeyard_core import limits
from beeyard_core.policy.world import World
from beeyard_queen.policy.deltas import Delta, snapshot
from beeyard_queen.policy.host_process import HostProcess
from beeyard_queen.policy.hosts import PolicyHost
from beeyard_queen.policy.in_process import PlatformPolicy
from beeyard_queen.policy.zygote import Terms, Zygote
from beeyard_runtime.clock import SystemClock

from benchmarks.measure import Figure
from benchmarks.policy_decisions import Saturated

WAITS = "function schedule(context) return { action = 'wait' } end"
QUESTIONS = 3_000
WARM_UP = 200
RTT_P50_US_MAX, RTT_P99_US_MAX = 30.0, 100.0
RESPAWNS = 40
RESPAWN_MS_MAX = 5.0
MEMORY_MB_MAX = 8.0
#: A small queen: 10 workers, 10 jobs.
SMALL = 10


@asynccontextmanager
async def _running_zygote() -> AsyncIterator[Zygote]:
    zygote = Zygote()
    await zygote.start()
    try:
        yield zygote
    finally:
        await zygote.stop()


def _quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[int(len(values) * part)]


async def _asked_us(policy: PolicyHost) -> list[float]:
    spent = []
    for number in range(WARM_UP + QUESTIONS):
        began = time.perf_counter()
        await policy.decide(seed=number, now_ms=number)
        spent.append((time.perf_counter() - began) * 1e6)
    return spent[WARM_UP:]


def _called_us() -> list[float]:
    policy = PlatformPolicy(WAITS)
    spent = []
    for number in range(WARM_UP + QUESTIONS):
        began = time.perf_counter()
        policy.decide(number, number)
        spent.append((time.perf_counter() - began) * 1e6)
    return spent[WARM_UP:]


async def measure_rtt(rounds: int) -> Figure:
    """A decision to wait, asked of a policy in its host and taken back, beside a call in this process."""
    asked, called = [], []
    async with _running_zygote() as zygote:
        policy = PolicyHost(
            zygote,
            name="waits",
            clock=SystemClock(),
            snapshot=tuple,
            patience_ms=limits.POLICY_WALL_MS,
        )
        await policy.start(WAITS.encode())
        for _ in range(rounds):
            asked.append(await _asked_us(policy))
            called.append(_called_us())
        await policy.stop()
    figure = Figure(
        "sandbox_rtt", "us (p50)", "the same policy called in the process", RTT_P50_US_MAX
    )
    p99 = statistics.median(_quantile(each, 0.99) for each in asked)
    _fill(
        figure,
        [statistics.median(each) for each in asked],
        [statistics.median(each) for each in called],
    )
    figure.met = figure.value <= RTT_P50_US_MAX and p99 <= RTT_P99_US_MAX
    figure.note = (
        f"wall time, p99 {p99:.0f} us (at most {RTT_P99_US_MAX:g}); the target is of the value"
    )
    return figure


async def measure_respawn(rounds: int) -> Figure:
    """From asking the zygote to a locked-down host with a policy loaded, beside a fresh interpreter with Lua in it."""
    forked, started = [], []
    async with _running_zygote() as zygote:
        for _ in range(rounds):
            forked.append(statistics.median([await _forked_ms(zygote) for _ in range(RESPAWNS)]))
            started.append(statistics.median([await _started_ms() for _ in range(RESPAWNS // 8)]))
    figure = Figure(
        "host_respawn", "ms (p50)", "a fresh interpreter that imports lupa", RESPAWN_MS_MAX
    )
    _fill(figure, forked, started)
    figure.met = figure.value <= RESPAWN_MS_MAX
    figure.note = "the target is of the value, not of the ratio"
    return figure


async def _forked_ms(zygote: Zygote) -> float:
    began = time.perf_counter()
    host = await HostProcess.open(zygote, Terms())
    await host.request(
        "load", WAITS, limits.POLICY_LOAD_CPU_MS, limits.POLICY_INSTRUCTIONS_MAX,
        cpu_ms_max=limits.POLICY_LOAD_KILL_CPU_MS,
    )  # fmt: skip
    spent = (time.perf_counter() - began) * 1e3
    host.kill("measured")
    return spent


async def _started_ms() -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import lupa.lua54, msgpack"
    )
    await process.wait()
    return (time.perf_counter() - began) * 1e3


async def measure_memory(rounds: int) -> Figure:
    """What a host of a small queen adds to the machine's memory, beside the zygote that it was forked from."""
    ours, theirs = [], []
    async with _running_zygote() as zygote:
        for _ in range(rounds):
            policy = PolicyHost(
                zygote,
                name="small",
                clock=SystemClock(),
                snapshot=_small_world,
                keeps_standby=False,
            )
            await policy.start(b"function schedule(context) return platform.schedule(context) end")
            for number in range(100):
                await policy.decide(seed=number, now_ms=number)
            host = policy.current
            assert host is not None
            ours.append(_pss_mb(host.pid))
            theirs.append(_pss_mb(zygote.pid))
            await policy.stop()
    figure = Figure("host_memory", "MB (PSS)", "the zygote", MEMORY_MB_MAX)
    _fill(figure, ours, theirs)
    figure.met = figure.value <= MEMORY_MB_MAX
    figure.note = "10 workers, 10 jobs, 100 decisions; the target is of the value, not of the ratio"
    return figure


def _small_world() -> list[Delta]:
    world: World = Saturated(SMALL, SMALL).world
    return list(snapshot(world))


def _pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell what a process weighs")


def _fill(figure: Figure, ours: list[float], theirs: list[float]) -> None:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    figure.smaller_is_better = True
    figure.value, figure.control_value = statistics.median(ours), statistics.median(theirs)
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    figure.n, figure.load_average = len(ours), os.getloadavg()[0]
