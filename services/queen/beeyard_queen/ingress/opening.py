"""How a stream of ours begins: whoever opens it speaks first, and soon."""

import asyncio
from collections.abc import AsyncIterator
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
