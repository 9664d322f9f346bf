"""The wall clock jumps by a day, forward and back, while jobs run and leases are held: no end comes early or late.

Queen, pool manager and worker go by the clock that is turned; the clients, and whoever measures, keep the true one.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from beeyard_client import BeeyardClient, Grant, WorkState
from beeyard_client.events import Failed, Finished
from beeyard_client.job import JobState
from beeyard_core import limits

from tests.support.expected_answer import Asked
from tests.support.followed import Followed, until_all
from tests.support.service_log import queen_log
from tests.support.soak import figure_of
from tests.support.stack import Stack
from tests.support.wall_clock import WallClock

#: How many days the wall clock is ahead, one after the other: it jumps a day forward, and then back by two.
DAYS_AHEAD = (1, -1)
SLOTS = 2
RATE = 20
#: More than anybody waits for: the jobs are cancelled in the end.
TOKENS = 2_000
WAITING = 10
#: Of the leases of jobs, longer than a busy machine holds up a heartbeat.
JOB_TTL_MS = 5_000
TTL_MS = 3_000
#: Before the lease's end, which is looked for again and again from then on.
DEADLINE_MS = 2_500
#: What a machine that is busy with other tests may add; a clock that was followed would add a day.
LOAD_MS = 5_000
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


async def take_and_forget(client: BeeyardClient) -> str:
    """Take a lease that nobody ever heartbeats; return its work."""
    work = await client.submit_work("forgotten", max_attempts=1)
    grant = await client.request_lease("sleeper", work_id=work.work_id)
    assert isinstance(grant, Grant), grant
    return work.work_id


async def lateness_over(client: BeeyardClient, turn: Callable[[], None]) -> float:
    """Turn the clock within the life of what ends by itself: a job with a deadline, a lease without heartbeats.

    Returns how late the later of the two ended, milliseconds.
    """
    now = asyncio.get_running_loop().time
    begun_at = now()
    work_id = await take_and_forget(client)
    # Every slot is taken, so it waits until its deadline.
    late = await client.submit("bee", model="tiny", max_tokens=5, deadline_ms=DEADLINE_MS)
    turn()
    *_, ending = [event async for event in client.watch(late.job_id)]
    job_ms = 1_000 * (now() - begun_at)
    while not (work := await client.get_work(work_id)).state.is_final:
        # Each answer is waited for: this is no busy loop.
        assert now() - begun_at < 60, work
    lease_ms = 1_000 * (now() - begun_at)
    assert isinstance(ending, Failed)
    assert (await client.get(late.job_id)).state is JobState.EXPIRED
    assert work.failure == f"no heartbeat for {TTL_MS} ms"
    assert job_ms >= DEADLINE_MS, "it ended early"
    assert lease_ms >= TTL_MS, "it ended early"
    return max(job_ms - DEADLINE_MS, lease_ms - TTL_MS)


async def all_go_on(jobs: list[Followed]) -> None:
    """Return when every job has got another token."""
    had = {job: job.tokens for job in jobs}
    await until_all(jobs, lambda job: job.tokens > had[job], "all go on")


async def check_queen_clock(client: BeeyardClient, days: int) -> None:
    """The control: the jump bites, so that the queen dates a new job this many days off."""
    job = await client.submit("bee", model="tiny", max_tokens=1)
    await client.cancel(job.job_id)
    assert job.create_time is not None
    assert abs(job.create_time - datetime.now(UTC) - days * DAY) < HOUR


async def check_worker_clock(stack: Stack, days: int) -> None:
    """The control for the worker: what it logs at its end is dated so, and what it logged first is not."""
    await stack.pool_manager.stop()
    [log] = (stack.folder / "pool" / "logs").glob("*.log")
    first, *_, last = (line.split()[0] for line in log.read_text().splitlines())
    jumped = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    assert abs(jumped - days * DAY) < HOUR


def check_unharmed(running: list[Followed], waiting: list[Followed]) -> None:
    """No job was lost, tried again or given another answer, and none is said to have waited for a day."""
    for job in running:
        assert [started.attempt for started in job.started] == [1]
        assert job.book.faults == []
    for job in waiting:
        assert isinstance(job.ending, Finished), job.ending
        assert [started.attempt for started in job.started] == [1]
        assert job.book.faults == []
        assert 0 <= job.ending.timings.queue_ms <= job.ending.timings.total_ms
        assert job.ending.timings.total_ms < HOUR / timedelta(milliseconds=1)


@pytest.mark.slow
async def test_jumps_of_the_wall_clock_end_nothing_early_and_nothing_late(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    clock = WallClock(tmp_path)
    ttl = ("--lease-ttl-ms", str(JOB_TTL_MS), "--work-lease-ttl-ms", str(TTL_MS))
    slots = ("--slots", str(SLOTS))
    models = {"tiny": f"synthetic:{RATE}"}
    async with (
        Stack(
            models=models, queen_flags=ttl, pool_manager_flags=slots, env=clock.environment
        ) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        running = [Followed(client, Asked(f"r{n}", f"bee {n}", TOKENS, n)) for n in range(SLOTS)]
        await until_all(running, lambda job: job.tokens > 5, "all run")
        waiting = [Followed(client, Asked(f"w{n}", f"bee {n}", 5, n)) for n in range(WAITING)]
        lateness: list[float] = []
        async with client.lease("backup") as held:
            for days in DAYS_AHEAD:
                lateness.append(await lateness_over(client, partial(clock.turn, days=days)))
                await check_queen_clock(client, days)
                await all_go_on(running)
        assert held.ended is not None
        assert (held.ended.state, held.ended.attempt) == (WorkState.COMPLETED, 1)
        # Before the cancellations, which a token may be on its way to meet.
        assert (await stack.fleet()).stale_epoch_writes == 0
        for job in running:
            await job.cancel()
        await until_all(waiting, lambda job: job.task.done(), "all end")
        check_unharmed(running, waiting)
        assert not queen_log(stack.folder).count("worker_detached")
        await check_worker_clock(stack, DAYS_AHEAD[-1])
    figure_of(
        record_property,
        "wall clock jumps",
        n=len(DAYS_AHEAD),
        jobs=len(running) + len(waiting),
        latest_end_ms=round(max(lateness)),
    )
    assert max(lateness) <= limits.TICK_INTERVAL_MS + LOAD_MS
