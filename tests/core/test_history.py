"""What is remembered of jobs and leases, and what is worked out from it."""

from beeyard_core import history_limits
from beeyard_core.calibration import calibration_of
from beeyard_core.event import CancelRequested, JobSubmitted, LeaseFinished, OfferRefused
from beeyard_core.history import NEVER, job_record_of
from beeyard_core.ids import JobId, ModelName, TenantId, WorkerId, lease_id_of
from beeyard_core.job import Finish, JobState, Priority
from beeyard_core.lease import LeaseState
from beeyard_core.refusal import Refusal
from beeyard_core.statistics import GroupBy, statistics_of

from tests.support.apiary import Apiary
from tests.support.core_values import pool_of, report_of, spec_of
from tests.support.history_records import ESTIMATE, job_record

J1, W1 = JobId("j1"), WorkerId("w1")


def test_a_job_that_has_ended_is_remembered_with_where_its_time_went() -> None:
    apiary = Apiary()
    apiary.happen(JobSubmitted(job_id=J1, spec=spec_of(tenant_id="ada")))
    apiary.snapshot(pool_of())
    apiary.happen(JobSubmitted(job_id=J1, spec=spec_of(tenant_id="ada")))
    apiary.now = apiary.now.later(300)
    apiary.attach(report_of("w1"))
    job = apiary.state.jobs[J1]
    apiary.now = apiary.now.later(700)
    finish = Finish(reason="stop", prefill_ms=100.0, decode_ms=500.0)
    apiary.happen(LeaseFinished(W1, lease_id_of(job.epoch), job.epoch, 9, finish))
    record = job_record_of(job, apiary.state.fleet)
    assert (record.tenant_id, record.state, record.reason) == ("ada", JobState.COMPLETED, "")
    assert (record.worker_id, record.pool_id, record.device) == ("w1", "p1", "Test 24G")
    assert (record.wait_ms, record.service_ms, record.total_ms) == (300, 700, 1_000)
    assert (record.answer_tokens, record.prefill_ms, record.decode_ms) == (9, 100.0, 500.0)
    assert record.first_token_ms == NEVER, "no first token was reported"
    (lease,) = apiary.state.ended_leases
    assert (lease.lease_id, lease.ending, lease.was_revoked) == (
        lease_id_of(job.epoch),
        LeaseState.RELEASED,
        False,
    )
    assert lease.ended_ms - lease.leased_ms == 700


def test_a_job_that_was_never_placed_has_no_wait_and_no_worker() -> None:
    apiary = Apiary()
    apiary.snapshot(pool_of())
    apiary.happen(JobSubmitted(job_id=J1, spec=spec_of()))
    apiary.now = apiary.now.later(50)
    apiary.happen(CancelRequested(J1))
    record = job_record_of(apiary.state.jobs[J1], apiary.state.fleet)
    assert (record.state, record.worker_id, record.device, record.policy_version) == (
        JobState.CANCELLED,
        "",
        "",
        "",
    )
    assert (record.wait_ms, record.service_ms, record.total_ms) == (NEVER, NEVER, 50)


def test_a_wait_lasts_until_the_first_lease_and_a_worker_that_is_gone_leaves_no_device() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1"))
    apiary.happen(JobSubmitted(job_id=J1, spec=spec_of()))
    job = apiary.state.jobs[J1]
    apiary.now = apiary.now.later(80)
    apiary.happen(OfferRefused(W1, lease_id_of(job.epoch), job.epoch, Refusal.WORKER_BUSY))
    apiary.heartbeat(W1)
    job.next_index = 0
    finish = Finish(reason="stop")
    apiary.happen(LeaseFinished(W1, lease_id_of(job.epoch), job.epoch, 1, finish))
    assert job_record_of(job, apiary.state.fleet).wait_ms == 0
    # A queen that restarted in between knows the last lease only.
    job.waited_ms = None
    assert job_record_of(job, apiary.state.fleet).wait_ms == 80
    assert job_record_of(job, apiary.state.fleet).device == ""
    apiary.state.fleet.workers.clear()
    gone = job_record_of(job, apiary.state.fleet)
    assert (gone.worker_id, gone.pool_id, gone.device) == ("w1", "", "")


