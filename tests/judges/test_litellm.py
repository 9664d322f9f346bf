"""LiteLLM, unchanged, as a client of the gateway: what it makes of answers, streams, usage, errors and hanging up.

It brings its own view of the OpenAI API and its own names for errors, so it sees what the official client forgives.
"""

import asyncio
import os
from typing import Any

import pytest

# It would read prices of models from a web page when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
litellm = pytest.importorskip("litellm", reason="litellm is a judge: run `make judges`")

CHAT = "openai/babble"
TEXT = "text-completion-openai/babble"
USER = [{"role": "user", "content": "the bee"}]
PROMPT = "the bee"


async def chat(url: str, **asked: Any) -> Any:
    told = {"model": CHAT, "messages": USER, "max_tokens": 8, **asked}
    return await litellm.acompletion(**told, base_url=f"{url}/v1", api_key="none", num_retries=0)


async def text(url: str, **asked: Any) -> Any:
    told = {"model": TEXT, "prompt": PROMPT, "max_tokens": 8, **asked}
    return await litellm.atext_completion(
        **told, api_base=f"{url}/v1", api_key="none", num_retries=0, max_retries=0
    )


async def test_01_a_chat_is_answered(url: str) -> None:
    answer = await chat(url)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert answer.model == "babble"


async def test_02_the_usage_adds_up(url: str) -> None:
    usage = (await chat(url, max_tokens=5)).usage
    assert usage.completion_tokens == 5
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + 5


async def test_03_a_streamed_chat_is_the_same_text(url: str) -> None:
    whole = await chat(url, seed=3)
    chunks = [chunk async for chunk in await chat(url, seed=3, stream=True)]
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert told == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_04_a_stream_can_end_with_the_usage(url: str) -> None:
    stream = await chat(url, max_tokens=6, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.completion_tokens == 6


async def test_05_its_own_rebuilding_of_a_stream_gives_the_answer(url: str) -> None:
    whole = await chat(url, seed=5)
    stream = await chat(url, seed=5, stream=True, stream_options={"include_usage": True})
    rebuilt = litellm.stream_chunk_builder([chunk async for chunk in stream], messages=USER)
    assert rebuilt.choices[0].message.content == whole.choices[0].message.content
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens


async def test_06_a_text_is_continued(url: str) -> None:
    answer = await text(url)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8


async def test_07_a_streamed_text_is_the_same_text(url: str) -> None:
    whole = await text(url, seed=7)
    chunks = [chunk async for chunk in await text(url, seed=7, stream=True)]
    assert "".join(c.choices[0].text or "" for c in chunks) == whole.choices[0].text


async def test_08_the_same_seed_gives_the_same_text(url: str) -> None:
    async def ask(seed: int) -> str:
        answer = await text(url, seed=seed, temperature=1.0, max_tokens=16)
        return str(answer.choices[0].text)

    assert await ask(7) == await ask(7)
    assert len({await ask(seed) for seed in range(5)}) > 1


async def test_09_a_stop_string_ends_the_answer(url: str) -> None:
    whole = (await text(url, seed=9, temperature=0, max_tokens=24)).choices[0].text
    word = whole[len(whole) // 2 :][:3]
    stopped = await text(url, seed=9, temperature=0, max_tokens=24, stop=[word, "never said"])
    assert stopped.choices[0].text == whole[: whole.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


async def test_10_max_completion_tokens_is_taken(url: str) -> None:
    answer = await chat(url, max_tokens=None, max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3


async def test_11_a_model_that_nobody_knows_is_not_found(url: str) -> None:
    with pytest.raises(litellm.NotFoundError) as caught:
        await chat(url, model="openai/wasp")
    assert caught.value.status_code == 404


async def test_12_a_prompt_that_is_too_long_is_known_for_what_it_is(url: str) -> None:
    """By its code and message; whoever falls back to a model with more context goes by this."""
    with pytest.raises(litellm.ContextWindowExceededError):
        await chat(url, messages=[{"role": "user", "content": "bee " * 50_000}])


async def test_13_what_is_not_supported_is_a_bad_request(url: str) -> None:
    tool = {"type": "function", "function": {"name": "sting", "parameters": {"type": "object"}}}
    with pytest.raises(litellm.BadRequestError, match="not supported"):
        await chat(url, tools=[tool])
    with pytest.raises(litellm.BadRequestError, match="only one answer"):
        await chat(url, n=3)


async def test_14_a_deadline_that_passes_is_a_fault_of_the_server(url: str) -> None:
    with pytest.raises((litellm.Timeout, litellm.InternalServerError, litellm.APIError)) as caught:
        await chat(url, model="openai/slow", max_tokens=500, extra_headers={"X-Deadline": "600"})
    assert "deadline" in str(caught.value)


async def test_15_closing_the_stream_cancels_the_job(url: str, jobs: Any) -> None:
    stream = await chat(url, model="openai/slow", max_tokens=2_000, stream=True)
    first = await anext(aiter(stream))
    await stream.aclose()
    assert await jobs.ending_of(first.id.removeprefix("chatcmpl-")) == "cancelled"


async def test_16_losing_patience_cancels_the_job(url: str, jobs: Any) -> None:
    with pytest.raises(litellm.Timeout):
        await chat(
            url,
            model="openai/slow",
            max_tokens=2_000,
            timeout=1,
            extra_body={"metadata": {"case": "litellm-16"}},
        )
    assert await jobs.ending_of(await jobs.labelled("litellm-16")) == "cancelled"


async def test_17_many_at_once_all_get_their_own_answer(url: str) -> None:
    async def ask(seed: int) -> str:
        return str((await text(url, seed=seed)).choices[0].text)

    together = await asyncio.gather(*(ask(seed) for seed in range(12)))
    for seed in (0, 11):
        assert together[seed] == await ask(seed)


async def test_18_its_router_falls_back_to_another_model(url: str) -> None:
    """The part that LiteLLM's own proxy is built on: one name, several models, a fallback when one is refused."""

    def deployment(name: str, model: str) -> dict[str, Any]:
        told = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}
        return {"model_name": name, "litellm_params": told}

    router = litellm.Router(
        model_list=[deployment("first", "wasp"), deployment("second", "babble")],
        fallbacks=[{"first": ["second"]}],
        num_retries=0,
    )
    answer = await router.acompletion(model="first", messages=USER, max_tokens=4)
    assert answer.choices[0].message.content
    assert answer.model == "babble"
