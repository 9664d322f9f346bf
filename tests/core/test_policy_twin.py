"""The twin of the platform policy: the same random histories in every run, so that every branch is seen in each."""

from beeyard_core.policy.intent import Dispatch, Evict, Preempt, StartWorker
from beeyard_core.policy.lines import quantised
from beeyard_core.policy.twin import Twin
from beeyard_core.policy.world import (
    GpuRow,
    HistoryRow,
    JobRow,
    ModelRow,
    PrefixRow,
    RunningRow,
    TenantRow,
    WorkerRow,
    World,
)
from beeyard_core.policy.yard import capability_number
from hypothesis import given

from tests.support.cases import in_cases
from tests.support.policy_rows import NOW_MS, histories
from tests.support.policy_worlds import Hive


@in_cases(30)
@given(histories())
def test_the_twin_decides_what_can_be_done(history: list[tuple[object, ...]]) -> None:
    hive = Hive()
    for change in history:
        hive.change(change)
        hive.twin.decide(NOW_MS)
    hive.run_to_rest()
    assert len(list(hive.world.rows())) > 0


def test_a_version_is_compared_by_its_parts() -> None:
    assert capability_number("8.10") == 8010
    assert capability_number("9") == 9000
    assert capability_number("sm_90") is None
    assert capability_number("8.x") is None


def test_steps_of_need_never_fall() -> None:
    steps = [quantised(amount) for amount in range(5000)]
    assert steps == sorted(steps)
    assert len(set(steps)) < 50


def test_a_history_decides_nothing() -> None:
    twin = Twin()
    twin.put(HistoryRow(model_ref="m", device="d", n=1))
    assert twin.decide(NOW_MS).action == "wait"
    assert list(World().rows()) == []


def test_the_worker_that_holds_the_prompt_goes_before_a_faster_one() -> None:
    twin = Twin()
    for name, speed in (("fast", 50.0), ("warm", 40.0)):
        twin.put(WorkerRow(worker_id=name, pool_id="p", model_ref="m", tokens_per_s=speed))
    twin.put(PrefixRow(worker_id="warm", prompt_hash="h", tokens=4000))
    twin.put(
        JobRow(
            job_id="j",
            seq=1,
            model_ref="m",
            prompt_hash="h",
            prompt_tokens=4000,
            expected_tokens=10,
        )
    )
    assert twin.decide(NOW_MS) == Dispatch(job_id="j", worker_id="warm", reason="fair share")


def test_the_longest_unused_worker_makes_room() -> None:
    twin = Twin()
    for name in ("a", "b"):
        twin.put(ModelRow(ref=name, vram_required=10))
    twin.put(GpuRow(pool_id="p", gpu_id="0", vram_free=1))
    for name, used in (("recent", 9), ("old", 5)):
        row = WorkerRow(worker_id=name, pool_id="p", model_ref="a", gpu_ids="0", last_used_at=used)
        twin.put(row)
    twin.put(JobRow(job_id="j", seq=1, model_ref="b"))
    assert twin.decide(NOW_MS) == Evict(evict_worker_id="old", reason="makes room for b")


def test_a_tenant_whose_memory_quota_is_used_up_waits() -> None:
    twin = Twin()
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="m", vram_free=10))
    twin.put(TenantRow(tenant_id="t", quota_vram=4))
    twin.put(JobRow(job_id="j", seq=1, model_ref="m", tenant_id="t", estimated_vram_bytes=5))
    assert twin.decide(NOW_MS).action == "wait"


def test_a_holder_of_unknown_speed_is_last() -> None:
    twin = Twin()
    twin.put(WorkerRow(worker_id="known", pool_id="p", model_ref="m", tokens_per_s=1.0))
    twin.put(WorkerRow(worker_id="warm", pool_id="p", model_ref="m"))
    twin.put(PrefixRow(worker_id="warm", prompt_hash="h", tokens=9))
    twin.put(JobRow(job_id="j", seq=1, model_ref="m", prompt_hash="h", prompt_tokens=9))
    assert twin.decide(NOW_MS) == Dispatch(job_id="j", worker_id="known", reason="fair share")


def test_a_worker_on_a_gpu_too_old_makes_no_room() -> None:
    twin = Twin()
    for name in ("a", "b"):
        twin.put(ModelRow(ref=name, vram_required=10))
    twin.put(GpuRow(pool_id="p", gpu_id="0", vram_free=1, compute_capability="7.5"))
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="a", gpu_ids="0"))
    twin.put(JobRow(job_id="j", seq=1, model_ref="b", min_compute_capability="8.0"))
    assert twin.decide(NOW_MS).action == "wait"


def test_who_waits_at_a_worker_that_is_wanted_evicts_nobody() -> None:
    twin = Twin()
    for name in ("a", "b"):
        twin.put(ModelRow(ref=name, vram_required=10))
    twin.put(GpuRow(pool_id="p", gpu_id="0", vram_free=1))
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="a", gpu_ids="0"))
    twin.put(TenantRow(tenant_id="t", quota_jobs=0))
    twin.put(JobRow(job_id="i", seq=1, model_ref="a", tenant_id="t"))
    twin.put(JobRow(job_id="j", seq=2, model_ref="b"))
    assert twin.decide(NOW_MS).action == "wait"


def test_of_two_interactive_jobs_the_older_takes_a_place() -> None:
    twin = Twin()
    for number, name in enumerate(("a", "b", "c")):
        twin.put(WorkerRow(worker_id=f"w{name}", pool_id="p", model_ref=name, slots_free=0))
        twin.put(RunningRow(job_id=f"r{name}", worker_id=f"w{name}", priority="batch"))
        job = JobRow(job_id=name, seq=(2, 1, 3)[number], model_ref=name, priority="interactive")
        twin.put(job)
    intent = twin.decide(NOW_MS)
    assert (intent.action, getattr(intent, "for_job_id", "")) == ("preempt", "b")


