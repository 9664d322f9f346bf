"""All worker processes of this host: those it started, those it took over, and those that could not start.

What should run is not decided here (see `reconciler.py`). An exited worker stays on the list until it was reported
and nobody wants it any more, so that its exit code and log reach the queen.
"""

import asyncio
from collections.abc import Callable, Iterable

from beeyard_core import limits
from beeyard_core.fleet import WorkerState
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_pool_manager.workers.backoff import RestartBackoff
from beeyard_pool_manager.workers.launcher import EngineLink, Launcher, WorkerHandle
from beeyard_pool_manager.workers.worker_process import WorkerProcess, WorkerSpec
from beeyard_pool_manager.workers.worker_watch import WorkerWatch

_log = get_log("supervisor")


class Supervisor:
    """Starts, adopts, follows and stops workers.

    Args:
        launcher: Runs processes.
        engines: Speaks to their EngineServices.
        clock: The time.
        on_change: Called at each change that a reader should hear of at once.
        start_timeout_ms: How long a worker may take to listen, milliseconds.
        status_interval_ms: Time between two questions to a worker, milliseconds.
    """

    def __init__(
        self,
        *,
        launcher: Launcher,
        engines: EngineLink,
        clock: Clock,
        on_change: Callable[[], None],
        start_timeout_ms: int = limits.WORKER_START_TIMEOUT_MS,
        status_interval_ms: int = limits.REPORT_INTERVAL_MS,
    ) -> None:
        self.backoff = RestartBackoff()
        self._launcher = launcher
        self._engines = engines
        self._clock = clock
        self._tell = on_change
        self._start_timeout_ms = start_timeout_ms
        self._status_interval_ms = status_interval_ms
        self._watches: dict[str, WorkerWatch] = {}
        self._unstarted: dict[str, WorkerProcess] = {}
        self._reported: set[str] = set()
        self._stops: set[asyncio.Task[None]] = set()

    async def adopt(self) -> int:
        """Take over the workers of an earlier pool manager; returns how many. Call once, before anything starts."""
        handles = await self._launcher.list()
        answers = await asyncio.gather(*(self._is_ours(handle) for handle in handles))
        for handle, ours in zip(handles, answers, strict=True):
            record = handle.record
            ids = {"worker_id": record.spec.worker_id, "pid": record.pid}
            if ours:
                self._follow(handle, adopted=True)
                _log.info("worker_adopted", **ids)
            else:
                # Something else may answer to that pid by now, so it is not for us to end it.
                self._launcher.forget(record)
                _log.warning("worker_not_adopted", **ids)
        return sum(answers)

    async def start(self, spec: WorkerSpec) -> WorkerProcess:
        """Start a worker. The caller made sure that none of that id runs.

        Raises:
            LaunchFailed: The process could not be started.
        """
        assert not self.is_running(spec.worker_id), spec.worker_id
        handle = await self._launcher.start(spec)
        watch = self._follow(handle, adopted=False)
        _log.info("worker_started", worker_id=spec.worker_id, pid=handle.record.pid)
        self._tell()
        return watch.describe(memory_bytes=0)

    def note_unstarted(self, spec: WorkerSpec, *, failure: str) -> None:
        """Report a worker that should run and does not: with a failure, or waiting if there is none."""
        state = WorkerState.FAILED if failure else WorkerState.STARTING
        found = WorkerProcess(spec=spec, state=state, has_exited=bool(failure), failure=failure)
        known = self._watches.get(spec.worker_id)
        # Between a crash and the next try the crash says more than the waiting does.
        if self._unstarted.get(spec.worker_id) == found or (known is not None and not failure):
            return
        if failure:
            _log.warning("worker_not_started", worker_id=spec.worker_id, failure=failure)
        self._watches.pop(spec.worker_id, None)
        self._unstarted[spec.worker_id] = found
        self._reported.discard(spec.worker_id)
        self._tell()

    def stop_later(self, worker_id: str, *, grace_ms: int) -> None:
        """Begin to drain and stop a running worker, unless that has begun already."""
        watch = self._watches[worker_id]
        if not watch.is_stopping and not watch.has_exited:
            task = asyncio.create_task(watch.stop(grace_ms), name=f"stop {worker_id}")
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def stop(self, worker_id: str, *, grace_ms: int) -> WorkerProcess | None:
        """Drain and stop a worker; returns when it is gone, None if there never was one of that id."""
        watch = self._watches.get(worker_id)
        if watch is None:
            return self._unstarted.get(worker_id)
        await watch.stop(grace_ms)
        return watch.describe(memory_bytes=0)

    async def stop_all(self, *, grace_ms: int) -> None:
        """Drain and stop every worker; returns when all are gone."""
        await asyncio.gather(*(watch.stop(grace_ms) for watch in self._watches.values()))

    async def close(self) -> None:
        """Follow nothing any more; processes that run go on, and a successor may adopt them."""
        for task in list(self._stops):
            task.cancel()
        await asyncio.gather(
            *self._stops,
            *(watch.let_go() for watch in self._watches.values()),
            return_exceptions=True,
        )

    def workers(self) -> list[WorkerProcess]:
        """Return every worker that is known, by id."""
        found = [
            watch.describe(memory_bytes=self._memory_bytes(watch))
            for watch in self._watches.values()
        ]
        return sorted([*found, *self._unstarted.values()], key=lambda each: each.spec.worker_id)

    def find(self, worker_id: str) -> WorkerProcess | None:
        """Return one worker; None if it is not known."""
        watch = self._watches.get(worker_id)
        if watch is not None:
            return watch.describe(memory_bytes=self._memory_bytes(watch))
        return self._unstarted.get(worker_id)

    def is_running(self, worker_id: str) -> bool:
        """Whether a process of that id exists."""
        watch = self._watches.get(worker_id)
        return watch is not None and not watch.has_exited

    def reserved_bytes(self) -> dict[str, int]:
        """Return, by device UUID, the memory that workers which still load will take, in bytes."""
        reserved: dict[str, int] = {}
        for watch in self._watches.values():
            if watch.is_loading:
                device = watch.spec.device
                reserved[device] = reserved.get(device, 0) + watch.spec.reserved_bytes
        return reserved

    def note_reported(self, worker_ids: Iterable[str]) -> None:
        """Note that the queen was sent the end of these workers."""
        self._reported.update(worker_ids)

    def reported_ends(self) -> frozenset[str]:
        """Return the workers of whose end, or failure to start, the queen was sent word."""
        return frozenset(self._reported)

    def forget_ended(self, *, wanted: frozenset[str]) -> None:
        """Drop ended workers that were reported and that nobody wants, and the oldest beyond the bound."""
        ended = [worker_id for worker_id, watch in self._watches.items() if watch.has_exited]
        ended += [each for each in self._unstarted if each not in wanted]
        surplus = max(0, len(ended) - limits.EXITED_WORKERS_KEPT_MAX)
        for position, worker_id in enumerate(ended):
            is_done = worker_id in self._reported or worker_id in self._unstarted
            if position < surplus or (is_done and worker_id not in wanted):
                self._watches.pop(worker_id, None)
                self._unstarted.pop(worker_id, None)
                self._reported.discard(worker_id)

    def tidy(self) -> None:
        """Keep the logs of running workers within their bound."""
        for watch in self._watches.values():
            self._launcher.tidy(watch.handle.record)

    def _follow(self, handle: WorkerHandle, *, adopted: bool) -> WorkerWatch:
        watch = WorkerWatch(
            handle,
            engines=self._engines,
            clock=self._clock,
            on_change=self._changed,
            start_timeout_ms=self._start_timeout_ms,
            status_interval_ms=self._status_interval_ms,
            adopted=adopted,
        )
        worker_id = watch.spec.worker_id
        self._unstarted.pop(worker_id, None)
        self._reported.discard(worker_id)
        # Put at the end: the order of this table is the order of age.
        self._watches.pop(worker_id, None)
        self._watches[worker_id] = watch
        watch.begin()
        return watch

    def _changed(self, watch: WorkerWatch) -> None:
        if watch.has_exited:
            self._launcher.forget(watch.handle.record)
            if not watch.is_stopping:
                wait_ms = self.backoff.failed(
                    watch.spec.model,
                    began_mono_ms=watch.began_mono_ms,
                    served_ms=watch.served_ms(),
                    now=self._clock.now(),
                )
                _log.warning("model_backs_off", model=watch.spec.model, wait_ms=wait_ms)
        self._tell()

    async def _is_ours(self, handle: WorkerHandle) -> bool:
        """Whether the process answers as the worker of its record, within the time that adopting may take."""
        try:
            async with asyncio.timeout(limits.ADOPTION_TIMEOUT_MS / 1_000):
                address = await handle.ready()
                while True:
                    reading = await self._engines.read(address)
                    if reading is not None:
                        return reading.worker_id == handle.record.spec.worker_id
                    await self._clock.sleep_ms(limits.LOADING_POLL_MS)
        except TimeoutError:
            return False

    def _memory_bytes(self, watch: WorkerWatch) -> int:
        return 0 if watch.has_exited else self._launcher.memory_bytes(watch.handle.record)
