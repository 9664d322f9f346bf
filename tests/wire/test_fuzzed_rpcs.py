"""Whatever is sent to the queen, on any method and in any order: the caller is told his mistake, and the queen goes on.

The methods and the fields of their messages come from reflection, so one that is added later is tried by itself. Each
body is drawn by chance (see `tests.support.drawn_messages`); BEEYARD_SEED draws the same again, but for the ids that
the queen made up meanwhile. What was answered wrongly is shown with its bytes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from resource import getpagesize

import grpc
import pytest
from beeyard.pool.v1 import pool_service_pb2 as pool_pb
from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from google.protobuf.message import Message

from tests.support.attached_worker import AttachedWorker, attached_worker, hello_of, status_of
from tests.support.core_values import check_invariants, check_quotas
from tests.support.eventually import eventually
from tests.support.heavy_work import check_yard
from tests.support.lease_requests import submission
from tests.support.reflection import ServedMethod, served_methods
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.siege import Siege
from tests.support.soak import IS_SOAK, drawn_seed, figure_of, scaled

MESSAGES = scaled(5_000, 1_000_000)
SEED = 20_261_126
#: A million messages fill what is kept of ended jobs; see `limits.py`.
GROWTH_BYTES_MAX = scaled(100, 1_500) << 20
LOOK_EACH = 100
#: What a made-up host or worker may have said of a job, which its client is then told with INTERNAL.
BY_CONTRACT = frozenset({"MODEL_LOAD_FAILED", "PARSE_ERROR"})
WORDS = {
    "": ("bee", "a", "1", "lua"),
    "model": ("tiny", "other"),
    "worker_id": ("w1", "w2"),
    # Not the pools of the workers of ours: one that is heard of once and no more is not ready.
    "pool_id": ("p1", "p2"),
    "engine": ("synthetic",),
    "device": ("cpu", "gpu0"),
    "address": ("127.0.0.1:1",),
    "role": ("user", "assistant"),
    "name": ("bees", "platform"),
    "request_id": ("once", "twice", ""),
    "text": ("function decide(", "rules: []", "bee"),
    "page_token": ("",),
    "reason": ("WORKER_BUSY", "WORKER_ERROR", "INTERNAL", "PARSE_ERROR"),
}
HELLO = hello_of(status_of("w1"), pool_id="p1")
REPORT = worker_pb.AttachRequest(
    report=worker_pb.Report(heartbeat=worker_pb.Heartbeat(status=status_of("w1")))
)
SNAPSHOT = pool_pb.SynchronizeRequest(
    snapshot=snapshot_pb2.HostSnapshot(pool_id="p1", sequence=1, incarnation="i")
)
JOB = pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=1)
#: What messages of a type are drawn about, mostly; those of a type that is not here start from nothing.
ABOUT: dict[str, tuple[Message, ...]] = {
    "beeyard.worker.v1.AttachRequest": (HELLO, HELLO, REPORT),
    "beeyard.pool.v1.SynchronizeRequest": (SNAPSHOT,),
    "beeyard.queen.v1.SubmitJobRequest": (JOB,),
    "beeyard.queen.v1.InferRequest": (pb.InferRequest(model="tiny", prompt="bee", max_tokens=1),),
    "beeyard.queen.v1.SubmitWorkRequest": (submission(),),
}


class QueenSiege(Siege):
    """One queen that gets message after message, and what it answered."""

    def __init__(self, queen: RunningQueen, seed: int) -> None:
        super().__init__(queen.channel, seed, WORDS, ABOUT, BY_CONTRACT)
        self.queen = queen

    def learn(self) -> None:
        """Let messages name what is there now."""
        state = self.queen.queen.loop.state
        leases: tuple[str, ...] = (*state.leases, *state.work.leases)
        here: dict[str, Iterable[str]] = {
            "job_id": state.jobs,
            "work_id": state.work.works,
            "lease_id": leases,
        }
        for name, ids in here.items():
            self.drawer.words[name] = (*sorted(ids)[-20:], f"{name}-1")


def check(queen: RunningQueen) -> None:
    """What holds of the queen's state, whatever came before."""
    state = queen.queen.loop.state
    check_invariants(state)
    check_quotas(state)
    check_yard(state)


