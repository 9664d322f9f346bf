"""What of prompts is in the caches of workers, as far as can be known from outside."""

from collections import Counter
from typing import Any

import pytest
from beeyard_core import limits
from beeyard_core.event import JobSubmitted, LeaseClaim, LeaseFinished, WorkerAttached
from beeyard_core.fleet import PREFIX_CACHE, Worker, WorkerReport
from beeyard_core.ids import JobId, ModelName, PoolId, WorkerId, lease_id_of
from beeyard_core.job import Finish, Job
from beeyard_core.prefix_index import PrefixIndex, name_of
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import report_of, spec_of

W1, W2 = WorkerId("w1"), WorkerId("w2")
BLOCK = limits.PREFIX_BLOCK_TOKENS
CACHES = frozenset({PREFIX_CACHE})


def worker(worker_id: str = "w1", *, blocks: int = 100, **changes: object) -> Worker:
    made = {"extensions": CACHES, "kv_tokens_total": blocks * BLOCK} | changes
    return Worker(report=report_of(worker_id, **made), session=1, heard_at_ms=0)


def sent(index: PrefixIndex, job_id: str, path: tuple[int, ...], to: Worker) -> JobId:
    """One job comes and is sent to a worker."""
    job = JobId(job_id)
    index.join(job, path)
    index.send(job, to)
    return job


def awaiting(index: PrefixIndex, job_id: str, path: tuple[int, ...]) -> str:
    index.join(JobId(job_id), path)
    index.await_block(JobId(job_id))
    return index.awaited(JobId(job_id))


# --- What is known ---


def test_a_job_waits_for_the_deepest_block_that_anybody_has() -> None:
    index = PrefixIndex()
    sent(index, "j1", (1, 2, 3), worker())
    assert awaiting(index, "j2", (1, 2, 9, 10)) == name_of(2)
    assert index.holders(2) == {W1: 2 * BLOCK}
    assert awaiting(index, "j3", (8, 2)) == name_of(2)
    assert awaiting(index, "j4", (8, 9)) == ""
    assert awaiting(index, "j5", ()) == ""


def test_what_no_job_waits_for_is_not_told() -> None:
    index = PrefixIndex()
    sent(index, "j1", (1,), worker())
    assert index.holders(1) == {}
    awaiting(index, "j2", (1,))
    awaiting(index, "j3", (1,))
    index.touched.clear()
    index.leave_queue(JobId("j2"))
    assert index.holders(1) == {W1: BLOCK}
    assert not index.touched
    index.leave_queue(JobId("j3"))
    assert index.holders(1) == {}
    assert list(index.touched) == [1]


def test_what_everybody_has_distinguishes_nobody() -> None:
    index = PrefixIndex()
    awaiting_now = limits.PREFIX_HOLDERS_TOLD_MAX
    for number in range(awaiting_now):
        sent(index, f"j{number}", (1,), worker(f"w{number}"))
    awaiting(index, "waits", (1,))
    assert len(index.holders(1)) == awaiting_now
    index.touched.clear()
    sent(index, "one-more", (1,), worker("w-more"))
    assert index.holders(1) == {}
    assert list(index.touched) == [1]
    assert len(index.held(JobId("waits"))) == awaiting_now + 1


def test_a_worker_that_caches_nothing_is_believed_to_hold_nothing() -> None:
    index = PrefixIndex()
    job = sent(index, "j1", (1, 2), worker(extensions=frozenset()))
    assert index.held(job) == {}


def test_a_worker_that_is_gone_holds_nothing() -> None:
    index = PrefixIndex()
    sent(index, "j1", (1, 2), worker())
    job = sent(index, "j2", (1, 7), worker("w2"))
    index.forget(W1)
    index.forget(W1)
    assert index.held(job) == {W2: 2 * BLOCK}
    assert awaiting(index, "j3", (1, 2)) == name_of(1)


# --- What a cache holds ---


def test_the_longest_unused_is_pushed_out_first_and_the_end_of_a_prompt_before_its_beginning() -> (
    None
):
    index, small = PrefixIndex(), worker(blocks=4)
    first = sent(index, "j1", (1, 2, 3), small)
    second = sent(index, "j2", (1, 7, 8), small)
    # Of the first prompt its second block is left, which was used after its third.
    assert index.held(first) == {W1: 2 * BLOCK}
    assert index.held(second) == {W1: 3 * BLOCK}


def test_a_prompt_that_was_not_found_halves_what_a_cache_is_believed_to_hold() -> None:
    index, here = PrefixIndex(), worker()
    paths = {f"j{n}": (n, 100 + n) for n in range(4)}
    for job_id, path in paths.items():
        sent(index, job_id, path, here)
    again = sent(index, "again", paths["j3"], here)
    index.finish(again, prompt_tokens=1_000, cached_tokens=499)
    assert [job_id for job_id in paths if index.held(JobId(job_id))] == ["j2", "j3"]
    # It is judged once, and by nobody whose prompt is not known.
    index.finish(again, prompt_tokens=1_000, cached_tokens=0)
    index.finish(JobId("unknown"), prompt_tokens=1_000, cached_tokens=0)
    assert [job_id for job_id in paths if index.held(JobId(job_id))] == ["j2", "j3"]


