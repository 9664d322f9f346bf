"""Operators say at run time how many workers of a model there should be; it is durable before they hear of it."""

import copy

import grpc
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard_core import limits

from tests.support.attached_worker import AttachedWorker
from tests.support.raw_calls import outcome
from tests.support.running_queen import RunningQueen, running_queen


def asked(model: str = "tiny", **scale: int) -> pb.SetModelScaleRequest:
    return pb.SetModelScaleRequest(model=model, scale=pb.Scale(**scale))


async def listed(queen: RunningQueen, model: str = "") -> list[pb.ModelScale]:
    answer = await queen.fleet.ListModelScales(pb.ListModelScalesRequest(model=model))
    return list(answer.model_scales)


async def test_what_is_said_is_told_and_outlives_the_queen(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    request = asked(min_workers=1, max_workers=3, keep_warm_ms=5_000)
    answer = await queen.fleet.SetModelScale(request)
    told = answer.model_scale
    assert (told.scale, told.source) == (request.scale, pb.SCALE_SOURCE_RUN_TIME)
    assert (told.workers_ready, told.workers_starting) == (1, 0)
    assert await listed(queen) == [told]
    # What a `kill -9` at this instant would leave on the disk.
    disk = copy.deepcopy(queen.store)
    await disk.close()
    async with running_queen(disk) as later:
        (again,) = await listed(later, "tiny")
        assert (again.scale, again.source) == (request.scale, pb.SCALE_SOURCE_RUN_TIME)


async def test_what_is_taken_back_is_gone_from_the_store_as_well(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.fleet.SetModelScale(asked(max_workers=3))
    answer = await queen.fleet.SetModelScale(pb.SetModelScaleRequest(model="tiny"))
    assert answer.model_scale.source == pb.SCALE_SOURCE_DEFAULT
    assert not answer.model_scale.scale.HasField("max_workers")
    await queen.store.close()
    assert (await queen.store.open()).scales == ()


async def test_a_whole_scale_replaces_the_one_before(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.fleet.SetModelScale(asked(max_workers=3, keep_warm_ms=0))
    answer = await queen.fleet.SetModelScale(asked(min_workers=2))
    assert answer.model_scale.scale == pb.Scale(min_workers=2)


@pytest.mark.parametrize(
    ("model", "scale", "reason"),
    [
        ("", pb.Scale(min_workers=1), "INVALID_REQUEST"),
        ("nobody", pb.Scale(min_workers=1), "MODEL_NOT_FOUND"),
        ("tiny", pb.Scale(min_workers=3, max_workers=2), "INVALID_REQUEST"),
        ("tiny", pb.Scale(min_workers=-1), "INVALID_REQUEST"),
        ("tiny", pb.Scale(max_workers=0), "INVALID_REQUEST"),
        ("tiny", pb.Scale(keep_warm_ms=limits.KEEP_WARM_MS_MAX + 1), "INVALID_REQUEST"),
    ],
    ids=["no-model", "unknown", "max-below-min", "negative", "none-at-all", "too-long"],
)
async def test_what_makes_no_sense_is_refused(
    queen: RunningQueen, worker: AttachedWorker, model: str, scale: pb.Scale, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await queen.fleet.SetModelScale(pb.SetModelScaleRequest(model=model, scale=scale))
    assert outcome(raised.value).reason == reason
    (unchanged,) = await listed(queen)
    assert unchanged.source == pb.SCALE_SOURCE_DEFAULT
