"""What a policy answers, read and held against the world: each way to be wrong, and what is left of the answer."""

import pytest
from beeyard_core import limits
from beeyard_core.policy.decision import judge
from beeyard_core.policy.intent import Dispatch, Evict, Preempt, Reject, StartWorker, Wait
from beeyard_core.policy.world import (
    GpuRow,
    JobRow,
    ModelRow,
    PoolRow,
    RunningRow,
    WorkerRow,
    World,
)
from beeyard_core.refusal import Refusal

WORKER = WorkerRow(
    worker_id="w", pool_id="p", model_ref="m", engine="llamacpp", slots_total=2, slots_free=1,
    vram_free=100, kv_free_tokens=150, context_tokens=200, quantization="q4",
)  # fmt: skip
JOB = JobRow(job_id="j", seq=1, model_ref="m", prompt_tokens=50, max_tokens=50)


def world() -> World:
    made = World()
    made.workers["w"] = WORKER
    made.jobs["j"] = JOB
    made.jobs["urgent"] = JOB._replace(job_id="urgent", priority="interactive")
    made.running["r"] = RunningRow(job_id="r", worker_id="w", priority="batch")
    made.running["kept"] = made.running["r"]._replace(job_id="kept", is_kept=True)
    made.running["stopping"] = made.running["r"]._replace(job_id="stopping", is_stopping=True)
    made.pools["p"] = PoolRow(pool_id="p")
    made.gpus["p", "0"] = GpuRow(pool_id="p", gpu_id="0", vram_free=100)
    made.models["m"] = ModelRow(ref="m", vram_required=60)
    return made


DISPATCH = {"action": "dispatch", "job_id": "j", "worker_id": "w"}
START = {"model_ref": "m", "pool_id": "p", "gpu_id": 0}


def test_every_action_is_read() -> None:
    answer = [
        {"action": "preempt", "job_id": "r", "for_job_id": "urgent", "reason": "x" * 300},
        {**DISPATCH, "reason": "fits"},
        {"action": "start_worker", "start_worker": START},
        {"action": "evict", "evict_worker_id": "w"},
        {"action": "reject", "job_id": "urgent"},
        {"action": "wait", "retry_after_ms": 5.0},
    ]
    decided = judge({"action": "batch", "actions": answer}, world())
    assert decided.dropped == ()
    assert decided.intents == (
        Preempt(job_id="r", for_job_id="urgent", reason="x" * limits.POLICY_TEXT_BYTES_MAX),
        Dispatch(job_id="j", worker_id="w", reason="fits"),
        StartWorker(model_ref="m", pool_id="p", gpu_id="0"),
        Evict(evict_worker_id="w"),
        Reject(job_id="urgent"),
        Wait(retry_after_ms=5),
    )


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        (7, ""),
        ({"action": "fly"}, "action"),
        ({"action": 7}, "action"),
        ({"action": "wait", "seconds": 3}, "seconds"),
        ({"action": "dispatch", "job_id": "j"}, "worker_id"),
        ({**DISPATCH, "job_id": 7}, "job_id"),
        ({**DISPATCH, "job_id": ""}, "job_id"),
        ({**DISPATCH, "worker_id": "w" * 129}, "worker_id"),
        ({**DISPATCH, "reason": 7}, "reason"),
        ({"action": "wait", "retry_after_ms": "soon"}, "retry_after_ms"),
        ({"action": "wait", "retry_after_ms": True}, "retry_after_ms"),
        ({"action": "wait", "retry_after_ms": -1}, "retry_after_ms"),
        ({"action": "wait", "retry_after_ms": float("nan")}, "retry_after_ms"),
        ({"action": "start_worker", "start_worker": 7}, "start_worker"),
        ({"action": "start_worker", "start_worker": {"pool_id": "p"}}, "start_worker.model_ref"),
        ({"action": "start_worker", "start_worker": {"gpu": 1}}, "start_worker.gpu"),
        ({"action": "start_worker", "start_worker": {**START, "gpu_id": 0.5}}, "gpu_id"),
        ({"action": "batch", "actions": 7}, "actions"),
        ({"action": "batch", "actions": [{"action": "batch", "actions": []}]}, "actions"),
    ],
)
def test_what_cannot_be_read_is_dropped_with_the_field(plain: object, field: str) -> None:
    decided = judge(plain, world())
    assert decided.intents == ()
    (dropped,) = decided.dropped
    assert (dropped.refused.reason, dropped.refused.field) == (Refusal.POLICY_INVALID, field)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_ref": "other"}, Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL),
        ({"engine": "other"}, Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE),
        ({"pin_pool_id": "q"}, Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK),
        ({"avoid_pool_ids": "q,p"}, Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK),
        ({"estimated_vram_bytes": 101}, Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM),
        ({"quantizations": "q8"}, Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION),
        ({"extensions": "lora"}, Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE),
        ({"max_tokens": 101}, Refusal.WORKER_BUSY),
        ({"min_context_tokens": 201}, Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT),
    ],
)
def test_a_job_is_not_sent_where_it_cannot_run(change: dict[str, object], reason: Refusal) -> None:
    here = world()
    here.jobs["j"] = JOB._replace(**change)  # type: ignore[arg-type]  # one field each
    assert judge(DISPATCH, here).dropped[0].refused.reason is reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "draining"}, Refusal.POOL_UNREADY),
        ({"slots_free": 0}, Refusal.WORKER_BUSY),
    ],
)
def test_a_worker_that_takes_nothing_is_sent_nothing(
    change: dict[str, object], reason: Refusal
) -> None:
    here = world()
    here.workers["w"] = WORKER._replace(**change)  # type: ignore[arg-type]  # one field each
    assert judge(DISPATCH, here).dropped[0].refused.reason is reason