@asynccontextmanager
async def diligent(
    queen: RunningQueen, worker_id: str, model: str
) -> AsyncIterator[AttachedWorker]:
    """Attach a worker that serves whatever it is offered, until the block ends."""
    async with attached_worker(queen.channel, worker_id, model=model, slots=8) as worker:
        serving = asyncio.create_task(_serve(worker))
        try:
            yield worker
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def _serve(worker: AttachedWorker) -> None:
    served = 0
    while True:
        # Without `offer`, which loses patience; there may be none for long.
        while len(worker.orders.offers) > served:
            served += 1
            await worker.serve(worker.orders.offers[served - 1], "bee")
        await worker.changed()


async def besiege(siege: QueenSiege, methods: list[ServedMethod], worker: AttachedWorker) -> None:
    """Send to each method in turn, and look every now and then whether the queen is well."""
    looked = 0
    while siege.sent < MESSAGES:
        for method in methods:
            await siege.send_to(method)
        if siege.sent >= looked + LOOK_EACH:
            looked = siege.sent
            siege.learn()
            check(siege.queen)
            await worker.heartbeat()
            await siege.queen.tick()
            await assert_answers(siege.queen)


def assert_got_far(siege: QueenSiege) -> None:
    """Not all was refused at the door: jobs were accepted and work was, workers and pools were let in."""
    state = siege.queen.queen.loop.state
    assert state.sequence > 10
    assert state.epoch > 10
    assert state.fleet.pools
    assert siege.codes.keys() >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


async def assert_answers(queen: RunningQueen) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await queen.inference.GetJob(pb.GetJobRequest(job_id="nobody's"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def assert_comes_to_rest(queen: RunningQueen) -> None:
    """Once all its jobs are cancelled nothing waits, nothing runs and nothing is counted."""
    state = queen.queen.loop.state
    for job_id in [job_id for job_id, job in state.jobs.items() if not job.is_ended]:
        await queen.inference.CancelJob(pb.CancelJobRequest(job_id=job_id))
    await eventually(lambda: all(job.is_ended for job in state.jobs.values()), "all jobs ended")
    check(queen)
    assert all(not tenant.jobs_running for tenant in state.tenants.values())
    assert all(not tenant.jobs_waiting for tenant in state.tenants.values())


async def assert_completes_a_job(queen: RunningQueen) -> None:
    """A job like any other is accepted, runs on a worker like any other, and is found again."""
    request = pb.SubmitJobRequest(model="last", prompt="bee", max_tokens=1)
    async with diligent(queen, "last", "last"):
        job = await queen.inference.SubmitJob(request)
        watched = queen.inference.WatchJob(pb.WatchJobRequest(job_id=job.job_id), timeout=20)
        assert [event.WhichOneof("event") async for event in watched][-1] == "finished"
    found = await queen.inference.GetJob(pb.GetJobRequest(job_id=job.job_id))
    assert found.state == job_pb2.JOB_STATE_COMPLETED


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(scaled(300, 7_200))
async def test_no_message_breaks_the_queen(
    record_property: Callable[[str, object], None],
) -> None:
    # Everybody's run draws the same, so that what one finds another can look at; a soak draws anew.
    seed = drawn_seed() if IS_SOAK or "BEEYARD_SEED" in os.environ else SEED
    async with running_queen() as queen, diligent(queen, "steady", "tiny") as worker:
        siege = QueenSiege(queen, seed)
        methods = await served_methods(queen.channel)
        began = resident_bytes()
        await besiege(siege, methods, worker)
        grown = resident_bytes() - began
        assert not siege.wrong, "\n".join((f"BEEYARD_SEED={seed}", *siege.wrong))
        assert grown < GROWTH_BYTES_MAX, f"{grown >> 20} MiB"
        assert_got_far(siege)
        await assert_completes_a_job(queen)
        await assert_comes_to_rest(queen)
        figure_of(
            record_property,
            "fuzzed messages to the queen, on each of its methods",
            n=siege.sent,
            methods=len(methods),
            seed=seed,
            crashes=0,
            wrong_codes_or_leaks=len(siege.wrong),
            jobs_accepted=queen.queen.loop.state.sequence,
            grown_mib=grown >> 20,
            codes=dict(siege.codes.most_common()),
        )
