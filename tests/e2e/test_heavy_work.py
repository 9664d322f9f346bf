"""Heavy work beside real processes: a pool manager measures its host, and a lease outlives the queen."""

import sys

from beeyard_client import BeeyardClient, WorkState

from tests.support.command import beeyard
from tests.support.stack import POOL_ID, Stack


async def test_a_command_runs_under_a_lease_of_a_host_that_measures_itself() -> None:
    async with Stack(workers=0) as stack:
        code = "import os; print(os.environ['BEEYARD_POOL_ID'])"
        ended = await beeyard(
            *("lease", "run", "--", sys.executable, "-c", code), queen=stack.queen_address
        )
        assert (ended.code, ended.stdout) == (0, f"{POOL_ID}\n"), ended
        async with BeeyardClient(stack.queen_address) as client:
            capacity = await client.capacity()
        assert capacity.fresh
        assert {factor.name for factor in capacity.factors if factor.value is not None} == {
            "cpu_percent",
            "memory_percent",
            "latency_p95_ms",
            "error_percent",
            "calls_inflight",
        }


async def test_a_lease_is_held_over_the_death_of_the_queen() -> None:
    async with Stack(workers=0) as stack, BeeyardClient(stack.queen_address) as client:
        async with client.lease("backup") as lease:
            await stack.kill("queen")
            await stack.restart("queen")
        assert lease.ended is not None
        assert lease.ended.state is WorkState.COMPLETED
        assert lease.ended.attempt == 1
