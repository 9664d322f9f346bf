"""Every service is drained and started again under load: no job fails, no token is missing, and health says it first.

The load runs on all through the test: clients of the queen that come back by themselves, and HTTP clients that go to
whichever gateway says that it is ready.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import psutil
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard_client import BeeyardClient
from beeyard_client.job import JobState

from tests.support.clients_under_fire import PATIENCE_MS, Book, Gathered, options_of
from tests.support.eventually import eventually
from tests.support.expected_answer import Answer, Asked
from tests.support.gateway_process import gateway_process
from tests.support.health_watch import NOT_SERVING, SERVING, HealthWatch
from tests.support.running_gateway import sent_events
from tests.support.service import Service
from tests.support.soak import figure_of, scaled
from tests.support.stack import Stack

ROUNDS = scaled(1, 20)
GRPC_CLIENTS = 4
HTTP_CLIENTS = 4
TOKENS = 60
#: Jobs that must end between two restarts, so that each meets some in the middle.
JOBS_BETWEEN = 4
GATEWAY_FLAGS = ("--drain-lead-ms", "500")


@dataclass
class Load:
    """Clients that go on until they are told to stop.

    Attributes:
        done: Jobs that ended well, by the way they were asked for.
        gateways: Where HTTP clients may go.
        states: Of all jobs, at the end.
    """

    queen: BeeyardClient
    gateways: list[Service]
    book: Book = field(default_factory=Book)
    done: Counter[str] = field(default_factory=Counter)
    states: Counter[JobState] = field(default_factory=Counter)
    over: bool = False
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def next_job(self) -> Asked:
        number = next(self.numbers)
        return Asked(f"r{number}", f"bee {number}", max_tokens=TOKENS, seed=number)

    async def over_grpc(self) -> None:
        while not self.over:
            asked = self.next_job()
            gathered = Gathered(asked, self.book)
            async for event in self.queen.infer(asked.prompt, **options_of(asked)):  # type: ignore[arg-type]
                gathered.take(event)
            await gathered.check()
            self.done["grpc"] += 1

    async def over_http(self) -> None:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            while not self.over:
                reader = Reader(self.next_job())
                while not reader.is_done:
                    await self.read_on(client, reader)
                expected = await Answer.to(reader.asked)
                if reader.text != expected.text:
                    self.book.faults.append(f"{reader.asked.request_id} over HTTP: not the answer")
                self.done["http"] += 1

    async def read_on(self, client: httpx.AsyncClient, reader: "Reader") -> None:
        """Read from a gateway that is ready until its stream ends, however it does."""
        for gateway in list(self.gateways):
            url = f"http://{gateway.address}"
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    await reader.read(client, url)
                    return
            except (httpx.TransportError, Draining):
                continue

    async def until_more(self, count: int = JOBS_BETWEEN) -> None:
        """Return when so many more jobs have ended on each side."""
        wanted = {way: self.done[way] + count for way in ("grpc", "http")}
        await eventually(
            lambda: all(self.done[way] >= least for way, least in wanted.items()),
            "jobs go on ending",
            60.0,
        )


class Draining(Exception):
    """A gateway turned the request away in words: come back, here or elsewhere."""


@dataclass
class Reader:
    """One answer over HTTP, over as many streams as it takes."""

    asked: Asked
    text: str = ""
    last_id: int = -1
    is_done: bool = False

    async def read(self, client: httpx.AsyncClient, url: str) -> None:
        body = {
            "model": "tiny",
            "prompt": self.asked.prompt,
            "max_tokens": self.asked.max_tokens,
            "seed": self.asked.seed,
            "stream": True,
        }
        headers = {"Idempotency-Key": f"http-{self.asked.request_id}"}
        if self.last_id >= 0:
            headers["Last-Event-ID"] = str(self.last_id)
        async with client.stream(
            "POST", f"{url}/v1/completions", json=body, headers=headers
        ) as answer:
            if answer.status_code == 503:
                raise Draining
            assert answer.status_code == 200, (await answer.aread())[:500]
            async for event in sent_events(answer):
                self.is_done = event.data == "[DONE]"
                if event.id.isdecimal():
                    assert int(event.id) > self.last_id, "a token came twice"
                    self.last_id = int(event.id)
                    self.text += event.json["choices"][0]["text"]


@asynccontextmanager
async def load_on(stack: Stack, gateways: list[Service]) -> AsyncIterator[Load]:
    """Run the load for as long as the block lasts, and to the end of what runs then."""
    async with BeeyardClient(stack.queen_address, connect_patience_ms=PATIENCE_MS) as client:
        load = Load(client, gateways)
        async with asyncio.TaskGroup() as group:
            for _ in range(GRPC_CLIENTS):
                group.create_task(load.over_grpc())
            for _ in range(HTTP_CLIENTS):
                group.create_task(load.over_http())
            try:
                await load.until_more()
                yield load
                await load.until_more()
            finally:
                load.over = True
        load.states.update([job.state async for job in client.list_jobs(page_size=1_000)])


async def restart(service: Service, *flags: str) -> list[int]:
    """Ask a service to end, start another at its address, and return what its health said on the way."""
    watch = HealthWatch(service.admin_address)
    await watch.began()
    address = service.address
    await service.stop()
    assert service.exit_code == 0
    said = await watch.ended()
    await service.start(["--listen", address, *flags])
    return said


async def replace_workers(stack: Stack) -> int:
    """Have every worker drained and stopped, one after the other; the queen keeps as many as it should."""
    fleet = await stack.fleet()
    replaced = [worker for worker in fleet.workers if worker.attached]
    stub = fleet_rpc.FleetServiceStub(stack.channel(stack.queen_address))
    for worker in replaced:
        watch = HealthWatch(worker.address)
        await watch.began()
        process = psutil.Process(worker.pid)
        request = fleet_pb.StopWorkerRequest(worker_id=worker.status.worker_id)
        await stub.StopWorker(request, timeout=10)
        assert await watch.ended() == [SERVING, NOT_SERVING]
        await eventually(
            lambda process=process: not process.is_running(),  # type: ignore[misc]
            "the worker ends",
            60.0,
            look_again_s=0.05,
        )
        await stack.wait_for(
            lambda fleet: sum(w.attached and w.status.slots_total > 0 for w in fleet.workers) >= 2,
            "another took its place",
        )
    return len(replaced)


async def restart_gateway(service: Service) -> list[int]:
    """Have a gateway drained and started again; return what /readyz said, as long as anybody could ask."""
    said: list[int] = []

    async def probe() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                try:
                    said.append((await client.get(f"http://{service.address}/readyz")).status_code)
                except httpx.TransportError:
                    return

    probing = asyncio.create_task(probe())
    await eventually(lambda: said, "it answers")
    address = service.address
    await service.stop()
    await probing
    assert service.exit_code == 0
    await service.start(["--listen", address])
    return said


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(scaled(240, 3_600))
async def test_no_job_fails_while_every_service_is_renewed(
    record_property: Callable[[str, object], None],
) -> None:
    models = {"tiny": "synthetic:100"}
    left = ("--leave-workers",)
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(
            Stack(models=models, workers=2, pool_manager_flags=("--slots", "8", *left))
        )
        gateways = [
            await exits.enter_async_context(gateway_process(stack, *GATEWAY_FLAGS)) for _ in "ab"
        ]
        workers = 0
        async with load_on(stack, gateways) as load:
            for _ in range(ROUNDS):
                assert await restart(stack.queen) == [SERVING, NOT_SERVING]
                await load.until_more()
                assert await restart(stack.pool_manager) == [SERVING, NOT_SERVING]
                await load.until_more()
                workers += await replace_workers(stack)
                await load.until_more()
                for gateway in gateways:
                    said = await restart_gateway(gateway)
                    assert said[0] == 200
                    assert said[-1] == 503, "whoever probes it learns it before the door is closed"
                    await load.until_more()
        assert load.book.faults == []
        assert set(load.states) == {JobState.COMPLETED}
        figure_of(
            record_property,
            "drain and rolling restart under load",
            rounds=ROUNDS,
            workers=workers,
            jobs=dict(load.done),
            failed=0,
        )


@pytest.mark.slow
async def test_a_service_that_is_killed_says_nothing_first() -> None:
    """The control: NOT_SERVING comes from the drain, and not from the end of the process."""
    async with Stack(workers=0) as stack:
        watch = HealthWatch(stack.queen.admin_address)
        await watch.began()
        await stack.queen.kill()
        assert await watch.ended() == [SERVING]
