"""What is refused of OpenAI's parameters: nothing that changes the answer is left out in silence."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beeyard_core.refusal import Refusal
from beeyard_gateway.faults import Fault

from tests.support.running_gateway import CHAT, TEXT, RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lonely() -> AsyncIterator[RunningGateway]:
    """A gateway without a queen: what it refuses, it refuses by itself."""
    async with running_gateway("127.0.0.1:1") as running:
        yield running


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "!"}, "suffix"),
        ({"logprobs": 1}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"bees": 1}, "bees"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "four"}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"model": "m" * 129}, "model"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
    ids=str,
)
async def test_a_text_request_that_cannot_be_done_is_refused(
    lonely: RunningGateway, changes: dict[str, object], param: str
) -> None:
    answer = await lonely.client.post("/v1/completions", json={**TEXT, **changes})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert error["param"].partition(".")[0] == param
    assert error["message"]


TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hum"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [TOOL]}]},
            "messages[0].tool_calls",
        ),
    ],
    ids=str,
)
async def test_a_chat_request_that_cannot_be_done_is_refused(
    lonely: RunningGateway, changes: dict[str, object], param: str
) -> None:
    answer = await lonely.client.post("/v1/chat/completions", json={**CHAT, **changes})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("X-Beeyard-Priority", "urgent", 400),
        ("X-Beeyard-Detach", "maybe", 400),
        ("X-Beeyard-Tenant", "t" * 129, 400),
        ("X-Deadline", "0", 400),
        ("X-Deadline", "9" * 30, 400),
        ("X-Deadline", "soon", 400),
        ("X-Deadline", "2026-01-01T00:00:00", 400),
        ("X-Deadline", "2001-01-01T00:00:00Z", 422),
        ("Idempotency-Key", "k" * 129, 400),
        ("Last-Event-ID", "-1", 400),
    ],
)
async def test_a_wrong_header_is_named(
    lonely: RunningGateway, header: str, value: str, status: int
) -> None:
    answer = await lonely.client.post("/v1/completions", json=TEXT, headers={header: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, header)


async def test_a_prompt_that_is_too_long_is_said_in_the_words_that_clients_look_for() -> None:
    """LiteLLM and LangChain go by these, and fall back to a model with more context."""
    fault = Fault(Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT, "needs about 900 tokens, has 512")
    error = fault.openai()["error"]
    assert error["message"] == "the prompt is too long: needs about 900 tokens, has 512"
    assert error["code"] == "context_length_exceeded"
    assert fault.problem("")["detail"] == "needs about 900 tokens, has 512"
