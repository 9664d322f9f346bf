"""prefix_affinity: the first token of a chat-shaped load, with jobs sent where their beginning is, and without.

Real model, real engine: two workers of two slots hold Gemma 3 270M on llama.cpp, a thread each. Four applications with
long instructions of their own have two conversations each, of three turns; two clients take the turns as they come, one
application after the other, so that each worker sees all of them unless somebody keeps them apart. The control is the
same queen with `--no-prefix-affinity`: jobs go by speed, load and name, and hit a cache by luck.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.worker.v1 import generation_pb2

from benchmarks.client import serving_workers
from benchmarks.measure import Figure
from benchmarks.processes import group

APPLICATIONS = ("orchard", "apiary", "harbour", "museum")
CONVERSATIONS = 2
TURNS = 3
CLIENTS = 2
WORKERS = 2
ANSWER_TOKENS = 12
TARGET = 0.6
#: About 500 tokens of instructions; the name of the application comes first, so that no two begin alike.
_RULES = "answers politely and in whole sentences, and gives no advice on health, law or money. "
_QUESTIONS = ("When do you open?", "What does a visit cost?", "How do I get there by train?")


@dataclass(slots=True)
class Side:
    """What one side did in one round: milliseconds to each first token, and tokens of all prompts."""

    first_ms: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def mean_ms(self) -> float:
        """Milliseconds to the first token, on average over all turns, the first ones included."""
        return statistics.fmean(self.first_ms)

    @property
    def cached_share(self) -> float:
        """The part of all prompts that was found in a cache."""
        return self.cached_tokens / self.prompt_tokens


async def measure(rounds: int) -> Figure:
    """Measure prefix_affinity."""
    pairs = [(await _round(affinity=True), await _round(affinity=False)) for _ in range(rounds)]
    ratios = [on.mean_ms / off.mean_ms for on, off in pairs]
    figure = Figure(
        "prefix_affinity", "ms", "affinity off, same load", TARGET, smaller_is_better=True
    )
    figure.value = statistics.median(on.mean_ms for on, _ in pairs)
    figure.control_value = statistics.median(off.mean_ms for _, off in pairs)
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    figure.met = figure.ratio <= TARGET
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    on_share = statistics.median(on.cached_share for on, _ in pairs)
    off_share = statistics.median(off.cached_share for _, off in pairs)
    figure.note = (
        f"{on_share:.0%} of all prompt tokens came out of a cache, without affinity {off_share:.0%}; "
        "median first token "
        f"{statistics.median(ms for on, _ in pairs for ms in on.first_ms):,.0f} ms against "
        f"{statistics.median(ms for _, off in pairs for ms in off.first_ms):,.0f}"
    )
    return figure


async def _round(*, affinity: bool) -> Side:
    side = Side()
    async with (
        _fleet(affinity=affinity) as queen,
        grpc.aio.insecure_channel(queen) as channel,
    ):
        await serving_workers(channel, WORKERS)
        stub = rpc.InferenceServiceStub(channel)
        talks = [
            _Talk(application, number)
            for number in range(CONVERSATIONS)
            for application in APPLICATIONS
        ]
        # Which turn a client takes next is the same on both sides; when, is not.
        for _ in range(TURNS):
            waiting = iter(talks)
            await asyncio.gather(*(_client(stub, waiting, side) for _ in range(CLIENTS)))
    return side


@asynccontextmanager
async def _fleet(*, affinity: bool) -> AsyncIterator[str]:
    """Yield the address of a queen with its workers."""
    async with group() as processes:
        queen = await processes.start(
            "queen",
            "beeyard_queen",
            "--listen=127.0.0.1:0",
            f"--store={processes.work_dir / 'jobs.sqlite'}",
            "--prefix-affinity" if affinity else "--no-prefix-affinity",
            "--log-level=warning",
        )
        for number in range(WORKERS):
            await processes.start(
                f"worker-{number}",
                "beeyard_worker",
                f"--worker-id=bench-{number}",
                f"--queen={queen}",
                "--pool-id=bench",
                "--listen=127.0.0.1:0",
                "--engine=llamacpp",
                "--model=gemma3-270m",
                "--model-source=package:gemma3-270m",
                "--slots=2",
                "--threads=1",
                "--context-tokens=2048",
                "--log-level=warning",
            )
        yield queen


class _Talk:
    """One conversation: the instructions of its application, and what was said so far."""

    def __init__(self, application: str, number: int) -> None:
        rules = f"The assistant of the {application} " + _RULES
        self.turns = [("system", rules * 20), ("user", f"I am guest {number}. {_QUESTIONS[0]}")]

    def go_on(self, answer: str) -> None:
        """Take in the answer, and ask the next question."""
        asked = sum(role == "user" for role, _ in self.turns)
        self.turns += [("assistant", answer), ("user", _QUESTIONS[asked % len(_QUESTIONS)])]


async def _client(
    stub: "rpc.InferenceServiceAsyncStub", waiting: Iterator[_Talk], side: Side
) -> None:
    for talk in waiting:
        await _turn(stub, talk, side)


async def _turn(stub: "rpc.InferenceServiceAsyncStub", talk: _Talk, side: Side) -> None:
    """Take one turn of a conversation, and measure it."""
    request = pb.InferRequest(
        model="gemma3-270m",
        messages=[
            generation_pb2.ChatMessage(role=role, content=content) for role, content in talk.turns
        ],
        max_tokens=ANSWER_TOKENS,
        temperature=0.0,
        seed=7,
    )
    began, answer, is_first = time.perf_counter(), "", True
    call = stub.Infer(request)
    try:
        async for event in call:
            if event.WhichOneof("event") == "tokens":
                if is_first:
                    side.first_ms.append((time.perf_counter() - began) * 1_000)
                    is_first = False
                answer += event.tokens.text
            elif event.WhichOneof("event") == "finished":
                side.prompt_tokens += event.finished.usage.prompt_tokens
                side.cached_tokens += event.finished.usage.cached_prompt_tokens
            elif event.WhichOneof("event") == "failed":
                raise SystemExit(f"benchmark: a job failed: {event.failed.message}")
    finally:
        call.cancel()
    talk.go_on(answer)
