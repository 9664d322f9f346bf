"""Policies deployed to a whole queen by its clients: real hosts, a real writer loop, scripted workers."""

import asyncio
import copy

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2, job_pb2
from beeyard.queen.v1 import policy_service_pb2 as pb
from beeyard_core import limits
from beeyard_queen.policy.in_process import PLATFORM_LABEL
from beeyard_queen.store.memory import MemoryStore

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.policy_service import LUA, source
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal

PLATFORM = "-- %s\nfunction schedule(context) return platform.schedule(context) end"
# Good wherever it is tried, broken as soon as this queen's own job waits.
FAILS_HERE = """
function schedule(context)
  for _, job in ipairs(context.queue) do
    if job.tenant_id == "here" then error("not here") end
  end
  return {action = "wait", reason = "fine"}
end
"""
WORDS = [" the", " bee"]


async def submit(queen: RunningQueen, **changes: object) -> job_pb2.Job:
    request = inference_service_pb2.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4)
    request.MergeFrom(inference_service_pb2.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return await queen.inference.SubmitJob(request)


async def deploy(queen: RunningQueen, text: str, name: str = "mine") -> pb.PolicyVersion:
    # An innocent policy must not be late only because the machine that runs the tests is busy.
    queen.queen.policies.patience_ms = 5_000
    return await queen.policies.DeployPolicy(
        pb.DeployPolicyRequest(source=source(text, LUA), name=name)
    )


async def served(queen: RunningQueen, worker: AttachedWorker, number: int = 1) -> job_pb2.Job:
    """Submit a job, let the worker do it as its so-manieth, and return it."""
    job = await submit(queen)
    offer = await worker.offer(number)
    await worker.serve(offer, *WORDS)
    await worker.over(offer.epoch)
    return await queen.inference.GetJob(inference_service_pb2.GetJobRequest(job_id=job.job_id))


async def active(queen: RunningQueen) -> pb.PolicyVersion:
    return await queen.policies.GetPolicyVersion(pb.GetPolicyVersionRequest())


async def test_a_deployed_policy_decides_until_it_is_rolled_back(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    assert (await served(queen, worker, 1)).policy_version == PLATFORM_LABEL
    await deploy(queen, PLATFORM % "a")
    assert (await served(queen, worker, 2)).policy_version == "mine@1"
    await queen.policies.RollbackPolicy(pb.RollbackPolicyRequest(version=0))
    assert (await served(queen, worker, 3)).policy_version == PLATFORM_LABEL
    await queen.policies.RollbackPolicy(pb.RollbackPolicyRequest())
    assert (await served(queen, worker, 4)).policy_version == "mine@1"


async def test_its_decisions_can_be_followed(queen: RunningQueen, worker: AttachedWorker) -> None:
    await deploy(queen, PLATFORM % "a")
    call = queen.policies.WatchDecisions(pb.WatchDecisionsRequest())
    await call.initial_metadata()
    job = await served(queen, worker)
    decision = await anext(aiter(call))
    assert decision.dispatch == pb.DispatchIntent(job_id=job.job_id, worker_id="w1")
    assert (decision.sequence, decision.policy_version, decision.applied) == (1, "mine@1", True)
    call.cancel()


async def test_the_active_version_survives_a_restart(queen: RunningQueen) -> None:
    await deploy(queen, PLATFORM % "a")
    before = await deploy(queen, PLATFORM % "b", "second")
    disk: MemoryStore = copy.deepcopy(queen.store)
    await disk.close()
    async with running_queen(disk) as later:
        assert await active(later) == before
        assert later.queen.policies.label == "second@2"
    async with running_queen(disk, policy_mode="platform") as later:
        assert (await active(later)).version == 0
        told = await refusal(deploy(later, PLATFORM % "c"))
        assert told.reason == "POLICY_IMMUTABLE"


async def test_a_policy_that_fails_too_often_gives_way_to_the_last_good_one(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await deploy(queen, PLATFORM % "good", "good")
    await deploy(queen, FAILS_HERE, "bad")
    done = 0
    while queen.queen.policies.label == "bad@2":
        await submit(queen, tenant_id="here")
        done += 1
        assert done <= 10 * limits.POLICY_FAILURES_MAX, "it is suspended some time"
        # The platform policy serves the job all the same.
        offer = await worker.offer(done)
        await worker.serve(offer, *WORDS)
        await worker.over(offer.epoch)
    await eventually(lambda: queen.queen.policies.label == "good@1", "the good one is back")
    fallen = await queen.policies.GetPolicyVersion(pb.GetPolicyVersionRequest(version=2))
    assert fallen.state == pb.POLICY_STATE_SUSPENDED
    assert "times in 60 s" in fallen.suspension
    assert (await active(queen)).version == 1


async def test_deploying_under_load_loses_no_job(queen: RunningQueen) -> None:
    count = 60
    async with attached_worker(queen.channel, slots=4) as worker:

        async def load() -> list[job_pb2.Job]:
            return [await submit(queen) for _ in range(count)]

        async def work() -> None:
            for number in range(1, count + 1):
                offer = await worker.offer(number)
                await worker.serve(offer, *WORDS)
                await worker.over(offer.epoch)

        async def change() -> None:
            for number in range(4):
                await deploy(queen, PLATFORM % number)
            await queen.policies.RollbackPolicy(pb.RollbackPolicyRequest(version=2))

        jobs, _, _ = await asyncio.gather(load(), work(), change())
        ended = [
            await queen.inference.GetJob(inference_service_pb2.GetJobRequest(job_id=one.job_id))
            for one in jobs
        ]
    assert {(job.state, job.attempt) for job in ended} == {(job_pb2.JOB_STATE_COMPLETED, 1)}
    assert len({offer.job_id for offer in worker.orders.offers}) == count
    assert queen.queen.policies.label == "mine@2"


async def test_trying_a_runaway_does_not_hold_up_the_queen(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    runaway = "function schedule(context) while true do end end"
    trials = [asyncio.create_task(refusal(deploy(queen, f"-- {n}\n{runaway}"))) for n in range(4)]
    assert (await served(queen, worker)).policy_version == PLATFORM_LABEL
    told = await asyncio.gather(*trials)
    assert {(one.code, one.reason) for one in told} == {
        (grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID")
    }
    assert (await active(queen)).version == 0


@pytest.mark.parametrize("mode", ["lab", "platform"])
async def test_the_mode_is_the_operators_choice(mode: str) -> None:
    async with running_queen(policy_mode=mode) as queen:  # type: ignore[arg-type]
        if mode == "lab":
            assert (await deploy(queen, PLATFORM % "a")).version == 1
        else:
            told = await refusal(deploy(queen, PLATFORM % "a"))
            assert told.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_policy_is_tried_on_every_job_that_waits(
    queen: RunningQueen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLICY_DELTAS_PER_MESSAGE", 2)  # the queue is cut in pieces
    async with attached_worker(queen.channel, slots=0):
        for _ in range(5):
            await submit(queen, tenant_id="here")
        scene = await queen.queen.policies.scene()
        assert len(scene.world.jobs) == 5
        text = "function schedule(c) return #c.queue == 5 and error(c.queue[5].tenant_id) or {action = 'wait'} end"
        told = await refusal(deploy(queen, text))
    assert told.message == "line 1: fallback in the queen's present world: here"
