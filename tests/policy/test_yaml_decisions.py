"""The compiled Lua of a YAML policy decides as the rules read directly do."""

import random
from typing import Any

import pytest
from beeyard_core.policy.world import World
from beeyard_queen.policy.yaml_compile import compile_policy
from beeyard_queen.policy.yaml_interpret import interpret
from beeyard_queen.policy.yaml_rules import read_policy

from tests.support.mirror import Mirror
from tests.support.random_policies import NOW_MS, random_policy, random_world

#: A policy's environment, as narrow as what compiled text needs; what the sandbox gives is wider.
DECIDE = """
local text = ...
local environment = {
  ipairs = ipairs, string = { find = string.find },
  platform = { schedule = function() return { action = "platform" } end },
}
assert(load(text, "=policy", "t", environment))()
return environment.schedule(context)
"""
WORLDS = 50
POLICIES_PER_WORLD = 12


def plain(value: Any) -> object:
    """Return a Lua decision as Python values."""
    if hasattr(value, "items"):
        return {key: plain(part) for key, part in value.items()}
    return value


def compiled_decision(mirror: Mirror, lua: str) -> object:
    mirror.begin(NOW_MS)
    return plain(mirror.run(DECIDE, lua))


def interpreted_decision(text: str, world: World) -> object:
    verdict = interpret(read_policy(text), world, NOW_MS)
    return {"action": "platform"} if verdict.decision is None else verdict.decision


@pytest.mark.parametrize("seed", range(WORLDS))
def test_compiled_and_interpreted_policies_decide_alike(seed: int) -> None:
    chance = random.Random(seed)
    world = random_world(chance)
    mirror = Mirror(world)
    for _ in range(POLICIES_PER_WORLD):
        text = random_policy(chance)
        lua = compile_policy(read_policy(text))
        assert compiled_decision(mirror, lua) == interpreted_decision(text, world), f"{text}\n{lua}"


def test_random_policies_exercise_every_action() -> None:
    seen: set[str] = set()
    for seed in range(WORLDS):
        chance = random.Random(seed)
        world = random_world(chance)
        for _ in range(POLICIES_PER_WORLD):
            verdict = interpret(read_policy(random_policy(chance)), world, NOW_MS)
            seen.add("use" if verdict.decision is None else str(verdict.decision["action"]))
            seen.add("none" if verdict.rule is None else "some")
    assert seen == {
        "dispatch", "wait", "evict", "start_worker", "preempt", "reject", "use", "none", "some",
    }  # fmt: skip
