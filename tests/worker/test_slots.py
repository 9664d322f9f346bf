"""The single slot move by move, and several slots that share a KV budget."""

import itertools
import random
from collections.abc import Callable

import pytest
from beeyard_worker.slots import (
    FINISHED,
    TRANSITIONS,
    IllegalMove,
    JobNotFound,
    JobState,
    JobVerb,
    SingleSlot,
    Slots,
    WorkerBusy,
)

PATHS: dict[JobState, tuple[JobVerb, ...]] = {
    JobState.PENDING: (),
    JobState.EXECUTING: (JobVerb.EXECUTE,),
    JobState.COMPLETED: (JobVerb.EXECUTE, JobVerb.COMPLETE),
    JobState.FAILED: (JobVerb.EXECUTE, JobVerb.FAIL),
}


def mark(slot: SingleSlot | Slots, verb: JobVerb) -> Callable[[str], None]:
    """Return the method that makes this move."""
    return {
        JobVerb.EXECUTE: slot.mark_executing,
        JobVerb.COMPLETE: slot.mark_completed,
        JobVerb.FAIL: slot.mark_failed,
    }[verb]


def slot_in(state: JobState) -> SingleSlot:
    """Return a slot whose job `a` is in this state."""
    slot = SingleSlot()
    slot.schedule("a")
    for verb in PATHS[state]:
        mark(slot, verb)("a")
    return slot


def test_the_table_is_the_one_of_the_specification() -> None:
    moves = {(source, target) for source, row in TRANSITIONS.items() for target in row.values()}
    assert moves == {
        (JobState.PENDING, JobState.EXECUTING),
        (JobState.EXECUTING, JobState.COMPLETED),
        (JobState.EXECUTING, JobState.FAILED),
    }
    assert {JobState.COMPLETED, JobState.FAILED} == FINISHED


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(JobState, JobVerb)))
def test_each_move_goes_by_the_table_and_an_illegal_one_changes_nothing(
    state: JobState, verb: JobVerb
) -> None:
    slot = slot_in(state)
    target = TRANSITIONS[state].get(verb)
    if target is None:
        with pytest.raises(IllegalMove, match=state.value):
            mark(slot, verb)("a")
        target = state
    else:
        mark(slot, verb)("a")
    assert slot.get_state("a") is target
    assert slot.current_job == "a"


@pytest.mark.parametrize(("state", "verb"), list(itertools.product(JobState, JobVerb)))
def test_a_move_of_another_job_is_not_found_and_changes_nothing(
    state: JobState, verb: JobVerb
) -> None:
    slot = slot_in(state)
    with pytest.raises(JobNotFound) as caught:
        mark(slot, verb)("b")
    assert caught.value.job_id == "b"
    assert slot.get_state("a") is state


@pytest.mark.parametrize("state", JobState)
def test_a_slot_accepts_the_next_job_only_after_the_last_one_finished(state: JobState) -> None:
    slot = slot_in(state)
    if state in FINISHED:
        assert slot.can_accept()
        slot.schedule("b")
        assert slot.get_state("b") is JobState.PENDING
        with pytest.raises(JobNotFound):
            slot.get_state("a")
    else:
        assert not slot.can_accept()
        with pytest.raises(WorkerBusy):
            slot.schedule("b")
        assert slot.get_state("a") is state


@pytest.mark.parametrize("state", JobState)
def test_only_a_finished_job_is_cleared(state: JobState) -> None:
    slot = slot_in(state)
    slot.clear()
    if state in FINISHED:
        assert slot.current_job is None
        assert slot.state is JobState.PENDING
        assert slot.can_accept()
    else:
        assert slot.get_state("a") is state


def test_an_empty_slot_knows_no_job() -> None:
    slot = SingleSlot()
    assert slot.can_accept()
    slot.clear()
    for ask in (slot.get_state, slot.mark_executing, slot.mark_completed, slot.mark_failed):
        with pytest.raises(JobNotFound):
            ask("a")
    assert slot.current_job is None


def test_slots_take_what_they_hold_and_refuse_the_rest() -> None:
    slots = Slots(2, kv_tokens=100)
    slots.schedule("a", 30)
    slots.schedule("b", 30)
    assert (slots.free, slots.kv_tokens_free) == (0, 40)
    with pytest.raises(WorkerBusy):
        slots.schedule("c", 1)
    assert (slots.free, slots.kv_tokens_free) == (0, 40)


