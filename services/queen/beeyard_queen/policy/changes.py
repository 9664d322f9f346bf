"""Changes that happen one after the other and to their end, whoever still waits for them."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """A lock, and the tasks that were begun under it."""

    def __init__(self) -> None:
        """Start with none under way."""
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[object]] = set()
        self._pursued: set[asyncio.Task[object]] = set()

    async def make(self, change: Coroutine[object, object, T]) -> T:
        """Carry out a change when those before it are done; a caller that goes away does not break it off."""
        task = asyncio.create_task(self._alone(change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def pursue(self, work: Coroutine[object, object, None]) -> None:
        """Let work go on beside everything else until it is done, or until `close`; it makes its changes by `make`."""
        task = asyncio.create_task(work)
        self._pursued.add(task)
        task.add_done_callback(self._pursued.discard)

    async def settled(self) -> None:
        """Return once nothing is under way or pursued."""
        while under_way := self._tasks | self._pursued:
            await asyncio.wait(under_way)

    async def close(self) -> None:
        """Give up what is pursued; return once the changes that have begun are done."""
        for task in self._pursued:
            task.cancel()
        await self.settled()

    async def _alone(self, change: Coroutine[object, object, T]) -> T:
        async with self._lock:
            return await change
