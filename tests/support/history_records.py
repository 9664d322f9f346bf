"""Records of what has ended: one job and one lease with every field filled, varied by keyword."""

from beeyard_core.history import JobRecord, LeaseRecord
from beeyard_core.ids import JobId, LeaseId, ModelName, PoolId, TenantId, WorkerId
from beeyard_core.job import JobState, Priority
from beeyard_core.lease import LeaseState
from beeyard_core.prediction import Estimate, Figure, Prediction

ESTIMATE = Estimate(
    start=Figure(400.0, 100.5),
    end=Figure(900.25, 200.0),
    is_immediate=False,
    prediction=Prediction(start=(0, 300, 400, 500, 700), end=(600, 800, 900, 1_000, 1_300)),
)


def job_record(**changes: object) -> JobRecord:
    """A job that waited for 500 ms and completed within a second."""
    record = JobRecord(
        sequence=1,
        job_id=JobId("job-1"),
        tenant_id=TenantId("ada"),
        model=ModelName("m"),
        priority=Priority.NORMAL,
        state=JobState.COMPLETED,
        reason="",
        policy_version="platform@0",
        worker_id="w1",
        pool_id="p1",
        device="Test 24G",
        attempts=1,
        preemptions=0,
        prompt_tokens=100,
        max_tokens=64,
        answer_tokens=33,
        created_ms=1_700_000_000_000,
        ended_ms=1_700_000_001_000,
        wait_ms=500,
        first_token_ms=600,
        service_ms=500,
        total_ms=1_000,
        prefill_ms=100.0,
        decode_ms=400.0,
        estimate=ESTIMATE,
    )
    return record._replace(**changes)  # type: ignore[arg-type]


def lease_record(**changes: object) -> LeaseRecord:
    """A lease that its worker gave back after half a second."""
    record = LeaseRecord(
        epoch=7,
        lease_id=LeaseId("lease-7"),
        job_id=JobId("job-1"),
        model=ModelName("m"),
        worker_id=WorkerId("w1"),
        pool_id=PoolId("p1"),
        attempt=1,
        ending=LeaseState.RELEASED,
        was_revoked=False,
        leased_ms=1_700_000_000_500,
        ended_ms=1_700_000_001_000,
    )
    return record._replace(**changes)  # type: ignore[arg-type]
