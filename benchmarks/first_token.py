"""ttft_added: the first token over HTTP, through gateway and queen, minus the same from the worker itself.

One request at a time, in turn with its control, on the synthetic engine, which makes its first token at once: what is
measured is the way, with the job made durable on it. The HTTP client is a bare socket, since a client library would add
more than the gateway does.
"""

import asyncio
import json
import os
import statistics
import time

from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import engine_service_pb2_grpc as engine_rpc

from benchmarks.client import serving_worker
from benchmarks.measure import Figure
from benchmarks.processes import stack
from benchmarks.secured import Secured, channel_to, secured_lab

PAIRS = 150
WARM = 20
TARGET_P50_MS = 2.0
TARGET_P99_MS = 6.0
ASKED = {
    "model": "synthetic",
    "prompt": "The honey bee",
    "max_tokens": 2,
    "seed": 7,
    "stream": True,
}


async def measure(rounds: int) -> Figure:
    """Measure ttft_added."""
    return await _measure(rounds, "ttft_added", None)


async def measure_secured(rounds: int) -> Figure:
    """Measure ttft_added_secured: the same with TLS and tokens on every link, on the control's as well."""
    with secured_lab() as secured:
        return await _measure(rounds, "ttft_added_secured", secured)


async def _measure(rounds: int, name: str, secured: Secured | None) -> Figure:
    measured = [await _round(secured) for _ in range(rounds)]
    added = sorted(through - direct for one in measured for through, direct in one)
    ratios = [_median(one, 0) / _median(one, 1) for one in measured]
    figure = Figure(
        name, "ms", "the worker's own EngineService", TARGET_P50_MS, smaller_is_better=True
    )
    figure.value = statistics.median(added)
    figure.control_value = statistics.median(direct for one in measured for _, direct in one)
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    p99_ms = added[len(added) * 99 // 100]
    figure.met = figure.value <= TARGET_P50_MS and p99_ms <= TARGET_P99_MS
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    figure.note = (
        f"milliseconds that gateway and queen add, p50; p99 {p99_ms:.1f} (at most {TARGET_P99_MS:g}); "
        "the ratio is of the whole times, for comparison"
    )
    return figure


def _median(pairs: list[tuple[float, float]], side: int) -> float:
    return statistics.median(pair[side] for pair in pairs)


async def _round(secured: Secured | None) -> list[tuple[float, float]]:
    """Return the milliseconds to the first token, through everything and directly, of each pair."""
    async with stack(rate="0", slots=4, secured=secured) as (processes, queen):
        gateway = await processes.start(
            "gateway",
            "beeyard_gateway",
            "--listen=127.0.0.1:0",
            f"--queen={queen}",
            "--log-level=warning",
            *(secured.gateway if secured else ()),
        )
        async with channel_to(queen, secured, "me") as channel:
            await serving_worker(channel)
            workers = await fleet_rpc.FleetServiceStub(channel).ListWorkers(
                fleet_pb.ListWorkersRequest()
            )
        async with channel_to(workers.workers[0].address, secured, "pool") as channel:
            engine = engine_rpc.EngineServiceStub(channel)
            http = await _HttpClient.connect(gateway, secured)
            pairs = [
                (await http.first_token_ms(), await _direct_ms(engine)) for _ in range(WARM + PAIRS)
            ]
            http.close()
    return pairs[WARM:]


async def _direct_ms(engine: "engine_rpc.EngineServiceAsyncStub") -> float:
    request = engine_pb.GenerateRequest(prompt="The honey bee", max_tokens=2, seed=7)
    began = time.perf_counter()
    call = engine.Generate(request)
    try:
        await call.read()
        took_ms = (time.perf_counter() - began) * 1_000
        while isinstance(await call.read(), engine_pb.GenerateResponse):
            pass
    finally:
        call.cancel()
    return took_ms


class _HttpClient:
    """One connection that is kept, as every client library keeps it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        body = json.dumps(ASKED).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
        )
        head += f"Authorization: Bearer {token}\r\n\r\n" if token else "\r\n"
        self._request = head.encode() + body

    @classmethod
    async def connect(cls, address: str, secured: Secured | None) -> "_HttpClient":
        host, port = address.split(":")
        context = secured.context() if secured else None
        streams = await asyncio.open_connection(host, int(port), ssl=context)
        return cls(*streams, secured.token("me") if secured else "")

    async def first_token_ms(self) -> float:
        began = time.perf_counter()
        self._writer.write(self._request)
        await self._reader.readuntil(b"data: {")
        took_ms = (time.perf_counter() - began) * 1_000
        await self._reader.readuntil(b"[DONE]\n\n\r\n0\r\n\r\n")
        return took_ms

    def close(self) -> None:
        self._writer.close()
