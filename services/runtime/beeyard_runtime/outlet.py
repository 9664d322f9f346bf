"""The context of a method that streams, with a watch on whether its peer takes anything.

A peer that stops reading is slowed first: HTTP/2 grants no more window, `write` waits, and nothing gathers for it but
what its window holds. Left at that, it could keep its call, and what hangs on it, for ever: its link is well, so
keepalive does not end it. So one that has taken nothing for `STREAM_STALL_MS`, though something waits for it, is cut
with READER_STALLED. What it was sent is still delivered if it reads after all, the reason behind it, and it goes on
from there by index.

The watch costs a timer for each stream and nothing for each message: it looks now and then whether the write that
waits is the one that waited before.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

import grpc
from beeyard_core.refusal import Refusal

from beeyard_runtime.rpc_errors import refuse

Context = grpc.aio.ServicerContext[object, object]

#: Looks in the time after which a peer is cut: it is cut after one to one and a half of it.
_LOOKS: Final = 2


class Outlet:
    """A servicer's context of which `write` ends when the peer has stalled; everything else is the context's own."""

    __slots__ = (
        "_context",
        "_interval_s",
        "_is_cut",
        "_looks",
        "_seen_count",
        "_sent_count",
        "_timer",
        "_writer",
    )

    def __init__(self, context: Context, stall_ms: int) -> None:
        """Watch over a call from `__enter__` to `__exit__`.

        Args:
            context: The call.
            stall_ms: For how long one write may wait, in milliseconds; at most half as long again.
        """
        self._context = context
        self._interval_s = stall_ms / 1000 / _LOOKS
        self._is_cut = False
        self._looks = 0
        self._seen_count = -1
        self._sent_count = 0
        self._writer: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def __getattr__(self, name: str) -> object:
        """Return what the context has of that name."""
        return getattr(self._context, name)

    async def write(self, message: object) -> None:
        """Send one message; returns when there is room for the next.

        Raises:
            RpcRefusal: READER_STALLED.
        """
        self._writer = asyncio.current_task()
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            # The watch ends a write by a cancellation, and takes that back unless somebody else cancels as well.
            if not self._is_cut or (self._writer is not None and self._writer.uncancel()):
                raise
            raise refuse(
                Refusal.READER_STALLED,
                "nothing of the stream was read for too long; go on from the index of the next token",
                retry_after_ms=0,
            ) from None
        finally:
            self._writer = None
            self._sent_count += 1

    def _look(self) -> None:
        """See whether the write that waits waited when this looked last."""
        has_waited = self._writer is not None and self._sent_count == self._seen_count
        self._looks = self._looks + 1 if has_waited else 0
        self._seen_count = self._sent_count
        if self._looks >= _LOOKS and self._writer is not None:
            self._is_cut = True
            self._writer.cancel()
            return
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._look)
