"""Places one new worker on a device of this host and starts it, or says why not."""

import asyncio

from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.clock import Clock

from beeyard_pool_manager.catalogue import Catalogue, CatalogueEntry
from beeyard_pool_manager.gpus.inventory import InventoryFault
from beeyard_pool_manager.gpus.reader import InventoryReader
from beeyard_pool_manager.workers.device_choice import choose_device
from beeyard_pool_manager.workers.launcher import LaunchFailed
from beeyard_pool_manager.workers.supervisor import Supervisor
from beeyard_pool_manager.workers.worker_process import WorkerProcess, WorkerSpec

_RETRY_AFTER_MS = limits.REPORT_INTERVAL_MS


class WorkerStarter:
    """Starts workers one at a time, so that two never reserve the same memory.

    Args:
        catalogue: The models of this host.
        inventory: Its devices.
        supervisor: Its workers.
        clock: The time.
        slots: Answers that each worker generates at once.
        context_tokens: Longest prompt plus answer of one job, in tokens, where the model allows it.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        inventory: InventoryReader,
        supervisor: Supervisor,
        clock: Clock,
        slots: int,
        context_tokens: int,
    ) -> None:
        self._catalogue = catalogue
        self._inventory = inventory
        self._supervisor = supervisor
        self._clock = clock
        self._slots = slots
        self._context_tokens = context_tokens
        self._lock = asyncio.Lock()
        self._is_open = False

    def open(self) -> None:
        """Start workers from now on. Before that, a worker that is yet to be adopted would be started twice."""
        self._is_open = True

    def close(self) -> None:
        """Start nothing any more."""
        self._is_open = False

    async def start(
        self, *, worker_id: str, model: str, device: str, by_hand: bool
    ) -> WorkerProcess | Refused:
        """Start a worker, or return the one of that id that runs already.

        Args:
            worker_id: Its id.
            model: Its model, by the name in the catalogue.
            device: UUID of its device; empty: the one with the most free memory that fits.
            by_hand: Asked for by an operator and not by the queen.
        """
        async with self._lock:
            if not self._is_open:
                return Refused(
                    reason=Refusal.DRAINING,
                    message="this pool manager is starting or shutting down",
                    retry_after_ms=_RETRY_AFTER_MS,
                )
            running = self._supervisor.find(worker_id)
            if running is not None and running.pid and not running.has_exited:
                return _same_or_conflict(running, model)
            spec = await self._place(worker_id, model, device, by_hand=by_hand)
            if isinstance(spec, Refused):
                return spec
            try:
                return await self._supervisor.start(spec)
            except LaunchFailed as failure:
                now = self._clock.now()
                self._supervisor.backoff.failed(
                    model, began_mono_ms=now.mono_ms, served_ms=0, now=now
                )
                return Refused(reason=Refusal.MODEL_LOAD_FAILED, message=str(failure))

    async def _place(
        self, worker_id: str, model: str, device: str, *, by_hand: bool
    ) -> WorkerSpec | Refused:
        entry = self._catalogue.find(model)
        if entry is None or entry.is_preparing or entry.fault:
            return _unusable(model, entry)
        if len(self._supervisor.workers()) >= limits.WORKERS_PER_POOL_MAX:
            return Refused(
                reason=Refusal.QUOTA_EXCEEDED,
                message=f"this host already has {limits.WORKERS_PER_POOL_MAX} workers; stop one first",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        devices = await self._inventory.read()
        if isinstance(devices, InventoryFault):
            return Refused(
                reason=Refusal.POOL_UNREADY,
                message=f"the devices of this host cannot be read: {devices.message}",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        chosen = choose_device(
            devices,
            required_bytes=entry.required_bytes,
            reserved_bytes=self._supervisor.reserved_bytes(),
            wanted_uuid=device,
        )
        if isinstance(chosen, Refused):
            return chosen
        return WorkerSpec(
            worker_id=worker_id,
            model=model,
            engine=entry.engine,
            source=entry.source,
            device=chosen.uuid,
            slots=self._slots,
            context_tokens=entry.worker_context_tokens or self._context_tokens,
            reserved_bytes=entry.required_bytes,
            by_hand=by_hand,
        )


def unplaced_spec(worker_id: str, model: str, device: str) -> WorkerSpec:
    """Return what can be said of a worker that has no place yet."""
    return WorkerSpec(
        worker_id=worker_id,
        model=model,
        engine="",
        source="",
        device=device,
        slots=0,
        context_tokens=0,
    )


def _same_or_conflict(running: WorkerProcess, model: str) -> WorkerProcess | Refused:
    if running.spec.model == model:
        return running
    return Refused(
        reason=Refusal.REQUEST_ID_CONFLICT,
        message=f"worker {running.spec.worker_id} runs already and holds {running.spec.model}; choose another id",
        field="worker_id",
    )


def _unusable(model: str, entry: CatalogueEntry | None) -> Refused:
    if entry is None:
        return Refused(
            reason=Refusal.MODEL_NOT_FOUND,
            message=f"this host has no model {model}; GetSnapshot lists its models",
            field="model",
        )
    if entry.is_preparing:
        return Refused(
            reason=Refusal.POOL_UNREADY,
            message=f"the model {model} is being prepared; ask again in a moment",
            retry_after_ms=_RETRY_AFTER_MS,
        )
    return Refused(
        reason=Refusal.MODEL_LOAD_FAILED,
        message=f"the model {model} cannot be loaded: {entry.fault}",
        field="model",
    )
