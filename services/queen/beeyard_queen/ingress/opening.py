"""How a stream between the queen and a worker or host begins and ends.

Whoever opens it speaks first, and soon. Whichever side ends first ends the stream. Our own writing is let run out
rather than cancelled: a write that is cancelled halfway can leave the call without an answer to its caller.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TypeVar

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import refuse

MessageT = TypeVar("MessageT")


async def first_message(requests: AsyncIterator[MessageT]) -> MessageT | None:
    """Return the first message of a stream; None if the caller ended it without one.

    Raises:
        RpcRefusal: INVALID_REQUEST when nothing comes within the deadline of a call.
    """
    try:
        async with asyncio.timeout(limits.RPC_DEADLINE_MS / 1000):
            return await anext(aiter(requests), None)
    except TimeoutError:
        message = f"the stream must begin with a message within {limits.RPC_DEADLINE_MS} ms"
        raise refuse(Refusal.INVALID_REQUEST, message) from None


async def converse(
    reading: Coroutine[None, None, None],
    writing: Coroutine[None, None, None],
    end_writing: Callable[[], None],
) -> None:
    """Read and write until one of the two ends, then end the other.

    Args:
        reading: Reads until the caller ends the stream.
        writing: Writes until `end_writing` was called.
        end_writing: Lets `writing` return soon.

    Raises:
        Exception: What reading or writing raised.
    """
    reader, writer = asyncio.create_task(reading), asyncio.create_task(writing)
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        reader.cancel()
        end_writing()
        await asyncio.wait((writer,), timeout=limits.STREAM_END_MS / 1000)
        writer.cancel()
        outcomes = await asyncio.gather(reader, writer, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