def test_an_engine_that_never_finds_anything_is_soon_believed_to_hold_nothing() -> None:
    index, here = PrefixIndex(), worker()
    for number in range(5):
        job = sent(index, f"j{number}", (1, 2, 3), here)
        index.finish(job, prompt_tokens=400, cached_tokens=0)
    assert index.held(job) == {}
    # Until it finds something.
    job = sent(index, "found", (1, 2, 3), here)
    index.finish(job, prompt_tokens=400, cached_tokens=100)
    assert index.held(sent(index, "next", (1, 2, 3), here)) == {W1: 3 * BLOCK}


def test_a_prompt_that_was_found_lets_a_cache_grow_by_its_length() -> None:
    index, small = PrefixIndex(), worker(blocks=3)
    for job_id in ("j1", "j2"):
        sent(index, job_id, (1, 2, 3), small)
    index.finish(JobId("j2"), prompt_tokens=400, cached_tokens=380)
    other = sent(index, "j3", (4, 5, 6), small)
    assert index.held(other) == index.held(JobId("j1")) == {W1: 3 * BLOCK}


def test_a_finish_after_the_worker_is_gone_or_that_counts_nothing_says_nothing() -> None:
    index = PrefixIndex()
    for number, here in enumerate((worker(), worker())):
        job = sent(index, f"j{number}", (1, 2), here)
    index.finish(job, prompt_tokens=0, cached_tokens=0)
    assert index.held(job) == {W1: 2 * BLOCK}
    job = sent(index, "j9", (1, 2), worker())
    index.forget(W1)
    index.finish(job, prompt_tokens=10, cached_tokens=0)
    job = sent(index, "j10", (1, 2), worker())
    index.leave(job)
    index.finish(job, prompt_tokens=10, cached_tokens=0)
    assert index.held(JobId("j9")) == {W1: 2 * BLOCK}


# --- Bounds ---


def test_a_long_prompt_is_known_by_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFIX_BLOCKS_PER_PROMPT_MAX", 2)
    index = PrefixIndex()
    assert index.held(sent(index, "j1", (1, 2, 3), worker())) == {W1: 2 * BLOCK}


def test_of_more_prompts_than_can_be_kept_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREFIX_PATH_BLOCKS_MAX", 3)
    index = PrefixIndex()
    index.join(JobId("j1"), (1, 2))
    index.join(JobId("j2"), (1, 2))
    assert index.held(sent(index, "j2", (1, 2), worker())) == {}
    index.leave(JobId("j1"))
    assert index.held(sent(index, "j3", (1, 2), worker())) == {W1: 2 * BLOCK}


def test_all_caches_together_are_bounded_and_the_longest_unused_worker_loses_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PREFIX_BLOCKS_MAX", 4)
    index = PrefixIndex()
    first = sent(index, "j1", (1, 2), worker("w1"))
    sent(index, "j2", (3, 4), worker("w2"))
    last = sent(index, "j3", (5, 6, 7), worker("w3"))
    assert index.held(first) == {}
    assert index.held(JobId("j2")) == {W2: BLOCK}
    assert index.held(last) == {WorkerId("w3"): 3 * BLOCK}


PATHS = st.sampled_from([(1, 2, 3), (1, 2, 9), (1, 5), (4,), (4, 6, 7, 8), ()])
MOVES = st.lists(st.tuples(st.integers(0, 6), PATHS, st.integers(0, 3)), max_size=40)


@in_cases(60)
@given(MOVES)
def test_a_block_is_never_there_without_those_before_it_and_nothing_is_kept_too_long(
    moves: list[tuple[int, tuple[int, ...], int]],
) -> None:
    index: Any = PrefixIndex()
    workers = [worker(f"w{n}", blocks=(2, 3, 5, 100)[n]) for n in range(4)]
    paths: dict[JobId, tuple[int, ...]] = {}
    for number, (move, path, value) in enumerate(moves):
        job_id = JobId(f"j{number}")
        index.join(job_id, path)
        paths[job_id] = path
        index.await_block(job_id)
        if move < 5:
            index.leave_queue(job_id)
            index.send(job_id, workers[value])
        if move in (1, 2):
            index.finish(job_id, prompt_tokens=100, cached_tokens=(0, 100)[move - 1])
        if move == 3:
            index.forget(workers[value].report.worker_id)
        if move != 6:
            index.leave_queue(job_id)
            index.leave(job_id)
    for cache in index._caches.values():
        assert len(cache.blocks) <= max(cache.room, 0)
        for path in paths.values():
            held = [block in cache.blocks for block in path]
            assert held == sorted(held, reverse=True)
    held_blocks = Counter(block for cache in index._caches.values() for block in cache.blocks)
    assert {b: len(holders) for b, holders in index._holders.items()} == held_blocks
    assert index._count == held_blocks.total()
    assert index._path_blocks == sum(map(len, index._paths.values()))
    assert index._waiting == Counter(index._awaited.values())


