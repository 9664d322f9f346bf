"""Whoever watches decisions sees of each placement how the workers compared, whichever policy decides."""

import asyncio

import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import policy_service_pb2 as policy_pb
from beeyard_core import placement_limits
from beeyard_core.ids import JobId
from beeyard_core.policy.intent import Dispatch, Wait
from beeyard_core.state import QueenState
from beeyard_queen.policy.considered import considered
from beeyard_queen.policy.reply import Status

from tests.support.attached_worker import attached_worker
from tests.support.core_values import START, report_of
from tests.support.core_yard import yard
from tests.support.running_queen import RunningQueen, running_queen

#: It does not mind speeds: the first free worker, by id.
BY_ID = b"""
function schedule_job(job, pools, workers)
  return workers:filter(function(w) return w.slots_free > 0 end):first()
end
"""


async def placement(queen: RunningQueen) -> policy_pb.Decision:
    """Submit a job and return the decision that placed it, as a watcher sees it."""
    request = policy_pb.WatchDecisionsRequest()
    call = queen.policies.WatchDecisions(request)
    await call.initial_metadata()
    await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=400))
    async with asyncio.timeout(20):
        async for decision in call:
            if decision.WhichOneof("intent") == "dispatch":
                call.cancel()
                return decision
    raise AssertionError("nothing was placed")


@pytest.mark.parametrize("source", [None, BY_ID], ids=["platform", "mine"])
async def test_a_placement_is_told_with_how_the_workers_compared(source: bytes | None) -> None:
    async with (
        running_queen() as queen,
        attached_worker(queen.channel, "a", tokens_per_s=16.0),
        attached_worker(queen.channel, "b", tokens_per_s=32.0),
        attached_worker(queen.channel, "c", slots=0),
    ):
        if source is not None:
            queen.queen.policies.patience_ms = 5_000
            reply = await queen.queen.policies.activate(source, "mine@1")
            assert reply.status is Status.OK, reply
        decision = await placement(queen)
        told = {one.worker_id: one for one in decision.candidates}
        chosen = "b" if source is None else "a"
        assert list(told) == [chosen, *sorted({"a", "b", "c"} - {chosen})]
        assert [one.worker_id for one in told.values() if one.chosen] == [chosen]
        assert decision.dispatch.worker_id == chosen
        # As they looked before: a slot of the chosen one was free.
        assert [one.excluded_by for one in told.values()] == ["", "", "WORKER_BUSY"]
        assert (told["b"].answer_ms, told["a"].answer_ms) == (12_500.0, 25_000.0)
        assert (told["a"].answer_tokens, told["a"].answer_measured) == (400, False)
        parts = told["a"].slot_wait_ms + told["a"].first_token_ms + told["a"].answer_ms
        assert told["a"].predicted_end_ms == parts


async def test_nothing_is_looked_at_while_nobody_watches() -> None:
    async with running_queen() as queen, attached_worker(queen.channel, "a"):
        await queen.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
        records = list(queen.queen.policies.decisions.last)
        assert records
        assert all(not record.considered for record in records)


def test_of_many_workers_some_are_told_the_chosen_one_first() -> None:
    count = placement_limits.CONSIDERED_TOLD_MAX + 60
    scene = yard(*(report_of(f"w{number:02}", tokens_per_s=10.0) for number in range(count)))
    scene.wait("j")
    state = scene.state
    seen = considered(state, Dispatch(job_id="j", worker_id="w64"), START)
    ids = [each.worker_id for each in seen]
    assert ids == ["w64", "w00", "w01", "w02", "w03"]
    assert [each.is_chosen for each in seen] == [True, False, False, False, False]
    unknown = considered(state, Dispatch(job_id="j", worker_id="nobody"), START)
    assert [each.worker_id for each in unknown] == ["w00", "w01", "w02", "w03", "w04"]


def test_what_places_nothing_has_no_trace() -> None:
    state = QueenState()
    assert considered(state, Wait(reason="", retry_after_ms=1), START) == ()
    assert considered(state, Dispatch(job_id="gone", worker_id="w"), START) == ()
    assert JobId("gone") not in state.jobs
