"""A gateway as a process of its own before a stack of real processes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.service import Service
from tests.support.stack import Stack


@asynccontextmanager
async def gateway_process(stack: Stack, *flags: str, dies: bool = False) -> AsyncIterator[Service]:
    """Run a gateway of the stack's queen until the block ends, then ask it to stop.

    Args:
        stack: Whose queen it speaks for.
        flags: More of its command line.
        dies: The test kills it, so it does not end well.
    """
    service = Service(
        "gateway",
        [
            "--listen",
            "127.0.0.1:0",
            "--queen",
            stack.queen_address,
            "--log-format",
            "json",
            "--drain-lead-ms",
            "0",
            *flags,
        ],
        log=stack.folder / "gateway.log",
        env=stack.environment,
    )
    async with service:
        yield service
    assert dies or service.exit_code == 0, service.log_tail()
