"""A mark for every process that a test starts, by which whatever is left is ended, also when the test fails."""

import uuid
from collections.abc import AsyncIterator

import pytest

from tests.support.service import MARK, clear, marked


@pytest.fixture
async def mark() -> AsyncIterator[dict[str, str]]:
    """The environment of this test's processes; nothing bears it any more afterwards."""
    value = uuid.uuid4().hex
    yield {MARK: value}
    await clear(value, grace_s=0.1)
    assert marked(value) == []
