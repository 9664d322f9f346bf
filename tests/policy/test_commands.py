"""`beeyard policy try`, `validate` and `source`, run as a person runs them."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from beeyard_client.cli.policy import LOCAL
from beeyard_core import limits
from beeyard_queen.policy.__main__ import COMMANDS
from beeyard_queen.policy.lua_source import lua_text

MODULE = "beeyard_queen.policy"  # what `beeyard policy` becomes
DISPATCHES = """
function schedule(context)
  local job = context.queue[1]
  local worker = context.helpers.find_worker(job.model_ref)
  context.log_info("chose " .. worker.id)
  return {action = "dispatch", job_id = job.id, worker_id = worker.id}
end
"""
YAML = """\
scheduler:
  name: waits
  version: "1"
  rules:
    - name: all
      condition: always
      action: {wait: {duration_ms: 5}}
      priority: 1
"""


async def beeyard(*arguments: str | Path, module: str = MODULE) -> tuple[int, str, str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, fault = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), fault.decode()


def written(folder: Path, text: str, name: str = "policy.lua") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


async def test_try_prints_one_json_object_and_nothing_else(tmp_path: Path) -> None:
    code, out, fault = await beeyard("try", written(tmp_path, DISPATCHES), "--json")
    told = json.loads(out)
    assert (code, fault) == (0, "")
    assert told.pop("elapsed_ms") >= 0
    assert told == {
        "outcome": "decision",
        "reason": "",
        "decision": {"action": "dispatch", "job_id": "job-1", "worker_id": "worker-1"},
        "logs": [{"level": "info", "message": "chose worker-1"}],
    }


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        (
            "function schedule(c) return {action= end",
            "rejected",
            "line 1: unexpected symbol near 'end'",
        ),
        ("function schedule(c)\n error('x') end", "fallback", "line 2: x"),
        ("function schedule(c)\n while true do end end", "killed", "line 2: used more than"),
        (
            "function schedule(c) return {action='reject', job_id='no'} end",
            "fallback",
            "no such job",
        ),
    ],
)
async def test_try_says_what_went_wrong_and_what_the_platform_would_do(
    text: str, outcome: str, reason: str, tmp_path: Path
) -> None:
    code, out, _ = await beeyard("try", written(tmp_path, text), "--json")
    told = json.loads(out)
    assert (code, told["outcome"]) == (1, outcome)
    assert reason in told["reason"]
    assert (told["decision"] is None) == (outcome == "rejected")


async def test_try_takes_a_world_of_ones_own(tmp_path: Path) -> None:
    world = written(tmp_path, '{"now_ms": 5, "queue": []}', "world.json")
    text = "function schedule(c) return {action='wait', reason=#c.queue .. ' at ' .. c.now_ms} end"
    code, out, _ = await beeyard("try", written(tmp_path, text), "--json", "--context", world)
    assert (code, json.loads(out)["decision"]) == (0, {"action": "wait", "reason": "0 at 5"})
    code, out, fault = await beeyard("try", written(tmp_path, text), "--context", tmp_path / "no")
    assert (code, out) == (2, "")
    assert "No such file" in fault
    broken = written(tmp_path, '{"quee": []}', "broken.json")
    code, out, fault = await beeyard("try", written(tmp_path, text), "--context", broken)
    assert (code, out) == (2, "")
    assert "context.quee: unknown" in fault


async def test_validate_tells_the_line_as_editors_read_it(tmp_path: Path) -> None:
    good = written(tmp_path, lua_text("platform.lua"))
    code, out, _ = await beeyard("validate", good)
    assert code == 0
    assert "valid in 10 worlds" in out
    bad = written(
        tmp_path, "function schedule(c)\n  return c.queue[1].nothing.here\nend", "bad.lua"
    )
    code, out, _ = await beeyard("validate", bad)
    assert code == 1
    assert out.startswith(f"{bad}:2: fallback in the given world: ")
    code, out, _ = await beeyard("validate", bad, "--json")
    assert (json.loads(out)["valid"], json.loads(out)["line"]) == (False, 2)


async def test_source_is_the_platform_policy() -> None:
    code, out, _ = await beeyard("source")
    assert (code, out) == (0, lua_text("platform.lua"))


async def test_the_command_line_hands_everything_on(tmp_path: Path) -> None:
    policy = written(tmp_path, DISPATCHES)
    code, out, _ = await beeyard("policy", "try", policy, "--json", module="beeyard_client.cli")
    assert (code, json.loads(out)["outcome"]) == (0, "decision")


def test_the_command_line_knows_every_command_of_the_queens() -> None:
    assert set(LOCAL) == set(COMMANDS)


async def test_yaml_is_compiled_first_and_its_faults_are_rejections(tmp_path: Path) -> None:
    code, out, _ = await beeyard("try", written(tmp_path, YAML, "waits.yaml"), "--json")
    told = json.loads(out)
    assert (code, told["outcome"], told["decision"]["action"]) == (0, "decision", "wait")
    wrong = written(tmp_path, YAML.replace("always", "sometimes"), "wrong.yaml")
    code, out, _ = await beeyard("try", wrong, "--json")
    told = json.loads(out)
    assert (code, told["outcome"]) == (1, "rejected")
    assert told["reason"].startswith("line 6, column ")


async def test_a_text_beyond_the_limit_is_rejected(tmp_path: Path) -> None:
    large = written(tmp_path, "-- " + "x" * limits.POLICY_SOURCE_BYTES_MAX)
    code, out, _ = await beeyard("try", large, "--json")
    assert (code, json.loads(out)["outcome"]) == (1, "rejected")
    world = written(tmp_path, "", "world.json")
    os.truncate(world, limits.POLICY_CONTEXT_BYTES_MAX + 1)
    code, out, fault = await beeyard("try", written(tmp_path, DISPATCHES), "--context", world)
    assert (code, out) == (2, "")
    assert "longer than" in fault


async def test_an_unknown_command_is_told() -> None:
    code, out, fault = await beeyard("dance")
    assert (code, out) == (2, "")
    assert "there is no command 'dance'" in fault
    assert (await beeyard("--help"))[0] == 0
