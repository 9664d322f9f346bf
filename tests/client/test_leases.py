"""Leases held by a block of code, against a real queen: granted, kept, given back, lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from beeyard_client import (
    BeeyardClient,
    BeeyardError,
    Denial,
    Grant,
    LeaseDeniedError,
    LeaseLostError,
    Priority,
    WorkState,
)
from beeyard_core import limits
from beeyard_core.fleet import HostLoad

from tests.support.eventually import eventually
from tests.support.lease_requests import report
from tests.support.running_queen import RunningQueen, running_queen

#: Heartbeats come every third of it, on the real clock.
TTL_MS = limits.WORK_LEASE_TTL_MS_MIN


@pytest.fixture
async def yard() -> AsyncIterator[RunningQueen]:
    """A queen with an idle host, whose own clock stands still."""
    async with running_queen(work_lease_ttl_ms=TTL_MS) as queen:
        await report(queen)
        yield queen


@pytest.fixture
async def client(yard: RunningQueen) -> AsyncIterator[BeeyardClient]:
    async with BeeyardClient(yard.queen.server.address) as client:
        yield client


async def running(yard: RunningQueen, work_id: str) -> None:
    """Return once the first heartbeat has come."""
    works = yard.queen.loop.state.work.works
    await eventually(lambda: works[work_id].state.value == "running", "it runs")  # type: ignore[index]


async def test_work_is_completed_with_its_block(yard: RunningQueen, client: BeeyardClient) -> None:
    async with client.lease("backup", capacity_units=20, payload={"a": [1, 2.5]}) as lease:
        assert (lease.lease.capacity_units, lease.lease.pool_id) == (20, "p1")
        assert lease.work.payload == {"a": [1, 2.5]}
        await running(yard, lease.work.work_id)
        await lease.report(0.5, "half", {"files": 6})
        seen = await client.get_work(lease.work.work_id)
        assert (seen.state, seen.progress, seen.message) == (WorkState.RUNNING, 0.5, "half")
        assert seen.measurements == {"files": 6.0}
        assert (await client.capacity()).units_leased == 20
        lease.result = {"files": 12, "deep": {"list": [True, None, "x"]}}
    assert lease.ended is not None
    assert lease.ended.state is WorkState.COMPLETED
    assert (await client.get_work(lease.ended.work_id)).result == lease.result
    assert (await client.capacity()).units_leased == 0


async def test_an_exception_in_the_block_fails_the_work_and_goes_on(client: BeeyardClient) -> None:
    with pytest.raises(ValueError, match="disk"):
        async with client.lease("backup") as lease:
            raise ValueError("no\ndisk")
    assert lease.ended is not None
    assert (lease.ended.state, lease.ended.failure) == (WorkState.FAILED, "no disk")


async def test_heartbeats_keep_the_lease_while_the_block_takes_its_time(
    yard: RunningQueen, client: BeeyardClient
) -> None:
    async with client.lease("backup") as lease:
        held = yard.queen.loop.state.work.works[lease.work.work_id]  # type: ignore[index]
        for _ in range(4):
            await yard.tick(TTL_MS // 4, times=3)
            before = held.lease
            await eventually(lambda before=before: held.lease is not before, "a heartbeat")  # type: ignore[misc]
    assert lease.ended is not None
    assert lease.ended.state is WorkState.COMPLETED


async def test_a_lost_lease_cancels_the_block_with_a_clear_exception(
    yard: RunningQueen, client: BeeyardClient
) -> None:
    steps = []
    lease = client.lease("backup")

    async def body() -> None:
        async with lease:
            await client.revoke_lease(lease.lease.lease_id, reason="reboot")
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("cleaned up")

    with pytest.raises(LeaseLostError) as caught:
        await body()
    assert caught.value.reason == "STALE_EPOCH"
    assert "stop the work" in caught.value.message
    assert steps == ["cleaned up"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "the cancellation was taken back"
    assert lease.ended is None
    ended = await client.get_work(lease.work.work_id)
    assert (ended.state, ended.failure) == (WorkState.FAILED, "revoked: reboot")


async def test_a_block_that_ends_after_its_lease_was_lost_does_not_count(
    client: BeeyardClient,
) -> None:
    with pytest.raises(LeaseLostError):
        async with client.lease("backup") as lease:
            await client.revoke_lease(lease.lease.lease_id)
    assert (await client.get_work(lease.work.work_id)).state is WorkState.FAILED


async def test_a_block_that_is_cancelled_from_outside_gives_its_lease_back(
    yard: RunningQueen, client: BeeyardClient
) -> None:
    work = await client.submit_work("reindex")

    async def hold() -> None:
        async with client.next_lease(["reindex"]):
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await running(yard, work.work_id)
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    again = await client.get_work(work.work_id)
    assert (again.state, again.failure) == (WorkState.QUEUED, "its holder was stopped")
    assert (await client.capacity()).units_leased == 0


async def test_a_timeout_round_the_block_stays_a_timeout(client: BeeyardClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), client.lease("backup") as lease:
            await asyncio.Event().wait()
    assert lease.ended is not None
    assert lease.ended.state is WorkState.FAILED


async def test_a_lease_is_waited_for_and_says_why(
    yard: RunningQueen, client: BeeyardClient
) -> None:
    denials: list[Denial] = []
    told = asyncio.Event()

    def on_denied(denial: Denial) -> None:
        denials.append(denial)
        told.set()

    async def wait_for_it() -> str:
        async with client.lease("second", capacity_units=60, on_denied=on_denied) as second:
            return second.work.work_id

    async with client.lease("first", capacity_units=60):
        waiting = asyncio.create_task(wait_for_it())
        await told.wait()
    work_id = await waiting
    assert (await client.get_work(work_id)).state is WorkState.COMPLETED
    assert denials[0].reason == "NO_CAPACITY"
    assert denials[0].message == "60 units are needed, 40 are free"


async def test_whoever_runs_out_of_patience_leaves_nothing_in_the_queue(
    yard: RunningQueen, client: BeeyardClient
) -> None:
    await report(yard, HostLoad(cpu_percent=10.0, memory_percent=99.0))
    with pytest.raises(LeaseDeniedError) as caught:
        async with client.lease("backup", patience_ms=1):
            raise AssertionError("the block must not run")
    assert caught.value.reason == "CAPACITY_GATED"
    assert "memory_percent is 99" in caught.value.message
    (work,) = [work async for work in client.list_work()]
    assert (work.state, work.failure) == (WorkState.FAILED, "cancelled: its submitter gave up")


async def test_work_that_is_cancelled_while_it_waits_is_not_waited_for(
    yard: RunningQueen, client: BeeyardClient
) -> None:
    asked: list[asyncio.Task[object]] = []

    def on_denied(denial: Denial) -> None:
        (work_id,) = yard.queen.loop.state.work.works
        asked.append(asyncio.create_task(client.cancel_work(work_id)))

    await report(yard, HostLoad(cpu_percent=10.0, memory_percent=99.0))
    with pytest.raises(LeaseDeniedError, match="ended before it was leased"):
        async with client.lease("backup", on_denied=on_denied):
            raise AssertionError("the block must not run")
    await asyncio.gather(*asked)


async def test_a_worker_does_what_others_have_queued(client: BeeyardClient) -> None:
    await client.submit_work("train", priority="interactive")
    work = await client.submit_work(
        "reindex", payload={"folder": "/a"}, labels={"team": "x"}, unique_key="k"
    )
    assert (await client.submit_work("reindex", unique_key="k")).work_id == work.work_id
    async with client.next_lease(["reindex"], worker_id="w", capacity_units_max=5) as lease:
        assert lease.work.payload == {"folder": "/a"}
        assert (lease.lease.worker_id, lease.work.labels) == ("w", {"team": "x"})
    with pytest.raises(LeaseDeniedError) as caught:
        async with client.next_lease(["reindex"], patience_ms=0):
            raise AssertionError("the block must not run")
    assert caught.value.reason == "NO_WORK"


async def test_every_call_can_be_made_by_hand(client: BeeyardClient) -> None:
    work = await client.submit_work("backup", priority=Priority.BATCH, deadline_ms=60_000)
    grant = await client.request_lease("w", kinds=["backup"], request_id="g")
    assert isinstance(grant, Grant)
    again = await client.request_lease("w", kinds=["backup"], request_id="g")
    assert isinstance(again, Grant)
    assert again.lease == grant.lease
    renewed = await client.heartbeat(grant.lease)
    assert renewed.last_heartbeat_time is not None
    failed = await client.fail_work(grant.lease, "no disk", retriable=True)
    assert (failed.state, failed.attempt, failed.work_id) == (WorkState.QUEUED, 1, work.work_id)
    assert [one.work_id async for one in client.list_work(states=[WorkState.QUEUED])] == [
        work.work_id
    ]
    assert (await client.cancel_work(work.work_id, "enough")).failure == "cancelled: enough"


async def test_capacity_is_a_value(yard: RunningQueen, client: BeeyardClient) -> None:
    await client.submit_work("backup", capacity_units=30)
    found = await client.capacity()
    assert (found.units_total, found.units_usable, found.busy_rating, found.fresh) == (
        *(100, 100, 0),
        True,
    )
    (waiting,) = found.queued
    assert (waiting.priority, waiting.count, waiting.capacity_units) == (Priority.NORMAL, 1, 30)
    (host,) = found.hosts
    assert host.pool_id == "p1"
    assert {factor.name: factor.points for factor in host.factors}["cpu_percent"] == 0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"capacity_units": 2**40}, "capacity_units"),
        ({"priority": "soon"}, "priority"),
        ({"payload": {"x": object()}}, "payload"),
        ({"capacity_units": 101}, "capacity_units"),
    ],
    ids=["overflow", "no class", "no json", "too many"],
)
async def test_bad_input_is_refused_with_its_field(
    client: BeeyardClient, options: dict[str, object], field: str
) -> None:
    with pytest.raises(BeeyardError) as caught:
        await client.submit_work("backup", **options)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == ("INVALID_REQUEST", field)


async def test_there_is_a_lease_only_inside_its_block(client: BeeyardClient) -> None:
    held = client.lease("backup")
    with pytest.raises(BeeyardError, match="only inside its block"):
        _ = held.lease
