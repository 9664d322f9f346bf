"""The synthetic engine that computes in steps, on a clock moved by hand."""

import asyncio
import pathlib

import pytest
from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.step_cost import StepLoad
from beeyard_core.batching.step_plan import StepBounds
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.testing import ManualClock
from beeyard_worker.engine.port import EngineFault
from beeyard_worker.engine.registry import EngineSettings, build_engine
from beeyard_worker.engine.synthetic import SyntheticEngine
from beeyard_worker.engine.synthetic_steps import SteppedSyntheticEngine, StepTimes

from tests.support.generations import Answer, collect, generation


def engine_of(
    clock: ManualClock,
    times: StepTimes,
    *,
    kv_tokens: int = 65_536,
    target_ms: float = 0.0,
    prefill: int = 512,
) -> tuple[SteppedSyntheticEngine, BatchPlanner]:
    bounds = StepBounds(step_ms=target_ms, prefill_tokens_max=prefill)
    planner = BatchPlanner(slots_max=32, kv_tokens=kv_tokens, bounds=bounds)
    engine = SteppedSyntheticEngine(
        clock, times=times, planner=planner, slots=32, context_tokens=8_192
    )
    return engine, planner


async def finished(clock: ManualClock, *asked: "asyncio.Future[Answer]") -> list[Answer]:
    """Turn the clock until all have ended."""
    while not all(each.done() for each in asked):
        await clock.advance(50)
    return [each.result() for each in asked]


async def test_a_step_takes_what_its_prompt_tokens_and_its_sequences_cost() -> None:
    clock = ManualClock()
    engine, _ = engine_of(clock, StepTimes(base=10, prefill=0.5, decode=2), prefill=100)
    ask = asyncio.ensure_future(collect(engine, generation("x" * 640, max_tokens=11)))
    (answer,) = await finished(clock, ask)
    # 160 prompt tokens: slices of 100 and 60. Then ten tokens at 12 ms.
    assert answer.finish.prefill_ms == (10 + 50) + (10 + 30)
    assert answer.finish.decode_ms == 10 * 12


async def test_tokens_of_many_answers_come_in_the_same_steps() -> None:
    clock = ManualClock()
    engine, _ = engine_of(clock, StepTimes(base=10, prefill=0, decode=1))
    alone = asyncio.ensure_future(collect(engine, generation(max_tokens=50)))
    (single,) = await finished(clock, alone)
    together = [
        asyncio.ensure_future(collect(engine, generation(f"bee {n}", max_tokens=50)))
        for n in range(10)
    ]
    answers = await finished(clock, *together)
    assert single.finish.decode_ms == 49 * 11
    # Ten times the tokens in less than twice the time: that is what batching is for.
    assert {answer.finish.decode_ms for answer in answers} == {49 * 20}


async def test_the_words_are_those_of_the_other_synthetic_engine_whatever_runs_beside_them() -> (
    None
):
    clock = ManualClock()
    # Memory for two of the five at a time: they are preempted and computed again.
    engine, planner = engine_of(clock, StepTimes(base=1), kv_tokens=256)
    asked = [generation(f"bee {n}", max_tokens=100, seed=n) for n in range(5)]
    answers = await finished(
        clock, *(asyncio.ensure_future(collect(engine, each)) for each in asked)
    )
    assert planner.preemptions > 0
    plain = SyntheticEngine(SystemClock())
    for each, answer in zip(asked, answers, strict=True):
        assert answer.tokens == (await collect(plain, each)).tokens
    assert planner.pages.free == planner.pages.total


async def test_a_more_urgent_prompt_is_computed_before_an_older_one() -> None:
    clock = ManualClock()
    engine, _ = engine_of(clock, StepTimes(base=1, prefill=0.1), prefill=64)
    late = asyncio.ensure_future(collect(engine, generation("b" * 4_000, max_tokens=1, rank=4)))
    soon = asyncio.ensure_future(collect(engine, generation("a" * 4_000, max_tokens=1, rank=1)))
    second, first = await finished(clock, late, soon)
    assert first.finish.prefill_ms < second.finish.prefill_ms * 0.6


async def test_slots_follow_the_target_and_are_told() -> None:
    clock = ManualClock()
    engine, _ = engine_of(clock, StepTimes(base=1, prefill=0.01, decode=1), target_ms=12.0)
    told: list[int] = []
    engine.watch_slots(told.append)
    running: set[asyncio.Future[Answer]] = set()
    for number in range(400):
        running = {each for each in running if not each.done()}
        while len(running) < told[-1]:
            asked = generation(f"bee {number} {len(running)}", max_tokens=40)
            running.add(asyncio.ensure_future(collect(engine, asked)))
        await clock.advance(25)
    # Three quarters of 12 ms are for decoding: eight sequences of 1 ms beside the base.
    assert told[0] == 4
    assert 6 <= told[-1] <= 8
    await engine.close()
    await asyncio.gather(*running, return_exceptions=True)


def test_the_source_names_the_times_and_the_rest_is_default() -> None:
    times = StepTimes.parse("steps:base=7,decode=0.5")
    assert times == StepTimes(base=7, decode=0.5)
    assert StepTimes.parse("steps:") == StepTimes()
    load = StepLoad(prefill_tokens=10, decode_sequences=2, kv_tokens=100)
    assert StepTimes(base=1, prefill=2, decode=3, kv=4).ms(load) == 1 + 20 + 6 + 400


@pytest.mark.parametrize(
    "source", ["steps:base", "steps:base=-1", "steps:base=inf", "steps:speed=1", "steps:base=x"]
)
def test_a_source_that_says_something_else_is_refused(source: str, tmp_path: pathlib.Path) -> None:
    settings = EngineSettings(engine="synthetic", source=source, package_cache=tmp_path)
    with pytest.raises(EngineFault) as fault:
        build_engine(settings, SystemClock())
    assert fault.value.reason is Refusal.INVALID_REQUEST


async def test_memory_is_told_in_pages_and_bounds_the_context(tmp_path: pathlib.Path) -> None:
    settings = EngineSettings(
        engine="synthetic", source="steps:", slots=4, kv_tokens=1_000, package_cache=tmp_path
    )
    facts = await build_engine(settings, SystemClock()).load(lambda _: None)
    assert (facts.kv_tokens, facts.kv_page_tokens, facts.context_tokens) == (992, 16, 992)
