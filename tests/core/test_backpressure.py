"""A full queue: who is let in, who is refused, who makes way, and when to come back."""

import pytest
from beeyard_core import limits
from beeyard_core.backpressure import NoRoom, Overflow, QueueSettings, room_for
from beeyard_core.effect import AnnounceEnded, Refuse, SaveJob
from beeyard_core.event import JobSubmitted
from beeyard_core.ids import JobId, ModelName, TenantId
from beeyard_core.job import Job, Priority
from beeyard_core.queue import JobQueue
from beeyard_core.quota import Quota, QuotaSettings
from beeyard_core.refusal import Refusal
from beeyard_core.state import Settings

from tests.support.apiary import Apiary
from tests.support.core_values import job_of, report_of, spec_of

INTERACTIVE, NORMAL, BATCH, BACKGROUND = Priority


def queue_of(*priorities: Priority) -> JobQueue:
    """A queue of one job of each of these classes, the oldest first."""
    queue = JobQueue()
    for number, priority in enumerate(priorities):
        queue.push(job_of(f"j{number}", number, spec_of(priority=priority)))
    return queue


def dropping(depth_max: int) -> QueueSettings:
    return QueueSettings(depth_max=depth_max, overflow=Overflow.DROP_LRU)


def yard(queue: QueueSettings, **settings: object) -> Apiary:
    """A worker without a slot, so that everything waits, and one second a job as was measured."""
    apiary = Apiary(Settings(queue=queue, **settings))  # type: ignore[arg-type]
    apiary.attach(report_of("w1", slots_total=0))
    apiary.state.forecast.observe(ModelName("m"), 1_000.0)
    return apiary


def submitted(job_id: str, **changes: object) -> JobSubmitted:
    return JobSubmitted(job_id=JobId(job_id), spec=spec_of(**changes))  # type: ignore[arg-type]


def name_of(found: Job | NoRoom | None) -> str:
    return found.job_id if isinstance(found, Job) else type(found).__name__


@pytest.mark.parametrize(
    ("newcomer", "waiting", "makes_way"),
    [
        (INTERACTIVE, (BATCH, BACKGROUND, BACKGROUND), "j1"),
        (BATCH, (BATCH, BACKGROUND), "j1"),
        (NORMAL, (BATCH, BATCH), "j0"),
        (INTERACTIVE, (NORMAL, NORMAL), "NoRoom"),
        (BATCH, (BATCH,), "NoRoom"),
        (BACKGROUND, (BACKGROUND,), "NoRoom"),
    ],
)
def test_the_oldest_of_the_least_urgent_makes_way_for_the_more_urgent_only(
    newcomer: Priority, waiting: tuple[Priority, ...], makes_way: str
) -> None:
    found = room_for(queue_of(*waiting), dropping(len(waiting)), newcomer)
    assert name_of(found) == makes_way


def test_what_ever_began_does_not_make_way() -> None:
    queue = JobQueue()
    begun = job_of("begun", 1, spec_of(priority=BATCH))
    begun.attempt = 1
    for job in (begun, job_of("fresh", 2, spec_of(priority=BATCH))):
        queue.push(job)
    assert name_of(room_for(queue, dropping(2), NORMAL)) == "fresh"
    queue.remove(begun)
    assert name_of(room_for(queue, dropping(1), NORMAL)) == "fresh"


def test_who_left_or_began_since_is_not_remembered_for_long() -> None:
    queue = JobQueue()
    jobs = [job_of(f"j{n}", n, spec_of(priority=BATCH)) for n in range(100)]
    for job in jobs:
        queue.push(job)
    for job in jobs[:99]:
        queue.remove(job)
    jobs[98].attempt = 1
    queue.push(jobs[98])
    assert queue.oldest_untried(BATCH) is jobs[99]
    for job in jobs[:98]:
        queue.push(job)
        queue.remove(job)
    assert len(queue._classes[BATCH].untried) <= 35
    assert queue.oldest_untried(BATCH) is jobs[99]
    assert queue.oldest_untried(BACKGROUND) is None


