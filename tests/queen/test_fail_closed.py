"""A host goes stale, faulty or too busy under a real queen: nothing starts there meanwhile, and then without help."""

from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.ids import PoolId

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.played_host import GIB, Host, connected, snapshot
from tests.support.running_queen import RunningQueen, running_queen

HOST = PoolId("host")
#: One snapshot period, and what a rating needs to fall, in ticks.
PERIOD_TICKS = limits.REPORT_INTERVAL_MS // limits.TICK_INTERVAL_MS
RELEASE_TICKS = limits.RATING_RELEASE_MS // limits.TICK_INTERVAL_MS


def reported(*, memory_percent: float = 20.0, fault: str = "") -> snapshot_pb2.HostSnapshot:
    load = snapshot_pb2.HostLoad(
        cpu_count=4,
        cpu_utilization=0.1,
        memory_total_bytes=100 * GIB,
        memory_available_bytes=int((100 - memory_percent) * GIB),
    )
    return snapshot(load=load, inventory_fault=fault)


class Scene:
    """A queen, one host, and one worker on it."""

    def __init__(self, queen: RunningQueen, host: Host, worker: AttachedWorker) -> None:
        self.queen, self.host, self.worker = queen, host, worker

    async def report(self, said: snapshot_pb2.HostSnapshot) -> None:
        """Let the host report, and return when the queen has taken it in."""
        pools = self.queen.queen.loop.state.fleet.pools
        before = pools[HOST].report
        await self.host.send(said)
        await eventually(lambda: pools[HOST].report is not before, "a report")

    async def beat(self) -> None:
        """Let a tick pass in which the worker is as well as ever."""
        (worker,) = self.queen.queen.loop.state.fleet.workers.values()
        before = worker.report
        await self.worker.heartbeat()
        await eventually(lambda: worker.report is not before, "a heartbeat")
        await self.queen.tick(limits.TICK_INTERVAL_MS)

    async def submit(self) -> str:
        job = await self.queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
        return job.job_id

    async def recovers(self, job_id: str) -> None:
        """The host reports that it is well, and nothing else happens: the job starts."""
        for _ in range(PERIOD_TICKS + RELEASE_TICKS):
            await self.report(reported())
            await self.beat()
        await self.worker.until(
            lambda orders: any(offer.job_id == job_id for offer in orders.offers), "it starts"
        )


@pytest.fixture(params=[{}, {"capacity_inference": "gated"}], ids=["by default", "gated"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    async with (
        running_queen(**request.param) as queen,
        connected(queen, reported()) as host,
        attached_worker(queen.channel, slots=4, pool_id="host") as worker,
    ):
        ready = Scene(queen, host, worker)
        await host.until(lambda _: True)
        job_id = await ready.submit()
        await ready.recovers(job_id)
        yield ready


Breaking = Callable[[Scene], Coroutine[object, object, None]]


async def falls_silent(scene: Scene) -> None:
    for _ in range(limits.REPORT_STALE_MS // limits.TICK_INTERVAL_MS + 1):
        await scene.beat()


async def loses_its_driver(scene: Scene) -> None:
    await scene.report(reported(fault="NVML: the driver is not loaded"))


async def runs_out_of_memory(scene: Scene) -> None:
    await scene.report(reported(memory_percent=99.0))


async def says_nothing_of_its_load(scene: Scene) -> None:
    said = reported()
    said.ClearField("load")
    await scene.report(said)


@pytest.mark.parametrize(
    "breaks", [falls_silent, loses_its_driver, runs_out_of_memory, says_nothing_of_its_load]
)
async def test_nothing_starts_on_a_host_that_is_not_well_and_it_recovers_by_itself(
    scene: Scene, breaks: Breaking
) -> None:
    offers = len(scene.worker.orders.offers)
    await breaks(scene)
    # At once, and not with the next tick only.
    job_id = await scene.submit()
    for _ in range(PERIOD_TICKS):
        await scene.beat()
        assert len(scene.worker.orders.offers) == offers
    explained = await scene.queen.inference.ExplainJob(pb.ExplainJobRequest(job_id=job_id))
    assert [each.excluded_by for each in explained.candidates] in (
        ["POOL_UNREADY"],
        ["CAPACITY_GATED"],
    )
    await scene.recovers(job_id)
