"""A whole Beeyard on this machine: queen, pool manager and gateway as child processes, workers under the second."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from beeyard_client import limits
from beeyard_client.access import NOBODY
from beeyard_client.cli.faults import StackFailed
from beeyard_client.cli.folders import prepare
from beeyard_client.cli.secured import FOLDER, Secured
from beeyard_client.cli.service_process import ServiceProcess
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError
from beeyard_client.fleet import Fleet, Worker, WorkerState

_WATCH_INTERVAL_MS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """What to start.

    Attributes:
        data_dir: Everything that the stack writes is below it.
        models: `NAME=SOURCE`, as the pool manager takes them; a worker of each is wanted.
        models_dir: A folder of GGUF files; None: `models` in the data folder.
        inventory: `auto`, `nvml`, `cpu` or a scripted inventory file.
        slots: Answers at once of one worker; None: the pool manager's choice.
        context_tokens: Longest prompt plus answer; None: the pool manager's choice.
        queen_port: 0: any free one.
        pool_port: 0: any free one.
        gateway_port: 0: any free one.
        is_secure: TLS on every link, certificates on those between its processes, and tokens for everybody.
    """

    data_dir: Path
    models: tuple[str, ...] = ()
    models_dir: Path | None = None
    inventory: str = "auto"
    slots: int | None = None
    context_tokens: int | None = None
    queen_port: int = 0
    pool_port: int = 0
    gateway_port: int = 0
    is_secure: bool = False

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names under which jobs ask for the wanted models."""
        return tuple(one.partition("=")[0] for one in self.models)


