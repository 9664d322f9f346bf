"""The processes of a benchmark: started, watched for their CPU time, stopped by pid."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.secured import Secured

_START_S = 30.0


@dataclass(slots=True)
class Group:
    """The processes of one side, by role."""

    work_dir: Path
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, role: str, *arguments: str) -> str:
        """Start `python -m ARGUMENTS` and return the address that it announces."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=os.environ | {"BEEYARD_OTLP_ENDPOINT": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        )
        self.running[role] = process
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
        if not line:
            raise SystemExit(f"benchmark: {' '.join(arguments)} did not start")
        return str(json.loads(line)["address"])

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far by each process and by the client, which is this process."""
        used = {role: _cpu_s(psutil.Process(process.pid)) for role, process in self.running.items()}
        return used | {"client": _cpu_s(psutil.Process())}

    async def stop(self) -> None:
        """Stop everything that was started, at once: a drain would outlast the round, and nothing is kept."""
        for process in self.running.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def group() -> AsyncIterator[Group]:
    """Yield an empty group with a folder of its own; whatever is started in it is stopped."""
    with tempfile.TemporaryDirectory(prefix="beeyard-bench-") as folder:
        processes = Group(Path(folder))
        try:
            yield processes
        finally:
            await processes.stop()


@asynccontextmanager
async def stack(
    *, rate: str, slots: int, step_tokens: int = 0, secured: Secured | None = None
) -> AsyncIterator[tuple[Group, str]]:
    """Yield a queen with one worker on the synthetic engine, and the queen's address.

    Args:
        rate: Tokens a second of each slot; 0: as fast as they are taken.
        slots: Jobs at once.
        step_tokens: Tokens of each job in one step of the engine; 0: the engine's own number.
        secured: What its links show; None: they are plain, and callers are not told apart.
    """
    async with group() as processes:
        queen = await processes.start(
            "queen",
            "beeyard_queen",
            "--listen=127.0.0.1:0",
            f"--store={processes.work_dir / 'jobs.sqlite'}",
            "--log-level=warning",
            *(secured.queen if secured else ()),
        )
        await processes.start(
            "worker",
            "beeyard_worker",
            "--worker-id=bench",
            f"--queen={queen}",
            "--pool-id=bench",
            "--listen=127.0.0.1:0",
            "--engine=synthetic",
            "--model=synthetic",
            f"--model-source={rate}",
            f"--slots={slots}",
            f"--step-tokens={step_tokens}",
            "--context-tokens=40000",
            f"--kv-tokens={slots * 40_000}",
            "--log-level=warning",
            *(secured.worker if secured else ()),
        )
        yield processes, queen


def spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """CPU seconds between two readings."""
    return {role: after[role] - before[role] for role in before}
