"""A queen with a worker that the test plays, and a gateway before it."""

from collections.abc import AsyncIterator

import pytest

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.running_gateway import RunningGateway, running_gateway
from tests.support.running_queen import RunningQueen, running_queen


@pytest.fixture
async def queen() -> AsyncIterator[RunningQueen]:
    async with running_queen() as running:
        yield running


@pytest.fixture
async def worker(queen: RunningQueen) -> AsyncIterator[AttachedWorker]:
    """A worker `w1` of the model `tiny` with two slots."""
    async with attached_worker(queen.channel) as attached:
        yield attached


@pytest.fixture
async def gateway(queen: RunningQueen) -> AsyncIterator[RunningGateway]:
    async with running_gateway(queen.queen.server.address) as running:
        yield running
