"""Simulations for a queen's callers: each in a process of its own, so that the queen's event loop never stalls.

The process gives way to the queen (`nice`), has limits of CPU time and memory, and ends with the call.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import refuse

from beeyard_queen.simulator.request import (
    Faulted,
    Progressed,
    SimulationRequest,
    Told,
    decode_told,
    encode_request,
)

_log = get_log("simulator")
_SILENCE_S: Final = 2 * limits.SIMULATION_PROGRESS_MS / 1_000


class Simulations:
    """Runs a few simulations at once. One event loop."""

    def __init__(self) -> None:
        """Run nothing yet."""
        self._running_count = 0

    async def run(self, request: SimulationRequest) -> AsyncGenerator[Told, None]:
        """Yield progress, at least once a second, and then one report or fault.

        Raises:
            RpcRefusal: QUEUE_FULL_REJECT, if as many run as may; INTERNAL, if the process ends without a word.
        """
        if self._running_count >= limits.SIMULATIONS_AT_ONCE_MAX:
            raise refuse(
                Refusal.QUEUE_FULL_REJECT,
                "as many simulations run as may; try again later",
                retry_after_ms=limits.SIMULATION_RETRY_MS,
                metadata={"subject": "simulations"},
            )
        self._running_count += 1
        try:
            async with _process(request) as output, aclosing(_told(output)) as told:
                async for one in told:
                    yield one
        finally:
            self._running_count -= 1


@asynccontextmanager
async def _process(request: SimulationRequest) -> AsyncIterator[asyncio.StreamReader]:
    """Start the process and hand it the request; at the end of the block it is gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "beeyard_queen.simulator",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL, limit=limits.SIMULATION_LINE_BYTES_MAX,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(encode_request(request))
        process.stdin.close()
        yield process.stdout
    finally:
        # The whole session: the process has a sandbox with processes of its own.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of them have ended
        await process.wait()


async def _told(output: asyncio.StreamReader) -> AsyncGenerator[Told, None]:
    """Yield what the process tells; when it is silent for long, say once more how far it was."""
    last = Progressed(0, 0, 0)
    reading = asyncio.ensure_future(output.readline())
    try:
        while True:
            done, _ = await asyncio.wait((reading,), timeout=_SILENCE_S)
            if not done:
                yield last
                continue
            told = _decoded(reading.result())
            yield told
            if not isinstance(told, Progressed):
                return
            last = told
            reading = asyncio.ensure_future(output.readline())
    finally:
        reading.cancel()


def _decoded(line: bytes) -> Told:
    try:
        return decode_told(line)
    except ValueError:
        _log.error("simulation_ended_without_a_report", bytes=len(line))
        message = "the simulation ended without a report: it took too much time or memory"
        return Faulted("sandbox", message)
