"""Policies that decide again what a journal says that they decided: each behind the same three calls."""

from typing import Final, Protocol

from beeyard_core import limits

from beeyard_queen.policy.deltas import Delta
from beeyard_queen.policy.host_process import HostProcess
from beeyard_queen.policy.in_process import PlatformPolicy
from beeyard_queen.policy.journal_file import DecisionEntry, intent_bytes
from beeyard_queen.policy.reply import read_reply
from beeyard_queen.policy.zygote import Terms, Zygote

#: CPU time is no part of a decision: a slower machine gets more of it.
_PATIENT: Final = 20


class Again(Protocol):
    """A policy that decides again."""

    async def apply(self, deltas: list[Delta]) -> None:
        """Bring its mirror up to date."""

    async def decide(self, entry: DecisionEntry, state: bytes) -> bytes:
        """Return the decision's bytes."""

    def end(self) -> None:
        """Let go of what it runs in."""


class InProcess:
    """The platform policy."""

    def __init__(self) -> None:
        self._policy = PlatformPolicy()

    async def apply(self, deltas: list[Delta]) -> None:
        """Bring its mirror up to date."""
        self._policy.apply(deltas)

    async def decide(self, entry: DecisionEntry, state: bytes) -> bytes:
        """Return the intent's bytes; this policy keeps no state."""
        return intent_bytes(self._policy.decide(entry.now_ms, entry.seed))

    def end(self) -> None:
        """Nothing runs elsewhere."""


class InHost:
    """A policy of the operator's, in a host of its own."""

    def __init__(self, host: HostProcess) -> None:
        self._host = host

    @classmethod
    async def open(cls, zygote: Zygote, source: bytes) -> "InHost":
        """Load the policy in a fresh host.

        Raises:
            HostGone: The sandbox does not work here.
        """
        terms = Terms(memory_bytes_max=limits.POLICY_MEMORY_LARGE_BYTES_MAX)
        host = await HostProcess.open(zygote, terms)
        await host.request(
            "load", source, _PATIENT * limits.POLICY_LOAD_CPU_MS, limits.POLICY_INSTRUCTIONS_MAX,
            cpu_ms_max=_PATIENT * limits.POLICY_LOAD_KILL_CPU_MS,
        )  # fmt: skip
        return cls(host)

    async def apply(self, deltas: list[Delta]) -> None:
        """Bring its mirror up to date."""
        for at in range(0, len(deltas), limits.POLICY_DELTAS_PER_MESSAGE):
            part = deltas[at : at + limits.POLICY_DELTAS_PER_MESSAGE]
            await self._host.ask("apply", part, cpu_ms_max=_PATIENT * limits.POLICY_KILL_CPU_MS)

    async def decide(self, entry: DecisionEntry, state: bytes) -> bytes:
        """Return what the host says of the decision: the whole reply but for the instructions."""
        body = await self._host.request(
            "decide", entry.seed, entry.now_ms, _PATIENT * limits.POLICY_CPU_MS,
            limits.POLICY_INSTRUCTIONS_MAX, [], state,
            cpu_ms_max=_PATIENT * limits.POLICY_KILL_CPU_MS,
        )  # fmt: skip
        return read_reply(body).decided

    def end(self) -> None:
        """End the process."""
        self._host.kill("the replay is over")
