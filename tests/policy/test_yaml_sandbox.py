"""Compiled YAML in a real policy host: nothing that it calls is missing, and its decisions cross the border whole."""

import random
from collections.abc import AsyncIterator

import pytest
from beeyard_core.policy.world import World
from beeyard_queen.policy.deltas import snapshot
from beeyard_queen.policy.hosts import Outcome, PolicyHost
from beeyard_queen.policy.reply import Reply, Status
from beeyard_queen.policy.yaml_compile import compile_policy
from beeyard_queen.policy.yaml_interpret import interpret
from beeyard_queen.policy.yaml_rules import read_policy
from beeyard_queen.policy.zygote import Zygote
from beeyard_runtime.clock import SystemClock

from tests.style.repository import ROOT
from tests.support.random_policies import NOW_MS, random_policy, random_world

GOLDEN = ROOT / "tests/policy/golden"


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    started = Zygote()
    await started.start()
    try:
        yield started
    finally:
        await started.stop()


async def rule_in_sandbox(zygote: Zygote, lua: str, world: World) -> Reply:
    host = PolicyHost(
        zygote,
        name="yaml",
        clock=SystemClock(),
        snapshot=lambda: list(snapshot(world)),
        patience_ms=2_000,
        keeps_standby=False,
    )
    try:
        loaded = await host.start(lua.encode())
        assert loaded.status is Status.OK, loaded
        ruling = await host.decide(seed=1, now_ms=NOW_MS)
        assert ruling.outcome is Outcome.DECIDED, (ruling, lua)
        return ruling.reply
    finally:
        await host.stop()


async def test_random_policies_decide_in_the_sandbox_as_their_rules_say(zygote: Zygote) -> None:
    chance = random.Random(11)
    for _ in range(25):
        world = random_world(chance)
        policy = read_policy(random_policy(chance))
        verdict = interpret(policy, world, NOW_MS)
        reply = await rule_in_sandbox(zygote, compile_policy(policy), world)
        if verdict.decision is not None:
            assert list(reply.decisions) == [verdict.decision]


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.yaml")))
async def test_golden_policies_load_and_decide_in_the_sandbox(zygote: Zygote, name: str) -> None:
    lua = (GOLDEN / f"{name}.lua").read_text()
    for seed in range(3):
        await rule_in_sandbox(zygote, lua, random_world(random.Random(seed)))
