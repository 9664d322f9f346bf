"""Processes that are killed in the middle of an answer, as an HTTP client sees it: a pause, or another stream."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from tests.support.gateway_process import gateway_process
from tests.support.killing import kill_worker
from tests.support.running_gateway import sent_events
from tests.support.stack import Stack

TOKENS = 150
#: Tokens that have come when the process is killed.
KILL_AFTER = 30
ASKED = {
    "model": "tiny",
    "prompt": "The honey bee",
    "max_tokens": TOKENS,
    "seed": 7,
    "stream": True,
}
SLOW = {"tiny": "synthetic:100"}
Kill = Callable[[str], Awaitable[None]]


class Reader:
    """A client that gathers one answer, over as many streams as it takes.

    Attributes:
        text: What came so far.
        last_id: Index of the last token that came.
        is_done: Whether the end came.
    """

    def __init__(self) -> None:
        self.text = ""
        self.last_id = -1
        self.is_done = False

    async def read(self, url: str, on_token: Kill | None = None, *, key: str = "") -> None:
        """Read until the stream ends, however it does; in the middle, `on_token` is told the job's id once."""
        headers = {"Idempotency-Key": key} if key else {}
        if self.last_id >= 0:
            headers["Last-Event-ID"] = str(self.last_id)
        async with (
            httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
            client.stream("POST", "/v1/completions", json=ASKED, headers=headers) as response,
        ):
            assert response.status_code == 200
            async for event in sent_events(response):
                self.is_done = event.data == "[DONE]"
                if event.id:
                    assert int(event.id) > self.last_id, "a token came twice"
                    self.last_id = int(event.id)
                    self.text += event.json["choices"][0]["text"]
                if on_token is not None and self.last_id >= KILL_AFTER:
                    await on_token(response.headers["x-beeyard-job-id"])
                    on_token = None
        assert on_token is None, "the answer ended before anything was killed"


async def whole(url: str, on_token: Kill | None = None) -> str:
    """Return the text of one stream that came to its end."""
    reader = Reader()
    await reader.read(url, on_token)
    assert reader.is_done
    assert reader.last_id == TOKENS - 1
    return reader.text


@pytest.mark.slow
async def test_the_death_of_the_worker_or_the_queen_is_a_pause_in_the_stream() -> None:
    async with Stack(models=SLOW, workers=2) as stack, gateway_process(stack) as gateway:
        url = f"http://{gateway.address}"
        address = stack.queen_address

        async def kill_its_worker(job_id: str) -> None:
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                job = (await client.get(f"/v2/jobs/{job_id}")).json()
            await kill_worker(stack, job["worker_id"])

        async def kill_the_queen(_: str) -> None:
            await stack.kill("queen")
            await stack.queen.start(["--listen", address])

        undisturbed = await whole(url)
        assert await whole(url, kill_its_worker) == undisturbed
        assert await whole(url, kill_the_queen) == undisturbed


@pytest.mark.slow
async def test_the_death_of_the_gateway_is_survived_at_another_one() -> None:
    async with Stack(models=SLOW) as stack:
        reader = Reader()
        async with gateway_process(stack, dies=True) as first:

            async def kill_the_gateway(_: str) -> None:
                await first.kill()

            with pytest.raises(httpx.RemoteProtocolError):
                await reader.read(f"http://{first.address}", kill_the_gateway, key="k")
        assert not reader.is_done
        async with gateway_process(stack) as second:
            url = f"http://{second.address}"
            await reader.read(url, key="k")
            assert reader.is_done
            assert reader.text == await whole(url)