def test_each_class_may_be_treated_in_its_own_way() -> None:
    settings = QueueSettings(
        depth_max=2,
        overflow_by_class={BATCH: Overflow.SHED_LOW_PRIORITY, INTERACTIVE: Overflow.DROP_LRU},
        high_water=0.5,
    )
    queue = queue_of(BACKGROUND)
    assert room_for(queue, settings, BATCH) == NoRoom("shed-low-priority", 1, 1)
    assert room_for(queue, settings, NORMAL) is None
    queue.push(job_of("n", 9))
    assert room_for(queue, settings, NORMAL) == NoRoom("reject", 2, 2)
    assert name_of(room_for(queue, settings, INTERACTIVE)) == "j0"


def test_more_urgent_classes_never_find_less_room() -> None:
    for depth_max in range(1, 50):
        for high_water in (0.0, 0.1, 0.5, 0.99, 1.0):
            shedding = QueueSettings(
                depth_max=depth_max, overflow=Overflow.SHED_LOW_PRIORITY, high_water=high_water
            )
            depths = [shedding.depth_max_for(priority) for priority in Priority]
            assert depths == sorted(depths, reverse=True)
            assert depths[0] == depth_max
            assert depths[-1] == int(depth_max * high_water)


def test_a_refusal_says_which_mode_refused_and_when_there_is_room() -> None:
    apiary = yard(QueueSettings(depth_max=40, depth_max_by_class={BATCH: 20}))
    apiary.attach(report_of("w2", slots_total=1, kv_tokens_total=25))
    for number in range(21):
        apiary.happen(submitted(f"j{number}", priority=BATCH))
    # One of them runs, for an empty worker may try what seems too large; it takes a second, as the others will.
    (refuse,) = apiary.happen(submitted("late", priority=BATCH))
    assert isinstance(refuse, Refuse)
    assert refuse.refused.retry_after_ms == 3_000
    assert refuse.refused.metadata == {
        "policy_label": "reject",
        "queue_position": "20",
        "queue_eta_ms": "21000",
    }


def test_who_makes_way_is_ended_durably_before_the_newcomer_is_accepted() -> None:
    apiary = yard(dropping(1))
    apiary.happen(submitted("old", priority=BACKGROUND))
    effects = apiary.happen(submitted("new"))
    saved = [effect.job_id for effect in effects if isinstance(effect, SaveJob)]
    assert saved == ["old", "new"]
    assert AnnounceEnded(JobId("old")) in effects
    failure = apiary.durable[JobId("old")].failure
    assert failure is not None
    assert failure.reason is Refusal.QUEUE_FULL_DROP_LRU
    assert failure.retry_after_ms == limits.RETRY_DELAY_MS
    assert failure.reason.is_transient


def test_nobody_makes_way_for_a_newcomer_that_is_refused_for_another_reason() -> None:
    quotas = QuotaSettings(by_tenant={TenantId("ann"): Quota(concurrent_jobs=0)}, is_enforced=True)
    apiary = yard(dropping(1), quotas=quotas)
    apiary.happen(submitted("old", priority=BACKGROUND))
    (refuse,) = apiary.happen(submitted("new", tenant_id=TenantId("ann")))
    assert isinstance(refuse, Refuse)
    assert not apiary.state.jobs[JobId("old")].is_ended


def test_after_a_restart_what_was_accepted_still_waits_however_small_the_queue_is_now() -> None:
    apiary = yard(QueueSettings(depth_max=3))
    for number in range(3):
        apiary.happen(submitted(f"j{number}"))
    apiary.settings = Settings(queue=QueueSettings(depth_max=1))
    apiary.restart()
    assert len(apiary.state.queue) == 3
    (refuse,) = apiary.happen(submitted("late"))
    assert isinstance(refuse, Refuse)
