"""What a policy decides, held against the live state: applied whole, or dropped with the reason and nothing changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from beeyard_core import limits
from beeyard_core.effect import AnnounceEnded, DrainWorker, Offer, Revoke, SendDesired
from beeyard_core.event import LeaseStopped, PoolReported, Ticked
from beeyard_core.ids import JobId, WorkerId, lease_id_of
from beeyard_core.job import JobState, Priority
from beeyard_core.policy.changes import Change
from beeyard_core.policy.intent import (
    Dispatch,
    Evict,
    Intent,
    Preempt,
    Reject,
    StartWorker,
    Wait,
)
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import Outcome, is_due, schedule, seed_of
from beeyard_core.refusal import Refusal
from beeyard_core.step import step

from tests.support.core_values import (
    START,
    cached_of,
    device_of,
    pool_of,
    report_of,
)
from tests.support.core_yard import Yard, kept, reason_of, yard

W1 = WorkerId("w1")


# --- Dispatch ---


def test_a_dispatch_becomes_a_lease_signed_by_the_policy() -> None:
    here = yard()
    job = here.wait("j1")
    assert here.want(Dispatch(job_id="j1", worker_id="w1", reason="because")) is None
    (offer,) = [each for each in here.effects if isinstance(each, Offer)]
    assert here.state.leases[offer.lease_id].job_id == "j1"
    assert (job.state, job.attempt, job.worker_id) == (JobState.LEASED, 1, "w1")
    assert job.decision is not None
    assert (job.decision.policy_version, job.decision.reason) == ("test@1", "because")
    assert job.decision.summary == "because (1 worker was open)"


@pytest.mark.parametrize(
    ("intent", "reason", "field_name"),
    [
        (Dispatch(job_id="nobody", worker_id="w1"), Refusal.JOB_NOT_FOUND, "job_id"),
        (Dispatch(job_id="j1", worker_id="nobody"), Refusal.WORKER_NOT_FOUND, "worker_id"),
        (
            Dispatch(job_id="j2", worker_id="w1"),
            Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL,
            "worker_id",
        ),
    ],
)
def test_an_impossible_dispatch_changes_nothing(
    intent: Intent, reason: Refusal, field_name: str
) -> None:
    here = yard()
    here.wait("j1")
    here.wait("j2", model="n")
    refused = here.want(intent)
    assert refused is not None
    assert (refused.reason, refused.field) == (reason, field_name)


def test_two_jobs_never_get_the_same_last_slot() -> None:
    here = yard(report_of("w1", slots_total=1))
    here.run("j1")
    here.wait("j2")
    assert reason_of(here.want(Dispatch(job_id="j2", worker_id="w1"))) is Refusal.WORKER_BUSY
    assert reason_of(here.want(Dispatch(job_id="j1", worker_id="w1"))) is Refusal.JOB_NOT_FOUND


def test_nothing_is_dispatched_to_a_worker_that_fell_silent() -> None:
    here = yard()
    here.wait("j1")
    later = START.later(3 * limits.HEARTBEAT_INTERVAL_MS + 1)
    wanted = Dispatch(job_id="j1", worker_id="w1")
    assert reason_of(here.want(wanted, later)) is Refusal.POOL_UNREADY


# --- Start and evict ---


def test_a_worker_is_started_on_the_device_that_the_policy_names() -> None:
    here = yard()
    devices = (device_of("gpu-a"), device_of("gpu-b"))
    models = (cached_of("n"),)
    step(here.state, PoolReported(pool_of("p2", devices=devices, models=models)), START)
    assert here.want(StartWorker.at("n", "p2", "1", reason="")) is None
    (told,) = [each for each in here.effects if isinstance(each, SendDesired)]
    assert (told.pool_id, told.workers[0].model, told.workers[0].device) == ("p2", "n", "gpu-b")


@pytest.mark.parametrize(
    ("model", "pool", "gpu", "reason"),
    [
        ("n", "", "", Refusal.MODEL_NOT_FOUND),
        ("m", "p9", "", Refusal.MODEL_NOT_FOUND),
        ("m", "p1", "7", Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM),
        ("m", "p1", "first", Refusal.INVALID_REQUEST),
    ],
)
def test_a_worker_is_not_started_where_it_cannot_be(
    model: str, pool: str, gpu: str, reason: Refusal
) -> None:
    assert reason_of(yard().want(StartWorker.at(model, pool, gpu, reason=""))) is reason


def test_memory_that_was_promised_to_one_start_is_not_promised_to_another() -> None:
    here = yard()
    # 20 GiB are free and a worker needs 4.
    made = [here.want(StartWorker.at("m", "", "", reason="")) for _ in range(6)]
    assert [reason_of(each) for each in made] == [None] * 5 + [
        Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM
    ]


def test_a_model_that_just_failed_to_load_is_not_tried_again_at_once() -> None:
    here = yard()
    assert here.want(StartWorker.at("m", "", "", reason="")) is None
    step(here.state, Ticked(), START.later(limits.WORKER_START_TIMEOUT_MS + 1))
    late = START.later(limits.WORKER_START_TIMEOUT_MS + 2)
    step(here.state, PoolReported(pool_of("p1")), late)
    wanted = StartWorker.at("m", "", "", reason="")
    assert reason_of(here.want(wanted, late)) is Refusal.MODEL_LOAD_FAILED


def test_an_evicted_worker_gets_nothing_new() -> None:
    here = yard()
    here.wait("j2")
    assert here.want(Evict(evict_worker_id="w1")) is None
    assert DrainWorker(W1) in here.effects
    assert reason_of(here.want(Dispatch(job_id="j2", worker_id="w1"))) is Refusal.DRAINING
    assert reason_of(here.want(Evict(evict_worker_id="w1"))) is Refusal.DRAINING
    assert reason_of(here.want(Evict(evict_worker_id="w9"))) is Refusal.WORKER_NOT_FOUND


def test_what_the_operator_keeps_running_is_not_evicted() -> None:
    here = yard(report_of("w1"), report_of("w2"), scaling=kept("m", 1))
    assert here.want(Evict(evict_worker_id="w1")) is None
    assert reason_of(here.want(Evict(evict_worker_id="w2"))) is Refusal.PERMISSION_DENIED


# --- Preempt ---


def test_a_preempted_job_waits_at_the_head_of_its_class_and_keeps_its_tokens_and_attempts() -> None:
    here = yard(report_of("w1", slots_total=1))
    victim = here.run("j1", priority=Priority.BATCH, max_attempts=1)
    victim.next_index = 7
    here.wait("j2", priority=Priority.BATCH)
    here.wait("j3", priority=Priority.INTERACTIVE)
    assert here.want(Preempt(job_id="j1", for_job_id="j3")) is None
    assert [each for each in here.effects if isinstance(each, Revoke)]
    assert (victim.state, victim.next_index, victim.preemptions) == (JobState.QUEUED, 7, 1)
    assert here.state.queue.position(victim) == 1  # behind j3, before j2
    # The slot is free when the worker says so; the job's only attempt was not used up.
    lease_id = lease_id_of(victim.epoch)
    assert reason_of(here.want(Dispatch(job_id="j3", worker_id="w1"))) is Refusal.WORKER_BUSY
    here.state.fleet.workers[W1].session = 1
    step(here.state, LeaseStopped(W1, lease_id, victim.epoch), START)
    assert here.want(Dispatch(job_id="j3", worker_id="w1")) is None


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ({"priority": Priority.BATCH}, Refusal.PERMISSION_DENIED),
        (
            {"priority": Priority.INTERACTIVE, "model": "n"},
            Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL,
        ),
        (
            {"priority": Priority.INTERACTIVE, "engine": "llamacpp"},
            Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE,
        ),
    ],
)
def test_nobody_is_preempted_for_what_it_does_not_help(
    waiting: dict[str, object], reason: Refusal
) -> None:
    here = yard()
    here.run("j1", priority=Priority.BATCH)
    here.wait("j2", **waiting)
    assert reason_of(here.want(Preempt(job_id="j1", for_job_id="j2"))) is reason


def test_only_what_runs_is_preempted_and_only_for_what_waits() -> None:
    here = yard()
    here.run("j1", priority=Priority.BATCH)
    here.wait("j2", priority=Priority.INTERACTIVE)
    missing = Refusal.JOB_NOT_FOUND
    assert reason_of(here.want(Preempt(job_id="j2", for_job_id="j2"))) is missing
    assert reason_of(here.want(Preempt(job_id="j1", for_job_id="j1"))) is missing
    assert reason_of(here.want(Preempt(job_id="j9", for_job_id="j2"))) is missing


def test_a_job_that_was_preempted_often_keeps_its_slot() -> None:
    here = yard()
    job = here.run("j1", priority=Priority.BATCH)
    here.wait("j2", priority=Priority.INTERACTIVE)
    job.preemptions = limits.PREEMPTIONS_PER_JOB_MAX
    denied = here.want(Preempt(job_id="j1", for_job_id="j2"))
    assert reason_of(denied) is Refusal.PERMISSION_DENIED


# --- Reject and wait ---


def test_a_rejected_job_ends_with_the_policys_words() -> None:
    here = yard()
    job, other = here.wait("j1"), here.wait("j2")
    assert here.want(Reject(job_id="j1", reason="not on a Sunday")) is None
    assert here.want(Reject(job_id="j2")) is None
    assert AnnounceEnded(JobId("j2")) in here.effects
    assert job.failure is not None
    assert other.failure is not None
    assert job.failure.reason is Refusal.POLICY_DENIED
    assert job.failure.message == "the scheduling policy refused the job: not on a Sunday"
    assert other.failure.message == "the scheduling policy refused the job"
    assert reason_of(here.want(Reject(job_id="j1"))) is Refusal.JOB_NOT_FOUND


def test_a_policy_that_waits_is_asked_again_when_it_said() -> None:
    here = yard()
    assert here.want(Wait(retry_after_ms=500)) is None
    assert not is_due(here.state, START.later(499))
    assert is_due(here.state, START.later(500))
    assert here.want(Wait()) is None
    assert not is_due(here.state, START.later(10**9))


# --- A round ---


@dataclass
class Scripted:
    """Decides what it was told to, and remembers how often it was asked."""

    script: Iterator[Intent]
    label: str = "scripted@1"
    asked: list[tuple[int, int]] = field(default_factory=list)
    told: list[Change] = field(default_factory=list)

    def take(self, changes: Sequence[Change]) -> None:
        self.told += changes

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        self.asked.append((now_ms, seed))
        return next(self.script)


def round_of(here: Yard, projection: Projection, *script: Intent) -> tuple[Scripted, list[Outcome]]:
    policy = Scripted(iter(script))
    here.effects = []
    return policy, schedule(here.state, projection, policy, START, here.effects)


def test_a_policy_is_asked_until_it_waits() -> None:
    here, projection = yard(), Projection()
    here.wait("j1")
    here.wait("j2")
    wanted = [Dispatch(job_id=j, worker_id="w1") for j in ("j1", "j2")]
    policy, outcomes = round_of(here, projection, *wanted, Wait())
    assert [each.intent for each in outcomes] == [*wanted, Wait()]
    assert [each.refused for each in outcomes] == [None] * 3
    # Each decision has the seed of the state that it saw.
    assert [seed for _, seed in policy.asked] == [seed_of(o.state_version) for o in outcomes]
    assert len({each.state_version for each in outcomes}) == 3


def test_a_policy_that_wants_the_impossible_is_not_asked_the_same_again() -> None:
    here, projection = yard(), Projection()
    here.wait("j1")
    policy, (outcome,) = round_of(here, projection, Dispatch(job_id="j1", worker_id="w9"))
    assert outcome.refused is not None
    policy, outcomes = round_of(here, projection)
    assert (policy.asked, outcomes) == ([], [])
    # Something changes: it is asked again.
    here.wait("j2")
    policy, _ = round_of(here, projection, Wait())
    assert len(policy.asked) == 1


def test_a_queen_that_drains_decides_nothing() -> None:
    here, projection = yard(), Projection()
    here.wait("j1")
    here.state.is_draining = True
    policy, outcomes = round_of(here, projection)
    assert (policy.asked, outcomes) == ([], [])
    assert policy.told


def test_a_job_that_came_and_went_between_two_decisions_is_never_told() -> None:
    here, projection = yard(), Projection()
    here.wait("j1")
    here.want(Reject(job_id="j1"))
    assert not [c for c in projection.drain(here.state, START.mono_ms) if "j1" in str(c)]