def test_a_closed_pool_is_sent_nothing() -> None:
    here = world()
    here.pools["p"] = PoolRow(pool_id="p", status="stale")
    answer = [DISPATCH, {"action": "start_worker", "start_worker": START}]
    assert [one.refused.reason for one in judge(answer, here).dropped] == [
        Refusal.POOL_UNREADY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK,
    ]


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        ({**DISPATCH, "job_id": "nobody"}, Refusal.JOB_NOT_FOUND),
        ({**DISPATCH, "worker_id": "nobody"}, Refusal.WORKER_NOT_FOUND),
        ({"action": "reject", "job_id": "r"}, Refusal.JOB_NOT_FOUND),
        ({"action": "evict", "evict_worker_id": "nobody"}, Refusal.WORKER_NOT_FOUND),
        ({"action": "preempt", "job_id": "j", "for_job_id": "urgent"}, Refusal.JOB_NOT_FOUND),
        ({"action": "preempt", "job_id": "stopping", "for_job_id": "j"}, Refusal.JOB_NOT_FOUND),
        ({"action": "preempt", "job_id": "r", "for_job_id": "r"}, Refusal.JOB_NOT_FOUND),
        (
            {"action": "start_worker", "start_worker": {"model_ref": "nobody"}},
            Refusal.MODEL_NOT_FOUND,
        ),
    ],
)
def test_what_is_not_there_is_dropped(plain: object, reason: Refusal) -> None:
    assert judge(plain, world()).dropped[0].refused.reason is reason


def test_nobody_makes_way_for_somebody_as_urgent() -> None:
    here = world()
    here.jobs["j"] = JOB._replace(priority="batch")
    answer = {"action": "preempt", "job_id": "r", "for_job_id": "j"}
    assert judge(answer, here).dropped[0].refused.reason is Refusal.PERMISSION_DENIED


def test_who_keeps_its_slot_does_not_make_way() -> None:
    answer = {"action": "preempt", "job_id": "kept", "for_job_id": "urgent"}
    assert judge(answer, world()).dropped[0].refused.reason is Refusal.PERMISSION_DENIED


def test_a_worker_that_ends_already_is_not_evicted() -> None:
    here = world()
    here.workers["w"] = WORKER._replace(status="draining")
    answer = {"action": "evict", "evict_worker_id": "w"}
    assert judge(answer, here).dropped[0].refused.reason is Refusal.DRAINING


def test_intents_are_judged_after_the_ones_before_them() -> None:
    """The last slot, a job, a worker, room on a GPU: each can be had once."""
    here = world()
    again = {"action": "start_worker", "start_worker": {"model_ref": "m"}}
    answer = [DISPATCH, DISPATCH, {**DISPATCH, "job_id": "urgent"}, again, again]
    decided = judge(answer, here)
    assert [one.at for one in decided.dropped] == [1, 2, 4]
    assert [one.refused.reason for one in decided.dropped] == [
        Refusal.JOB_NOT_FOUND,
        Refusal.WORKER_BUSY,
        Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
    ]


def test_no_more_than_the_limit_is_read() -> None:
    answer = [{"action": "wait"}] * (limits.POLICY_DECISIONS_MAX + 5)
    decided = judge(answer, world())
    assert len(decided.intents) == limits.POLICY_DECISIONS_MAX
    assert len(decided.dropped) == 1


def test_a_worker_whose_memory_for_tokens_is_unknown_gets_the_benefit_of_the_doubt() -> None:
    here = world()
    here.workers["w"] = WORKER._replace(kv_free_tokens=None)
    assert judge(DISPATCH, here).dropped == ()
