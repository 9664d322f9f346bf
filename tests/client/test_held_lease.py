"""What a held lease does when the queen cannot be reached, on a clock that moves only by waiting."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import pytest
from beeyard_client.errors import BeeyardError, LinkBrokenError
from beeyard_client.held_lease import HeldLease, Wish
from beeyard_client.work import Denial, Grant, Json, Lease, LeaseLostError, Work, WorkState

from tests.client.conftest import CountedPauses
from tests.support.eventually import eventually

AWAY = LinkBrokenError("STREAM_READ_ERROR", "the connection broke")
STALE = BeeyardError("STALE_EPOCH", "the lease is over", code=grpc.StatusCode.ABORTED)
DRAINING = BeeyardError("DRAINING", "shutting down", code=grpc.StatusCode.UNAVAILABLE)

LEASE = Lease(
    lease_id="lease-1",
    epoch=1,
    work_id="work-1",
    worker_id="w",
    pool_id="p1",
    capacity_units=1,
    create_time=None,
    expire_time=None,
    last_heartbeat_time=None,
    ttl_ms=15_000,
    heartbeat_interval_ms=5_000,
)
WORK = Work(
    work_id="work-1",
    request_id="",
    kind="backup",
    priority="NORMAL",  # type: ignore[arg-type]
    capacity_units=1,
    tenant_id="default",
    state=WorkState.COMPLETED,
    create_time=None,
    start_time=None,
    end_time=None,
    expire_time=None,
    attempt=1,
    max_attempts=1,
    progress=1.0,
    message="",
    failure="",
    lease=None,
)


@dataclass
class Queen:
    """Answers from a script; the last line of each is repeated."""

    pauses: CountedPauses
    heartbeats: deque[BeeyardError | None] = field(default_factory=lambda: deque([None]))
    releases: deque[BeeyardError | None] = field(default_factory=lambda: deque([None]))
    beats_at_ms: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def request_lease(
        self,
        worker_id: str,
        *,
        kinds: Sequence[str],
        capacity_units_max: int,
        pool_id: str,
        work_id: str,
    ) -> Grant | Denial:
        return Grant(LEASE, WORK)

    async def heartbeat(self, lease: Lease) -> Lease:
        self.beats_at_ms.append(self.pauses.ms)
        say(self.heartbeats)
        return lease

    async def report_progress(
        self, lease: Lease, progress: float, message: str, measurements: Mapping[str, float]
    ) -> Lease:
        return lease

    async def complete_work(self, lease: Lease, result: Json) -> Work:
        self.told.append("completed")
        say(self.releases)
        return WORK

    async def fail_work(self, lease: Lease, message: str, *, retriable: bool) -> Work:
        self.told.append(f"failed: {message}")
        say(self.releases)
        return WORK

    async def cancel_work(self, work_id: str, reason: str) -> Work:
        return WORK


def say(script: deque[BeeyardError | None]) -> None:
    line = script.popleft() if len(script) > 1 else script[0]
    if line is not None:
        raise line


class YieldingPauses(CountedPauses):
    """Lets others run at each wait, as real time does."""

    async def sleep_ms(self, ms: float) -> None:
        await asyncio.sleep(0)
        await super().sleep_ms(ms)


@pytest.fixture
def queen() -> Queen:
    return Queen(YieldingPauses())


def held(queen: Queen) -> HeldLease:
    return HeldLease(queen, queen.pauses, Wish(worker_id="w"))


async def until(queen: Queen, beats: int) -> None:
    await eventually(lambda: len(queen.beats_at_ms) >= beats, f"{beats} heartbeats")


async def test_the_first_heartbeat_goes_at_once_and_the_others_in_their_interval(
    queen: Queen,
) -> None:
    async with held(queen):
        await until(queen, 4)
    assert queen.beats_at_ms[:4] == [0, 5_000, 10_000, 15_000]
    assert queen.told == ["completed"]


async def test_a_queen_that_is_away_for_less_than_the_time_to_live_loses_no_lease(
    queen: Queen,
) -> None:
    queen.heartbeats = deque([None, *[AWAY] * 20, DRAINING, None])
    async with held(queen):
        await until(queen, 24)
    assert queen.told == ["completed"]


async def test_a_lease_is_lost_when_no_heartbeat_got_through_for_its_time_to_live(
    queen: Queen,
) -> None:
    queen.heartbeats = deque([None, AWAY])
    with pytest.raises(LeaseLostError) as caught:
        async with held(queen):
            await asyncio.Event().wait()
    assert caught.value.reason == "LEASE_LOST"
    assert queen.pauses.ms == LEASE.ttl_ms, "counted from the last one that got through"
    assert queen.told == [], "nothing is said for a lease that is lost"


async def test_an_exception_of_a_block_whose_lease_was_lost_is_its_cause(queen: Queen) -> None:
    async def clumsy() -> None:
        async with held(queen):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("while cleaning up") from None

    queen.heartbeats = deque([STALE])
    with pytest.raises(LeaseLostError) as caught:
        await clumsy()
    assert isinstance(caught.value.__cause__, ValueError)


async def test_a_queen_that_is_away_at_the_end_is_told_when_it_is_back(queen: Queen) -> None:
    queen.releases = deque([AWAY, DRAINING, None])
    async with held(queen) as lease:
        pass
    assert queen.told == ["completed"] * 3
    assert lease.ended == WORK


async def test_a_queen_that_stays_away_fails_the_block_after_a_time_to_live(queen: Queen) -> None:
    queen.releases = deque([AWAY])
    with pytest.raises(LinkBrokenError):
        async with held(queen):
            pass
    assert queen.pauses.ms >= LEASE.ttl_ms


async def test_a_release_that_comes_too_late_is_a_lost_lease(queen: Queen) -> None:
    queen.releases = deque([STALE])
    with pytest.raises(LeaseLostError):
        async with held(queen):
            pass


async def test_the_blocks_own_exception_is_the_story_when_its_failure_cannot_be_told(
    queen: Queen,
) -> None:
    queen.releases = deque([BeeyardError("INTERNAL", "internal error")])
    with pytest.raises(ValueError, match="broken"):
        async with held(queen):
            raise ValueError("broken")


async def test_somebody_elses_cancellation_goes_on_though_the_lease_is_lost_as_well(
    queen: Queen,
) -> None:
    queen.heartbeats = deque([None, AWAY])
    entered = asyncio.Event()

    async def hold() -> None:
        async with held(queen):
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await eventually(lambda: queen.pauses.ms >= LEASE.ttl_ms, "it is lost as well")
                raise

    task = asyncio.create_task(hold())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
