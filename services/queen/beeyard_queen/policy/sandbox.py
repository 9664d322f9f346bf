"""A queen's policy sandbox: one zygote for the policy that decides and for all that are only tried.

It starts when it is first needed: a queen that keeps to the platform policy never pays for it.
"""

import asyncio

from beeyard_queen.policy.zygote import Zygote


class Sandbox:
    """Where hosts come from. One event loop."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._zygote: Zygote | None = None
        self._starting = asyncio.Lock()

    async def zygote(self) -> Zygote:
        """Return the zygote, started.

        Raises:
            StartFailed: The sandbox does not work on this machine.
        """
        async with self._starting:
            if self._zygote is None:
                zygote = Zygote()
                await zygote.start()
                self._zygote = zygote
            return self._zygote

    async def close(self) -> None:
        """End the zygote, and every host with it."""
        async with self._starting:
            zygote, self._zygote = self._zygote, None
            if zygote is not None:
                await zygote.stop()
