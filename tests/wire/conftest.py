"""One stack for all tests of the wire: none of them changes it, so each needs no queen of its own."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.stack import Stack


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack() -> AsyncIterator[Stack]:
    """A queen, a pool manager and one ready worker of the synthetic model `tiny`."""
    async with Stack(models={"tiny": "synthetic:200"}) as running:
        yield running