def test_a_tenant_without_weight_comes_last() -> None:
    twin = Twin()
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="m"))
    twin.put(TenantRow(tenant_id="none", weight=0.0))
    twin.put(TenantRow(tenant_id="some", weight=1.0, tokens_served=1_000_000))
    twin.put(JobRow(job_id="first", seq=1, model_ref="m", tenant_id="none"))
    twin.put(JobRow(job_id="second", seq=2, model_ref="m", tenant_id="some"))
    assert twin.decide(NOW_MS) == Dispatch(job_id="second", worker_id="w", reason="fair share")


def test_what_a_worker_held_goes_with_it_or_when_it_says_so() -> None:
    yard = Twin().yard
    for name in ("gone", "emptied"):
        yard.put_worker(WorkerRow(worker_id=name, pool_id="p", model_ref="m"))
        yard.put_prefix(PrefixRow(worker_id=name, prompt_hash="h", tokens=5))
    yard.drop_worker("gone")
    yard.put_prefix(PrefixRow(worker_id="emptied", prompt_hash="h", tokens=0))
    assert yard.holders == {}


def test_a_worker_of_another_model_holds_nothing_of_its_predecessor() -> None:
    yard = Twin().yard
    yard.put_worker(WorkerRow(worker_id="w", pool_id="p", model_ref="m"))
    yard.put_prefix(PrefixRow(worker_id="w", prompt_hash="h", tokens=5))
    yard.put_worker(WorkerRow(worker_id="w", pool_id="p", model_ref="m", slots_free=0))
    assert yard.holders == {"h": {"w": 5}}
    yard.put_worker(WorkerRow(worker_id="w", pool_id="p", model_ref="n"))
    assert yard.holders == {}


def test_a_tenant_over_its_quota_keeps_no_other_from_its_deadline_or_its_preemption() -> None:
    twin = Twin()
    twin.put(TenantRow(tenant_id="full", quota_jobs=1, jobs_running=1))
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="m", slots_free=0))
    twin.put(RunningRow(job_id="r", worker_id="w", priority="batch"))
    for seq, tenant in enumerate(("full", "other")):
        twin.put(
            JobRow(
                job_id=tenant, seq=seq, tenant_id=tenant, model_ref="m", priority="interactive", deadline_at=seq
            )
        )  # fmt: skip
    assert twin.decide(NOW_MS) == Preempt(
        job_id="r", for_job_id="other", reason="interactive work waits"
    )
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="m", slots_free=1))
    assert twin.decide(NOW_MS) == Dispatch(
        job_id="other", worker_id="w", reason="earliest deadline"
    )


def test_a_worker_starts_on_the_next_gpu_if_the_roomiest_is_in_a_pool_to_avoid() -> None:
    twin = Twin()
    twin.put(ModelRow(ref="m", vram_required=1))
    twin.put(GpuRow(pool_id="avoided", gpu_id="0", vram_free=9))
    twin.put(GpuRow(pool_id="other", gpu_id="0", vram_free=8))
    twin.put(JobRow(job_id="j", seq=1, model_ref="m", avoid_pool_ids="avoided"))
    reason = "no worker serves m"
    assert twin.decide(NOW_MS) == StartWorker.at("m", "other", "0", reason=reason)


def test_a_job_leaves_its_like_behind() -> None:
    lines = Twin().lines
    for seq, name in enumerate(("a", "b")):
        lines.add(JobRow(job_id=name, seq=seq, model_ref="m", deadline_at=10 + seq))
    lines.remove("a")
    assert list(lines.jobs) == ["b"]
    assert [job.job_id for job in lines.earliest(1, "m", lambda _: True)] == ["b"]


def test_of_those_that_waited_for_too_long_the_oldest_goes_first_if_its_tenant_may() -> None:
    twin = Twin()
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="m"))
    twin.put(WorkerRow(worker_id="v", pool_id="p", model_ref="n"))
    twin.put(TenantRow(tenant_id="full", quota_jobs=0))
    for seq, name in enumerate(("urgent", "late", "later")):
        urgency = "background" if seq else "interactive"
        row = JobRow(job_id=name, seq=seq, model_ref="m", priority=urgency, is_next=seq > 0)
        twin.put(row)
    twin.put(JobRow(job_id="over", seq=9, model_ref="n", tenant_id="full", is_next=True))
    twin.put(JobRow(job_id="n", seq=10, model_ref="n"))
    assert twin.decide(NOW_MS) == Dispatch(job_id="late", worker_id="w", reason="overdue")
    twin.drop_job("late")
    assert twin.decide(NOW_MS) == Dispatch(job_id="later", worker_id="w", reason="overdue")
    twin.drop_job("later")
    assert twin.decide(NOW_MS) == Dispatch(job_id="urgent", worker_id="w", reason="fair share")
    twin.drop_job("urgent")
    assert twin.decide(NOW_MS) == Dispatch(job_id="n", worker_id="v", reason="fair share")


def test_nothing_of_a_model_starts_before_the_job_that_is_next_and_has_no_room_yet() -> None:
    twin = Twin()
    twin.put(WorkerRow(worker_id="w", pool_id="p", model_ref="m", kv_free_tokens=50))
    twin.put(RunningRow(job_id="r", worker_id="w", priority="batch", kv_tokens=50))
    twin.put(JobRow(job_id="large", seq=1, model_ref="m", max_tokens=100, is_next=True))
    twin.put(JobRow(job_id="small", seq=2, model_ref="m", max_tokens=10, priority="interactive"))
    assert twin.decide(NOW_MS).action == "wait"
