"""One policy run a few times in a sandbox of its own, away from any queen: what `policy try` and `validate` do.

The sandbox is the real one: the same zygote, the same locked-down host, the same limits as under a queen. Only the
world is made up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from beeyard_core import limits
from beeyard_core.policy.decision import judge
from beeyard_runtime.clock import SystemClock

from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.deltas import snapshot
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.hosts import Outcome, PolicyHost, Ruling
from beeyard_queen.policy.program import read_program
from beeyard_queen.policy.reply import Decision, Reply, Status
from beeyard_queen.policy.zygote import Terms, Zygote

#: A policy that leaves every decision to the platform's.
PLATFORM: Final = b"function schedule(context) return platform.schedule(context) end"
_SEED: Final = 1

Verdict = Literal["decision", "rejected", "fallback", "killed"]


@dataclass(frozen=True)
class Trial:
    """What became of a policy in one world.

    Attributes:
        verdict: `decision` accepted; `rejected` the text does not load; `fallback` an error or no valid decision, so
            that the platform policy would decide; `killed` it had to be ended.
        reason: What was wrong, with the policy's line if known; empty for a decision without remarks.
        decisions: The policy's, or the platform's in its place; none if the text does not load.
        elapsed_ms: Wall time of the policy's own call.
        logs: What the policy wrote, as (level, text).
        line: The policy's line at fault, if known.
        instructions: What the call used, to the thousand.
        cpu_us: CPU time of the call in its host; 0 where that cannot be read.
        at_load: Whether it went wrong before it was asked for a decision.
    """

    verdict: Verdict
    reason: str = ""
    decisions: tuple[Decision, ...] = ()
    elapsed_ms: float = 0.0
    logs: tuple[tuple[str, str], ...] = ()
    line: int | None = None
    instructions: int = 0
    cpu_us: int = 0
    at_load: bool = False


def read_source(path: Path) -> bytes:
    """Return a policy's Lua, compiled if the file is YAML.

    Raises:
        PolicyInvalid: It is too long, or YAML that is wrong.
        OSError: The file cannot be read.
    """
    return read_program(path).lua


@asynccontextmanager
async def sandbox() -> AsyncIterator[Zygote]:
    """A zygote for the time of the block.

    Raises:
        StartFailed: The sandbox does not work on this machine.
    """
    zygote = Zygote()
    await zygote.start()
    try:
        yield zygote
    finally:
        await zygote.stop()


async def run_trial(zygote: Zygote, source: bytes, scene: Scene) -> Trial:
    """Ask a policy for one decision, and the platform policy if it has none.

    Args:
        zygote: Where hosts come from.
        source: The policy's Lua.
        scene: The world that it sees.
    """
    loaded, ruling, cpu_us = await _ask(zygote, source, scene)
    if ruling is None:
        verdict: Verdict = "killed" if loaded.status is Status.KILLED else "rejected"
        return Trial(verdict, _told(loaded), logs=loaded.logs, line=loaded.line, at_load=True)
    reply = ruling.reply
    # On a thread, since a batch of a thousand decisions is judged one by one.
    verdict, reason = await asyncio.to_thread(_judged, ruling, scene)
    decisions = reply.decisions
    if verdict != "decision":
        _, instead, _ = await _ask(zygote, PLATFORM, scene)
        decisions = instead.reply.decisions if instead is not None else ()
    return Trial(
        verdict, reason, decisions, ruling.elapsed_ms, reply.logs, reply.line, reply.instructions,
        cpu_us,
    )  # fmt: skip


async def _ask(zygote: Zygote, source: bytes, scene: Scene) -> tuple[Reply, Ruling | None, int]:
    """Return how it loaded, what it decided unless it did not, and the CPU time of that in microseconds."""
    # On a thread: a queue of ten thousand jobs would hold up an event loop for as long as it takes to write down.
    deltas = await asyncio.to_thread(lambda: list(snapshot(scene.world)))
    host = PolicyHost(
        zygote, name="trial", clock=SystemClock(), snapshot=lambda: deltas,
        terms=lambda: Terms.for_queue(len(scene.world.jobs)),
        patience_ms=2 * limits.POLICY_WALL_MS, keeps_standby=False,
    )  # fmt: skip
    try:
        loaded = await host.start(source)
        process = host.current
        if loaded.status is not Status.OK or process is None:
            return loaded, None, 0
        began_ms = process.cpu_ms()
        ruling = await host.decide(seed=_SEED, now_ms=scene.now_ms)
        # A host that had to be ended has no clock any more.
        return loaded, ruling, max(0, round((process.cpu_ms() - began_ms) * 1_000))
    finally:
        await host.stop()


def _judged(ruling: Ruling, scene: Scene) -> tuple[Verdict, str]:
    if ruling.outcome is Outcome.KILLED:
        return "killed", ruling.reason
    if ruling.outcome is not Outcome.DECIDED:
        return "fallback", ruling.reason
    decided = judge(ruling.reply.decisions, scene.world)
    remarks = "; ".join(f"{one.action}: {one.refused.message}" for one in decided.dropped)
    if decided.dropped and not decided.intents:
        return "fallback", remarks[: limits.POLICY_ERROR_BYTES_MAX]
    return "decision", remarks[: limits.POLICY_ERROR_BYTES_MAX]


def _told(reply: Reply) -> str:
    return f"line {reply.line}: {reply.text}" if reply.line is not None else reply.text


def rejected(fault: PolicyInvalid) -> Trial:
    """Return what becomes of a text that is not even tried."""
    return Trial("rejected", str(fault), line=fault.line, at_load=True)
