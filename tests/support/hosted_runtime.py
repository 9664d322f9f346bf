"""Runs the active policy in a real host, as the queen's runtime does, over a world that the test holds."""

from collections.abc import Callable

from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.deltas import snapshot
from beeyard_queen.policy.hosts import PolicyHost, Ruling
from beeyard_queen.policy.in_process import PLATFORM_LABEL
from beeyard_queen.policy.reply import Reply, Status
from beeyard_queen.policy.sandbox import Sandbox
from beeyard_queen.policy.try_command import read_scene
from beeyard_runtime.clock import Clock
from beeyard_runtime.testing import ManualClock


class HostedRuntime:
    """What the desk drives: real processes, real loads, and decisions when the test asks for one."""

    def __init__(self, sandbox: Sandbox, clock: Clock | None = None) -> None:
        self.label = PLATFORM_LABEL
        self.on_suspended: Callable[[str, str], None] | None = None
        self.world = read_scene(None)
        self.refusing = ""
        self.loads: list[str] = []
        self._sandbox = sandbox
        self._clock = clock or ManualClock()
        self._host: PolicyHost | None = None

    async def scene(self) -> Scene:
        return self.world

    async def activate(self, source: bytes, label: str) -> Reply:
        self.loads.append(label)
        if self.refusing:
            return Reply(Status.KILLED, self.refusing)
        host = PolicyHost(
            await self._sandbox.zygote(), name=label, clock=self._clock, keeps_standby=False, patience_ms=5_000,
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
            self.suspend(host.breaker.suspended)
        return ruling

    def suspend(self, reason: str) -> None:
        """Give up on the active policy, as the breaker does."""
        label, self.label = self.label, PLATFORM_LABEL
        assert self.on_suspended is not None
        self.on_suspended(label, reason)

    async def close(self) -> None:
        if self._host is not None:
            await self._host.stop()
            self._host = None
