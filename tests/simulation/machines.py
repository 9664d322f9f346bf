"""The machines that workers run on: their processes, devices and load, as a pool manager sees them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from beeyard_pool_manager.catalogue import Catalogue, CatalogueEntry
from beeyard_pool_manager.gpus.inventory import Device, DeviceKind
from beeyard_pool_manager.host_load import HostLoad
from beeyard_pool_manager.workers.worker_process import RunRecord, WorkerSpec

from tests.simulation.event_loop import pass_ms
from tests.simulation.world import Process

GIB: Final = 1 << 30
WORKER_BYTES: Final = 4 * GIB
#: Of no use to any worker.
SPARE_BYTES: Final = 2 * GIB


@dataclass(eq=False)
class Running:
    """A worker process on a machine, and what is remembered of it on disk."""

    record: RunRecord
    process: Process


@dataclass(eq=False)
class Machine:
    """One machine with one device.

    Attributes:
        device_bytes: Memory of its device.
        launch: Starts a worker's process.
        kill: Ends a process as `kill -9` does.
        runs: Worker processes by pid, with their records; dead ones until they are forgotten.
    """

    name: str
    device_bytes: int
    launch: Callable[["Machine", WorkerSpec], Process]
    kill: Callable[[Process], None]
    runs: dict[int, Running] = field(default_factory=dict)
    next_pid: int = 100

    @property
    def alive(self) -> list[Running]:
        """The workers that run."""
        return [run for run in self.runs.values() if run.process.is_alive]

    @property
    def used_bytes(self) -> int:
        """What its workers have taken of the device."""
        return sum(run.record.spec.reserved_bytes for run in self.alive)

    def load(self) -> HostLoad:
        """Return processors and memory; nothing else runs on it."""
        return HostLoad(
            cpu_count=8,
            cpu_utilization=0.1,
            load_average_1m=0.5,
            memory_total_bytes=64 * GIB,
            memory_available_bytes=48 * GIB,
        )


class MadeUpInventory:
    """One device, whose memory the workers of the machine use."""

    name = "scripted"

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self) -> list[Device]:
        used = self._machine.used_bytes
        return [
            Device(
                uuid=f"GPU-{self._machine.name}",
                kind=DeviceKind.GPU,
                name="made up",
                index=0,
                vram_total_bytes=self._machine.device_bytes,
                vram_used_bytes=used,
                vram_free_bytes=self._machine.device_bytes - used,
                compute_capability="9.0",
            )
        ]

    def close(self) -> None:
        """Nothing is held."""


class SizedCatalogue(Catalogue):
    """A catalogue whose synthetic models need device memory, so that there is something to overcommit."""

    def _at_our_settings(self, entry: CatalogueEntry) -> CatalogueEntry:
        return replace(super()._at_our_settings(entry), required_bytes=WORKER_BYTES)


class MadeUpLauncher:
    """Where `LocalLauncher` stood: starts processes of the world, and finds those of an earlier pool manager."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def start(self, spec: WorkerSpec) -> "MadeUpHandle":
        machine = self._machine
        await pass_ms(2)
        process = machine.launch(machine, spec)
        machine.next_pid += 1
        record = RunRecord(
            spec=spec, pid=machine.next_pid, create_time_s=0.0, start_wall_ms=process.wall_ms
        )
        run = machine.runs[record.pid] = Running(record, process)
        return MadeUpHandle(machine, run)

    async def list(self) -> "list[MadeUpHandle]":
        await pass_ms(2)
        for run in [r for r in self._machine.runs.values() if not r.process.is_alive]:
            self.forget(run.record)
        return [MadeUpHandle(self._machine, run) for run in self._machine.runs.values()]

    def memory_bytes(self, record: RunRecord) -> int:
        run = self._machine.runs.get(record.pid)
        return record.spec.reserved_bytes if run is not None and run.process.is_alive else 0

    def forget(self, record: RunRecord) -> None:
        run = self._machine.runs.get(record.pid)
        if run is not None and not run.process.is_alive:
            del self._machine.runs[record.pid]

    def tidy(self, record: RunRecord) -> None:
        """There is no log to keep short."""


class MadeUpHandle:
    """One worker's process as a pool manager holds it."""

    def __init__(self, machine: Machine, run: Running) -> None:
        self._machine = machine
        self._run = run

    @property
    def record(self) -> RunRecord:
        return self._run.record

    async def ready(self) -> str:
        process, loop = self._run.process, asyncio.get_running_loop()
        said: asyncio.Future[str] = loop.create_future()

        def hear(line: str) -> None:
            told = json.loads(line)
            if "ready" in told and not said.done():
                said.set_result(told["address"])

        for line in process.lines:
            hear(line)
        process.on_line.append(hear)
        return await said

    async def exited(self) -> int | None:
        process, loop = self._run.process, asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def hear() -> None:
            if not over.done():
                over.set_result(None)

        process.on_end.append(hear)
        if process.is_alive:
            await over
        return -9 if process.exit_code is None else process.exit_code

    def signal_stop(self, *, force: bool) -> None:
        if not self._run.process.is_alive:
            return
        if force:
            self._machine.kill(self._run.process)
        else:
            self._run.process.ask_to_stop()

    def log_tail(self) -> str:
        return ""