def test_slots_refuse_what_the_kv_budget_does_not_hold() -> None:
    slots = Slots(3, kv_tokens=100)
    slots.schedule("a", 60)
    assert not slots.can_accept(41)
    with pytest.raises(WorkerBusy):
        slots.schedule("b", 41)
    slots.schedule("b", 40)
    assert (slots.free, slots.kv_tokens_free) == (1, 0)


@pytest.mark.parametrize("verb", [JobVerb.COMPLETE, JobVerb.FAIL])
def test_a_finished_job_frees_its_slot_and_its_kv_tokens(verb: JobVerb) -> None:
    slots = Slots(1, kv_tokens=100)
    slots.schedule("a", 100)
    slots.mark_executing("a")
    mark(slots, verb)("a")
    assert slots.get_state("a") in FINISHED
    assert (slots.free, slots.kv_tokens_free) == (1, 100)
    slots.schedule("b", 100)
    with pytest.raises(JobNotFound):
        slots.get_state("a")


@pytest.mark.parametrize("verb", [JobVerb.COMPLETE, JobVerb.FAIL])
def test_an_illegal_move_in_several_slots_frees_nothing(verb: JobVerb) -> None:
    slots = Slots(2, kv_tokens=100)
    slots.schedule("a", 10)
    with pytest.raises(IllegalMove):
        mark(slots, verb)("a")
    with pytest.raises(JobNotFound):
        mark(slots, verb)("b")
    assert (slots.free, slots.kv_tokens_free) == (1, 90)


def test_the_same_job_is_not_scheduled_twice_but_may_return() -> None:
    slots = Slots(2, kv_tokens=100)
    slots.schedule("a", 10)
    with pytest.raises(WorkerBusy):
        slots.schedule("a", 10)
    slots.mark_executing("a")
    slots.mark_completed("a")
    slots.schedule("a", 20)
    assert slots.get_state("a") is JobState.PENDING
    assert slots.kv_tokens_free == 80


def test_clearing_forgets_the_finished_and_keeps_the_running() -> None:
    slots = Slots(2, kv_tokens=100)
    for job_id in ("a", "b"):
        slots.schedule(job_id, 10)
        slots.mark_executing(job_id)
    slots.mark_failed("a")
    slots.clear()
    with pytest.raises(JobNotFound):
        slots.get_state("a")
    assert slots.get_state("b") is JobState.EXECUTING
    slots.schedule("c", 10)
    assert slots.free == 0


def test_slots_that_close_under_running_jobs_are_never_negative_and_close_when_those_end() -> None:
    slots = Slots(3, kv_tokens=100)
    for job_id in ("a", "b", "c"):
        slots.schedule(job_id, 10)
        slots.mark_executing(job_id)
    slots.open(1)
    assert (slots.total, slots.free) == (1, 0)
    slots.mark_completed("a")
    slots.mark_failed("b")
    assert slots.free == 0
    with pytest.raises(WorkerBusy):
        slots.schedule("d", 10)
    slots.mark_completed("c")
    assert slots.free == 1
    slots.schedule("d", 10)
    assert slots.free == 0


def test_slots_open_beyond_those_that_there_were_at_the_start() -> None:
    slots = Slots(1, kv_tokens=100)
    slots.schedule("a", 10)
    slots.open(4)
    assert slots.free == 3
    for job_id in ("b", "c", "d"):
        slots.schedule(job_id, 10)
    with pytest.raises(WorkerBusy):
        slots.schedule("e", 10)


@pytest.mark.parametrize("seed", range(20))
def test_no_sequence_of_calls_overcommits(seed: int) -> None:
    chance = random.Random(seed)
    slots = Slots(4, kv_tokens=100)
    running: dict[str, int] = {}
    opened = 4
    for step in range(500):
        kv_tokens = chance.randint(1, 60)
        fits = len(running) < opened and sum(running.values()) + kv_tokens <= 100
        assert slots.can_accept(kv_tokens) is fits
        if fits:
            job_id = f"job-{step}"
            slots.schedule(job_id, kv_tokens)
            slots.mark_executing(job_id)
            running[job_id] = kv_tokens
        elif running:
            done = chance.choice(sorted(running))
            mark(slots, chance.choice([JobVerb.COMPLETE, JobVerb.FAIL]))(done)
            del running[done]
        if chance.random() < 0.1:
            slots.clear()
        if chance.random() < 0.1:
            opened = chance.randint(1, 6)
            slots.open(opened)
        assert slots.free == max(opened - len(running), 0)
        assert slots.kv_tokens_free == 100 - sum(running.values())
