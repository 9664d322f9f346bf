"""What an answer may need of the KV memory, and what can never fit."""

import pytest
from beeyard_core.refusal import Refusal, Refused
from beeyard_worker.kv_plan import KvBudget, plan_kv


@pytest.mark.parametrize(
    ("prompt", "most", "context", "total", "expected"),
    [
        (10, 20, 100, 400, 30),
        (10, 90, 100, 400, 100),
        (10, 9_999, 100, 400, 100),
        (99, 1, 100, 400, 100),
        (0, 1, 100, 400, 1),
        (10, 20, 100, 30, 30),
    ],
)
def test_an_answer_needs_prompt_plus_answer_within_the_context(
    prompt: int, most: int, context: int, total: int, expected: int
) -> None:
    plan = plan_kv(
        prompt_tokens=prompt, max_tokens=most, context_tokens=context, kv_tokens_total=total
    )
    assert plan == expected


@pytest.mark.parametrize(
    ("prompt", "most", "context", "total", "needed", "available"),
    [(100, 1, 100, 400, "101", "100"), (10, 21, 100, 30, "31", "30")],
    ids=["prompt fills the context", "larger than the whole budget"],
)
def test_what_can_never_fit_is_refused_with_the_figures(
    prompt: int, most: int, context: int, total: int, needed: str, available: str
) -> None:
    plan = plan_kv(
        prompt_tokens=prompt, max_tokens=most, context_tokens=context, kv_tokens_total=total
    )
    assert isinstance(plan, Refused)
    assert plan.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT
    assert plan.metadata == {"needed_tokens": needed, "available_tokens": available}


def test_where_memory_comes_in_pages_an_answer_is_promised_whole_ones() -> None:
    def plan(most: int, total: int = 400) -> int | Refused:
        return plan_kv(
            prompt_tokens=10,
            max_tokens=most,
            context_tokens=100,
            kv_tokens_total=total,
            page_tokens=16,
        )

    assert [plan(6), plan(7), plan(900)] == [16, 32, 112]
    assert isinstance(plan(7, total=31), Refused)


def test_a_budget_gives_out_what_it_has_and_takes_it_back() -> None:
    budget = KvBudget(10)
    assert budget.fits(10)
    budget.reserve(7)
    assert not budget.fits(4)
    with pytest.raises(AssertionError):
        budget.reserve(4)
    budget.release(7)
    with pytest.raises(AssertionError):
        budget.release(1)
    assert (budget.free, budget.total) == (10, 10)
