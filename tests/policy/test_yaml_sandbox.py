"""Compiled YAML in a real policy host: nothing that it calls is missing, and its decisions cross the border whole."""

import json
import random
from collections.abc import AsyncIterator

import pytest
from beeyard_core.policy.world import JobRow, World
from beeyard_queen.policy.deltas import snapshot
from beeyard_queen.policy.hosts import Outcome, PolicyHost
from beeyard_queen.policy.reply import Reply, Status
from beeyard_queen.policy.yaml_compile import compile_policy, compile_yaml
from beeyard_queen.policy.yaml_interpret import interpret
from beeyard_queen.policy.yaml_patterns import read_pattern
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


@pytest.mark.parametrize(
    "text", ["^a*b*c$", "a*b*c", "a?a?a?a*b", "a?b+c*d", "^a?a?a?a?a?a?a*a*b", "llama-.*b"]
)
async def test_no_accepted_pattern_meets_the_guard_of_the_sandbox(
    zygote: Zygote, text: str
) -> None:
    pattern = read_pattern(text)
    condition = {"job.session_id": {"matches": text}}
    rule = {"name": "r", "condition": condition, "action": {"wait": {"duration_ms": 1}}}
    lua = compile_yaml(json.dumps({"scheduler": {"name": "p", "rules": [rule]}}))
    for length in (pattern.bytes_max, pattern.bytes_max + 1):
        value = "a" * length
        world = World(jobs={"j": JobRow(job_id="j", seq=1, session_id=value)})
        reply = await rule_in_sandbox(zygote, lua, world)
        assert (reply.decisions[0]["reason"] == "rule r") == pattern.matches(value)
