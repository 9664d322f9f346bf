"""The official `openai` client, unchanged, against real processes: queen, pool manager, workers and gateway.

`babble` is a real GGUF file on llama.cpp, with random weights: what it says is noise, how it is said is real.
`chatty` is the same with a chat template of its own. `slow` is the synthetic engine, so that there is time to hang up.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, AsyncStream
from openai.types import Completion
from openai.types.chat import ChatCompletionMessageParam

from tests.support.gateway_process import gateway_process
from tests.support.running_gateway import running_gateway, sent_events
from tests.support.stack import Stack
from tests.support.tiny_gguf import tiny_gguf

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "the bee"}]
PROMPT = "the bee"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[Stack]:
    models = {
        "babble": str(tiny_gguf()),
        "chatty": str(tiny_gguf(chat_template=TEMPLATE)),
        "slow": "synthetic:20",
    }
    flags = ["--slots", "1", "--threads", "1"]
    async with Stack(models=models, pool_manager_flags=flags) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(stack: Stack) -> AsyncIterator[str]:
    async with gateway_process(stack) as gateway:
        yield f"http://{gateway.address}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as made:
        yield made


async def ending_of(http: httpx.AsyncClient, name: str) -> str:
    """Follow the job of an answer to its end and return how it ended."""
    job_id = name.removeprefix("cmpl-").removeprefix("chatcmpl-")
    async with http.stream("GET", f"/v2/jobs/{job_id}/events") as response:
        return [event.event async for event in sent_events(response)][-1]


async def text_of(stream: AsyncStream[Completion]) -> str:
    return "".join([c.choices[0].text async for c in stream if c.choices])


# --- Models ---
async def test_01_the_models_are_listed(client: AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert {model.id for model in models} == {"babble", "chatty", "slow"}
    assert {model.object for model in models} == {"model"}


async def test_02_one_model_is_described(client: AsyncOpenAI) -> None:
    assert (await client.models.retrieve("babble")).owned_by == "beeyard"


async def test_03_a_model_that_is_not_there_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("wasp")
    assert caught.value.code == "model_not_found"


# --- Chat ---
async def test_04_a_chat_is_answered(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="babble", messages=USER, max_tokens=8)
    assert answer.object == "chat.completion"
    assert answer.model == "babble"
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


async def test_05_a_chat_is_streamed(client: AsyncOpenAI) -> None:
    asked = {"model": "babble", "messages": USER, "max_tokens": 8, "seed": 3}
    whole = await client.chat.completions.create(**asked)  # type: ignore[call-overload]
    stream = await client.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    assert all(chunk.usage is None for chunk in chunks)


async def test_06_a_stream_can_end_with_the_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="babble",
        messages=USER,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_07_the_clients_own_stream_helper_gathers_the_answer(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="babble", messages=USER, max_completion_tokens=6, seed=4
    ) as stream:
        texts = [event.delta async for event in stream if event.type == "content.delta"]
        # The helper parses answers, and takes one that was cut by its length for broken; it hands it over with that.
        with pytest.raises(openai.LengthFinishReasonError) as caught:
            await stream.get_final_completion()
    assert caught.value.completion.choices[0].message.content == "".join(texts)
    assert texts


async def test_08_max_completion_tokens_wins(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="babble", messages=USER, max_tokens=9, max_completion_tokens=3
    )
    assert answer.usage
    assert answer.usage.completion_tokens == 3


async def test_09_the_models_own_chat_template_is_used(
    client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    """The template writes one tag a turn, where the plain one writes a line: the prompts differ by that."""
    lengths = {}
    for model in ("babble", "chatty"):
        answer = await client.chat.completions.create(model=model, messages=USER, max_tokens=1)
        assert answer.usage
        lengths[model] = answer.usage.prompt_tokens
    rendered = await client.completions.create(
        model="chatty", prompt="<user>the bee<answer>", max_tokens=1
    )
    assert rendered.usage
    assert lengths["chatty"] == rendered.usage.prompt_tokens
    assert lengths["babble"] != lengths["chatty"]


async def test_10_a_base_model_gets_a_plain_template(client: AsyncOpenAI) -> None:
    turns: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "the bee"}]},
        {"role": "assistant", "content": "hums"},
        {"role": "user", "content": "and?"},
    ]
    answer = await client.chat.completions.create(model="babble", messages=turns, max_tokens=1)
    plain = "System: be brief\nUser: the bee\nAssistant: hums\nUser: and?\nAssistant:"
    rendered = await client.completions.create(model="babble", prompt=plain, max_tokens=1)
    assert answer.usage
    assert rendered.usage
    assert answer.usage.prompt_tokens == rendered.usage.prompt_tokens


# --- Texts ---
async def test_11_a_text_is_continued(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="babble", prompt=PROMPT, max_tokens=8)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"


async def test_12_a_text_is_streamed(client: AsyncOpenAI) -> None:
    asked = {"model": "babble", "prompt": PROMPT, "max_tokens": 8, "seed": 5}
    whole = await client.completions.create(**asked)  # type: ignore[call-overload]
    stream = await client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
    assert await text_of(stream) == whole.choices[0].text


async def test_13_a_list_of_one_text_is_a_text(client: AsyncOpenAI) -> None:
    asked = {"model": "babble", "max_tokens": 4, "seed": 5}
    one = await client.completions.create(prompt=PROMPT, **asked)  # type: ignore[call-overload]
    same = await client.completions.create(prompt=[PROMPT], **asked)  # type: ignore[call-overload]
    assert one.choices[0].text == same.choices[0].text


# --- Sampling ---
async def test_14_the_same_seed_gives_the_same_text(client: AsyncOpenAI) -> None:
    async def ask(seed: int) -> str:
        asked = await client.completions.create(
            model="babble", prompt=PROMPT, max_tokens=16, seed=seed, temperature=1.0
        )
        return asked.choices[0].text

    assert await ask(7) == await ask(7)
    assert len({await ask(seed) for seed in range(5)}) > 1


async def test_15_without_randomness_the_seed_does_not_matter(client: AsyncOpenAI) -> None:
    texts = {
        (
            await client.completions.create(
                model="babble", prompt=PROMPT, max_tokens=12, seed=seed, temperature=0, top_p=0.9
            )
        )
        .choices[0]
        .text
        for seed in range(3)
    }
    assert len(texts) == 1


async def test_16_a_stop_string_ends_the_answer_and_is_no_part_of_it(client: AsyncOpenAI) -> None:
    whole = await client.completions.create(
        model="babble", prompt=PROMPT, max_tokens=24, seed=9, temperature=0
    )
    text = whole.choices[0].text
    word = text[len(text) // 2 :][:3]
    for stop in (word, [word, "never said"]):
        stopped = await client.completions.create(
            model="babble", prompt=PROMPT, max_tokens=24, seed=9, temperature=0, stop=stop
        )
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].text == text[: text.index(word)]


# --- Errors, as the client's own exceptions ---
async def test_17_a_wrong_parameter_is_a_bad_request(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="babble", prompt=PROMPT, max_tokens=10**6)
    assert caught.value.param == "max_tokens"
    assert caught.value.type == "invalid_request_error"


async def test_18_several_answers_are_a_bad_request(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="only one answer") as caught:
        await client.chat.completions.create(model="babble", messages=USER, n=3)
    assert caught.value.param == "n"


async def test_19_what_is_not_supported_is_a_bad_request(client: AsyncOpenAI) -> None:
    tool = {"type": "function", "function": {"name": "sting", "parameters": {}}}
    with pytest.raises(openai.BadRequestError, match="not supported") as caught:
        await client.chat.completions.create(
            model="babble",
            messages=USER,
            tools=[tool],  # type: ignore[list-item]
        )
    assert caught.value.param == "tools"


async def test_20_a_model_that_nobody_knows_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="wasp", messages=USER)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


async def test_21_a_prompt_that_is_too_long_says_so_in_the_words_that_clients_know(
    client: AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="babble", prompt="bee " * 50_000, max_tokens=4)
    assert caught.value.code == "context_length_exceeded"
    assert "prompt is too long" in caught.value.message


async def test_22_a_deadline_that_passes_ends_the_job(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(
            model="slow", prompt=PROMPT, max_tokens=500, extra_headers={"X-Deadline": "600"}
        )
    assert caught.value.status_code == 504
    assert caught.value.code == "deadline_exceeded"


# --- Hanging up, coming back ---
async def test_23_closing_the_stream_cancels_the_job(
    client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    stream = await client.completions.create(
        model="slow", prompt=PROMPT, max_tokens=2_000, stream=True
    )
    first = await anext(aiter(stream))
    await stream.close()
    assert await ending_of(http, first.id) == "cancelled"


async def test_24_a_client_that_loses_its_patience_cancels_the_job(
    client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    labels = {"case": "impatient"}
    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.5).completions.create(
            model="slow", prompt=PROMPT, max_tokens=2_000, extra_body={"metadata": labels}
        )
    jobs = (await http.get("/v2/jobs", params={"model": "slow"})).json()["jobs"]
    (job,) = [job for job in jobs if job["labels"] == labels]
    assert await ending_of(http, job["job_id"]) == "cancelled"


async def test_25_a_detached_job_goes_on(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    stream = await client.completions.create(
        model="slow",
        prompt=PROMPT,
        max_tokens=12,
        stream=True,
        extra_headers={"X-Beeyard-Detach": "true"},
    )
    first = await anext(aiter(stream))
    await stream.close()
    assert await ending_of(http, first.id) == "finished"


async def test_26_a_stream_is_resumed_behind_the_last_token(
    client: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    asked = {"model": "slow", "prompt": PROMPT, "max_tokens": 20, "seed": 6, "stream": True}
    headers = {"Idempotency-Key": "resumed"}
    ids: list[str] = []
    texts: list[str] = []
    for last in range(3):
        at = {"Last-Event-ID": ids[-1]} if ids else {}
        send = http.build_request("POST", "/v1/completions", json=asked, headers=headers | at)
        response = await http.send(send, stream=True)
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                ids.append(value)
            elif name == "data" and value != "[DONE]":
                texts.append(json.loads(value)["choices"][0]["text"])
            if last < 2 and len(ids) >= 4 * (last + 1) and not line:
                break
        await response.aclose()
    assert [int(one) for one in ids] == sorted({int(one) for one in ids})
    assert int(ids[-1]) == 19
    whole = await client.completions.create(model="slow", prompt=PROMPT, max_tokens=20, seed=6)
    assert "".join(texts) == whole.choices[0].text


async def test_27_one_key_is_one_job(client: AsyncOpenAI) -> None:
    asked = {"model": "babble", "prompt": PROMPT, "max_tokens": 6}
    headers = {"Idempotency-Key": "one"}
    answers = [
        await client.completions.create(**asked, extra_headers=headers)  # type: ignore[call-overload]
        for _ in range(2)
    ]
    assert answers[0].id == answers[1].id
    assert answers[0].choices == answers[1].choices
    with pytest.raises(openai.ConflictError):
        await client.completions.create(**asked | {"max_tokens": 7}, extra_headers=headers)  # type: ignore[call-overload]


# --- The client's own machinery ---
async def test_28_the_raw_response_has_our_headers(client: AsyncOpenAI) -> None:
    raw = await client.completions.with_raw_response.create(
        model="babble",
        prompt=PROMPT,
        max_tokens=2,
        extra_headers={"X-Correlation-Id": "walk-28", "X-Beeyard-Priority": "high"},
    )
    assert raw.headers["x-correlation-id"] == "walk-28"
    job_id = raw.headers["x-beeyard-job-id"]
    completion = raw.parse()
    assert completion.id == f"cmpl-{job_id}"


async def test_29_many_at_once_all_get_their_own_answer(client: AsyncOpenAI) -> None:
    async def ask(seed: int) -> str:
        stream = await client.completions.create(
            model="babble", prompt=PROMPT, max_tokens=8, seed=seed, stream=True
        )
        return await text_of(stream)

    together = await asyncio.gather(*(ask(seed) for seed in range(24)))
    for seed in (0, 11, 23):
        assert together[seed] == await ask(seed)


async def test_30_the_synchronous_client_works_as_well(url: str) -> None:
    def ask() -> str:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="babble", messages=USER, max_tokens=4, stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(ask)


async def test_31_the_client_tries_again_what_passes_and_nothing_else(
    url: str, client: AsyncOpenAI
) -> None:
    """Without a queen every answer is 503 with a time to come back; the client comes back by itself."""
    async with (
        running_gateway("127.0.0.1:1") as lonely,
        AsyncOpenAI(base_url=f"http://{lonely.address}/v1", api_key="none") as patient,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await patient.with_options(max_retries=1).models.list()
        assert caught.value.code == "queen_unreachable"
        assert caught.value.request.headers["x-stainless-retry-count"] == "1"
    with pytest.raises(openai.NotFoundError) as refused:
        await client.with_options(max_retries=1).models.retrieve("wasp")
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"
