"""Runs workers as processes of this machine.

A worker gets a session of its own, so a Ctrl-C at the pool manager's terminal does not reach it and a SIGKILL of its
group takes along whatever it started itself. Its output goes to files and not to pipes: a pipe would break when the
pool manager dies, and a successor could not read what was said before it came.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from beeyard_core import limits
from beeyard_runtime.clock import Clock

from beeyard_pool_manager.gpus.cpu import CPU_UUID
from beeyard_pool_manager.workers import worker_log
from beeyard_pool_manager.workers.launcher import LaunchFailed, WorkerHandle
from beeyard_pool_manager.workers.process_end import process_end
from beeyard_pool_manager.workers.records import RecordFolder, file_stem
from beeyard_pool_manager.workers.worker_process import RunRecord, WorkerSpec

# The kernel tells a process's start in clock ticks since boot, and psutil adds the boot time, which jitters by a
# second on some kernels. A pid is not used again within two seconds of its process's start.
_CREATE_TIME_SLACK_S: Final = 2.0
_READY_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCommand:
    """How a worker is called.

    Attributes:
        program: Program and first arguments, such as `python -m beeyard_worker`.
        queen: HOST:PORT of the queen; empty: the workers stand alone.
        threads: Engine threads; 0: the worker's own choice.
        supervisor_grace_ms: How long a worker lives without a pool manager, milliseconds.
        security: Flags that name certificates and the file of the token.
        environment: Added to this process's environment.
    """

    program: Sequence[str]
    queen: str
    pool_id: str
    threads: int = 0
    supervisor_grace_ms: int = limits.SUPERVISOR_GRACE_MS
    security: Sequence[str] = ()
    environment: Mapping[str, str]

    def arguments(self, spec: WorkerSpec) -> list[str]:
        """Return the whole command line. Values are joined to their flags, so that none can pass for a flag."""
        line = [
            *self.program,
            f"--worker-id={spec.worker_id}",
            f"--queen={self.queen}",
            f"--pool-id={self.pool_id}",
            "--listen=127.0.0.1:0",
            f"--engine={spec.engine}",
            f"--model={spec.model}",
            f"--model-source={spec.source}",
            f"--device={spec.device}",
            f"--slots={spec.slots}",
            f"--context-tokens={spec.context_tokens}",
            "--supervised",
            f"--supervisor-grace-ms={self.supervisor_grace_ms}",
            *self.security,
        ]
        return [*line, f"--threads={self.threads}"] if self.threads else line

    def variables(self, spec: WorkerSpec) -> dict[str, str]:
        """Return the environment: a CUDA library sees the worker's device only, and must be told before it loads."""
        visible = "" if spec.device == CPU_UUID else spec.device
        return {**os.environ, **self.environment, "CUDA_VISIBLE_DEVICES": visible}


