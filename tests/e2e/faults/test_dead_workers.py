"""Workers that die: how soon the next attempt begins when nobody but the lease notices, and jobs that kill workers."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from beeyard_client import BeeyardClient
from beeyard_client.events import Failed, Finished
from beeyard_core import limits

from tests.support.chaos import REST_S, workers_of
from tests.support.eventually import eventually
from tests.support.expected_answer import Asked
from tests.support.followed import Followed, until_all
from tests.support.killing import kill_worker
from tests.support.lone_fleet import LoneFleet
from tests.support.soak import figure_of, scaled
from tests.support.stack import Stack

TTL_MS = 2_000
WORKERS = 3
SLOTS = 7
ROUNDS = scaled(1, 50)
RATE = 50
#: More than anybody waits for: the jobs are cancelled in the end.
TOKENS = 5_000
#: Each waits twice as long as the one before, 1 s at first.
KILLED_AT_BIRTH = scaled(limits.LOAD_FAILURES_MAX, limits.LOAD_KILLS_MAX - 1)
#: What a machine that is busy with other tests may add to any time that is measured on it.
LOAD_MS = scaled(1_500, 250)


async def deaths(fleet: LoneFleet, client: BeeyardClient, number: int) -> list[float]:
    """Kill workers in the middle of their answers; return how long each job's next attempt took to begin, ms."""
    names = [f"w{number}-{each}" for each in range(WORKERS)]
    await fleet.start_workers(names, slots=SLOTS, rate=RATE)
    jobs = [
        Followed(client, Asked(f"r{number}-{each}", f"bee {number} {each}", TOKENS, seed=each))
        for each in range(WORKERS * SLOTS)
    ]
    await until_all(jobs, lambda job: job.tokens > 5, "all run")
    spare = f"spare{number}"
    await fleet.start_workers([spare], slots=len(jobs), rate=RATE)
    died_at: dict[str, float] = {}
    for name in names:
        died_at[name] = asyncio.get_running_loop().time()
        os.kill(fleet.workers[name].pid, signal.SIGKILL)
    await until_all(jobs, lambda job: len(job.started) > 1, "all have another attempt")
    for job in jobs:
        await job.cancel()
        assert job.book.faults == []
        assert [started.attempt for started in job.started] == [1, 2]
    await fleet.workers[spare].kill()
    return [1_000 * (job.started_at[1] - died_at[job.started[0].worker_id]) for job in jobs]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(scaled(200, 3_600))
async def test_the_next_attempt_begins_within_the_time_to_live_and_a_tick(
    record_property: Callable[[str, object], None],
) -> None:
    async with (
        LoneFleet("--lease-ttl-ms", str(TTL_MS)) as fleet,
        BeeyardClient(fleet.queen.address) as client,
    ):
        waits: list[float] = []
        for number in range(ROUNDS):
            waits += await deaths(fleet, client, number)
    waits.sort()
    p99 = waits[int(0.99 * (len(waits) - 1))]
    figure_of(
        record_property,
        "worker death to next attempt",
        n=len(waits),
        ttl_ms=TTL_MS,
        median_ms=round(waits[len(waits) // 2]),
        p99_ms=round(p99),
    )
    assert p99 <= TTL_MS + limits.TICK_INTERVAL_MS + LOAD_MS
    # The control: it was the lease that ran out, and not somebody who told.
    assert waits[0] > TTL_MS - limits.HEARTBEAT_INTERVAL_MS - limits.TICK_INTERVAL_MS


def test_leases_live_for_ten_seconds_at_most_unless_chosen() -> None:
    assert limits.LEASE_TTL_MS <= 10_000


@pytest.mark.slow
async def test_a_job_that_kills_its_workers_fails_alone() -> None:
    models = {"tiny": "synthetic:60"}
    flags = ("--slots", "4")
    async with (
        Stack(models=models, workers=2, pool_manager_flags=flags) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        innocent = [Followed(client, Asked(f"r{n}", f"bee {n}", 240, seed=n)) for n in range(3)]
        poison = Followed(client, Asked("poison", "wasp", 240, seed=9), max_attempts=3)
        killed = 0
        while poison.ending is None:
            await until_all(
                [poison],
                lambda job: job.ending or len(job.started) > killed,  # noqa: B023 - awaited here
                "it is tried, or ends",
            )
            if poison.ending is None:
                killed += 1
                await kill_worker(stack, poison.started[-1].worker_id)
        assert isinstance(poison.ending, Failed)
        assert poison.ending.reason == "ATTEMPTS_EXHAUSTED"
        assert killed == 3, "it had its three attempts, and no more"
        # New work goes on beside those that were lost with it, and all of them end well.
        fresh = Followed(client, Asked("fresh", "bee", 10, seed=1))
        await until_all([fresh, *innocent], lambda job: job.ending, "all end")
        for job in (fresh, *innocent):
            assert isinstance(job.ending, Finished), job.ending
            assert job.book.faults == []


def kill_all(stack: Stack, killed: set[int]) -> bool:
    """Kill every worker process that runs; return whether there was any that had not been killed before."""
    fresh = [process for process in workers_of(stack) if process.pid not in killed]
    for process in fresh:
        process.kill()
        killed.add(process.pid)
    return bool(fresh)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(scaled(200, 900))
async def test_a_job_outlives_workers_that_are_killed_before_they_have_loaded(
    record_property: Callable[[str, object], None],
) -> None:
    async with (
        Stack(models={"tiny": "synthetic:60"}, workers=1) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        job = Followed(client, Asked("r1", "bee", 240, seed=1))
        await until_all([job], lambda job: job.tokens > 5, "it runs")
        killed: set[int] = set()
        while len(killed) < 1 + KILLED_AT_BIRTH:
            await eventually(
                lambda: kill_all(stack, killed), "a worker is born", 2 * REST_S, look_again_s=0.02
            )
        await until_all([job], lambda job: job.ending, "it ends")
        figure_of(
            record_property,
            "workers killed before they had loaded",
            n=len(killed) - 1,
            attempts=len(job.started),
        )
        assert isinstance(job.ending, Finished), job.ending
        assert job.book.faults == []
        # Nobody lived long enough to take it.
        assert [started.attempt for started in job.started] == [1, 2]
