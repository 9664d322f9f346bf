"""A store that cannot be read for a while: a reason for those who ask, a pause for jobs, no harm to the queen."""

from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import JobFilter, JobRow, StoreUnavailable, TokensRow

from tests.support.attached_worker import attached_worker
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal, text_of


class DeafStore(MemoryStore):
    """A store in memory that can stop answering."""

    def __init__(self) -> None:
        super().__init__()
        self.is_deaf = False

    def _listen(self) -> None:
        if self.is_deaf:
            raise StoreUnavailable("the disk does not answer, as the test wants it")

    async def job(self, job_id: str) -> JobRow | None:
        self._listen()
        return await super().job(job_id)

    async def job_by_request(self, tenant_id: str, request_id: str) -> JobRow | None:
        self._listen()
        return await super().job_by_request(tenant_id, request_id)

    async def jobs(self, job_filter: JobFilter) -> Sequence[JobRow]:
        self._listen()
        return await super().jobs(job_filter)

    async def tokens(
        self, job_id: str, *, from_index: int = 0, rows_max: int = 0
    ) -> Sequence[TokensRow]:
        self._listen()
        return await super().tokens(job_id, from_index=from_index, rows_max=rows_max)

    async def prompts(self, job_ids: Sequence[str]) -> dict[str, bytes]:
        self._listen()
        return await super().prompts(job_ids)


@pytest.fixture
def store() -> DeafStore:
    return DeafStore()


@pytest.fixture
async def queen(store: DeafStore) -> AsyncIterator[RunningQueen]:
    async with running_queen(store) as running:
        yield running


def ask(request_id: str = "") -> pb.SubmitJobRequest:
    return pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=1, request_id=request_id)


async def test_whoever_needs_the_store_is_told_to_come_back(
    queen: RunningQueen, store: DeafStore
) -> None:
    inference = queen.inference
    async with attached_worker(queen.channel) as worker:
        job = await inference.SubmitJob(ask())
        await worker.serve(await worker.offer(), " the")
        await worker.over(1)
        store.is_deaf = True
        for call in (
            inference.ListJobs(pb.ListJobsRequest()),
            inference.GetJob(pb.GetJobRequest(job_id="job-of-yesterday")),
            inference.CancelJob(pb.CancelJobRequest(job_id="job-of-yesterday")),
            inference.ExplainJob(pb.ExplainJobRequest(job_id="job-of-yesterday")),
            inference.WatchJob(pb.WatchJobRequest(job_id=job.job_id)),
            inference.SubmitJob(ask("key")),
        ):
            told = await refusal(call)
            assert (told.code, told.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "STORE_UNAVAILABLE",
            )
            assert told.retry_after_ms
            assert "disk" not in told.message, "that is for the operator"
        store.is_deaf = False
        assert len((await inference.ListJobs(pb.ListJobsRequest())).jobs) == 1


async def test_a_job_whose_prompt_cannot_be_read_waits_for_it(store: DeafStore) -> None:
    async with running_queen(store) as one, attached_worker(one.channel, slots=0):
        job = await one.inference.SubmitJob(ask())
    # A queen that starts later has the prompt in the store alone.
    async with running_queen(store) as later:
        store.is_deaf = True
        async with attached_worker(later.channel) as worker:
            for _ in range(5):
                await worker.heartbeat()
                await later.tick()
            assert not worker.orders.offers
            store.is_deaf = False
            await worker.heartbeat()
            offer = await worker.offer()
            assert (offer.attempt, offer.request.prompt) == (1, "bee")
            await worker.serve(offer, " the")
            watch = later.inference.WatchJob(pb.WatchJobRequest(job_id=job.job_id))
            assert text_of([event async for event in watch]) == " the"
