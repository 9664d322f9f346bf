"""Starts an inference server for a worker and makes sure that it ends with it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Sequence

from beeyard_core.limits import UPSTREAM_STOP_GRACE_MS
from beeyard_core.refusal import Refusal

from beeyard_worker.engine.port import EngineFault


def free_port() -> int:
    """Return a loopback port that nobody listens on now; the server that gets it should bind it soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class UpstreamProcess:
    """One server process, leader of its own group: some servers start further processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Watch over this process; `start` makes one."""
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> "UpstreamProcess":
        """Start the command. What it prints goes to our standard error.

        Raises:
            EngineFault: MODEL_LOAD_FAILED if there is no such program.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.__stderr__,
                stderr=sys.__stderr__,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineFault(
                Refusal.MODEL_LOAD_FAILED,
                f"the upstream server cannot be started: {error.strerror}",
            ) from error
        return cls(process)

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """Ask it to end, wait, then kill what is left of its group. Idempotent."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), UPSTREAM_STOP_GRACE_MS / 1_000)
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        # The group outlives its leader while any child of it runs.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
