"""A model whose worker goes when nobody uses it, and comes back for the next job; and one that an operator keeps."""

from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard_client import BeeyardClient, Scale
from beeyard_client.events import Event, Finished, Progress, Started

from tests.support.stack import READY_STATES, Stack

MODELS = {"tiny": "synthetic:200,load=1.5"}


async def told(client: BeeyardClient) -> list[Event]:
    return [event async for event in client.infer("The bee", model="tiny", max_tokens=5, seed=1)]


def worker_of(events: list[Event]) -> str:
    (started,) = [event for event in events if isinstance(event, Started)]
    return started.worker_id


def attached(fleet: fleet_pb.FleetSnapshot) -> list[str]:
    return [each.status.worker_id for each in fleet.workers if each.attached]


async def test_an_unused_model_goes_to_zero_and_comes_back_for_the_next_job() -> None:
    flags = ["--keep-warm-s", "0.5"]
    async with (
        Stack(models=MODELS, workers=0, queen_flags=flags) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        first = await told(client)
        assert isinstance(first[-1], Finished)
        await stack.wait_for(lambda fleet: not attached(fleet), "the unused worker is gone")
        second = await told(client)
        assert isinstance(second[-1], Finished), "whoever comes then waits, and is not refused"
        assert worker_of(second) != worker_of(first)
        loading = [e for e in second if isinstance(e, Progress) and e.stage == "loading_model"]
        assert loading, "and hears that the model loads"
        assert all(round(event.fraction * 20) == event.fraction * 20 for event in loading)
        # From now on one is kept, without any job.
        told_scale = await client.scale_model("tiny", Scale(min_workers=1, max_workers=1))
        assert told_scale.source == "RUN_TIME"
        await stack.wait_for(
            lambda fleet: any(
                each.attached and each.status.state in READY_STATES for each in fleet.workers
            ),
            "the least is there",
        )
