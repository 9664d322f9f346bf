"""One service as a child process: started, waited for until it listens, stopped by its pid.

A child has a session of its own, so that Ctrl-C at the terminal reaches only us and we choose the order of the end. Its
stderr is a log file; its stdout carries one line of JSON, when it listens.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from beeyard_client import limits
from beeyard_client.cli.faults import StackFailed

# Every service begins its last words like this; we say ourselves who speaks.
_FAULT_PREFIX: Final = re.compile(r"^beeyard [a-z_-]+: ")


class ServiceProcess:
    """A child that runs one service."""

    def __init__(self, name: str, module: str, log_path: Path) -> None:
        """Describe a child; nothing runs yet.

        Args:
            name: What to call it to a person.
            module: What `python -m` runs.
            log_path: Where its stderr goes; the log of the run before is kept beside it.
        """
        self.name = name
        self.address = ""
        self._module = module
        self._log_path = log_path
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None

    async def start(self, arguments: Sequence[str]) -> None:
        """Start the child and return once it listens; `address` says where.

        Raises:
            StackFailed: It ended, or did not listen in time.
        """
        if self._log_path.exists():
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        with self._log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(limits.SERVICE_READY_MS / 1000):
                self.address = await self._read_address(self._process)
        except TimeoutError:
            raise StackFailed(
                f"the {self.name} did not start within {limits.SERVICE_READY_MS // 1000} s; "
                f"its log is {self._log_path}",
                self.log_tail(),
            ) from None

    async def _read_address(self, process: asyncio.subprocess.Process) -> str:
        output = process.stdout
        if output is None:
            raise StackFailed(f"the {self.name} has no output")
        while line := await output.readline():
            address = _ready_address(line)
            if address:
                self._drain = asyncio.create_task(_read_away(output))
                return address
        await process.wait()
        tail = self.log_tail()
        # A service's own last words are one line made for a person.
        words = _FAULT_PREFIX.sub("", tail[-1]) if tail else f"its log is {self._log_path}"
        raise StackFailed(f"the {self.name} did not start: {words}", tail[:-1])

    @property
    def is_alive(self) -> bool:
        """Whether the child listens and has not ended."""
        return bool(self.address and self._process and self._process.returncode is None)

    async def died(self) -> StackFailed:
        """Wait until the child ends and return what to say about it."""
        code = await self._process.wait() if self._process else 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return StackFailed(f"the {self.name} ended {how}; its last words:", self.log_tail())

    async def stop(self, grace_ms: int) -> None:
        """Ask the child to drain and end; kill it when the grace is over."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_ms / 1000):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()
        finally:
            if self._drain is not None:
                self._drain.cancel()

    def kill(self) -> None:
        """End the child at once."""
        self._signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass  # it ended in this moment

    def log_tail(self) -> tuple[str, ...]:
        """Return the last lines that the child wrote."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - limits.LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", errors="replace").splitlines()
        except OSError:
            return ()
        return tuple(one for one in lines if one.strip())[-limits.LOG_TAIL_LINES :]


def _ready_address(line: bytes) -> str:
    try:
        told = json.loads(line)
    except ValueError:
        return ""
    if not isinstance(told, dict) or "ready" not in told:
        return ""
    return str(told.get("address", ""))


async def _read_away(output: asyncio.StreamReader) -> None:
    # A full pipe would block the child.
    while await output.read(4096):
        pass
