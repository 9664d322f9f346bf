"""Workers that are stopped and go on later, as if nothing had been: what they say then counts for nothing.

A worker of ours looks at its clock when it goes on, finds that its leases are over, and stops. One whose whole machine
was paused, clock included, cannot know: it is played here by a peer that speaks the protocol and believes in its lease.
"""

import asyncio
import signal
from collections.abc import Callable

import pytest
from beeyard_client import BeeyardClient
from beeyard_client.events import Event, Finished, Tokens
from beeyard_core import limits

from tests.support.attached_worker import attached_worker, finished_of, frame_of, held
from tests.support.clients_under_fire import options_of
from tests.support.eventually import eventually
from tests.support.expected_answer import Asked
from tests.support.followed import PATIENCE_S, Followed, until_all
from tests.support.lone_fleet import LoneFleet
from tests.support.raw_calls import outcome
from tests.support.soak import figure_of, scaled

TTL_MS = 2_000
HEARTBEAT_S = TTL_MS / limits.HEARTBEATS_PER_TTL / 1_000
RATE = 50
#: More than anybody waits for: the jobs are cancelled in the end.
TOKENS = 5_000
STOPPED = [f"w{number}" for number in range(5)]
ROUNDS = scaled(1, 40)


async def stop_and_go_on(fleet: LoneFleet, client: BeeyardClient, number: int) -> int:
    """Stop all but one worker until their jobs are elsewhere, let them go on; return how many still decoded then."""
    jobs = [
        Followed(client, Asked(f"r{number}-{each}", f"bee {number} {each}", TOKENS, seed=number))
        for each in range(len(STOPPED))
    ]
    await until_all(jobs, lambda job: job.tokens > 10, "all run")
    assert {job.started[0].worker_id for job in jobs} == set(STOPPED)
    spare = f"spare{number}"
    await fleet.start_workers([spare], slots=len(STOPPED), rate=RATE)
    fleet.signal(STOPPED, signal.SIGSTOP)
    await until_all(jobs, lambda job: len(job.started) == 2, "their jobs are elsewhere")
    assert {job.started[1].worker_id for job in jobs} == {spare}
    fleet.signal(STOPPED, signal.SIGCONT)
    # Attached again is when each has been told, at the latest.
    await fleet.until_attached(STOPPED)
    deadline = asyncio.get_running_loop().time() + HEARTBEAT_S
    decoding = list(STOPPED)
    while decoding and asyncio.get_running_loop().time() < deadline:
        decoding = [each for each in decoding if await fleet.is_decoding(each)]
    had = {job.gathered.asked.request_id: job.tokens for job in jobs}
    await until_all(jobs, lambda job: job.tokens > had[job.gathered.asked.request_id], "all go on")
    for job in jobs:
        await job.cancel()
        assert job.book.faults == []
    await fleet.workers.pop(spare).kill()
    await eventually(
        lambda: fleet.log.count("worker_detached", worker_id=spare), "it is gone", PATIENCE_S
    )
    return len(decoding)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(scaled(200, 3_600))
async def test_a_worker_that_was_stopped_stops_decoding_what_is_no_longer_its_own(
    record_property: Callable[[str, object], None],
) -> None:
    async with (
        LoneFleet("--lease-ttl-ms", str(TTL_MS)) as fleet,
        BeeyardClient(fleet.queen.address) as client,
    ):
        await fleet.start_workers(STOPPED, slots=1, rate=RATE)
        # The control: stopped for less than the time to live, a worker goes on with its lease.
        short = Followed(client, Asked("short", "bee", 50, seed=1))
        await until_all([short], lambda job: job.tokens > 10, "it runs")
        fleet.signal([short.started[0].worker_id], signal.SIGSTOP)
        fleet.signal([short.started[0].worker_id], signal.SIGCONT)
        await short.task
        assert [started.attempt for started in short.started] == [1]
        assert short.book.faults == []

        decoding = sum([await stop_and_go_on(fleet, client, each) for each in range(ROUNDS)])
        figure_of(
            record_property,
            "workers stopped and continued",
            n=ROUNDS * len(STOPPED),
            still_decoding_after_a_heartbeat=decoding,
            stale_writes_refused=await fleet.stale_writes(),
        )
        assert decoding == 0


@pytest.mark.slow
async def test_everything_is_refused_that_a_worker_says_for_a_lease_that_is_over(
    record_property: Callable[[str, object], None],
) -> None:
    async with (
        LoneFleet("--lease-ttl-ms", str(TTL_MS)) as fleet,
        BeeyardClient(fleet.queen.address) as client,
    ):
        channel = fleet.channel(fleet.queen.address)
        async with attached_worker(channel, "paused", slots=1) as paused:
            asked = Asked("r", "bee", 3, seed=1)
            events: list[Event] = []

            async def follow() -> None:
                stream = client.infer(asked.prompt, **options_of(asked))  # type: ignore[arg-type]
                events.extend([event async for event in stream])

            following = asyncio.create_task(follow())
            offer = await paused.offer()
            await paused.accept(offer)
            await paused.tokens(offer, 0, " one")
            # It says nothing more: its stream is closed, and the job goes to another.
            await paused.ended()
            assert paused.error is not None
            assert outcome(paused.error).reason == "STALE_EPOCH"
        async with attached_worker(channel, "other", slots=1) as other:
            second = await other.offer()
            await other.accept(second)
            assert await fleet.stale_writes() == 0
            # The control: the same words from the worker that holds the lease count.
            await other.tokens(second, 1, " two")
            writes = 0
            for _ in STOPPED:
                claim = held(offer.epoch, 2)
                async with attached_worker(channel, "paused", slots=1, leases=[claim]) as late:
                    assert not late.welcome.adopted
                    await late.report(frames=[frame_of(offer.epoch, 1, " lie")])
                    await late.report(results=[finished_of(offer.epoch, 2)])
                    await late.until(lambda orders: orders.revocations, "it is told to stop")
                    assert {r.reason for r in late.orders.revocations} == {"STALE_EPOCH"}
                    await late.over(offer.epoch)
                writes += 3
            refused = await fleet.stale_writes()
            await other.tokens(second, 2, " three")
            await other.finish(second, 3)
            await following
        figure_of(
            record_property,
            "writes of leases that are over",
            n=writes,
            refused=refused,
        )
        assert refused == writes
        text = "".join(event.text for event in events if isinstance(event, Tokens))
        assert text == " one two three"
        assert [type(event) for event in events].count(Finished) == 1
