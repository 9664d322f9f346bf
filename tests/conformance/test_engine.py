"""What every engine promises, held against each of them: the port's docstring, sentence by sentence.

`openai_http` talks to llama.cpp's own server in another process, `llamacpp` loads the same tiny model itself.
"""

import asyncio
import dataclasses
import pathlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_worker.engine.llamacpp import LlamaCppEngine
from beeyard_worker.engine.llamacpp_options import LlamaOptions
from beeyard_worker.engine.openai_http import OpenAIHttpEngine, UpstreamOptions
from beeyard_worker.engine.port import Engine, EngineFacts, EngineFault
from beeyard_worker.engine.registry import EngineSettings, build_engine
from beeyard_worker.engine.synthetic import SyntheticEngine

from tests.support.generations import collect, continued, generation
from tests.support.tiny_gguf import tiny_gguf

CONTEXT = 512
NAMES = ("synthetic", "synthetic_steps", "llamacpp", "openai_http")
# Cancelling waits for one step of the engine: milliseconds here, more on a busy machine.
PROMPTLY_S = 5.0


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An engine under test."""

    engine: Engine
    facts: EngineFacts
    progress: list[float]


def build(name: str, slots: int) -> Engine:
    """Return one engine of each kind, all with the same context."""
    match name:
        case "synthetic":
            return SyntheticEngine(SystemClock(), slots=slots, context_tokens=CONTEXT)
        case "synthetic_steps":
            settings = EngineSettings(
                engine="synthetic",
                source="steps:base=0.05,prefill=0,decode=0",
                slots=slots,
                context_tokens=CONTEXT,
                step_target_ms=20,
                package_cache=pathlib.Path(),
            )
            return build_engine(settings, SystemClock())
        case "llamacpp":
            options = LlamaOptions(slots=slots, context_tokens=CONTEXT, threads=1)
            return LlamaCppEngine(tiny_gguf(), options)
        case _:
            root = pathlib.Path(__file__).parents[2]
            server = (sys.executable, str(root / "tests/support/llama_server.py"))
            command = (*server, "{port}", str(tiny_gguf()))
            upstream = UpstreamOptions(slots=slots, context_tokens=CONTEXT, command=command)
            return OpenAIHttpEngine("http://127.0.0.1:{port}/v1", SystemClock(), upstream)


Load = Callable[..., Awaitable[Loaded]]


@pytest.fixture(params=NAMES)
async def load(request: pytest.FixtureRequest) -> AsyncIterator[Load]:
    """Load the engine with so many slots; closed after the test."""
    opened: list[Engine] = []

    async def loaded(slots: int = 1) -> Loaded:
        engine = build(request.param, slots)
        opened.append(engine)
        progress: list[float] = []
        return Loaded(engine, await engine.load(progress.append), progress)

    yield loaded
    for engine in opened:
        await engine.close()


async def test_it_says_what_it_is(load: Load) -> None:
    loaded = await load(slots=2)
    assert loaded.facts.engine in {"synthetic", "llamacpp", "openai_http"}
    assert loaded.facts.slots == 2
    assert loaded.facts.context_tokens == CONTEXT
    assert loaded.progress[-1] == 1.0
    assert loaded.progress == sorted(loaded.progress)


async def test_an_answer_has_exactly_max_tokens_and_ends_with_length(load: Load) -> None:
    engine = (await load()).engine
    for most in (1, 2, 24, 65):
        answer = await collect(engine, generation(max_tokens=most))
        assert answer.finish.reason == "length"
        assert len(answer.tokens) == most == answer.finish.completion_tokens
        assert answer.finish.prompt_tokens > 0


async def test_ids_are_known_for_all_tokens_or_for_none(load: Load) -> None:
    loaded = await load()
    answer = await collect(loaded.engine, generation(max_tokens=50))
    assert all((token.id is not None) == loaded.facts.token_ids for token in answer.tokens)


async def test_the_same_seed_gives_the_same_text_and_another_seed_another(load: Load) -> None:
    loaded = await load()
    first = await collect(loaded.engine, generation(seed=1))
    await collect(loaded.engine, generation("something else"))  # whatever ran in between
    again = await collect(loaded.engine, generation(seed=1))
    other = await collect(loaded.engine, generation(seed=2))
    assert first.text != other.text
    if loaded.facts.deterministic:
        assert again.tokens == first.tokens


async def test_the_largest_seed_is_a_seed_like_any_other(load: Load) -> None:
    loaded = await load()
    asked = generation(seed=2**32 - 1)
    first, again = await collect(loaded.engine, asked), await collect(loaded.engine, asked)
    if loaded.facts.deterministic:
        assert again.tokens == first.tokens


async def test_text_is_whole_utf8_over_all_tokens(load: Load) -> None:
    engine = (await load()).engine
    answer = await collect(engine, generation(max_tokens=200, temperature=0.0))
    assert answer.text.encode().decode() == answer.text
    assert "\ufffd" not in answer.text


async def test_a_stop_string_ends_the_answer_before_it_also_across_tokens(load: Load) -> None:
    engine = (await load()).engine
    asked = generation(max_tokens=60, temperature=0.0)
    text = (await collect(engine, asked)).text
    for begin in (3, 7, 12, 20):
        stop = text[begin : begin + 6]
        answer = await collect(engine, dataclasses.replace(asked, stop=("never there", stop)))
        assert answer.text == text[: text.find(stop)]
        assert answer.finish.reason == "stop"
        assert answer.finish.completion_tokens == len(answer.tokens)


async def test_a_beginning_of_a_stop_string_that_comes_to_nothing_is_text(load: Load) -> None:
    engine = (await load()).engine
    asked = generation(temperature=0.0)
    text = (await collect(engine, asked)).text
    almost = (text[-4:] + "#", text[5:9] + "#")
    answer = await collect(engine, dataclasses.replace(asked, stop=almost))
    assert (answer.text, answer.finish.reason) == (text, "length")


async def test_a_continuation_gives_the_rest_of_the_uninterrupted_answer(load: Load) -> None:
    loaded = await load()
    asked = generation(max_tokens=30, temperature=0.0)
    whole = await collect(loaded.engine, asked)
    cuts = range(31) if loaded.facts.token_ids else (0, 10, 30)
    for cut in cuts:
        rest = await collect(loaded.engine, continued(asked, whole.tokens[:cut]))
        assert rest.finish.completion_tokens == cut + len(rest.tokens) == 30
        assert rest.finish.reason == "length"
        if loaded.facts.token_ids:
            assert whole.tokens[cut:] == rest.tokens
            assert rest.finish.prompt_tokens == whole.finish.prompt_tokens


async def test_a_continuation_stops_where_the_uninterrupted_answer_does(load: Load) -> None:
    loaded = await load()
    asked = generation(max_tokens=60, temperature=0.0)
    text = (await collect(loaded.engine, asked)).text
    asked = dataclasses.replace(asked, stop=(text[12:20],))
    whole = await collect(loaded.engine, asked)
    if not loaded.facts.token_ids:
        return
    for cut in range(len(whole.tokens)):
        rest = await collect(loaded.engine, continued(asked, whole.tokens[:cut]))
        begun = "".join(token.text for token in whole.tokens[:cut])
        assert begun + rest.text == whole.text
        assert rest.finish.completion_tokens == whole.finish.completion_tokens


async def test_closing_a_generation_frees_its_slot_at_once(load: Load) -> None:
    engine = (await load(slots=1)).engine
    begun = time.monotonic()
    for _ in range(5):
        async with aclosing(engine.generate(generation(max_tokens=400))) as items:
            async for _ in items:
                break
    await collect(engine, generation(max_tokens=2))
    assert time.monotonic() - begun < PROMPTLY_S


async def test_cancelling_the_reader_frees_the_slot(load: Load) -> None:
    engine = (await load(slots=1)).engine
    reader = asyncio.ensure_future(collect(engine, generation(max_tokens=400)))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    answer = await asyncio.wait_for(collect(engine, generation(max_tokens=2)), PROMPTLY_S)
    assert len(answer.tokens) == 2


async def test_as_many_generations_as_slots_run_beside_each_other(load: Load) -> None:
    engine = (await load(slots=2)).engine
    answers = await asyncio.gather(
        *(collect(engine, generation(f"bee {at}", max_tokens=40, seed=at)) for at in range(6))
    )
    assert [len(answer.tokens) for answer in answers] == [40] * 6
    assert len({answer.text for answer in answers}) > 1


async def test_a_prompt_that_does_not_fit_is_a_fault_of_the_context(load: Load) -> None:
    engine = (await load()).engine
    with pytest.raises(EngineFault) as fault:
        await collect(engine, generation("the bee " * 2_000))
    assert fault.value.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT
    assert "the bee" not in fault.value.message
    await collect(engine, generation(max_tokens=2))


async def test_a_conversation_is_answered(load: Load) -> None:
    engine = (await load()).engine
    messages = (("system", "Be brief."), ("user", "What does a bee do?"))
    asked = generation("", messages=messages, max_tokens=8)
    answer = await collect(engine, asked)
    assert len(answer.tokens) == answer.finish.completion_tokens
    assert await engine.count_prompt_tokens(asked) > 0


async def test_a_longer_prompt_has_more_tokens(load: Load) -> None:
    engine = (await load()).engine
    short = await engine.count_prompt_tokens(generation("bee"))
    assert 0 < short < await engine.count_prompt_tokens(generation("bee " * 50))


async def test_close_is_idempotent_and_ends_what_runs(load: Load) -> None:
    engine = (await load()).engine
    reader = asyncio.ensure_future(collect(engine, generation(max_tokens=400)))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await engine.close()
    await engine.close()


async def test_close_is_allowed_before_load(load: Load, request: pytest.FixtureRequest) -> None:
    engine = build(request.node.callspec.params["load"], slots=1)
    await engine.close()
