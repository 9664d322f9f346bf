"""Nobody has started a worker: the first job brings one, and the second finds it there."""

from beeyard_client import BeeyardClient
from beeyard_client.events import Event, Finished, Progress, Queued, Started

from tests.support.stack import Stack


async def told(client: BeeyardClient) -> list[Event]:
    return [event async for event in client.infer("The bee", model="tiny", max_tokens=5, seed=1)]


async def test_the_first_job_of_a_model_starts_its_worker() -> None:
    # A load that takes longer than progress is told apart.
    models = {"tiny": "synthetic:200,load=2"}
    async with (
        Stack(models=models, workers=0) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        assert not await client.workers()
        first = await told(client)
        assert isinstance(first[0], Queued)
        progress = [event for event in first if isinstance(event, Progress)]
        assert progress, "while nothing comes, something is told"
        assert {event.stage for event in progress} <= {"queued", "loading_model"}
        assert all(event.message for event in progress)
        assert isinstance(first[-1], Finished)
        (worker,) = await client.workers(model="tiny")
        started = [event for event in first if isinstance(event, Started)]
        assert [event.worker_id for event in started] == [worker.worker_id]
        second = await told(client)
        assert not any(isinstance(event, Progress) for event in second)
        assert isinstance(second[-1], Finished)
        assert len(await client.workers()) == 1


async def test_a_worker_that_is_kept_is_there_before_any_job() -> None:
    async with Stack(workers=0, queen_flags=["--keep", "tiny=2"]) as stack:
        fleet = await stack.wait_for(
            lambda fleet: sum(worker.attached for worker in fleet.workers) == 2, "two are kept"
        )
        assert {worker.status.model for worker in fleet.workers} == {"tiny"}
