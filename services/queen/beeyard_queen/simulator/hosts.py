"""Simulated hosts and worker processes: memory that fills up, models that take time to load, workers that drain.

A host does what a pool manager does, without its faults: it starts what is desired where memory is free, reports what
is, and forgets what has ended. It never decides anything.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from beeyard_core.event import PoolReported
from beeyard_core.fleet import (
    CachedModel,
    DesiredState,
    DesiredWorker,
    HostLoad,
    PoolReport,
    ProcessReport,
    WorkerReport,
    WorkerState,
)
from beeyard_core.ids import WorkerId

from beeyard_queen.simulator.fleet import SimulatedFleet, SimulatedModel, SimulatedPool

#: Simulated hosts do nothing besides; a host that says nothing of its load would count as busy.
_CALM: Final = HostLoad(cpu_percent=0.0, memory_percent=0.0)


@dataclass(slots=True, kw_only=True)
class Process:
    """A worker process on a simulated host.

    Attributes:
        held: Leases that it works on.
        session: Number of its stream; 0 until it has loaded its model.
        report: What it says of itself with each heartbeat.
    """

    worker_id: WorkerId
    host: "Host"
    model: SimulatedModel
    device: str
    state: WorkerState = WorkerState.STARTING
    session: int = 0
    held: int = 0
    report: WorkerReport | None = None

    def become(self, state: WorkerState) -> WorkerReport:
        """Change to a state; return what it says of itself from now on."""
        self.state = state
        self.host.is_changed = True
        self.report = WorkerReport(
            worker_id=self.worker_id,
            pool_id=self.host.pool.pool_id,
            model=self.model.name,
            engine=self.model.engine,
            state=state,
            slots_total=self.model.slots,
            kv_tokens_total=self.model.kv_tokens,
            context_tokens=self.model.context_tokens,
            device=self.device,
            quantization=self.model.quantization,
            load_progress=1.0,
            tokens_per_s=self.model.tokens_per_s,
        )
        return self.report


@dataclass(slots=True)
class Host:
    """One simulated host: its memory, and what runs on it."""

    pool: SimulatedPool
    fleet: SimulatedFleet
    processes: dict[WorkerId, Process] = field(default_factory=dict)
    #: Processes that have ended since the last report, which tells of them once.
    ended: list[ProcessReport] = field(default_factory=list)
    is_changed: bool = True
    _free: dict[str, int] = field(default_factory=dict)
    _report: PoolReported | None = None
    _models: tuple[CachedModel, ...] = ()

    def __post_init__(self) -> None:
        self._free = {device.uuid: device.vram_total_bytes for device in self.pool.devices}
        self._models = tuple(
            CachedModel(
                model=name,
                engine=model.engine,
                required_bytes=model.vram_bytes,
                quantization=model.quantization,
                context_tokens=model.context_tokens,
            )
            for name, model in ((name, self.fleet.models[name]) for name in self.pool.models)
        )

    def start(self, worker_id: WorkerId, model: SimulatedModel, device: str) -> Process | None:
        """Start a process if memory is free for it; an empty device: the roomiest."""
        # Ties go to the first device, as in `max`.
        chosen = device or max(self._free, key=lambda uuid: self._free[uuid])
        if self._free.get(chosen, -1) < model.vram_bytes:
            return None
        self._free[chosen] -= model.vram_bytes
        process = Process(worker_id=worker_id, host=self, model=model, device=chosen)
        self.processes[worker_id] = process
        self.is_changed = True
        return process

    def end(self, process: Process) -> None:
        """Let a process end; its memory is free."""
        del self.processes[process.worker_id]
        self._free[process.device] += process.model.vram_bytes
        self.ended.append(
            ProcessReport(
                worker_id=process.worker_id,
                model=process.model.name,
                state=process.state,
                device=process.device,
                exited=True,
                was_killed=True,
            )
        )
        self.is_changed = True

    def missing(self, wanted: tuple[DesiredWorker, ...]) -> list[DesiredWorker]:
        """Return those of the desired workers that should run and do not, of models that can be loaded here."""
        return [
            one
            for one in wanted
            if one.state is DesiredState.RUNNING
            and one.worker_id not in self.processes
            and one.model in self.pool.models
        ]

    def unwanted(self, wanted: tuple[DesiredWorker, ...]) -> list[Process]:
        """Return the processes that should end."""
        return [
            self.processes[one.worker_id]
            for one in wanted
            if one.state is not DesiredState.RUNNING and one.worker_id in self.processes
        ]

    def reported(self) -> PoolReported:
        """Return the host's snapshot as an event; the same one as long as nothing has changed."""
        if self._report is None or self.is_changed:
            self._report = PoolReported(self._snapshot(), is_first=self._report is None)
            self.is_changed = bool(self.ended)
            self.ended.clear()
        elif self._report.is_first:
            self._report = PoolReported(self._report.report)
        return self._report

    def _snapshot(self) -> PoolReport:
        devices = tuple(
            replace(device, vram_free_bytes=self._free[device.uuid]) for device in self.pool.devices
        )
        running = [
            ProcessReport(
                worker_id=process.worker_id,
                model=process.model.name,
                state=process.state,
                load_progress=1.0 if process.session else 0.0,
                reserved_bytes=process.model.vram_bytes,
                device=process.device,
            )
            for process in self.processes.values()
        ]
        return PoolReport(
            pool_id=self.pool.pool_id,
            incarnation="simulated",
            devices=devices,
            models=self._models,
            processes=(*running, *self.ended),
            traits=self.pool.traits,
            load=_CALM,
        )