def test_a_refused_job_is_remembered_with_its_reason() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1"))
    apiary.happen(JobSubmitted(job_id=J1, spec=spec_of()))
    epoch = apiary.state.jobs[J1].epoch
    reason = Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT
    apiary.happen(OfferRefused(W1, lease_id_of(epoch), epoch, reason))
    record = job_record_of(apiary.state.jobs[J1], apiary.state.fleet)
    assert (record.state, record.reason) == (JobState.FAILED, reason.value)


# --- Statistics ---

RECORDS = (
    job_record(wait_ms=100, total_ms=1_000, first_token_ms=150),
    job_record(wait_ms=300, total_ms=3_000, first_token_ms=350, tenant_id=TenantId("bob")),
    job_record(state=JobState.FAILED, attempts=3, answer_tokens=0, first_token_ms=NEVER),
    job_record(state=JobState.EXPIRED, wait_ms=NEVER, first_token_ms=NEVER, worker_id=""),
    job_record(state=JobState.CANCELLED, preemptions=2, priority=Priority.BATCH, device="CPU"),
)


def test_statistics_count_what_became_of_jobs_by_tenant() -> None:
    found = statistics_of(RECORDS, GroupBy.TENANT)
    whole = found.everything
    assert (whole.jobs, whole.completed, whole.failed, whole.expired, whole.cancelled) == (
        *(5, 2, 1, 1),
        1,
    )
    # Whoever cancelled did not want it any more.
    assert whole.success_rate == 2 / 4
    assert (whole.attempts, whole.preemptions, whole.tokens) == (7, 2, 4 * 33)
    assert (whole.wait.n, whole.first_token.n, whole.total.n) == (4, 3, 2)
    assert whole.total.mean == 2_000.0
    assert abs(whole.wait.quantile(1.0) - 500) < 9
    assert {name: group.jobs for name, group in found.groups.items()} == {"ada": 4, "bob": 1}
    assert found.groups["bob"].success_rate == 1.0


def test_statistics_tell_jobs_apart_by_what_is_asked() -> None:
    def groups(by: GroupBy) -> dict[str, int]:
        return {name: group.jobs for name, group in statistics_of(RECORDS, by).groups.items()}

    assert groups(GroupBy.MODEL) == {"m": 5}
    assert groups(GroupBy.PRIORITY) == {"NORMAL": 4, "BATCH": 1}
    assert groups(GroupBy.WORKER) == {"w1": 4, "": 1}
    assert groups(GroupBy.DEVICE) == {"Test 24G": 4, "CPU": 1}


def test_nothing_has_no_success_rate_and_no_mean() -> None:
    nothing = statistics_of((), GroupBy.MODEL).everything
    assert nothing.success_rate is None
    assert nothing.wait.mean == 0.0


def test_groups_are_bounded_and_the_whole_is_not() -> None:
    many = history_limits.STATISTICS_GROUPS_MAX + 5
    records = (job_record(model=ModelName(f"model-{number}")) for number in range(many))
    found = statistics_of(records, GroupBy.MODEL)
    assert found.everything.jobs == many
    assert len(found.groups) == history_limits.STATISTICS_GROUPS_MAX


# --- Calibration ---


def test_predictions_are_held_against_what_came() -> None:
    found = calibration_of(
        [
            job_record(wait_ms=350, total_ms=850),
            job_record(wait_ms=900, total_ms=1_400),
            job_record(estimate=ESTIMATE._replace(is_immediate=True), total_ms=1_000),
            job_record(estimate=None),
            job_record(state=JobState.CANCELLED),
            job_record(wait_ms=NEVER, total_ms=100),
        ]
    )
    assert found.unpredicted == 1
    assert (found.start.n, found.start.inside) == (2, 1)
    assert found.start.shares() == (0.0, 0.0, 0.5, 0.5, 0.5)
    assert (found.end.n, found.end.inside, found.waited_end.n) == (4, 2, 3)
    assert found.end.shares() == (0.25, 0.25, 0.5, 0.75, 0.75)
    assert found.end.coverage == 0.5
    assert abs(found.end.width.mean - 700) < 1
    assert found.end.error.quantile(0.0) > 45


def test_nothing_predicted_has_no_coverage() -> None:
    nothing = calibration_of([])
    assert nothing.end.coverage is None
    assert nothing.end.shares() == ()