# --- In the queen ---


def reporting(worker_id: str, **changes: object) -> WorkerReport:
    made = {"extensions": CACHES, "tokens_per_s": 32.0, "slots_total": 2} | changes
    return report_of(worker_id, context_tokens=9_000, kv_tokens_total=18_000, **made)


def submit(apiary: Apiary, job_id: str, *prefix: int) -> Job:
    spec = spec_of(prompt_tokens=1_000)
    apiary.happen(JobSubmitted(job_id=JobId(job_id), spec=spec, prefix=prefix))
    return apiary.state.jobs[JobId(job_id)]


def finish(apiary: Apiary, job: Job, cached_tokens: int = 0) -> None:
    assert job.worker_id is not None
    ended = Finish(reason="stop", prompt_tokens=1_000, cached_prompt_tokens=cached_tokens)
    epoch = job.epoch
    apiary.happen(LeaseFinished(job.worker_id, lease_id_of(epoch), epoch, 20, ended))


def two_workers() -> Apiary:
    apiary = Apiary()
    for worker_id in ("w1", "w2"):
        apiary.attach(reporting(worker_id), incarnation="first")
    return apiary


def test_a_conversation_goes_on_where_its_beginning_is() -> None:
    apiary = two_workers()
    other = submit(apiary, "other", 7, 8)
    first = submit(apiary, "turn-1", 1, 2)
    assert (other.worker_id, first.worker_id) == (W1, W2)
    finish(apiary, first)
    finish(apiary, other)
    # By load and name it would be w1.
    assert submit(apiary, "turn-2", 1, 2, 3).worker_id == W2


def test_a_conversation_does_not_wait_for_its_worker_if_another_is_free() -> None:
    apiary = two_workers()
    finish(apiary, submit(apiary, "turn-1", 1, 2))
    assert [submit(apiary, f"other-{n}", 1, 2, n + 50).worker_id for n in range(3)] == [W1, W1, W2]


def test_a_worker_that_was_started_anew_has_an_empty_cache() -> None:
    apiary = two_workers()
    blocker = submit(apiary, "other", 7, 8)
    first = submit(apiary, "turn-1", 1, 2)
    finish(apiary, blocker)
    finish(apiary, first)
    assert apiary.state.prefixes.held(submit(apiary, "turn-2", 1, 2).job_id) == {W2: 2 * BLOCK}
    apiary.happen(WorkerAttached(session=99, report=reporting("w2"), incarnation="second"))
    assert submit(apiary, "turn-3", 1, 2).worker_id == W1


def test_policies_hear_when_the_worker_that_jobs_wait_for_goes_and_comes_back() -> None:
    apiary = Apiary()
    apiary.attach(reporting("w1", slots_total=1), incarnation="first")
    finish(apiary, submit(apiary, "turn-1", 1, 2))
    submit(apiary, "other", 7, 8)
    waits = submit(apiary, "turn-2", 1, 2, 3)
    assert apiary.twin.yard.holders == {name_of(2): {"w1": 2 * BLOCK}}
    held = apiary.state.jobs[JobId("other")].epoch
    claim = LeaseClaim(lease_id=lease_id_of(held), epoch=held, next_index=0)
    # The same process after a broken link still has its cache; another model's has none.
    apiary.attach(reporting("w1", slots_total=1), (claim,), incarnation="first")
    assert apiary.twin.yard.holders == {name_of(2): {"w1": 2 * BLOCK}}
    other = reporting("w1", slots_total=1, model=ModelName("n"))
    apiary.attach(other, (claim,), incarnation="first")
    assert apiary.twin.yard.holders == {}
    assert apiary.state.prefixes.awaited(waits.job_id) == name_of(2)


def test_a_worker_that_changes_pools_is_told_anew_with_its_cache() -> None:
    apiary = Apiary()
    apiary.attach(reporting("w1", slots_total=1))
    finish(apiary, submit(apiary, "turn-1", 1, 2))
    submit(apiary, "other", 7, 8)
    submit(apiary, "turn-2", 1, 2, 3)
    link = apiary.links[W1]
    link.report = reporting("w1", slots_total=1, pool_id=PoolId("p7"))
    apiary.heartbeat(W1)
    assert apiary.twin.yard.holders == {name_of(2): {"w1": 2 * BLOCK}}


def test_a_job_that_has_ended_leaves_no_trace_of_its_prompt() -> None:
    apiary = two_workers()
    index: Any = apiary.state.prefixes
    job = submit(apiary, "j1", 1, 2)
    finish(apiary, job)
    assert (index._paths, index._beliefs, index._awaited, index._waiting) == ({}, {}, {}, {})
