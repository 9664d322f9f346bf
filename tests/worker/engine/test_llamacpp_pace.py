"""Steps as llama.cpp's chunks tell them, the slots that follow, and one memory that all slots share."""

import asyncio
from typing import Any

import xllamacpp
from beeyard_core import limits
from beeyard_worker.engine.llamacpp import LlamaCppEngine
from beeyard_worker.engine.llamacpp_options import LlamaOptions, server_params
from beeyard_worker.engine.llamacpp_pace import LlamaPace

from tests.support.generations import Answer, collect, generation
from tests.support.tiny_gguf import tiny_gguf


def decoded(tokens: int, ms: float) -> dict[str, Any]:
    """Return a chunk of a completion that has so many tokens after so many milliseconds of decoding."""
    return {"timings": {"predicted_n": tokens, "predicted_ms": ms}}


def prompted(processed: int, cached: int = 0) -> dict[str, Any]:
    """Return a chunk of a completion whose prompt is computed so far."""
    return {"prompt_progress": {"processed": processed, "cache": cached}}


def pace_of(target_ms: float, slots: int = 16) -> tuple[LlamaPace, list[int]]:
    pace = LlamaPace(slots=slots, target_ms=target_ms)
    told: list[int] = []
    pace.watch_slots(told.append)
    return pace, told


def test_short_steps_that_use_every_slot_open_more() -> None:
    pace, told = pace_of(10.0)
    for run in range(12):
        pace.begin(run)
    for step in range(1, 5 * limits.BATCH_REVIEW_STEPS + 2):
        for run in range(12):
            pace.note(run, decoded(step, 2.0 * (step - 1)))
    assert told == [4, 5, 6, 7, 8, 9]


def test_long_steps_close_slots() -> None:
    pace, told = pace_of(10.0)
    for run in range(4):
        pace.begin(run)
    for step in range(1, 3 * limits.BATCH_REVIEW_STEPS + 2):
        for run in range(4):
            pace.note(run, decoded(step, 40.0 * (step - 1)))
    assert told[0] == 4
    assert told[-1] == 1


def test_a_step_is_counted_once_however_many_completions_tell_it() -> None:
    pace, _ = pace_of(10.0)
    for run in ("a", "b", "c"):
        pace.begin(run)
        pace.note(run, decoded(1, 0.0))
    for step in range(2, 12):
        for run in ("a", "b", "c"):
            pace.note(run, decoded(step, step - 1.0))
    assert pace.cost.steps == 10
    # The next one tells when the longest has ended.
    pace.end("a")
    pace.note("b", decoded(12, 11.0))
    pace.note("a", decoded(12, 11.0))
    assert pace.cost.steps == 11


def test_a_chunk_that_tells_of_many_steps_counts_them_all() -> None:
    pace, _ = pace_of(10.0)
    pace.begin("a")
    pace.note("a", decoded(1, 0.0))
    pace.note("a", decoded(21, 60.0))
    assert pace.cost.steps == 20


def test_prompt_tokens_of_others_are_part_of_the_step_and_cached_ones_are_not() -> None:
    pace, _ = pace_of(1_000.0)
    pace.begin("a")
    pace.begin("b")
    pace.note("a", decoded(1, 0.0))
    ms = 0.0
    for step in range(2, 200):
        ms += 5.0
        if step % 3 == 0:
            pace.end("b")
            pace.begin("b")
            pace.note("b", prompted(100, cached=100))
            pace.note("b", prompted(100 + step, cached=100))
            ms += 0.1 * step
        pace.note("a", decoded(step, ms))
    assert pace.cost.prefill_tokens_seen == 198
    assert pace.cost.is_learnt


def test_without_a_target_nothing_is_told() -> None:
    pace, told = pace_of(0.0)
    pace.begin("a")
    pace.note("a", decoded(1, 0.0))
    pace.note("a", decoded(9, 8.0))
    assert (told, pace.cost.steps) == ([], 0)


async def test_the_real_engine_opens_slots_while_its_steps_keep_to_the_target() -> None:
    options = LlamaOptions(slots=8, context_tokens=256, threads=1, step_target_ms=60_000)
    engine = LlamaCppEngine(tiny_gguf(), options)
    await engine.load(lambda _: None)
    told: list[int] = []
    engine.watch_slots(told.append)
    number = 0
    while told[-1] < 8:
        number += 1
        asked = [generation(f"bee {number} {n}", max_tokens=60, seed=n) for n in range(told[-1])]
        await asyncio.gather(*(collect(engine, each) for each in asked))
    assert told == [4, 5, 6, 7, 8]
    await engine.close()


async def test_slots_that_share_a_memory_take_turns_within_it_and_none_breaks() -> None:
    options = LlamaOptions(slots=4, context_tokens=256, threads=1, kv_tokens=512)
    engine = LlamaCppEngine(tiny_gguf(), options)
    facts = await engine.load(lambda _: None)
    assert facts.context_tokens == 256
    free = 512
    changed = asyncio.Condition()

    async def ask(number: int) -> Answer:
        """Generate once its worst case is free, as a worker does before it accepts."""
        nonlocal free
        asked = generation("the bee flies " * (number % 9), max_tokens=20 + 7 * (number % 20))
        need = min(await engine.count_prompt_tokens(asked) + asked.max_tokens, 256)
        async with changed:
            await changed.wait_for(lambda: free >= need)
            free -= need
        answer = await collect(engine, asked)
        async with changed:
            free += need
            changed.notify_all()
        return answer

    slots = asyncio.Semaphore(4)

    async def in_slot(number: int) -> Answer:
        async with slots:
            return await ask(number)

    answers = await asyncio.gather(*(in_slot(number) for number in range(1, 30)))
    assert all(answer.finish.reason in {"length", "stop"} for answer in answers)
    await engine.close()


async def test_one_answer_alone_is_the_same_whether_memory_is_shared_or_not() -> None:
    texts = []
    for kv_tokens in (0, 512):
        options = LlamaOptions(
            slots=4, context_tokens=256, threads=1, kv_tokens=kv_tokens, reuse_prefix=False
        )
        engine = LlamaCppEngine(tiny_gguf(), options)
        await engine.load(lambda _: None)
        asked = [generation(seed=seed, max_tokens=80) for seed in range(4)]
        texts.append([(await collect(engine, each)).tokens for each in asked])
        await engine.close()
    assert texts[0] == texts[1]


async def test_an_answer_ends_at_its_context_also_where_the_shared_memory_is_larger() -> None:
    options = LlamaOptions(slots=4, context_tokens=128, threads=1, kv_tokens=384)
    engine = LlamaCppEngine(tiny_gguf(), options)
    await engine.load(lambda _: None)
    for seed in range(6):
        answer = await collect(engine, generation(max_tokens=400, seed=seed, temperature=2.0))
        tokens = answer.finish.prompt_tokens + answer.finish.completion_tokens
        assert tokens <= 128
    await engine.close()


def test_the_prompt_tokens_of_a_step_are_what_was_asked_for_beside_those_that_decode() -> None:

    def batch(slots: int, prefill_tokens_max: int = 0) -> tuple[int, int]:
        options = LlamaOptions(slots=slots, prefill_tokens_max=prefill_tokens_max)
        params = server_params(xllamacpp, tiny_gguf(), options, context_tokens=256, api_key="key")
        return params.n_batch, params.n_ubatch

    assert batch(1) == (128, 128)
    assert batch(8) == (128, 128)
    assert batch(8, 32) == (40, 40)
    assert batch(1, 32) == (32, 32)
