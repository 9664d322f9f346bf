"""A queen that starts on a store full of jobs: all of them wait again, in their order, and nothing of it takes long.

How long a hundred thousand take is a figure of `make bench` (`restart`); here it is CPU time for each job of ten
thousand, beside a queen that starts on nothing.
"""

import psutil
import pytest
from beeyard_client import BeeyardClient

from benchmarks.full_store import fill
from tests.support.attached_worker import attached_worker
from tests.support.lone_fleet import LoneFleet

JOBS = 10_000
#: 18 for reading one back: 100,000 of them well within the five seconds that a start may take. The rest is room for a
#: machine that is busy, and for telling the policy, which goes on behind the start.
CPU_US_PER_JOB_MAX = 100


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@pytest.mark.slow
async def test_ten_thousand_queued_jobs_come_back_in_order_and_soon() -> None:
    async with LoneFleet() as empty:
        control_s = cpu_s(empty.queen.pid)
    async with LoneFleet() as fleet:
        address = fleet.queen.address
        await fleet.queen.stop()
        store = fleet.folder / "queen.sqlite"
        store.unlink()
        await fill(store, JOBS)
        await fleet.queen.start(["--listen", address])
        spent_s = cpu_s(fleet.queen.pid) - control_s
        async with BeeyardClient(address) as client:
            (model,) = await client.models()
            assert model.jobs_queued == JOBS
        async with attached_worker(fleet.channel(address), slots=3) as worker:
            offers = [await worker.offer(number) for number in (1, 2, 3)]
        # Interactive jobs first, the oldest of them first: every fourth is one.
        assert [int(offer.job_id.removeprefix("job-"), 16) for offer in offers] == [4, 8, 12]
    assert spent_s < JOBS * CPU_US_PER_JOB_MAX / 1e6
