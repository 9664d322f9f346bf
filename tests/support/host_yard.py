"""Hosts that do what the queen wishes, round a queen's core: processes start, load, attach, serve, and end.

What an apiary only tells, happens here: a desired worker begins to load if its device has the room, attaches once its
model is loaded, serves every lease for as long as a job takes, and ends when it should. Time is the apiary's.
"""

from dataclasses import dataclass, field, replace

from beeyard_core import limits
from beeyard_core.effect import Effect, SendDesired
from beeyard_core.event import (
    FirstTokenArrived,
    JobSubmitted,
    LeaseFinished,
    ModelScaleRequested,
    OfferAccepted,
)
from beeyard_core.fleet import DesiredState, DesiredWorker, ProcessReport, WorkerState
from beeyard_core.ids import JobId, ModelName, PoolId, WorkerId
from beeyard_core.job import Finish, Priority
from beeyard_core.lease import LeaseState
from beeyard_core.scaling import Scale

from tests.support.apiary import Apiary
from tests.support.core_values import GIB, cached_of, device_of, pool_of, report_of, spec_of

MODEL_BYTES = 4 * GIB
FINISH = Finish(reason="stop", decode_ms=5.0)


@dataclass
class Process:
    """One worker process."""

    model: ModelName
    began_ms: int
    ready_ms: int = 0


@dataclass
class Ended:
    """A worker that ended because the queen wished it."""

    worker_id: WorkerId
    model: ModelName
    ready_ms: int
    ended_ms: int
    leases: int


@dataclass
class HostYard:
    """A queen, and hosts with one device each, that has room for so many workers.

    Attributes:
        rooms: Workers that fit on the device of each host.
        models: What every host can load.
        load_ms: How long loading takes.
        service_ms: How long a job holds its slot.
        ended: Workers that were made to end, in order.
    """

    apiary: Apiary
    rooms: dict[PoolId, int]
    models: tuple[ModelName, ...]
    load_ms: int = 2_000
    service_ms: int = 1_000
    processes: dict[PoolId, dict[WorkerId, Process]] = field(default_factory=dict)
    desired: dict[PoolId, tuple[DesiredWorker, ...]] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    jobs_count: int = 0

    def __post_init__(self) -> None:
        """Let every host report."""
        for pool_id in self.rooms:
            self.processes[pool_id] = {}
            self._report(pool_id, is_first=True)

    @property
    def now_ms(self) -> int:
        """Monotonic time."""
        return self.apiary.now.mono_ms

    def submit(self, model: ModelName, priority: Priority = Priority.NORMAL) -> JobId:
        """One more job waits."""
        self.jobs_count += 1
        job_id = JobId(f"j{self.jobs_count}")
        spec = spec_of(model, priority=priority)
        self._note(self.apiary.happen(JobSubmitted(job_id=job_id, spec=spec)))
        return job_id

    def scale(self, model: ModelName, scale: Scale | None) -> None:
        """An operator says how many workers a model should have."""
        request = ModelScaleRequested(call_id=0, model=model, scale=scale)
        self._note(self.apiary.happen(request))

    def advance(self, ms: int) -> None:
        """Let time pass, tick by tick."""
        for _ in range(ms // limits.TICK_INTERVAL_MS):
            told = self.apiary.advance(limits.TICK_INTERVAL_MS)
            self._note([effect for _, effect in told])
            self._serve()
            for pool_id in self.rooms:
                self._obey(pool_id)

    def count(self, model: ModelName) -> int:
        """How many processes hold or load a model."""
        every = (process for each in self.processes.values() for process in each.values())
        return sum(process.model == model for process in every)

    def _note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendDesired):
                self.desired[effect.pool_id] = effect.workers

    def _serve(self) -> None:
        """Accept what was offered, and finish what has run for long enough."""
        for lease in [each for each in self.apiary.state.leases.values() if each.is_current]:
            spoken = (lease.worker_id, lease.lease_id, lease.epoch)
            if lease.state is LeaseState.OFFERED:
                self._note(self.apiary.happen(OfferAccepted(*spoken)))
                self._note(self.apiary.happen(FirstTokenArrived(*spoken)))
            elif self.now_ms - lease.offered_at.mono_ms >= self.service_ms:
                self._note(self.apiary.happen(LeaseFinished(*spoken, 1, FINISH)))

    def _obey(self, pool_id: PoolId) -> None:
        """Start, attach and end what the host was told to."""
        here = self.processes[pool_id]
        for wanted in self.desired.get(pool_id, ()):
            process = here.get(wanted.worker_id)
            if wanted.state is DesiredState.STOPPED and process is not None:
                self._end(pool_id, wanted.worker_id, process)
            is_new = wanted.state is DesiredState.RUNNING and process is None
            if is_new and len(here) < self.rooms[pool_id]:
                here[wanted.worker_id] = Process(wanted.model, self.now_ms)
                self._report(pool_id)
        for worker_id, process in list(here.items()):
            if not process.ready_ms and self.now_ms - process.began_ms >= self.load_ms:
                process.ready_ms = self.now_ms
                report = report_of(worker_id, model=process.model, pool_id=pool_id, slots_total=1)
                self._note(self.apiary.attach(report, incarnation=worker_id))
                self._report(pool_id)

    def _end(self, pool_id: PoolId, worker_id: WorkerId, process: Process) -> None:
        worker = self.apiary.state.fleet.workers.get(worker_id)
        leases = len(worker.leases) if worker is not None else 0
        self.ended.append(Ended(worker_id, process.model, process.ready_ms, self.now_ms, leases))
        del self.processes[pool_id][worker_id]
        if worker_id in self.apiary.links:
            self._note(self.apiary.detach(worker_id))
        self._report(pool_id)

    def _report(self, pool_id: PoolId, *, is_first: bool = False) -> None:
        """Send the host's snapshot; memory counts as used from the moment that a worker loads."""
        here = self.processes[pool_id]
        total = self.rooms[pool_id] * MODEL_BYTES
        device = device_of(vram_total_bytes=total, vram_free_bytes=total - len(here) * MODEL_BYTES)
        snapshot = pool_of(
            pool_id,
            devices=(device,),
            models=tuple(cached_of(model, required_bytes=MODEL_BYTES) for model in self.models),
            processes=tuple(
                ProcessReport(
                    worker_id=worker_id,
                    model=process.model,
                    state=WorkerState.READY if process.ready_ms else WorkerState.STARTING,
                    # All of it is taken already.
                    load_progress=1.0,
                    device=device.uuid,
                )
                for worker_id, process in here.items()
            ),
        )
        self._note(self.apiary.snapshot(replace(snapshot), is_first=is_first))
