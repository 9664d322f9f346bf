"""What every judge needs: where the gateway is, and a plain look at its jobs from outside of the client."""

import os
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

URL_ENV = "BEEYARD_JUDGED_URL"


@pytest.fixture(scope="session")
def url() -> str:
    """Return the gateway's address; `make judges` starts one and names it."""
    found = os.environ.get(URL_ENV, "")
    if not found:
        pytest.skip(f"{URL_ENV} names no gateway: run `make judges`")
    return found


class Jobs:
    """The jobs of the gateway, as `/v2/jobs` tells them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def labelled(self, case: str) -> str:
        """Return the id of the one job that carries this label."""
        jobs = (await self._client.get("/v2/jobs")).json()["jobs"]
        (found,) = [job["job_id"] for job in jobs if job["labels"].get("case") == case]
        return str(found)

    async def ending_of(self, job_id: str) -> str:
        """Follow a job to its end and return how it ended."""
        last = ""
        async with self._client.stream("GET", f"/v2/jobs/{job_id}/events") as response:
            async for line in response.aiter_lines():
                last = line.removeprefix("event: ") if line.startswith("event: ") else last
        return last


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def jobs(url: str) -> AsyncIterator[Jobs]:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        yield Jobs(client)
