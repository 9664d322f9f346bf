"""Waiting for what comes true inside this process, with a deadline instead of a sleep."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.001


async def eventually(
    holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S
) -> None:
    """Return once `holds()` is true.

    Args:
        holds: The condition; asked again and again, so it must be cheap.
        what: The condition in words, for the failure.
        patience_s: How long to wait, seconds.

    Raises:
        AssertionError: It did not become true.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while not holds():
        assert loop.time() < deadline, f"never happened: {what}"
        looked = loop.create_future()
        loop.call_later(_LOOK_AGAIN_S, looked.set_result, None)
        await looked