class Stack:
    """The children. Use it within `stopped_after`, so that they end whatever happens."""

    def __init__(self, plan: StackPlan) -> None:
        """Describe a stack; nothing runs yet."""
        logs = plan.data_dir / "logs"
        self.plan = plan
        self.queen = ServiceProcess("queen", "beeyard_queen", logs / "queen.log")
        self.pool = ServiceProcess(
            "pool manager", "beeyard_pool_manager", logs / "pool-manager.log"
        )
        self.gateway = ServiceProcess("gateway", "beeyard_gateway", logs / "gateway.log")
        self.secured = Secured(plan.data_dir.absolute() / FOLDER) if plan.is_secure else None
        self.access = NOBODY
        self._worker_pids: set[int] = set()

    async def start(self) -> None:
        """Start the queen, then the pool manager and the gateway that dial it.

        Raises:
            StackFailed: One of them did not start.
        """
        for folder in (self.plan.data_dir, self.plan.data_dir / "logs"):
            prepare(folder)
        if self.secured is not None:
            await self.secured.furnish(_pool_id())
            self.access = self.secured.access()
        await self.queen.start(self._queen_arguments())
        await self.pool.start(self._pool_arguments())
        gateway = ["--listen", f"127.0.0.1:{self.plan.gateway_port}", "--queen", self.queen.address]
        await self.gateway.start(
            [*gateway, *(self.secured.gateway_flags() if self.secured else [])]
        )

    def _queen_arguments(self) -> list[str]:
        arguments = ["--listen", f"127.0.0.1:{self.plan.queen_port}"]
        arguments += ["--admin-listen", "127.0.0.1:0"]
        arguments += ["--store", str(self.plan.data_dir / "beeyard.sqlite")]
        if len(self.plan.models) == 1:
            arguments += ["--default-model", self.plan.model_names[0]]
        return [*arguments, *(self.secured.queen_flags() if self.secured else [])]

    def _pool_arguments(self) -> list[str]:
        plan = self.plan
        models_dir = plan.models_dir or plan.data_dir / "models"
        if plan.models_dir is None:
            prepare(models_dir)
        arguments = ["--listen", f"127.0.0.1:{plan.pool_port}", "--admin-listen", "127.0.0.1:0"]
        arguments += ["--queen", self.queen.address, "--pool-id", _pool_id()]
        arguments += ["--work-dir", str(plan.data_dir / "pool"), "--models-dir", str(models_dir)]
        arguments += ["--inventory", plan.inventory]
        for model in plan.models:
            arguments += ["--model", model]
        if plan.slots is not None:
            arguments += ["--slots", str(plan.slots)]
        if plan.context_tokens is not None:
            arguments += ["--context-tokens", str(plan.context_tokens)]
        return [*arguments, *(self.secured.pool_flags() if self.secured else [])]

    async def models_ready(self, tell: Callable[[str], None]) -> None:
        """Return once a worker of every wanted model is ready; starts those that nobody started.

        Args:
            tell: Takes a sentence about what is waited for, whenever that changes.

        Raises:
            StackFailed: A model cannot be loaded, or not in time.
        """
        try:
            async with asyncio.timeout(limits.MODEL_READY_MS / 1000):
                async with BeeyardClient(self.queen.address, access=self.access) as client:
                    await self._wait_for_models(client, tell)
        except TimeoutError:
            names = ", ".join(self.plan.model_names)
            seconds = limits.MODEL_READY_MS // 1000
            raise StackFailed(
                f"{names}: not ready within {seconds} s", self.pool.log_tail()
            ) from None
        except BeeyardError as error:
            raise StackFailed(error.message) from error

    async def _wait_for_models(self, client: BeeyardClient, tell: Callable[[str], None]) -> None:
        asked: set[str] = set()
        told = ""
        snapshots = client.watch_fleet(_WATCH_INTERVAL_MS)
        try:
            async for fleet in snapshots:
                waiting = self._waiting(fleet)
                if not waiting and any(pool.fresh for pool in fleet.pools):
                    return
                for model in _startable(fleet, waiting - asked):
                    asked.add(model)
                    # A key of our own: the wish is one, however often it is sent.
                    await client.start_worker(model, request_id=f"up-{os.getpid()}-{model}")
                words = _describe(fleet, waiting)
                if words != told:
                    tell(words)
                    told = words
        finally:
            await snapshots.aclose()

    def _waiting(self, fleet: Fleet) -> set[str]:
        waiting = set(self.plan.model_names)
        for worker in fleet.workers:
            if worker.is_ready:
                waiting.discard(worker.model)
            elif worker.model in waiting and worker.state is WorkerState.FAILED:
                raise StackFailed(
                    f"{worker.model} could not be loaded: {_why(worker)}",
                    tuple(worker.log_tail.splitlines())[-limits.LOG_TAIL_LINES :],
                )
        for pool in fleet.pools:
            for cached in pool.cached_models:
                if cached.model in waiting and cached.fault:
                    raise StackFailed(f"{cached.model} cannot be loaded: {cached.fault}")
        return waiting

    def _services(self) -> tuple[ServiceProcess, ...]:
        return (self.gateway, self.pool, self.queen)

    async def died(self) -> StackFailed:
        """Wait until one of the children ends and return what to say about it."""
        waits = [asyncio.create_task(one.died()) for one in self._services()]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for one in waits:
                one.cancel()

    async def stop(self) -> None:
        """Stop the gateway, then the pool manager with its workers, and then the queen, which hears of it all."""
        await self._note_workers()
        await self.gateway.stop(limits.STACK_STOP_MS)
        await self.pool.stop(limits.STACK_STOP_MS)
        await self.queen.stop(limits.STACK_STOP_MS)

    async def _note_workers(self) -> None:
        # Asked for now and not earlier: a pid that was noted long ago may belong to somebody else.
        if not self.queen.is_alive:
            return
        try:
            async with (
                asyncio.timeout(limits.CLI_CONNECT_PATIENCE_MS / 1000),
                BeeyardClient(
                    self.queen.address, access=self.access, connect_patience_ms=0
                ) as client,
            ):
                self._worker_pids = {one.pid for one in await client.workers() if one.pid}
        except (TimeoutError, BeeyardError):
            # Then a second signal kills without them, and they end by themselves when nobody supervises them.
            return

    def kill(self) -> None:
        """End every process of the stack at once; workers too, if a stop was begun before."""
        for service in self._services():
            service.kill()
        for pid in self._worker_pids:
            try:
                os.kill(pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
            except (ProcessLookupError, PermissionError):
                pass  # it ended already


@asynccontextmanager
async def stopped_after(stack: Stack) -> AsyncIterator[Stack]:
    """Stop the stack after the block, also when it started only in part."""
    try:
        yield stack
    finally:
        await stack.stop()


def _startable(fleet: Fleet, waiting: set[str]) -> list[str]:
    """The models that a fresh pool could load and no worker holds or loads."""
    offered = {one.model for pool in fleet.pools if pool.fresh for one in pool.cached_models}
    present = {one.model for one in fleet.workers if one.state is not WorkerState.FAILED}
    return sorted((waiting & offered) - present)


def _describe(fleet: Fleet, waiting: set[str]) -> str:
    shares = {one.model: one.load_progress for one in fleet.workers if one.model in waiting}
    words = [
        f"loading {model} {shares[model]:.0%}"
        if model in shares
        else f"starting a worker of {model}"
        for model in sorted(waiting)
    ]
    return "; ".join(words) if fleet.pools and words else "waiting for the pool manager's report"


def _why(worker: Worker) -> str:
    lines = worker.log_tail.splitlines()
    return worker.failure or (lines[-1] if lines else f"its worker ended with {worker.exit_code}")


def _pool_id() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:63]
    return name or "local"
