"""The queue: strict classes, FIFO within a class, and a position that is the truth."""

import random

import pytest
from beeyard_core.ids import ModelName
from beeyard_core.job import Job, Priority
from beeyard_core.queue import JobQueue

from tests.support.core_values import job_of, spec_of

M = ModelName("m")
NORMAL = Priority.NORMAL


def queue_of(*jobs: Job) -> JobQueue:
    queue = JobQueue()
    for job in jobs:
        queue.push(job)
    return queue


def test_a_new_queue_is_empty() -> None:
    queue = JobQueue()
    assert len(queue) == 0
    assert queue.heads(NORMAL, M) == []
    assert list(queue.models(NORMAL)) == []
    assert queue.waiting_models() == []
    assert queue.jobs_for(M) == []
    assert queue.waiting_for(M) == 0


def test_the_oldest_job_of_a_shape_comes_first() -> None:
    first, second = job_of("j1", 1), job_of("j2", 2)
    queue = queue_of(second, first)
    assert queue.heads(NORMAL, M) == [first]
    queue.remove(first)
    assert queue.heads(NORMAL, M) == [second]


def test_a_job_that_is_queued_again_is_ahead_of_all_younger_ones() -> None:
    jobs = [job_of(f"j{n}", n) for n in range(1, 4)]
    queue = queue_of(*jobs)
    queue.remove(jobs[0])
    queue.push(jobs[0])
    assert queue.heads(NORMAL, M) == [jobs[0]]
    assert [queue.position(job) for job in jobs] == [0, 1, 2]


def test_each_shape_has_its_own_head_oldest_first() -> None:
    plain, engine = job_of("j3", 3), job_of("j2", 2, spec_of(engine="llamacpp"))
    queue = queue_of(plain, engine, job_of("j4", 4))
    assert queue.heads(NORMAL, M) == [engine, plain]


def test_classes_and_models_are_apart() -> None:
    urgent = job_of("j2", 2, spec_of(priority=Priority.INTERACTIVE))
    other = job_of("j3", 3, spec_of("n"))
    queue = queue_of(job_of("j1", 1), urgent, other)
    assert queue.heads(Priority.INTERACTIVE, M) == [urgent]
    assert queue.heads(NORMAL, ModelName("n")) == [other]
    assert set(queue.models(NORMAL)) == {"m", "n"}
    assert queue.waiting_models() == ["m", "n"]
    assert (queue.waiting_for(M), queue.waiting_for(ModelName("n"))) == (2, 1)
    assert sum(queue.depths()) == len(queue)
    assert queue.jobs_for(M) == [job_of("j1", 1), urgent]


def test_a_job_can_be_removed_from_the_middle() -> None:
    jobs = [job_of(f"j{n}", n) for n in range(1, 4)]
    queue = queue_of(*jobs)
    queue.remove(jobs[1])
    assert jobs[1].job_id not in queue
    queue.remove(jobs[0])
    assert queue.heads(NORMAL, M) == [jobs[2]]
    queue.remove(jobs[2])
    assert len(queue) == 0
    assert list(queue.models(NORMAL)) == []


def test_a_job_that_is_not_queued_cannot_be_removed() -> None:
    queue = queue_of(job_of("j1", 1))
    with pytest.raises(KeyError):
        queue.remove(job_of("j2", 2))
    assert len(queue) == 1


def test_the_position_counts_higher_classes_and_older_jobs() -> None:
    """Against a plain count, over several runs of sequence numbers."""
    chance = random.Random(11)
    queue = JobQueue()
    jobs = [
        job_of(f"j{n}", n, spec_of(priority=chance.choice(list(Priority))))
        for n in chance.sample(range(1, 4_000), 300)
    ]
    for job in jobs:
        queue.push(job)
    for gone in jobs[:60]:
        queue.remove(gone)
    left = sorted(jobs[60:], key=lambda job: (job.spec.priority, job.sequence))
    assert [queue.position(job) for job in left] == list(range(len(left)))


def test_what_was_removed_behind_a_blocked_head_does_not_pile_up() -> None:
    """A client that submits and cancels behind a job that cannot be placed must not eat the memory."""
    queue = queue_of(job_of("j0", 0))
    for number in range(1, 2_000):
        job = job_of(f"j{number}", number)
        queue.push(job)
        queue.remove(job)
    assert len(queue._classes[NORMAL].shapes[M][spec_of().shape].heap) <= 64
    assert [job.job_id for job in queue.heads(NORMAL, M)] == ["j0"]
