"""One host as the queen sees it: a stream to ask it by, and the means to end it.

A host is never trusted to end a call by itself. Three clocks watch each request: inside, the guard of `guard.lua`;
from here, the CPU time that the host's process used, read from the kernel; and, for a host that neither answers nor
computes, the wall. The last two end in SIGKILL, which nothing can catch. All of it is timers and callbacks: the event
loop never waits for a host.
"""

import asyncio
import os
import signal
import sys
import time
from typing import Final, cast

import msgpack
from beeyard_core import limits
from beeyard_runtime.faults import StartFailed

from beeyard_queen.policy.reply import ReplyInvalid, read_value
from beeyard_queen.policy.zygote import Forked, Terms, Zygote

_HEAD: Final = 4
_WATCH_INTERVAL_S: Final = limits.POLICY_WATCH_INTERVAL_MS / 1_000
# Which of a process's clocks counts its CPU time on all threads (CPUCLOCK_SCHED, of a process).
_CPU_CLOCK: Final = 2


class HostGone(Exception):
    """A host ended, or was ended, before it answered. Take another."""


class StillBusy(Exception):
    """The patience is over; the host goes on, watched as before.

    Attributes:
        answer: What its answer, or its end, will come in.
    """

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        super().__init__("it has not answered yet")
        self.answer = answer


class HostProcess(asyncio.Protocol):
    """A locked-down process with one Lua state."""

    def __init__(self, forked: Forked) -> None:
        """Wrap a forked process; use `open` to get one that is ready."""
        self.pid = forked.pid
        self.walls: dict[str, str] = {}
        self._handle = forked.handle
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._cpu_ms_max = 0
        self._patience_ms = limits.POLICY_WALL_MS
        self._began_cpu_ms: float | None = None
        self._began_s = 0.0
        self._gone = ""

    @classmethod
    async def open(cls, zygote: Zygote, terms: Terms) -> "HostProcess":
        """Return a fresh host that is locked down and waits for requests.

        Raises:
            HostGone: It did not come up.
        """
        try:
            forked = await zygote.spawn(terms)
        except (OSError, TimeoutError, StartFailed) as fault:
            raise HostGone(f"no host could be forked: {fault}") from fault
        host = cls(forked)
        answer = host._expect(limits.POLICY_KILL_CPU_MS)
        try:
            await host._loop.create_unix_connection(lambda: host, sock=forked.stream)
            walls = read_value(await answer)
        except (OSError, ReplyInvalid) as fault:
            host.kill("it did not come up")
            raise HostGone(f"a host did not come up: {fault}") from fault
        except BaseException:
            host.kill("it was not waited for")
            raise
        if isinstance(walls, dict):
            host.walls = {str(name): str(text) for name, text in walls.items() if text}
        return host

    @property
    def is_gone(self) -> bool:
        """Whether it ended."""
        return bool(self._gone)

    @property
    def is_busy(self) -> bool:
        """Whether it has yet to answer a request."""
        return self._answer is not None and not self._answer.done()

    def request(
        self, *message: object, cpu_ms_max: int, patience_ms: int = limits.POLICY_WALL_MS
    ) -> asyncio.Future[bytes]:
        """Send a request; the future holds the reply's bytes, unread.

        Args:
            message: The operation and its arguments.
            cpu_ms_max: CPU time after which the host is killed.
            patience_ms: Wall time after which the caller is told StillBusy.

        Returns:
            The reply, HostGone or StillBusy. Do not cancel it: the host's answer would come unasked.
        """
        assert not self.is_busy, "one request at a time"
        answer = self._expect(cpu_ms_max)
        self._patience_ms = patience_ms
        if self._gone or self._transport is None:
            answer.set_exception(HostGone(self._gone))
            return answer
        body = msgpack.packb(message)
        self._transport.write(len(body).to_bytes(_HEAD, "little") + body)
        return answer

    async def ask(self, *message: object, cpu_ms_max: int = limits.POLICY_KILL_CPU_MS) -> object:
        """Send a request that is not about a call of the policy; return the value.

        Raises:
            HostGone: It ended, or answered what it never would.
        """
        try:
            return read_value(await self.request(*message, cpu_ms_max=cpu_ms_max))
        except ReplyInvalid as fault:
            self.kill(str(fault))
            raise HostGone(str(fault)) from fault

    def cpu_ms(self) -> float:
        """Return the CPU time that the process has used; 0 where that cannot be read."""
        if sys.platform != "linux" or self._gone:
            return 0.0
        try:
            return time.clock_gettime((~self.pid << 3) | _CPU_CLOCK) * 1_000
        except OSError:
            return 0.0

    def kill(self, reason: str) -> None:
        """End the process now; a request under way ends with HostGone(reason)."""
        if self._gone:
            return
        self._gone = reason
        try:
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self._handle >= 0:
            os.close(self._handle)
        if self._transport is not None:
            self._transport.abort()
        self._fail(reason)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the stream."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Gather a reply."""
        self._buffer += data
        if len(self._buffer) < _HEAD:
            return
        length = int.from_bytes(self._buffer[:_HEAD], "little")
        if length > limits.POLICY_REPLY_BYTES_MAX or len(self._buffer) > _HEAD + length:
            self.kill("it answered more than it may")
        elif len(self._buffer) == _HEAD + length:
            answer = self._answer
            body = bytes(self._buffer[_HEAD:])
            self._buffer.clear()
            if answer is None or answer.done():
                self.kill("it spoke without being asked")
                return
            answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notice that it ended by itself."""
        self.kill("it died")

    # --- the clocks ---

    # A request costs no timer and no look at a clock of the kernel's: most are answered before the first look. One
    # timer goes on from look to look while there are requests. Nothing but requests costs a host CPU time, so what it
    # had used at the first look is at most an interval's more than at the request.

    def _expect(self, cpu_ms_max: int) -> asyncio.Future[bytes]:
        self._answer = self._loop.create_future()
        self._cpu_ms_max = cpu_ms_max
        self._began_cpu_ms = None
        self._began_s = self._loop.time()
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_INTERVAL_S, self._look)
        return self._answer

    def _look(self) -> None:
        self._watch = None
        if not self.is_busy:
            return
        waited_ms = (self._loop.time() - self._began_s) * 1_000
        if self._began_cpu_ms is None:
            self._began_cpu_ms = self.cpu_ms()
        if self.cpu_ms() - self._began_cpu_ms > self._cpu_ms_max:
            self.kill(f"it used more than {self._cpu_ms_max} ms of CPU time")
            return
        if waited_ms > limits.POLICY_WALL_MS:
            self.kill(f"it did not answer within {limits.POLICY_WALL_MS} ms")
            return
        self._watch = self._loop.call_later(_WATCH_INTERVAL_S, self._look)
        asked = self._answer
        if waited_ms > self._patience_ms and asked is not None and not asked.done():
            self._patience_ms = limits.POLICY_WALL_MS
            self._answer = self._loop.create_future()
            asked.set_exception(StillBusy(self._answer))

    def _rest(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _fail(self, reason: str) -> None:
        self._rest()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HostGone(reason))
            # Whoever asked may have stopped waiting; the reason is in the log all the same.
            self._answer.exception()
