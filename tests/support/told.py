"""Short ways to read what a queen tells its clients."""

from collections.abc import AsyncIterable, Awaitable, Iterable

import grpc
from beeyard.queen.v1 import job_pb2

from tests.support.raw_calls import Outcome, outcome


async def refusal(call: Awaitable[object] | AsyncIterable[object]) -> Outcome:
    """Return how a call was refused, be it of one answer or of many; fail if it was not."""
    try:
        if isinstance(call, AsyncIterable):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return outcome(error)
    raise AssertionError("the call was not refused")


def kinds(events: Iterable[job_pb2.JobEvent]) -> list[str]:
    """Return what kind each event is, without progress, runs of tokens as one."""
    told: list[str] = []
    for event in events:
        kind = event.WhichOneof("event") or ""
        if kind != "progress" and not (kind == "tokens" and told[-1:] == ["tokens"]):
            told.append(kind)
    return told


def text_of(events: Iterable[job_pb2.JobEvent]) -> str:
    """Return the text of all tokens."""
    return "".join(event.tokens.text for event in events)


def indexes_of(events: Iterable[job_pb2.JobEvent]) -> list[int]:
    """Return the index of every token, in the order in which they came."""
    return [
        index
        for event in events
        if event.HasField("tokens")
        for index in range(event.tokens.first_index, event.tokens.first_index + event.tokens.count)
    ]
