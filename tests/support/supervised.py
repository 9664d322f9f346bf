"""A supervisor over real processes of the scripted worker."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from beeyard_pool_manager.host import Changes
from beeyard_pool_manager.workers.engine_link import GrpcEngineLink
from beeyard_pool_manager.workers.local_process import LocalLauncher, WorkerCommand
from beeyard_pool_manager.workers.supervisor import Supervisor
from beeyard_pool_manager.workers.worker_process import WorkerProcess, WorkerSpec
from beeyard_runtime.clock import SystemClock

PATIENCE_S = 30.0
STATUS_INTERVAL_MS = 50


def scripted_program(*behaviour: str) -> list[str]:
    """Return how to call a scripted worker."""
    return [sys.executable, "-m", "tests.support.scripted_worker", *behaviour]


def spec_of(worker_id: str, *, model: str = "m") -> WorkerSpec:
    """Return a worker that a test starts."""
    return WorkerSpec(
        worker_id=worker_id,
        model=model,
        engine="synthetic",
        source="1",
        device="cpu",
        slots=1,
        context_tokens=64,
        reserved_bytes=1_000,
    )


class Watched:
    """A supervisor, and a way to wait for what it sees."""

    def __init__(
        self, work_dir: Path, program: list[str], env: Mapping[str, str], start_timeout_ms: int
    ) -> None:
        """Put it together."""
        self.changes = Changes()
        clock = SystemClock()
        self.engines = GrpcEngineLink("test/1")
        command = WorkerCommand(
            program=program, queen="", pool_id="test", environment={**env, "PYTHONPATH": "."}
        )
        self.launcher = LocalLauncher(work_dir, command=command, clock=clock)
        self.supervisor = Supervisor(
            launcher=self.launcher,
            engines=self.engines,
            clock=clock,
            on_change=self.changes.mark,
            start_timeout_ms=start_timeout_ms,
            status_interval_ms=STATUS_INTERVAL_MS,
        )

    async def until(self, worker_id: str, holds: Callable[[WorkerProcess], bool]) -> WorkerProcess:
        """Return the worker once `holds` is true of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                seen = self.changes.count
                worker = self.supervisor.find(worker_id)
                if worker is not None and holds(worker):
                    return worker
                await self.changes.wait_beyond(seen, timeout_ms=1_000)


@asynccontextmanager
async def supervising(
    work_dir: Path,
    env: Mapping[str, str],
    *behaviour: str,
    program: list[str] | None = None,
    start_timeout_ms: int = 20_000,
) -> AsyncIterator[Watched]:
    """Supervise scripted workers until the block ends; processes that still run then go on."""
    watched = Watched(work_dir, program or scripted_program(*behaviour), env, start_timeout_ms)
    try:
        yield watched
    finally:
        await watched.supervisor.close()
        await watched.engines.close()
