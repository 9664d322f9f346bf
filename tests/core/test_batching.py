"""The batch planner: what it promises in every world, and the cost that it learns."""

import dataclasses
import random

import pytest
from beeyard_core import limits
from beeyard_core.batching.kv_pages import KvPages
from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.sequence import Sequence, SequenceId
from beeyard_core.batching.slot_window import SlotWindow
from beeyard_core.batching.step_cost import StepCost, StepLoad
from beeyard_core.batching.step_plan import StepBounds, StepPlan
from hypothesis import given
from hypothesis import strategies as st

from tests.support.batches import PAGE, Asked, TrueCost, World, play, sequence_of, worlds
from tests.support.cases import in_cases

CASES = 20


def steps_bound(world: World) -> int:
    """Return how many steps pass at most from the first arrival to the last end.

    A sequence is passed over so often before it is promoted; then it waits for those that were promoted before it,
    each of which takes its prompt in slices of at least one budget, once, and then a token a step.
    """
    slice_min = min(world.bounds.prefill_tokens_max, limits.BATCH_PREFILL_TOKENS_MIN)
    each = [-(-(a.prompt + a.answer) // slice_min) + a.answer for a in world.asked]
    last = max(asked.step for asked in world.asked)
    return last + limits.BATCH_PASSED_OVER_MAX + sum(each) + len(each)


@in_cases(CASES)
@given(worlds())
def test_kv_memory_is_never_overcommitted(world: World) -> None:
    def look(planner: BatchPlanner, plan: StepPlan) -> None:
        pages = planner.pages
        assert pages.free >= 0
        assert pages.free + sum(pages.held.values()) == pages.total
        # What is computed in this step has a place: no token is written outside of the pages of its sequence.
        for part in plan.slices:
            assert pages.held[part.sequence_id] * PAGE >= part.first + part.tokens
        for sequence_id in plan.decoding:
            assert pages.held[sequence_id] * PAGE >= planner._sequences[sequence_id].known

    played = play(world, steps_max=steps_bound(world), look=look)
    assert played.planner.pages.free == played.planner.pages.total


@in_cases(CASES)
@given(worlds())
def test_every_sequence_makes_all_its_tokens_within_the_bound_on_waiting(world: World) -> None:
    played = play(world, steps_max=steps_bound(world))
    assert [played.made[SequenceId(f"s{n}")] for n in range(len(world.asked))] == [
        asked.answer for asked in world.asked
    ]
    assert played.planner.is_idle


def test_a_sequence_of_the_last_class_ends_although_more_urgent_ones_never_cease() -> None:
    urgent = [Asked(step=4 * n, rank=0, prompt=30, answer=4) for n in range(90)]
    # Rank 0 alone keeps more than the whole memory busy.
    world = World([Asked(step=0, rank=3, prompt=40, answer=20), *urgent], kv_tokens=64)
    played = play(world, steps_max=360)
    ended = played.ended_at[SequenceId("s0")]
    assert limits.BATCH_PASSED_OVER_MAX < ended < limits.BATCH_PASSED_OVER_MAX + 100


@in_cases(CASES)
@given(worlds())
def test_a_step_computes_no_more_of_prompts_than_its_budget(world: World) -> None:
    for plan in play(world, steps_max=steps_bound(world)).plans:
        tokens = sum(part.tokens for part in plan.slices)
        assert tokens == plan.load.prefill_tokens <= world.bounds.prefill_tokens_max
        assert all(part.tokens > 0 for part in plan.slices)


@in_cases(CASES)
@given(worlds())
def test_decoding_comes_first_so_each_that_can_decode_does_or_loses_its_memory(
    world: World,
) -> None:
    decodable: set[SequenceId] = set()

    def look(planner: BatchPlanner, plan: StepPlan) -> None:
        assert decodable <= {*plan.decoding, *plan.preempted}
        assert not {*plan.decoding} & {*plan.preempted}
        assert not {part.sequence_id for part in plan.slices} & {*plan.decoding, *plan.preempted}
        decodable.clear()
        for sequence_id in plan.decoding:
            if planner._sequences[sequence_id].made + 1 < world.asked[int(sequence_id[1:])].answer:
                decodable.add(sequence_id)

    play(world, steps_max=steps_bound(world), look=look)


@in_cases(CASES)
@given(worlds())
def test_only_who_comes_later_in_the_order_of_service_loses_memory_to_another(
    world: World,
) -> None:
    def look(planner: BatchPlanner, plan: StepPlan) -> None:
        def order(sequence_id: SequenceId) -> tuple[int, int]:
            sequence = planner._sequences[sequence_id]
            promoted = sequence.passed_over >= limits.BATCH_PASSED_OVER_MAX
            return (-1 if promoted else sequence.rank, sequence.arrival)

        lost = [order(sequence_id) for sequence_id in plan.preempted]
        kept = [order(sequence_id) for sequence_id in plan.decoding]
        assert lost == sorted(lost, reverse=True)
        assert not lost or all(each < min(lost) for each in kept)

    play(world, steps_max=steps_bound(world), look=look)


@in_cases(CASES)
@given(worlds())
def test_something_advances_in_every_step(world: World) -> None:
    def look(planner: BatchPlanner, plan: StepPlan) -> None:
        assert not plan.is_empty or planner.is_idle

    play(world, steps_max=steps_bound(world), look=look)


@in_cases(CASES)
@given(worlds())
def test_the_same_sequences_and_measurements_give_the_same_plans(world: World) -> None:
    again = dataclasses.replace(world)
    bound = steps_bound(world)
    assert play(world, steps_max=bound).plans == play(again, steps_max=bound).plans


@in_cases(CASES)
@given(worlds(), st.randoms(use_true_random=False))
def test_whoever_leaves_at_any_time_leaves_no_memory_behind(
    world: World, chance: random.Random
) -> None:
    planner = world.planner()
    here: list[SequenceId] = []
    for number, asked in enumerate(world.asked):
        sequence = sequence_of(number, asked)
        planner.join(sequence)
        here.append(sequence.sequence_id)
        plan = planner.begin_step()
        if chance.random() < 0.5:
            planner.leave(here.pop(chance.randrange(len(here))))
        planner.end_step(plan, 1.0)
    for sequence_id in here:
        planner.leave(sequence_id)
    planner.leave(SequenceId("was never here"))
    assert planner.is_idle
    assert planner.pages.free == planner.pages.total


# --- The target ---


@in_cases(5)
@given(st.floats(1.0, 10.0), st.floats(0.01, 0.5), st.floats(0.1, 2.0), st.integers(0, 2**16))
def test_steps_keep_to_their_target_once_the_cost_is_learnt(
    base: float, prefill: float, decode: float, seed: int
) -> None:
    cost = TrueCost(base=base, prefill=prefill, decode=decode, kv=0.0001)
    # Feasible: eight sequences that decode, and the smallest slice, with room for what is not learnt yet.
    target = 1.5 * (base + 8 * decode + limits.BATCH_PREFILL_TOKENS_MIN * prefill + 1.0)
    chance = random.Random(seed)
    asked = [
        Asked(chance.randrange(600), 1, chance.randint(10, 900), chance.randint(1, 60))
        for _ in range(60)
    ]
    planner = _serve(asked, cost, target, steps=900)
    assert planner.cost.is_learnt
    # The last bit of a coefficient comes slowly, where few steps tell it from the others.
    assert max(planner.step_ms[300:]) <= target * 1.03
    # Meanwhile, too, nothing far beyond what was measured is tried.
    assert max(planner.step_ms) <= 5 * target


def test_a_step_whose_time_is_noisy_is_planned_with_the_usual_error_in_mind() -> None:
    chance = random.Random(5)
    asked = [
        Asked(chance.randrange(600), 1, chance.randint(10, 900), chance.randint(1, 60))
        for _ in range(60)
    ]
    planner = _serve(asked, TrueCost(), 30.0, steps=900, noise=random.Random(6))
    late = sorted(planner.step_ms[300:])
    assert late[len(late) * 98 // 100] <= 1.1 * 30.0
    assert late[-1] <= 1.25 * 30.0


class _Served(BatchPlanner):
    """A planner that remembers how long its steps were."""

    step_ms: list[float]


def _serve(
    asked: list[Asked],
    cost: TrueCost,
    target: float,
    *,
    steps: int,
    noise: random.Random | None = None,
) -> _Served:
    """Let sequences join as slots open, and return the planner with what its steps took."""
    planner = _Served(slots_max=32, kv_tokens=100_000, bounds=StepBounds(step_ms=target))
    planner.step_ms = []
    queue = sorted(enumerate(asked), key=lambda each: each[1].step)
    present: set[SequenceId] = set()
    left = {SequenceId(f"s{n}"): each.answer for n, each in enumerate(asked)}
    for step in range(steps):
        while queue and queue[0][1].step <= step and len(present) < planner.slots_open:
            sequence = sequence_of(*queue.pop(0))
            planner.join(sequence)
            present.add(sequence.sequence_id)
        plan = planner.begin_step()
        ms = cost.ms(plan.load) * (noise.uniform(0.8, 1.2) if noise else 1.0)
        if not plan.is_empty:
            planner.step_ms.append(ms)
        for made in planner.end_step(plan, ms):
            left[made] -= 1
            if not left[made]:
                present.discard(made)
    return planner


def test_slots_open_while_steps_are_short_and_close_when_they_are_not() -> None:
    asked = [Asked(0, 1, 8, 4_000) for _ in range(32)]
    fast = _serve(asked, TrueCost(base=1, decode=0.1, kv=0.0), 20.0, steps=1_200)
    slow = _serve(asked, TrueCost(base=1, decode=1.0, kv=0.0), 20.0, steps=1_200)
    # Three quarters of 20 ms are for decoding: 14 of 1 ms each beside the base.
    assert fast.slots_open == 32
    assert 11 <= slow.slots_open <= 14


def test_a_window_whose_steps_are_too_slow_closes_by_a_quarter_but_never_all() -> None:
    window = SlotWindow(most=16, target_ms=10.0)
    window.opened = 16
    seen = []
    for _ in range(12):
        for _ in range(limits.BATCH_REVIEW_STEPS):
            window.observe(step_ms=11.0, sequences=window.opened, affordable=float("inf"))
        seen.append(window.opened)
    assert seen == [12, 9, 6, 4, 3, 2, 1, 1, 1, 1, 1, 1]


def test_slots_that_nobody_uses_are_no_reason_to_open_more() -> None:
    window = SlotWindow(most=16, target_ms=10.0)
    for _ in range(10 * limits.BATCH_REVIEW_STEPS):
        window.observe(step_ms=1.0, sequences=2, affordable=float("inf"))
    assert window.opened == limits.BATCH_SLOTS_START
    for _ in range(limits.BATCH_REVIEW_STEPS):
        window.observe(step_ms=99.0, sequences=0, affordable=float("inf"))
    assert window.opened == limits.BATCH_SLOTS_START


def test_without_a_target_every_slot_is_open() -> None:
    planner = BatchPlanner(slots_max=9, kv_tokens=1_000, bounds=StepBounds())
    planner.join(sequence_of(0, Asked(0, 0, 100, 2)))
    planner.end_step(planner.begin_step(), 5_000.0)
    assert planner.slots_open == 9


# --- The cost ---


def loads(count: int, seed: int = 3) -> list[StepLoad]:
    chance = random.Random(seed)
    return [
        StepLoad(
            prefill_tokens=chance.choice([0, 0, chance.randint(1, 256)]),
            decode_sequences=chance.randint(0, 16),
            kv_tokens=chance.randint(0, 20_000),
        )
        for _ in range(count)
    ]


def test_the_cost_of_a_step_is_learnt_from_what_was_measured() -> None:
    true, cost = TrueCost(), StepCost()
    for load in loads(300):
        cost.observe(load, true.ms(load))
    assert cost.is_learnt
    for load in loads(50, seed=4):
        assert cost.predict_ms(load) == pytest.approx(true.ms(load), rel=0.05)


def test_a_cost_that_changes_is_learnt_again() -> None:
    before, after, cost = TrueCost(), TrueCost(base=20, decode=2.0), StepCost()
    for true in (before, after):
        for load in loads(800):
            cost.observe(load, true.ms(load))
    assert cost.predict_ms(loads(1)[0]) == pytest.approx(after.ms(loads(1)[0]), rel=0.1)


def test_a_step_in_which_the_machine_did_something_else_teaches_little() -> None:
    true, cost = TrueCost(), StepCost()
    for load in loads(200):
        cost.observe(load, true.ms(load))
    load = loads(1)[0]
    cost.observe(load, 60_000.0)
    assert cost.predict_ms(load) == pytest.approx(true.ms(load), rel=0.2)


def test_no_part_of_a_step_costs_less_than_nothing() -> None:
    cost = StepCost()
    for load in loads(100):
        # More sequences, less time: no engine does this, noise may look like it.
        cost.observe(load, 20.0 - load.decode_sequences)
    nothing = StepLoad(prefill_tokens=0, decode_sequences=0, kv_tokens=0)
    assert cost.predict_ms(nothing) > 0
    many = StepLoad(prefill_tokens=0, decode_sequences=500, kv_tokens=0)
    assert cost.predict_ms(many) >= cost.predict_ms(nothing)
    # What costs nothing may be added without end, as long as there is room at all.
    assert cost.decode_sequences_within(nothing, 1_000.0, kv_tokens_each=0) == float("inf")
    assert cost.decode_sequences_within(nothing, 0.1, kv_tokens_each=0) == 0.0


def test_a_cost_is_not_relied_on_before_it_was_right() -> None:
    cost, chance = StepCost(), random.Random(1)
    assert not cost.is_learnt
    for load in loads(100):
        cost.observe(load, chance.choice([1.0, 100.0]))
    assert not cost.is_learnt


# --- Single stories ---


def planner_of(kv_tokens: int, prefill: int = 64, **ranks: int) -> BatchPlanner:
    """Return a planner in which these sequences of 8 prompt tokens and 8 more have joined."""
    planner = BatchPlanner(
        slots_max=8,
        kv_tokens=kv_tokens,
        bounds=StepBounds(prefill_tokens_max=prefill),
        page_tokens=PAGE,
    )
    for name, rank in ranks.items():
        planner.join(_eight(name, rank))
    return planner


def _eight(name: str, rank: int) -> Sequence:
    return Sequence(sequence_id=SequenceId(name), rank=rank, prompt_tokens=8, answer_tokens_max=8)


def run(planner: BatchPlanner) -> StepPlan:
    """Take one step."""
    plan = planner.begin_step()
    planner.end_step(plan, 1.0)
    return plan


def sliced(plan: StepPlan) -> list[SequenceId]:
    """Return of whose prompts a step computes something, in order."""
    return [part.sequence_id for part in plan.slices]


def test_a_long_prompt_is_computed_in_slices_and_makes_its_first_token_with_the_last() -> None:
    planner = planner_of(64, prefill=3, a=0)
    made = []
    for _ in range(3):
        plan = planner.begin_step()
        made.append((plan.slices[0].first, plan.slices[0].tokens, planner.end_step(plan, 1.0)))
    assert made == [(0, 3, ()), (3, 3, ()), (6, 2, ("a",))]
    assert run(planner).decoding == ("a",)


def test_prompts_go_by_rank_and_then_by_arrival() -> None:
    planner = planner_of(64, prefill=20, late=2, soon=1, first=0, also=1)
    assert sliced(run(planner)) == ["first", "soon", "also"]


def test_the_last_in_the_order_of_service_computes_its_tokens_again() -> None:
    # Six pages: two prompts of two pages each, and each grows by two.
    planner = planner_of(24, a=1, b=0)
    plans = [run(planner) for _ in range(6)]
    assert [plan.preempted for plan in plans] == [(), (), (), (), (), ("a",)]
    assert planner.preemptions == 1
    # Nothing is lost: once there is memory again, all that is known goes through in one slice.
    later = [run(planner) for _ in range(20)]
    plan = next(plan for plan in later if plan.slices)
    assert sliced(plan) == ["a"]
    assert plan.slices[0].first == 0
    assert plan.slices[0].tokens > 8


def test_a_prompt_that_loses_its_memory_half_way_begins_again_in_a_later_step() -> None:
    planner = planner_of(28, prefill=1)
    planner.join(
        Sequence(sequence_id=SequenceId("a"), rank=0, prompt_tokens=8, answer_tokens_max=12)
    )
    for _ in range(8):
        run(planner)
    planner.join(
        Sequence(sequence_id=SequenceId("b"), rank=1, prompt_tokens=12, answer_tokens_max=1)
    )
    plans = [run(planner) for _ in range(30)]
    at = next(number for number, plan in enumerate(plans) if plan.preempted)
    assert (plans[at].preempted, sliced(plans[at])) == ((SequenceId("b"),), [])
    assert plans[at - 1].slices[0].first > 0
    again = next(plan for plan in plans[at:] if plan.slices)
    assert (again.slices[0].sequence_id, again.slices[0].first) == ("b", 0)


def test_nobody_begins_before_a_prompt_that_waits_for_memory_but_who_holds_some_goes_on() -> None:
    planner = planner_of(24, prefill=4, slow=1)
    run(planner)
    planner.join(
        Sequence(sequence_id=SequenceId("large"), rank=0, prompt_tokens=20, answer_tokens_max=1)
    )
    planner.join(_eight("small", 0))
    assert sliced(run(planner)) == ["slow"]
    later = [run(planner) for _ in range(20)]
    begun = [name for plan in later for name in sliced(plan)]
    assert begun.index(SequenceId("large")) < begun.index(SequenceId("small"))
    assert planner.preemptions == 0


def test_a_decoding_sequence_that_cannot_grow_gives_way_to_a_prompt_that_is_before_it() -> None:
    # `b` decodes when `a`, more urgent, begins; then memory is full and `b`, the last, loses its own.
    planner = planner_of(24, prefill=8, b=1)
    run(planner)
    planner.join(
        Sequence(sequence_id=SequenceId("a"), rank=0, prompt_tokens=8, answer_tokens_max=12)
    )
    assert [run(planner).preempted for _ in range(8)].count((SequenceId("b"),)) == 1


def test_nothing_is_computed_of_a_sequence_whose_reader_is_behind() -> None:
    planner = planner_of(64, a=0, b=0)
    run(planner)
    assert planner.hold_back(SequenceId("a"), is_held_back=True)
    assert run(planner).decoding == ("b",)
    assert not planner.hold_back(SequenceId("a"), is_held_back=False)
    assert not planner.hold_back(SequenceId("who left"), is_held_back=True)
    assert run(planner).decoding == ("a", "b")


def test_an_empty_planner_plans_an_empty_step() -> None:
    planner = planner_of(64)
    plan = planner.begin_step()
    assert plan.is_empty
    assert planner.end_step(plan, 0.0) == ()
    assert planner.is_idle


def test_what_can_never_run_is_told_before_it_joins() -> None:
    planner = planner_of(30)
    assert planner.fits(28)
    assert not planner.fits(29)
    with pytest.raises(AssertionError):
        planner.join(
            Sequence(sequence_id=SequenceId("x"), rank=0, prompt_tokens=20, answer_tokens_max=9)
        )


def test_pages_are_counted_to_the_last_token() -> None:
    pages = KvPages(tokens=10, page_tokens=4)
    assert (pages.total, pages.tokens_total) == (2, 8)
    assert [pages.pages_for(tokens) for tokens in (0, 1, 4, 5)] == [0, 1, 1, 2]
    pages.give(SequenceId("a"), 1)
    assert pages.tokens_free == 4
    with pytest.raises(AssertionError):
        pages.give(SequenceId("b"), 2)
    pages.reclaim(SequenceId("a"))
    assert pages.free == 2
