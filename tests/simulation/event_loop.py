"""An asyncio event loop without a selector: it runs one process of a simulated world, when the world says so.

What is ready runs in the order in which it became ready, timers in the order of their times and, at one time, in the
order in which they were set. Tasks and futures hash by the order of their birth and not by their address, so that a set
of them is walked in the same order in every process. Threads are none: what is handed to an executor runs at its turn.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tests.simulation.world import Process

T = TypeVar("T")
US_PER_S = 1_000_000
_END_OF_TIME_US = 1 << 62
_WIND_UP_ROUNDS = 20


class SteadyTask(asyncio.Task[T]):
    """A task whose hash is a number that its loop gave it."""

    def __init__(self, coro: Any, *, loop: "ProcessLoop", **options: Any) -> None:
        self.number = loop.next_number()
        super().__init__(coro, loop=loop, **options)
        # What a kill leaves behind is no mistake of the code under test.
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self.number


class SteadyFuture(asyncio.Future[T]):
    """A future whose hash is a number that its loop gave it."""

    def __init__(self, *, loop: "ProcessLoop") -> None:
        self.number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one process. The world calls `run_ready`; nothing here waits.

    Attributes:
        ready: What could run now, in order.
        tasks: Every task that has not ended.
    """

    def __init__(self, process: "Process") -> None:
        self._process = process
        self.ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._number = 0
        self.tasks: dict[int, SteadyTask[Any]] = {}

    # --- For the world ---

    def next_number(self) -> int:
        """Return a number that nothing else of this loop has."""
        self._number += 1
        return self._number

    @property
    def next_timer_us(self) -> int | None:
        """When the next timer is due, in microseconds of the process's own clock."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def wake(self, now_us: int) -> None:
        """Make every timer that is due ready."""
        timers = self._timers
        while timers and timers[0][0] <= now_us:
            handle = heapq.heappop(timers)[2]
            if not handle.cancelled():
                self.ready.append(handle)

    def run_ready(self) -> int:
        """Run what is ready now, and not what becomes ready by it; return how much that was."""
        ready, count = self.ready, len(self.ready)
        asyncio._set_running_loop(self)
        try:
            for _ in range(count):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
        return count

    def wind_up(self) -> None:
        """Cancel every task and run until none is left; one that will not end is given up after a while."""
        for _ in range(_WIND_UP_ROUNDS):
            if not self.tasks:
                break
            for task in list(self.tasks.values()):
                task.cancel()
            while self.ready:
                self.run_ready()
            self.wake(_END_OF_TIME_US)
        self.ready.clear()
        self._timers.clear()

    # --- For asyncio ---

    def time(self) -> float:
        """Return the process's monotonic clock, in seconds."""
        return self._process.mono_us / US_PER_S

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, **options: Any
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, **options)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        # Rounded up: whoever looks at the clock when it fires must find that the time has come.
        due_us = -int(-when * US_PER_S // 1)
        heapq.heappush(self._timers, (due_us, self.next_number(), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is; it is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return SteadyFuture(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T] | Generator[Any, None, T], **options: Any
    ) -> asyncio.Task[T]:
        task: SteadyTask[T] = SteadyTask(coro, loop=self, **options)
        self.tasks[task.number] = task
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(hash(task), None)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` at its turn, as a thread would that is quick."""
        answer: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if answer.cancelled():
                return
            try:
                result = func(*args)
            except Exception as fault:  # noqa: BLE001 - as an executor does
                answer.set_exception(fault)
            else:
                answer.set_result(result)

        self.call_soon(run)
        return answer

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody looked at a fault: the world takes it for a bug."""
        self._process.forgotten_fault(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False


async def pass_ms(ms: float) -> None:
    """Return `ms` milliseconds of made-up time later; nobody waits for it."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def tell() -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_later(max(ms, 0) / 1_000, tell)
    try:
        await over
    finally:
        timer.cancel()
