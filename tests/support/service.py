"""One service as a process of its own, from its first line on stdout to its last breath.

Tests of whole paths run what operators run: `python -m beeyard_…`, told apart by nothing but a mark in the environment,
by which whatever a test leaves behind is found again.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

#: In the environment of every process that a test starts, and of all that those start.
MARK = "BEEYARD_STACK_MARK"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_LINES = 40


class StackFailed(AssertionError):
    """A process did not start, did not stop, or was left behind; the message ends with its log."""


class Service:
    """One process of one role.

    Attributes:
        role: The module without `beeyard_`, such as `pool_manager`.
        ready: What it announced on stdout when it was ready; empty before.
    """

    def __init__(
        self, role: str, flags: Sequence[str], *, log: Path, env: Mapping[str, str]
    ) -> None:
        """Prepare a process; nothing runs yet.

        Args:
            role: Which service.
            flags: Its command line.
            log: Where its stderr goes; appended to.
            env: Its environment, on top of the test's own without any BEEYARD_ variable.
        """
        self.role = role
        self.ready: dict[str, object] = {}
        self._flags = list(flags)
        self._log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BEEYARD_", "OTEL_"))}
        self._env = inherited | {"PYTHONUNBUFFERED": "1"} | dict(env)
        self._process: asyncio.subprocess.Process | None = None
        self._rest: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        await self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, f"{self.role} was never started"
        return self._process.pid

    @property
    def address(self) -> str:
        """Its `host:port`."""
        return str(self.ready["address"])

    @property
    def admin_address(self) -> str:
        """The `host:port` of its admin listener."""
        return str(self.ready["admin_address"])

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs or before it was started."""
        return self._process.returncode if self._process else None

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    async def start(self, extra_flags: Sequence[str] = ()) -> None:
        """Start it and return once it announced that it is ready.

        Args:
            extra_flags: After the others, so that they win.

        Raises:
            StackFailed: It ended, or said nothing for too long.
        """
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"beeyard_{self.role}", *self._flags, *extra_flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
                cwd=self._log.parent,
            )
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await self._process.stdout.readline()
        except TimeoutError:
            await self.kill()
            raise self._failed(f"was not ready after {START_TIMEOUT_S:.0f} s") from None
        except BaseException:
            await self.kill()
            raise
        # What it may write later is read and dropped, so that it never blocks on a full pipe.
        self._rest = asyncio.create_task(_read_to_end(self._process.stdout))
        if not line:
            await self._ended()
            raise self._failed(f"ended before it was ready, with exit code {self.exit_code}")
        self.ready = json.loads(line)

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask it to end by SIGTERM, and wait. Without effect if it is gone already.

        Raises:
            StackFailed: It did not end within `timeout_s` seconds and was killed.
        """
        if self._process is None:
            return
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout_s):
                    await self._process.wait()
            except TimeoutError:
                await self.kill()
                raise self._failed(f"did not stop within {timeout_s:.0f} s of SIGTERM") from None
            except BaseException:
                await self.kill()
                raise
        await self._ended()

    async def kill(self) -> None:
        """End it by SIGKILL and return once it is gone."""
        if self._process is not None and self.is_running:
            self._process.kill()
        await self._ended()

    async def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Return its exit code once it ends by itself."""
        assert self._process is not None
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
        await self._ended()
        return code

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        return log_tail(self._log)

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.wait()
        if self._rest is not None:
            await self._rest
            self._rest = None

    def _failed(self, what: str) -> StackFailed:
        return StackFailed(f"{self.role} {what}\n{self.log_tail()}")


def lone_worker(name: str, *flags: str, log: Path, env: Mapping[str, str]) -> Service:
    """Return a worker without a queen, not started yet; on the synthetic engine unless the flags differ."""
    synthetic = ["--engine", "synthetic", "--model", "tiny", "--model-source", "200"]
    alone = ["--worker-id", name, "--queen", "", "--pool-id", "none", "--listen", "127.0.0.1:0"]
    room = ["--device", "cpu", "--slots", "2", "--context-tokens", "2048"]
    return Service("worker", [*alone, *synthetic, *room, *flags], log=log, env=env)


def log_tail(log: Path) -> str:
    """Return the last lines of a log under a line that names it."""
    if not log.exists():
        return f"--- {log.name}: nothing"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"--- {log.name}, last lines", *lines[-LOG_TAIL_LINES:]])


def marked(mark: str) -> list[psutil.Process]:
    """Return every process that bears the mark, whoever started it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            # Gone meanwhile, or somebody else's.
            continue
    return found


async def clear(mark: str, grace_s: float = STOP_TIMEOUT_S) -> list[str]:
    """End every process that bears the mark: SIGTERM, then SIGKILL.

    Args:
        mark: Whose.
        grace_s: Seconds between the two.

    Returns:
        The command line of each that had to be killed.
    """
    left = marked(mark)
    for process in left:
        _signal(process, signal.SIGTERM)
    _, stubborn = await asyncio.to_thread(psutil.wait_procs, left, timeout=grace_s)
    # Those that came up meanwhile, too.
    stubborn = list({*stubborn, *marked(mark)})
    named = [_describe(process) for process in stubborn]
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, stubborn, timeout=grace_s)
    return named


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline()[:6])}"
    except psutil.Error:
        return f"{process.pid}: gone"


async def _read_to_end(stream: asyncio.StreamReader) -> None:
    while await stream.read(65_536):
        pass
