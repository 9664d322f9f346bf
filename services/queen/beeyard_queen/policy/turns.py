"""Who may try a policy now: a few at once, some more in line, and nobody beyond that.

Anybody may ask to have a policy validated, and each time costs processes and memory. So the line is short, and whoever
finds it full is told when to come back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import refuse


class Turns:
    """A short line before a few seats."""

    def __init__(self) -> None:
        """Start empty."""
        self._seats = asyncio.Semaphore(limits.POLICY_VALIDATIONS_MAX)
        self._waiting_count = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a seat and keep it for the time of the block.

        Raises:
            RpcRefusal: QUEUE_FULL_REJECT, if the line is full.
        """
        if self._waiting_count >= limits.POLICY_VALIDATIONS_WAITING_MAX:
            raise refuse(
                Refusal.QUEUE_FULL_REJECT,
                f"{self._waiting_count} policies wait to be tried already; try again later",
                retry_after_ms=limits.POLICY_VALIDATION_RETRY_MS,
                metadata={"subject": "policy validations"},
            )
        self._waiting_count += 1
        try:
            await self._seats.acquire()
        finally:
            self._waiting_count -= 1
        try:
            yield
        finally:
            self._seats.release()
