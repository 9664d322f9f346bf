"""A job survives being cut into a row and built up again, also over a restart, a jump of the clock and a version."""

import json

import pytest
from beeyard_core.ids import Epoch, JobId, ModelName, PoolId, TenantId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import (
    Decision,
    Finish,
    Job,
    JobSpec,
    JobState,
    PlacementWish,
    Priority,
    Requirements,
)
from beeyard_core.refusal import Refusal, Refused
from beeyard_queen.store.rows import job_of, pack_u32, row_of, unpack_u32
from hypothesis import given
from hypothesis import strategies as st

NOW = Instant(mono_ms=500_000, wall_ms=1_700_000_000_000)

PLAIN = Job(
    job_id=JobId("job-1"),
    spec=JobSpec(model=ModelName("gemma"), prompt_tokens=3, max_tokens=8),
    sequence=1,
    accepted_at=NOW,
)
FULL = Job(
    job_id=JobId("job-2"),
    spec=JobSpec(
        model=ModelName("gemma"),
        prompt_tokens=300,
        max_tokens=80,
        priority=Priority.BATCH,
        tenant_id=TenantId("acme"),
        session_id="chat",
        deadline_ms=60_000,
        engine="llamacpp",
        requirements=Requirements(
            min_vram_bytes=1 << 33,
            quantizations=("Q4_K_M", "Q8_0"),
            min_compute_capability=(8, 6),
            min_context_tokens=8_192,
        ),
        placement=PlacementWish(
            pin_pool_id=PoolId("p0"),
            prefer_pool_ids=(PoolId("p1"), PoolId("p2")),
            avoid_pool_ids=(PoolId("p3"),),
        ),
        labels=(("team", "bees"), ("note", '\N{HONEYBEE} & "more"')),
        cost_units=7,
        max_attempts=5,
        seed=2**32 - 1,
    ),
    sequence=2,
    accepted_at=NOW,
    request_id="req",
    digest=b"\x00\xff",
    deadline_at_ms=NOW.mono_ms + 60_000,
    state=JobState.FAILED,
    attempt=2,
    epoch=Epoch(41),
    worker_id=WorkerId("w1"),
    next_index=17,
    leased_at=NOW.later(5),
    first_token_at=NOW.later(50),
    ended_at=NOW.later(900),
    finish=Finish(
        reason="stop", prompt_tokens=299, cached_prompt_tokens=100, prefill_ms=1.5, decode_ms=20.25
    ),
    failure=Refused(
        reason=Refusal.WORKER_ERROR,
        message="It broke.",
        field="x",
        retry_after_ms=500,
        metadata={"best": "8 GiB"},
    ),
    decision=Decision(
        policy_version="default@1",
        worker_id=WorkerId("w1"),
        reason="least loaded",
        considered=3,
    ),
)


@pytest.mark.parametrize("job", [PLAIN, FULL], ids=["plain", "full"])
def test_a_job_comes_back_as_it_went(job: Job) -> None:
    row = row_of(job, "ab" * 16)
    assert job_of(row, NOW.later(1_000)) == job
    assert row_of(job_of(row, NOW.later(1_000)), row.trace_id) == row


def test_columns_of_json_leave_out_what_is_default() -> None:
    assert row_of(PLAIN).spec == '{"prompt_tokens":3,"max_tokens":8}'
    assert row_of(PLAIN).result == "{}"
    assert (row_of(PLAIN).worker_id, row_of(PLAIN).expires_ms) == ("", 0)


def test_after_a_restart_the_deadline_is_as_far_away_as_it_was() -> None:
    # Another boot: the monotonic clock starts near zero; the queen was away for 20 seconds.
    rebooted = Instant(mono_ms=100, wall_ms=NOW.wall_ms + 20_000)
    job = job_of(row_of(FULL), rebooted)
    assert job.deadline_at_ms == rebooted.mono_ms + 40_000
    assert job.accepted_at == Instant(100 - 20_000, NOW.wall_ms)


def test_a_wall_clock_that_was_set_back_gives_no_job_more_time_nor_a_future_past() -> None:
    earlier = Instant(mono_ms=100, wall_ms=NOW.wall_ms - 3_600_000)
    job = job_of(row_of(FULL), earlier)
    assert job.deadline_at_ms == 100 + 60_000
    assert job.accepted_at.mono_ms <= 100
    assert job.ended_at is not None
    assert job.ended_at.mono_ms <= 100


def test_a_deadline_whose_length_is_unknown_is_kept() -> None:
    row = row_of(PLAIN)._replace(expires_ms=NOW.wall_ms + 5_000)
    assert job_of(row, NOW).deadline_at_ms == NOW.mono_ms + 5_000


def test_a_row_of_another_version_can_be_read() -> None:
    row = row_of(FULL)._replace(
        spec=json.dumps(
            {
                "hue": "amber",
                "requirements": {"min_wings": 4},
                "placement": {"mood": "calm"},
            }
        ),
        result=json.dumps(
            {
                "finish": {"mood": "calm"},
                "failure": {"reason": "TOO_WINDY", "message": "Too windy."},
                "decision": {"mood": "calm"},
            }
        ),
    )
    job = job_of(row, NOW)
    assert job.spec.requirements == Requirements()
    assert job.spec.placement == PlacementWish()
    assert (job.spec.model, job.spec.priority, job.spec.max_tokens) == ("gemma", Priority.BATCH, 0)
    assert job.finish == Finish(reason="")
    assert job.failure == Refused(reason=Refusal.INTERNAL, message="Too windy.")
    assert job.decision is not None
    assert job.decision.considered == 0
    empty = job_of(row._replace(spec="", result=""), NOW)
    assert (empty.finish, empty.failure, empty.decision) == (None, None, None)


def test_a_state_that_is_not_known_is_said() -> None:
    with pytest.raises(ValueError, match="dancing"):
        job_of(row_of(PLAIN)._replace(state="dancing"), NOW)


@given(st.lists(st.integers(min_value=0, max_value=2**32 - 1)))
def test_packed_numbers_come_back(values: list[int]) -> None:
    assert unpack_u32(pack_u32(values)) == values


def test_packed_numbers_are_little_endian_and_whole() -> None:
    assert pack_u32([1, 2**32 - 1]) == b"\x01\x00\x00\x00\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="multiple"):
        unpack_u32(b"abc")
    with pytest.raises(OverflowError):
        pack_u32([-1])
