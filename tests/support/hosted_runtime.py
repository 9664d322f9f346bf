"""Runs the active policy in a real host, as the queen's runtime does, over a world that the test holds."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.deltas import snapshot
from beeyard_queen.policy.hosts import PolicyHost, Ruling
from beeyard_queen.policy.reply import Reply, Status
from beeyard_queen.policy.try_command import read_scene
from beeyard_queen.policy.zygote import Zygote
from beeyard_runtime.clock import Clock
from beeyard_runtime.testing import ManualClock

PLATFORM_LABEL = "platform@1"


def ignore(label: str, reason: str) -> None:
    """Nobody listens yet."""


class HostedRuntime:
    """What the desk drives: real processes, real loads, and decisions when the test asks for one."""

    def __init__(self, zygote: Zygote, clock: Clock | None = None) -> None:
        self.label = PLATFORM_LABEL
        self.on_suspended: Callable[[str, str], None] = ignore
        self.world = read_scene(None)
        self.refusing = ""
        self.loads: list[str] = []
        self._zygote = zygote
        self._clock = clock or ManualClock()
        self._host: PolicyHost | None = None

    def scene(self) -> Scene:
        return self.world

    async def activate(self, source: bytes, label: str) -> Reply:
        self.loads.append(label)
        if self.refusing:
            return Reply(Status.KILLED, self.refusing)
        host = PolicyHost(
            self._zygote, name=label, clock=self._clock, keeps_standby=False, patience_ms=5_000,
            snapshot=lambda: list(snapshot(self.world.world)),
        )  # fmt: skip
        reply = await host.start(source)
        if reply.status is not Status.OK:
            await host.stop()
            return reply
        await self.close()
        self._host, self.label = host, label
        return reply

    def use_platform(self) -> None:
        self.label = PLATFORM_LABEL

    async def decide(self) -> Ruling | None:
        """Ask the active policy, as the loop would; None while the platform policy decides."""
        host = self._host
        if host is None or self.label == PLATFORM_LABEL:
            return None
        await host.settle()
        ruling = await host.decide(seed=1, now_ms=self.world.now_ms)
        await host.settle()
        if host.breaker.suspended:
            label, self.label = self.label, PLATFORM_LABEL
            self.on_suspended(label, host.breaker.suspended)
        return ruling

    async def close(self) -> None:
        if self._host is not None:
            await self._host.stop()
            self._host = None


@asynccontextmanager
async def hosted_runtime(zygote: Zygote) -> AsyncIterator[HostedRuntime]:
    """A runtime whose host ends with the block."""
    runtime = HostedRuntime(zygote)
    try:
        yield runtime
    finally:
        await runtime.close()
