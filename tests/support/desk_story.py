"""A policy desk for tests: real sandbox, real hosts, a store in memory and a clock of ours.

async with desk_story() as story:
    row = await story.desk.deploy(...)
    await story.runtime.decide()
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from beeyard_core import limits
from beeyard_queen.policy.desk import Desk, Mode
from beeyard_queen.policy.sandbox import Sandbox
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.versions import VersionFilter
from beeyard_runtime.testing import ManualClock

from tests.support.hosted_runtime import HostedRuntime


class Story:
    """A desk over a store that outlives it."""

    def __init__(self, sandbox: Sandbox, runtime: HostedRuntime, mode: Mode) -> None:
        self.store = MemoryStore()
        self.clock = ManualClock()
        self.runtime = runtime
        self.sandbox = sandbox
        self.desk = self.at(mode)

    def at(self, mode: Mode) -> Desk:
        """A desk in some mode on the same store: what a restarted queen has."""
        self.desk = Desk(
            mode=mode,
            runtime=self.runtime,
            versions=self.store.policies,
            sandbox=self.sandbox,
            clock=self.clock,
        )
        return self.desk

    async def active(self) -> int:
        return (await self.desk.version(None)).version

    async def states(self) -> list[tuple[int, bool, str]]:
        rows = await self.desk.versions(VersionFilter())
        return [(row.version, row.is_active, row.suspension) for row in rows]

    async def fail_until_suspended(self) -> None:
        world = self.runtime.world.world
        trouble = next(iter(world.tenants.values()))._replace(tenant_id="trouble")
        tenants = {**world.tenants, "trouble": trouble}
        self.runtime.world = replace(self.runtime.world, world=replace(world, tenants=tenants))
        # What is loaded now sees it at its next picture of the world.
        row = await self.desk.version(None)
        await self.runtime.activate(row.text.encode(), self.runtime.label)
        for _ in range(limits.POLICY_FAILURES_MAX):
            await self.runtime.decide()
        await self.desk.changes.settled()


@asynccontextmanager
async def desk_story(mode: Mode = "lab") -> AsyncIterator[Story]:
    """An open desk in some mode, for the time of the block."""
    sandbox = Sandbox()
    runtime = HostedRuntime(sandbox)
    story = Story(sandbox, runtime, mode)
    await story.store.open()
    await story.desk.open()
    try:
        yield story
    finally:
        await story.desk.close()
        await runtime.close()
        await sandbox.close()
