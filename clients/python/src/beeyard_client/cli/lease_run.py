"""Runs any command under a lease: waits for its turn, heartbeats while it runs, ends it when the lease is lost.

The command gets a session of its own, so that it can be ended together with everything that it started. Its streams are
ours, untouched.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from beeyard_client import limits
from beeyard_client.cli.printing import complain
from beeyard_client.held_lease import HeldLease
from beeyard_client.work import Denial

#: What shells say of a command that is not there, or that cannot be run.
_NOT_FOUND: Final = 127
_NOT_RUNNABLE: Final = 126
#: What shells add to the number of the signal that ended a command.
_BY_SIGNAL: Final = 128


class CommandFailed(Exception):
    """The command did not exit with 0; its work fails with this sentence."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Announcer:
    """Tells a person why the command waits, each reason once in a row."""

    def __init__(self) -> None:
        self._told = ""

    def __call__(self, denial: Denial) -> None:
        """Take in one denial."""
        if denial.message != self._told:
            self._told = denial.message
            complain(f"waiting: {denial.message}")


async def run_under(held: HeldLease, command: Sequence[str], grace_ms: int) -> int:
    """Run the command while the lease is held; return the exit code to end with.

    Raises:
        BeeyardError: There was no lease, or it was lost; then the command has been ended.
    """
    try:
        async with held as lease:
            names = {
                "BEEYARD_LEASE_ID": lease.lease.lease_id,
                "BEEYARD_LEASE_EPOCH": str(lease.lease.epoch),
                "BEEYARD_WORK_ID": lease.work.work_id,
                "BEEYARD_POOL_ID": lease.lease.pool_id,
            }
            await _run(command, names, grace_ms)
    except CommandFailed as failed:
        return failed.code
    return 0


async def _run(command: Sequence[str], names: dict[str, str], grace_ms: int) -> None:
    """Run the command to its end.

    Raises:
        CommandFailed: It did not end with 0.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **names}, start_new_session=True
        )
    except OSError as error:
        name = Path(command[0]).name
        complain(f"{name} cannot be run: {error.strerror}")
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
        raise CommandFailed(f"{name} cannot be run: {error.strerror}", code) from None
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await _end(process, grace_ms)
        raise
    if code != 0:
        told = _BY_SIGNAL - code if code < 0 else code
        raise CommandFailed(f"the command ended with code {told}", told)


async def _end(process: asyncio.subprocess.Process, grace_ms: int) -> None:
    """Ask the command and all that it started to end; kill what is left when the grace is over."""
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(grace_ms / 1000):
            await process.wait()
    except TimeoutError:
        pass  # the grace is over
    # Whatever the command left behind in its session, too.
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass  # everything has ended


GRACE_MS_DEFAULT: Final = limits.COMMAND_STOP_MS
