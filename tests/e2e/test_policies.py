"""A policy deployed to real processes with the real command, and a queen that is killed right after."""

import asyncio
from pathlib import Path

from beeyard_client import BeeyardClient, PolicyState
from beeyard_queen.policy.in_process import PLATFORM_LABEL

from tests.support.command import beeyard
from tests.support.stack import Stack

POLICY = "function schedule(context) return platform.schedule(context) end"
RUNAWAY = "function schedule(context) while true do end end"


async def test_a_deployed_policy_outlives_a_killed_queen_and_no_job_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "mine.lua"
    file.write_text(POLICY)
    runaway = tmp_path / "runaway.lua"
    runaway.write_text(RUNAWAY)
    async with (
        Stack(models={"tiny": "synthetic:200"}) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        jobs = [await client.submit("bee", model="tiny", max_tokens=40) for _ in range(8)]
        ended = await beeyard(
            "policy", "deploy", str(file), "--name", "mine", queen=stack.queen_address
        )
        assert (ended.code, ended.stdout) == (0, "mine@1 is active\n"), ended.stderr
        address = stack.queen_address
        await stack.kill("queen")
        await stack.queen.start(["--listen", address])
        version = await client.policy_version()
        assert (version.label, version.state) == ("mine@1", PolicyState.ACTIVE)
        assert version.source is not None
        assert version.source.text == POLICY
        ended = await beeyard("policy", "deploy", str(runaway), queen=address)
        assert ended.code == 1
        assert "killed in the queen's present world" in ended.stderr
        texts = await asyncio.gather(*(client.watch(one.job_id).text() for one in jobs))
        assert all(texts)
        last = client.infer("bee", model="tiny", max_tokens=4)
        assert await last.text()
        assert last.started is not None
        # On a busy machine its answer may be late, and the platform policy decides in its place.
        assert last.started.policy_version in {"mine@1", PLATFORM_LABEL}
