"""What becomes of an upstream server's faults, and what it is asked for."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import SystemClock
from beeyard_worker.engine.openai_http import OpenAIHttpEngine, UpstreamOptions
from beeyard_worker.engine.port import EngineFault, Generation
from beeyard_worker.engine.registry import EngineSettings, build_engine
from openai.types.completion_create_params import (
    CompletionCreateParamsBase,
    CompletionCreateParamsStreaming,
)

from tests.support.generations import Answer, collect, generation
from tests.support.scripted_upstream import DONE, ScriptedUpstream, event, serving_upstream

WHOLE = (event("one"), event(" two"), event("", finish_reason="stop"), DONE)


async def ask(
    upstream: ScriptedUpstream,
    asked: Generation | None = None,
    options: UpstreamOptions | None = None,
) -> Answer:
    async with serving_upstream(upstream):
        engine = OpenAIHttpEngine(upstream.url, SystemClock(), options or UpstreamOptions())
        try:
            await engine.load(lambda _: None)
            return await collect(engine, asked or generation())
        finally:
            await engine.close()


async def test_each_piece_is_a_token_and_the_model_is_the_first_that_is_listed() -> None:
    upstream = ScriptedUpstream(body=WHOLE)
    answer = await ask(upstream, options=UpstreamOptions(api_key="secret"))
    assert [token.text for token in answer.tokens] == ["one", " two"]
    assert answer.finish.reason == "stop"
    assert upstream.asked[0]["model"] == "small"
    assert set(upstream.keys) == {"Bearer secret"}


@pytest.mark.parametrize("is_strict", [False, True])
async def test_a_strict_server_is_asked_for_nothing_that_openai_does_not_have(
    tmp_path: Path, *, is_strict: bool
) -> None:
    upstream = ScriptedUpstream(body=WHOLE)
    async with serving_upstream(upstream):
        settings = EngineSettings(
            engine="openai_http", source=upstream.url, strict=is_strict, package_cache=tmp_path
        )
        engine = build_engine(settings, SystemClock())
        await engine.load(lambda _: None)
        await collect(engine, generation(top_k=3))
        await engine.close()
    of_openai = set(CompletionCreateParamsStreaming.__annotations__)
    of_openai |= set(CompletionCreateParamsBase.__annotations__)
    assert (set(upstream.asked[0]) <= of_openai) == is_strict
    options = upstream.asked[0]["stream_options"]
    assert (options == {"include_usage": True}) == is_strict


async def test_the_context_is_what_the_server_tells() -> None:
    async with serving_upstream(ScriptedUpstream()) as upstream:
        engine = OpenAIHttpEngine(f"{upstream.url}#small", SystemClock(), UpstreamOptions())
        assert (await engine.load(lambda _: None)).context_tokens == 1024
        await engine.close()


async def test_a_model_that_is_not_listed_is_a_load_fault() -> None:
    async with serving_upstream(ScriptedUpstream()) as upstream:
        engine = OpenAIHttpEngine(f"{upstream.url}#large", SystemClock(), UpstreamOptions())
        with pytest.raises(EngineFault) as fault:
            await engine.load(lambda _: None)
    assert fault.value.reason is Refusal.MODEL_LOAD_FAILED


async def test_nobody_there_is_a_communication_fault() -> None:
    async with serving_upstream(ScriptedUpstream()) as upstream:
        url = upstream.url
    engine = OpenAIHttpEngine(url, SystemClock(), UpstreamOptions())
    with pytest.raises(EngineFault) as fault:
        await engine.load(lambda _: None)
    assert fault.value.reason is Refusal.WORKER_COMMUNICATION_FAILED


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, (b'{"error": {"message": "bad temperature"}}',), Refusal.INVALID_REQUEST),
        (
            400,
            (b'{"error": {"message": "maximum context length is 10"}}',),
            Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
        ),
        (401, (b"",), Refusal.WORKER_ERROR),
        (429, (b"",), Refusal.WORKER_COMMUNICATION_FAILED),
        (500, (b"oops",), Refusal.WORKER_COMMUNICATION_FAILED),
        (200, (event("one"),), Refusal.STREAM_READ_ERROR),
        (200, (event("one"), b"data: {not json\n\n"), Refusal.PARSE_ERROR),
        (200, (b'data: {"choices": 3}\n\n',), Refusal.PARSE_ERROR),
        (200, (b"data: " + b"x" * 1_100_000,), Refusal.PARSE_ERROR),
        (
            200,
            (event("one"), b'data: {"error": {"code": 500, "message": "secret prompt"}}\n\n'),
            Refusal.WORKER_COMMUNICATION_FAILED,
        ),
    ],
)
async def test_faults_have_their_reason_and_quote_nothing(
    status: int, body: Sequence[bytes], reason: Refusal
) -> None:
    with pytest.raises(EngineFault) as fault:
        await ask(ScriptedUpstream(status=status, body=body))
    assert fault.value.reason is reason
    assert "secret" not in fault.value.message


async def test_closing_the_generation_closes_the_connection() -> None:
    async with serving_upstream(ScriptedUpstream(body=WHOLE[:1], hangs=True)) as upstream:
        engine = OpenAIHttpEngine(upstream.url, SystemClock(), UpstreamOptions())
        await engine.load(lambda _: None)
        async with aclosing(engine.generate(generation())) as items:
            await anext(items)
        await asyncio.wait_for(upstream.left.wait(), 2)
        await engine.close()


async def test_halves_of_surrogates_become_text_that_can_be_sent() -> None:
    answer = await ask(ScriptedUpstream(body=(event("a\ud83d"), *WHOLE[2:])))
    assert answer.text == "a\ufffd"


async def test_a_continued_conversation_ends_with_the_open_message_of_the_assistant() -> None:
    upstream = ScriptedUpstream(body=WHOLE)
    asked = generation("", messages=(("user", "hi"),), resume_text="Well", resume_count=1)
    answer = await ask(upstream, asked)
    assert upstream.asked[0]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Well"},
    ]
    assert upstream.asked[0]["continue_final_message"] is True
    assert upstream.asked[0]["max_tokens"] == 23
    assert answer.finish.completion_tokens == 3


async def test_a_server_that_exits_while_it_loads_is_a_load_fault() -> None:
    options = UpstreamOptions(command=(sys.executable, "-c", "raise SystemExit(3)"))
    engine = OpenAIHttpEngine("http://127.0.0.1:{port}/v1", SystemClock(), options)
    with pytest.raises(EngineFault) as fault:
        await engine.load(lambda _: None)
    assert fault.value.reason is Refusal.MODEL_LOAD_FAILED
    assert "code 3" in fault.value.message


async def test_a_program_that_does_not_exist_is_a_load_fault() -> None:
    options = UpstreamOptions(command=("no-such-inference-server",))
    engine = OpenAIHttpEngine("http://127.0.0.1:{port}/v1", SystemClock(), options)
    with pytest.raises(EngineFault) as fault:
        await engine.load(lambda _: None)
    assert fault.value.reason is Refusal.MODEL_LOAD_FAILED