class LocalLauncher:
    """Starts workers on this machine and finds those of earlier pool managers.

    Args:
        work_dir: Where records and logs are; `workers/` and `logs/` are made in it.
        command: How a worker is called.
        clock: The time.
    """

    def __init__(self, work_dir: Path, *, command: WorkerCommand, clock: Clock) -> None:
        self._records = RecordFolder(work_dir / "workers")
        self._logs = work_dir / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._command = command
        self._clock = clock

    async def start(self, spec: WorkerSpec) -> WorkerHandle:
        """Start a process and remember it on disk before anything else can happen to it."""
        files = self._files(spec.worker_id)
        try:
            pid = self._spawn(spec, files)
        except OSError as error:
            raise LaunchFailed(f"the worker program cannot be run: {error.strerror}") from error
        record = RunRecord(
            spec=spec,
            pid=pid,
            create_time_s=_create_time_s(pid) or 0.0,
            start_wall_ms=self._clock.now().wall_ms,
        )
        handle = _LocalWorker(record, files, self._clock, is_child=True)
        try:
            self._records.write(record)
        except OSError as error:
            # Nobody could adopt it, so it must not live.
            handle.signal_stop(force=True)
            await handle.exited()
            raise LaunchFailed(f"the work folder cannot be written: {error.strerror}") from error
        return handle

    async def list(self) -> list[WorkerHandle]:
        """Return the processes that earlier pool managers started and that still run; forgets all others."""
        found: list[WorkerHandle] = []
        for record in self._records.read_all():
            if _is_same_process(record):
                files = self._files(record.spec.worker_id)
                found.append(_LocalWorker(record, files, self._clock, is_child=False))
            else:
                self._records.remove(record)
        return found

    def memory_bytes(self, record: RunRecord) -> int:
        """Return the resident memory of the process in bytes; 0 once it is gone."""
        try:
            return int(psutil.Process(record.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def forget(self, record: RunRecord) -> None:
        """Remove the record and what the process said on stdout; its log stays for the operator."""
        self._records.remove(record)
        with suppress(OSError):
            self._files(record.spec.worker_id).stdout.unlink(missing_ok=True)

    def tidy(self, record: RunRecord) -> None:
        """Keep the log within its bound."""
        files = self._files(record.spec.worker_id)
        worker_log.bound(files.log)
        worker_log.bound(files.stdout)

    def _spawn(self, spec: WorkerSpec, files: "_Files") -> int:
        # Not by the event loop: uvloop forks, and a fork of a process in which gRPC has threads crashed the child
        # before it became a worker. CPython's own Popen uses vfork, after which nothing runs but exec.
        # A worker of the same id may have run before; what it said on stdout is not what this one says.
        with files.stdout.open("wb") as stdout, files.log.open("ab") as log:
            process = subprocess.Popen(
                self._command.arguments(spec),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                env=self._command.variables(spec),
                start_new_session=True,
            )
        # Its handle waits for it from here on; a Popen dropped while its process runs would complain.
        process.returncode = 0
        return process.pid

    def _files(self, worker_id: str) -> "_Files":
        stem = file_stem(worker_id)
        return _Files(log=self._logs / f"{stem}.log", stdout=self._logs / f"{stem}.stdout")


@dataclass(frozen=True, slots=True)
class _Files:
    log: Path
    stdout: Path


class _LocalWorker:
    """One process of this machine; a child of this process, or adopted."""

    def __init__(self, record: RunRecord, files: _Files, clock: Clock, *, is_child: bool) -> None:
        self._record = record
        self._files = files
        self._clock = clock
        self._is_child = is_child
        self._is_gone = False
        self._exit_code: int | None = None

    @property
    def record(self) -> RunRecord:
        """What a successor would need."""
        return self._record

    async def ready(self) -> str:
        """Return the address out of the one line that a service writes to stdout when it listens."""
        while True:
            address = _read_address(self._files.stdout)
            if address:
                return address
            await self._clock.sleep_ms(limits.READY_POLL_MS)

    async def exited(self) -> int | None:
        """Return the exit code once the process is gone; None for an adopted one, whose code only its parent gets."""
        if not self._is_gone:
            await process_end(self._record.pid, self._runs, self._clock)
        if not self._is_gone:
            self._is_gone = True
            self._end_orphans()
            self._reap()
        return self._exit_code

    def signal_stop(self, *, force: bool) -> None:
        """SIGTERM to the worker alone, which ends its own children in order; SIGKILL to its whole group."""
        if self._is_gone or not self._runs():
            return
        with suppress(ProcessLookupError, PermissionError):
            if force:
                os.killpg(self._record.pid, signal.SIGKILL)
            else:
                os.kill(self._record.pid, signal.SIGTERM)

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return worker_log.tail(self._files.log)

    def _runs(self) -> bool:
        if self._is_child:
            # Looks without reaping, so that the pid cannot mean another process before `exited` has cleaned up.
            peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._record.pid, peek) is None
        return _is_same_process(self._record)

    def _reap(self) -> None:
        if self._is_child:
            _, status = os.waitpid(self._record.pid, 0)
            self._exit_code = os.waitstatus_to_exitcode(status)

    def _end_orphans(self) -> None:
        """End what the worker started and left behind when it crashed, such as an engine server."""
        if self._is_child:
            # Not reaped yet, so the group's id is still the worker's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._record.pid, signal.SIGKILL)
            return
        # The kernel gives no new process the id of a session that still has members.
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError):
                if process.pid != self._record.pid and os.getsid(process.pid) == self._record.pid:
                    os.kill(process.pid, signal.SIGKILL)


def _read_address(path: Path) -> str:
    try:
        with path.open("rb") as source:
            said = source.read(_READY_BYTES_MAX)
    except OSError:
        return ""
    for line in said.split(b"\n")[:-1]:
        try:
            announced = json.loads(line)
        except ValueError:
            continue  # some library spoke on stdout; the line that we wait for is still to come
        if isinstance(announced, dict) and announced.get("ready") == "worker":
            return str(announced.get("address", ""))
    return ""


def _create_time_s(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        # A zombie is an entry in a table and not a process.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _is_same_process(record: RunRecord) -> bool:
    created_s = _create_time_s(record.pid)
    return created_s is not None and abs(created_s - record.create_time_s) < _CREATE_TIME_SLACK_S
