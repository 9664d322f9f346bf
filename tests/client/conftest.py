"""A scripted queen and a client of it, on the test's own loop."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from beeyard_client import BeeyardClient

from tests.support.scripted_queen import ScriptedQueen, serve


@dataclass
class CountedPauses:
    """Time that passes only by waiting, so that no test waits."""

    ms: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now_ms(self) -> float:
        return self.ms

    async def sleep_ms(self, ms: float) -> None:
        self.waits.append(ms)
        self.ms += ms

    def jitter(self) -> float:
        return 1.0


@pytest.fixture
def pauses() -> CountedPauses:
    return CountedPauses()


@pytest.fixture
def queen() -> ScriptedQueen:
    return ScriptedQueen()


@pytest.fixture
async def address(queen: ScriptedQueen) -> AsyncIterator[str]:
    server, address = await serve(queen)
    yield address
    await server.stop(grace=None)


@pytest.fixture
async def client(address: str, pauses: CountedPauses) -> AsyncIterator[BeeyardClient]:
    async with BeeyardClient(address, pauses=pauses) as client:
        yield client
