"""LangChain's OpenAI integration, unchanged, as a client of the gateway.

It sends what people send who never read an API: every default of its own, and headers, roles and streams in its way.
"""

from typing import Any

import openai
import pytest

pytest.importorskip("langchain_openai", reason="langchain-openai is a judge: run `make judges`")

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

PROMPT = "the bee"


def chat(url: str, **told: Any) -> ChatOpenAI:
    asked = {"model": "babble", "max_tokens": 8, "max_retries": 0, **told}
    return ChatOpenAI(base_url=f"{url}/v1", api_key=SecretStr("none"), **asked)


def text(url: str, **told: Any) -> OpenAI:
    asked = {"model": "babble", "max_tokens": 8, "max_retries": 0, **told}
    return OpenAI(base_url=f"{url}/v1", api_key=SecretStr("none"), **asked)


async def test_01_a_chat_is_answered(url: str) -> None:
    answer = await chat(url).ainvoke(PROMPT)
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.response_metadata["model_name"] == "babble"


async def test_02_the_usage_adds_up(url: str) -> None:
    usage = (await chat(url, max_tokens=5).ainvoke(PROMPT)).usage_metadata
    assert usage is not None
    assert usage["output_tokens"] == 5
    assert usage["total_tokens"] == usage["input_tokens"] + 5


async def test_03_a_streamed_chat_is_the_same_text(url: str) -> None:
    model = chat(url, seed=3)
    whole = await model.ainvoke(PROMPT)
    chunks = [chunk async for chunk in model.astream(PROMPT)]
    assert len(chunks) > 1
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content


async def test_04_a_stream_can_end_with_the_usage(url: str) -> None:
    model = chat(url, max_tokens=6, stream_usage=True)
    told = [chunk.usage_metadata async for chunk in model.astream(PROMPT) if chunk.usage_metadata]
    assert [usage["output_tokens"] for usage in told] == [6]


async def test_05_a_conversation_with_every_role_is_taken(url: str) -> None:
    turns = [
        SystemMessage("be brief"),
        HumanMessage(PROMPT),
        AIMessage("hums"),
        HumanMessage([{"type": "text", "text": "and?"}]),
    ]
    longer = (await chat(url).ainvoke(turns)).usage_metadata
    shorter = (await chat(url).ainvoke(turns[1:2])).usage_metadata
    assert longer is not None
    assert shorter is not None
    assert longer["input_tokens"] > shorter["input_tokens"]


async def test_06_a_text_is_continued(url: str) -> None:
    told = await text(url).agenerate([PROMPT])
    assert told.generations[0][0].text
    assert told.llm_output is not None
    assert told.llm_output["token_usage"]["completion_tokens"] == 8


async def test_07_a_streamed_text_is_the_same_text(url: str) -> None:
    model = text(url, seed=7)
    assert "".join([part async for part in model.astream(PROMPT)]) == await model.ainvoke(PROMPT)


async def test_08_the_same_seed_gives_the_same_text(url: str) -> None:
    async def ask(seed: int) -> str:
        return str(await text(url, seed=seed, temperature=1.0, max_tokens=16).ainvoke(PROMPT))

    assert await ask(7) == await ask(7)
    assert len({await ask(seed) for seed in range(5)}) > 1


async def test_09_a_stop_string_ends_the_answer(url: str) -> None:
    model = text(url, seed=9, temperature=0, max_tokens=24)
    whole = await model.ainvoke(PROMPT)
    word = whole[len(whole) // 2 :][:3]
    assert await model.ainvoke(PROMPT, stop=[word]) == whole[: whole.index(word)]


async def test_10_a_chain_of_prompt_model_and_parser_works(url: str) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "be brief"), ("human", "{what}")])
    chain = prompt | chat(url, seed=4) | StrOutputParser()
    whole = await chain.ainvoke({"what": PROMPT})
    assert whole
    assert "".join([part async for part in chain.astream({"what": PROMPT})]) == whole


async def test_11_a_batch_is_answered_in_order(url: str) -> None:
    model = chat(url, seed=2, temperature=0)
    asked = ["the bee", "the hive", "the queen", "the drone"]
    together = [answer.content for answer in await model.abatch(asked)]
    assert together == [(await model.ainvoke(one)).content for one in asked]


async def test_12_a_model_that_nobody_knows_is_not_found(url: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await chat(url, model="wasp").ainvoke(PROMPT)
    assert caught.value.code == "model_not_found"


async def test_13_tools_are_a_bad_request_and_never_left_out_in_silence(url: str) -> None:
    tool = {"title": "sting", "description": "Stings.", "type": "object", "properties": {}}
    with pytest.raises(openai.BadRequestError, match="not supported") as caught:
        await chat(url).bind_tools([tool]).ainvoke(PROMPT)
    assert caught.value.param == "tools"


async def test_14_a_prompt_that_is_too_long_is_known_for_what_it_is(url: str) -> None:
    """It has an error of its own for that, of which the official client's is a part."""
    with pytest.raises(ContextOverflowError) as caught:
        await chat(url).ainvoke("bee " * 50_000)
    assert isinstance(caught.value, openai.BadRequestError)
    assert caught.value.code == "context_length_exceeded"


async def test_15_leaving_a_stream_cancels_the_job(url: str, jobs: Any) -> None:
    labels = {"metadata": {"case": "langchain-15"}}
    stream = chat(url, model="slow", max_tokens=2_000, extra_body=labels).astream(PROMPT)
    assert (await anext(stream)) is not None
    await stream.aclose()
    assert await jobs.ending_of(await jobs.labelled("langchain-15")) == "cancelled"


async def test_16_losing_patience_cancels_the_job(url: str, jobs: Any) -> None:
    labels = {"metadata": {"case": "langchain-16"}}
    impatient = chat(url, model="slow", max_tokens=2_000, timeout=1, extra_body=labels)
    with pytest.raises(openai.APITimeoutError):
        await impatient.ainvoke(PROMPT)
    assert await jobs.ending_of(await jobs.labelled("langchain-16")) == "cancelled"


async def test_17_our_headers_go_through_it(url: str) -> None:
    model = chat(
        url,
        default_headers={"X-Beeyard-Priority": "high", "X-Correlation-Id": "judge-17"},
        include_response_headers=True,
    )
    headers = (await model.ainvoke(PROMPT)).response_metadata["headers"]
    assert headers["x-correlation-id"] == "judge-17"
    assert headers["x-beeyard-job-id"]


def test_18_the_synchronous_way_works_as_well(url: str) -> None:
    model = chat(url, seed=6)
    assert "".join(str(c.content) for c in model.stream(PROMPT)) == model.invoke(PROMPT).content
