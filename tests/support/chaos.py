"""Processes of a stack that are killed, stopped and continued at random, and started again as an operator would.

Drawn from one seed: which role, which process. When is for the test to say: by how much work is done, never by a clock,
so that a slow machine sees the same faults as a fast one.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from beeyard_core import limits

from tests.support.eventually import eventually
from tests.support.service import MARK, marked
from tests.support.stack import Role, Stack

ROLES: tuple[Role, ...] = ("queen", "pool_manager", "worker")
LOOK_AGAIN_S = 0.05
PATIENCE_S = 60.0
#: A host whose workers died one after the other within a minute waits so long before it starts the next.
REST_S = limits.RESTART_BACKOFF_MAX_MS / 1_000


@dataclass
class Chaos:
    """What is done to one stack.

    Attributes:
        kills: How often each role was killed.
        stops: How often a worker or the queen was stopped until leases were gone, and then continued.
    """

    stack: Stack
    chance: random.Random
    kills: Counter[Role] = field(default_factory=Counter)
    stops: int = 0

    async def kill_one(self) -> None:
        """End a process by SIGKILL and start it again; a worker is started again by its pool manager."""
        await self.kill(self.chance.choice(ROLES))

    async def kill(self, role: Role) -> None:
        """The same for a process of this role."""
        match role:
            case "worker":
                self.chance.choice(await self._workers()).kill()
            case "queen" | "pool_manager":
                service = self.stack.queen if role == "queen" else self.stack.pool_manager
                address = service.address
                await service.kill()
                await service.start(["--listen", address])
        self.kills[role] += 1

    async def stop_worker(self, worker_id: str, noticed: Callable[[], bool]) -> None:
        """Stop a worker until its silence was noticed, and let it go on; one that was killed by now is left alone."""
        fleet = await self.stack.fleet()
        pids = [worker.pid for worker in fleet.workers if worker.status.worker_id == worker_id]
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            for process in map(psutil.Process, pids):
                assert process.environ().get(MARK) == self.stack.environment[MARK]
                await self._stop(process, noticed, f"the silence of {worker_id} is noticed")

    async def stop_queen(self, ttl_ms: int) -> None:
        """Stop the queen for longer than leases live, and let it go on: it finds what workers wrote meanwhile."""
        queen = psutil.Process(self.stack.queen.pid)
        now = asyncio.get_running_loop().time
        until = now() + (ttl_ms + 2 * limits.TICK_INTERVAL_MS) / 1_000
        await self._stop(queen, lambda: now() > until, "time passes")

    async def _stop(self, process: psutil.Process, noticed: Callable[[], bool], what: str) -> None:
        process.send_signal(signal.SIGSTOP)
        try:
            await eventually(noticed, what, REST_S + PATIENCE_S, look_again_s=LOOK_AGAIN_S)
        finally:
            process.send_signal(signal.SIGCONT)
        self.stops += 1

    async def _workers(self) -> list[psutil.Process]:
        """Return the worker processes that run, one at least."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = sorted(workers_of(self.stack), key=lambda process: process.pid)
            return bool(found)

        await eventually(look, "a worker runs", REST_S + PATIENCE_S, look_again_s=LOOK_AGAIN_S)
        return found


def workers_of(stack: Stack) -> list[psutil.Process]:
    """Return every worker process of a stack, whoever started it."""
    return [p for p in marked(stack.environment[MARK]) if "beeyard_worker" in _line(p)]


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
