"""Follows one worker process from its start, or its adoption, to its end.

Theory of operation
    One task per process. It waits for the process to listen, then asks it now and then how it is, which also tells
    the worker that somebody supervises it. Beside that it waits for the process's end. Whichever comes first decides:
    an end is recorded with its exit code and the end of the log; a worker that never listens, reports a failure, or
    falls silent is ended, and the reason is recorded as its failure.

    Rule 1: only this file changes what is known of a process.
    Rule 2: SIGTERM is sent once, since a second one makes a service exit without draining.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from beeyard_core import limits
from beeyard_core.fleet import WorkerState
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log

from beeyard_pool_manager.workers.launcher import EngineLink, WorkerHandle
from beeyard_pool_manager.workers.worker_process import EngineReading, WorkerProcess, WorkerSpec

_log = get_log("worker_watch")
# What `lifecycle.report_fault` writes before the message of an expected fault.
_FAULT_PREFIX: Final = "beeyard worker: "
_SERVING: Final = frozenset({WorkerState.READY, WorkerState.BUSY})
#: Exit codes of a worker that was told to end: one that drains leaves with 0. None: nobody could know. The system kills
#: whoever takes its last memory, too; other signals are a process's own doing.
_BY_OTHERS: Final = frozenset(
    {None, 0, -signal.SIGHUP, -signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM}
)


class WorkerWatch:
    """One process and what is known of it. Call `begin` once.

    Args:
        handle: The process.
        engines: Speaks to its EngineService.
        clock: The time.
        on_change: Called when its place in life changes; READY and BUSY count as one, as they alternate all the time.
        start_timeout_ms: How long it may take to listen, milliseconds.
        status_interval_ms: Time between two questions to it, milliseconds.
        adopted: An earlier pool manager started it.

    Attributes:
        began_mono_ms: When it was started, or adopted.
    """

    def __init__(
        self,
        handle: WorkerHandle,
        *,
        engines: EngineLink,
        clock: Clock,
        on_change: Callable[["WorkerWatch"], None],
        start_timeout_ms: int,
        status_interval_ms: int,
        adopted: bool = False,
    ) -> None:
        self._handle = handle
        self._engines = engines
        self._clock = clock
        self._on_change = on_change
        self._start_timeout_ms = start_timeout_ms
        self._status_interval_ms = status_interval_ms
        self._adopted = adopted
        self.began_mono_ms = clock.now().mono_ms
        self._served_since_mono_ms: int | None = None
        self._state = WorkerState.STARTING
        self._address = ""
        self._load_progress = 0.0
        self._failure = ""
        self._log_tail = ""
        self._exit_code: int | None = None
        self._was_killed = False
        self._is_stopping = False
        self._was_terminated = False
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def spec(self) -> WorkerSpec:
        """What was decided about it before it started."""
        return self._handle.record.spec

    @property
    def handle(self) -> WorkerHandle:
        """The process."""
        return self._handle

    @property
    def has_exited(self) -> bool:
        """Whether the process is gone."""
        return self._gone.is_set()

    @property
    def is_stopping(self) -> bool:
        """Whether its end was asked for."""
        return self._is_stopping

    @property
    def is_loading(self) -> bool:
        """Whether its memory is reserved but not yet all taken."""
        return self._state is WorkerState.STARTING and not self.has_exited

    def served_ms(self) -> int:
        """Return for how long it has been ready, milliseconds; 0 if it never was."""
        if self._served_since_mono_ms is None:
            return 0
        return self._clock.now().mono_ms - self._served_since_mono_ms

    def describe(self, *, memory_bytes: int) -> WorkerProcess:
        """Return what is known of it now."""
        record = self._handle.record
        return WorkerProcess(
            spec=record.spec,
            state=self._state,
            pid=record.pid,
            address="" if self.has_exited else self._address,
            load_progress=self._load_progress,
            memory_bytes=0 if self.has_exited else memory_bytes,
            has_exited=self.has_exited,
            exit_code=self._exit_code,
            failure=self._failure,
            log_tail=self._log_tail,
            start_wall_ms=record.start_wall_ms,
            was_killed=self._was_killed,
            adopted=self._adopted,
        )

    def begin(self) -> None:
        """Follow the process from now on."""
        self._task = asyncio.create_task(self._follow(), name=f"watch {self.spec.worker_id}")
        self._task.add_done_callback(_tell_bug)

    async def let_go(self) -> None:
        """Follow it no longer; the process goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def stop(self, grace_ms: int) -> None:
        """Drain and end the process; returns when it is gone. May be called again, also with a shorter grace.

        Args:
            grace_ms: How long running work may go on before SIGKILL, milliseconds.
        """
        if self.has_exited:
            return
        if not self._is_stopping:
            self._is_stopping = True
            self._on_change(self)
        margin_ms = min(limits.WORKER_KILL_MARGIN_MS, grace_ms // 2)
        drained = bool(self._address) and await self._engines.drain(
            self._address, grace_ms=grace_ms - margin_ms
        )
        # A worker that drains needs no signal; SIGTERM comes only if it is still there shortly before the end.
        if drained and await self._gone_within(grace_ms - margin_ms):
            return
        self._terminate()
        if not await self._gone_within(margin_ms if drained else grace_ms):
            self._failure = self._failure or f"it had not ended {grace_ms} ms after it was asked to"
            self._handle.signal_stop(force=True)
        await self._gone.wait()

    async def _follow(self) -> None:
        end = asyncio.ensure_future(self._handle.exited())
        life = asyncio.ensure_future(self._attend())
        try:
            await asyncio.wait({end, life}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                self._failure = life.result()
                _log.warning("worker_failed", worker_id=self.spec.worker_id, failure=self._failure)
                await self._end_failed(end)
            self._record_end(await end)
        finally:
            end.cancel()
            life.cancel()
            await asyncio.wait({end, life})

    async def _attend(self) -> str:
        """Ask the worker how it is until that gives a reason to end it, and return the reason."""
        try:
            async with asyncio.timeout(self._start_timeout_ms / 1_000):
                self._address = await self._handle.ready()
        except TimeoutError:
            return f"it did not listen within {self._start_timeout_ms} ms of its start"
        self._on_change(self)
        heard_mono_ms = self._clock.now().mono_ms
        while True:
            reading = await self._engines.read(self._address)
            now_ms = self._clock.now().mono_ms
            if reading is not None:
                heard_mono_ms = now_ms
                if reason := self._take(reading):
                    return reason
            elif now_ms - heard_mono_ms > limits.WORKER_SILENCE_MAX_MS:
                return f"it has not answered for {limits.WORKER_SILENCE_MAX_MS} ms"
            is_loading = self._state is WorkerState.STARTING
            if is_loading and now_ms - self.began_mono_ms > limits.WORKER_LOAD_TIMEOUT_MS:
                return f"it had not loaded its model after {limits.WORKER_LOAD_TIMEOUT_MS} ms"
            pause_ms = limits.LOADING_POLL_MS if is_loading else self._status_interval_ms
            await self._clock.sleep_ms(pause_ms)

    def _take(self, reading: EngineReading) -> str:
        """Note what the worker says of itself; return a reason to end it, or nothing."""
        if reading.worker_id != self.spec.worker_id:
            return "another worker answers at its address"
        if reading.state is WorkerState.FAILED:
            return reading.failure or "its engine failed"
        before = self._state
        self._state = reading.state
        self._load_progress = reading.load_progress
        if self._state in _SERVING and self._served_since_mono_ms is None:
            self._served_since_mono_ms = self._clock.now().mono_ms
        is_same_place = before is self._state or {before, self._state} <= _SERVING
        if not is_same_place:
            _log.info("worker_state", worker_id=self.spec.worker_id, state=self._state.value)
            self._on_change(self)
        return ""

    async def _end_failed(self, end: "asyncio.Future[int | None]") -> None:
        self._state = WorkerState.FAILED
        self._on_change(self)
        self._terminate()
        await asyncio.wait({end}, timeout=limits.WORKER_KILL_MARGIN_MS / 1_000)
        self._handle.signal_stop(force=True)

    def _record_end(self, exit_code: int | None) -> None:
        self._exit_code = exit_code
        self._state = WorkerState.FAILED
        log_tail = self._handle.log_tail()
        if not self._is_stopping:
            own_fault = self._failure or _last_words(log_tail)
            self._was_killed = not own_fault and exit_code in _BY_OTHERS
            self._failure = own_fault or _describe_end(exit_code)
        if self._failure:
            self._log_tail = log_tail
        _log.info(
            "worker_exited",
            worker_id=self.spec.worker_id,
            pid=self._handle.record.pid,
            exit_code=exit_code,
            asked=self._is_stopping,
        )
        self._gone.set()
        self._on_change(self)

    def _terminate(self) -> None:
        if not self._was_terminated:
            self._was_terminated = True
            self._handle.signal_stop(force=False)

    async def _gone_within(self, wait_ms: int) -> bool:
        try:
            async with asyncio.timeout(wait_ms / 1_000):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True


def _tell_bug(task: "asyncio.Task[None]") -> None:
    # Nobody awaits a watch before shutdown, so a bug in it would stay unheard until then.
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("watch_broke", task=task.get_name(), exc_info=error)


def _last_words(log_tail: str) -> str:
    """Return the one line by which a worker that cannot start says why, if that is how its log ends."""
    last = log_tail.rpartition("\n")[2]
    return last.removeprefix(_FAULT_PREFIX) if last.startswith(_FAULT_PREFIX) else ""


def _describe_end(exit_code: int | None) -> str:
    if exit_code is None:
        return "the process ended by itself; its exit code is not known, since an earlier pool manager started it"
    if exit_code >= 0:
        return f"the process ended by itself with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"the process was killed by {name}{hint}"
