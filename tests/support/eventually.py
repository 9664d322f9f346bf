"""Waiting for what comes true inside this process, with a deadline instead of a sleep."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.001


async def eventually(
    holds: Callable[[], object],
    what: str,
    patience_s: float = PATIENCE_S,
    *,
    look_again_s: float = _LOOK_AGAIN_S,
) -> None:
    """Return once `holds()` is true.

    Args:
        holds: The condition; asked again and again, so it must be cheap.
        what: The condition in words, for the failure.
        patience_s: How long to wait, seconds.
        look_again_s: How long to wait between two looks, seconds; longer for a condition that costs something.

    Raises:
        AssertionError: It did not become true.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while not holds():
        assert loop.time() < deadline, f"never happened: {what}"
        looked = loop.create_future()
        timer = loop.call_later(look_again_s, looked.set_result, None)
        try:
            await looked
        finally:
            timer.cancel()
