"""The synthetic engine's speed, ends and ordered faults, on a clock moved by hand."""

import asyncio

import pytest
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.testing import ManualClock
from beeyard_worker.engine.port import EngineFault, Finish, Token
from beeyard_worker.engine.synthetic import ScriptedFault, SyntheticEngine

from tests.support.generations import collect, continued, generation


@pytest.mark.parametrize("rate", [1.0, 50.0, 2_000.0])
async def test_tokens_come_at_the_rate_of_the_slot(rate: float) -> None:
    clock = ManualClock()
    engine = SyntheticEngine(clock, tokens_per_s=rate)
    seen: list[Token] = []

    async def read() -> None:
        async for item in engine.generate(generation(max_tokens=30_000)):
            assert not isinstance(item, Finish)
            seen.extend(item)

    reader = asyncio.ensure_future(read())
    for second in (1, 2, 3):
        await clock.advance(1_000)
        # What is due within one step of the engine may come with the next.
        assert second * rate - rate * 5 / 1_000 - 1 <= len(seen) <= second * rate
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def test_a_load_takes_as_long_as_it_pretends_and_tells_how_far_it_is() -> None:
    clock = ManualClock()
    engine = SyntheticEngine(clock, load_ms=1_000)
    told: list[float] = []
    loading = asyncio.ensure_future(engine.load(told.append))
    await clock.advance(999)
    assert not loading.done()
    assert told == sorted(told)
    assert 0.9 <= told[-1] < 1.0
    await clock.advance(1)
    await loading
    assert told[-1] == 1.0


async def test_a_fast_rate_is_gathered_into_steps() -> None:
    clock = ManualClock()
    engine = SyntheticEngine(clock, tokens_per_s=10_000)
    reader = asyncio.ensure_future(collect(engine, generation(max_tokens=1_000)))
    await clock.advance(200)
    answer = await reader
    assert len(answer.tokens) == 1_000
    assert answer.steps <= 21
    assert answer.finish.prefill_ms + answer.finish.decode_ms == 100


async def test_any_cut_continues_exactly_also_above_temperature_zero() -> None:
    engine = SyntheticEngine(SystemClock(), end_probability=0.01)
    asked = generation(max_tokens=300, temperature=1.0, seed=5)
    whole = await collect(engine, asked)
    for cut in range(0, len(whole.tokens) + 1, 7):
        rest = await collect(engine, continued(asked, whole.tokens[:cut]))
        assert whole.tokens[cut:] == rest.tokens
        assert rest.finish.reason == whole.finish.reason


async def test_an_answer_can_end_by_itself() -> None:
    engine = SyntheticEngine(SystemClock(), end_probability=0.1)
    answer = await collect(engine, generation(max_tokens=1_000))
    assert answer.finish.reason == "stop"
    assert len(answer.tokens) < 1_000


async def test_the_context_ends_an_answer() -> None:
    engine = SyntheticEngine(SystemClock(), context_tokens=40)
    asked = generation("x" * 40, max_tokens=100)  # 10 tokens
    answer = await collect(engine, asked)
    assert (len(answer.tokens), answer.finish.reason) == (30, "length")


async def test_an_ordered_fault_comes_after_exactly_so_many_tokens() -> None:
    scripted = ScriptedFault(after_tokens=21, reason=Refusal.VRAM_OOM)
    engine = SyntheticEngine(SystemClock(), scripted=scripted)
    seen: list[Token] = []

    async def read() -> None:
        async for item in engine.generate(generation(max_tokens=100)):
            assert not isinstance(item, Finish)
            seen.extend(item)

    with pytest.raises(EngineFault) as fault:
        await read()
    assert fault.value.reason is Refusal.VRAM_OOM
    assert len(seen) == 21
    assert len((await collect(engine, generation(max_tokens=21))).tokens) == 21


async def test_an_ordered_fault_at_load() -> None:
    scripted = ScriptedFault(after_tokens=None, reason=Refusal.MODEL_LOAD_FAILED)
    with pytest.raises(EngineFault):
        await SyntheticEngine(SystemClock(), scripted=scripted).load(lambda _: None)
