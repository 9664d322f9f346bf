"""What is asked and answered stays between those two: a run with every way a job can end, and then a search for it.

Each prompt has one unique word in it, and each answer another, which a scripted server behind the worker gives. Jobs
end well, fail, are refused, cancelled and run out of time, over gRPC and over HTTP; both words also come where they do
not belong. Afterwards nothing that the run wrote or told has them: logs of all processes with everything that they can
be made to say, spans, figures, the decision journal, the audit trail, and what clients are told when something is
wrong. The store alone has prompts, until their jobs end, and answers for as long as they can be asked for.
"""

import asyncio
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.worker.v1 import generation_pb2
from beeyard_client import BeeyardClient
from beeyard_client.events import Cancelled, Failed, Tokens
from beeyard_client.job import JobOptions

from tests.support.canary import ANSWERED, ASKED, MODEL, PROMPT, TOO_LONG, Run, places_of
from tests.support.canary_doors import (
    live_view,
    over_go,
    over_heavy_work,
    over_the_command_line,
)
from tests.support.gateway_process import gateway_process
from tests.support.otlp import receiving_otlp, traced
from tests.support.running_gateway import sent_events
from tests.support.scripted_upstream import ScriptedUpstream, event, serving_upstream
from tests.support.stack import Stack

# The first run on a machine compiles gRPC for Go.
pytestmark = pytest.mark.timeout(600)
DEADLINE_MS = 1_500
POLICY = "function schedule(context) return platform.schedule(context) end"
STORE = "queen.sqlite"
ENDINGS = {
    *("grpc: ok", "grpc: cancelled", "grpc: too late", "grpc: too long"),
    *("grpc: refused upstream", "grpc: garbled upstream", "grpc: broken upstream"),
    *("grpc: INVALID_ARGUMENT", "grpc: NOT_FOUND"),
    *("http: ok", "http: cancelled", "http: too late", "http: too long", "http: refused upstream"),
    *("http: 400", "http: 404"),
    *("cli: ok", "cli: 1", "cli: 2"),
    *("work: completed", "work: failed", "work: cancelled"),
    *("work: INVALID_REQUEST", "work: LEASE_NOT_FOUND"),
}

WRONG_BODIES: tuple[dict[str, object], ...] = (
    {**MODEL, "model": "nobody-has-it", "prompt": PROMPT},
    {**MODEL, "prompt": {"text": PROMPT}},
    {**MODEL, "prompt": [PROMPT, PROMPT]},
    {**MODEL, "prompt": PROMPT, "max_tokens": ASKED},
    {**MODEL, "prompt": PROMPT, "temperature": ASKED},
    {**MODEL, "prompt": PROMPT, "stop": [ASKED] * 40},
    {**MODEL, "prompt": PROMPT, "logit_bias": {ASKED: 1}},
    {**MODEL, "prompt": PROMPT, "messages": [{"role": "user", "content": PROMPT}]},
    {**MODEL, "messages": [{"role": ASKED, "content": PROMPT}]},
    {**MODEL, "messages": [{"role": "user", "content": [{"type": ASKED, "text": PROMPT}]}]},
    {**MODEL, "messages": PROMPT},
)
WRONG_REQUESTS = (
    pb.SubmitJobRequest(model="nobody-has-it", prompt=PROMPT),
    pb.SubmitJobRequest(model="told", prompt=PROMPT, stop=[ASKED] * 40),
    pb.SubmitJobRequest(model="told", prompt=PROMPT, engine=ASKED),
    pb.SubmitJobRequest(model="told", prompt=PROMPT, temperature=-1),
    pb.SubmitJobRequest(
        model="told", messages=[generation_pb2.ChatMessage(role=ASKED, content=PROMPT)]
    ),
    pb.SubmitJobRequest(
        model="told",
        prompt=PROMPT,
        messages=[generation_pb2.ChatMessage(role="user", content=PROMPT)],
    ),
)


async def over_grpc(run: Run, client: BeeyardClient) -> None:
    """Let jobs end in every way, asked for by the Python client."""
    run.answers_well()
    stream = client.infer(PROMPT, **MODEL)
    assert ANSWERED in await stream.text()
    run.job_id = stream.job_id
    run.ended("grpc: ok", await client.get(stream.job_id), await client.explain(stream.job_id))
    run.quotes()
    await follow(run, client, "grpc: refused upstream")
    run.answers(b'data: {"choices": ' + ANSWERED.encode() + b"\n\n")
    await follow(run, client, "grpc: garbled upstream")
    run.answers(event(f" {ANSWERED}"))
    await follow(run, client, "grpc: broken upstream")
    run.answers_and_hangs()
    await follow(run, client, "grpc: cancelled", cancel=True)
    await follow(run, client, "grpc: too late", deadline_ms=DEADLINE_MS)
    await follow(run, client, "grpc: too long", prompt=TOO_LONG)


async def follow(
    run: Run,
    client: BeeyardClient,
    name: str,
    *,
    prompt: str = PROMPT,
    cancel: bool = False,
    deadline_ms: int = 0,
) -> None:
    """Follow a job that does not end well, and look at it in every way."""
    options: JobOptions = {**MODEL, "max_attempts": 1, "deadline_ms": deadline_ms}
    stream = client.infer(prompt, **options)
    async for each in stream:
        if isinstance(each, Tokens) and cancel:
            run.told.append(str(await client.cancel(stream.job_id)))
    assert isinstance(stream.ending, Cancelled if cancel else Failed), stream.ending
    job_id = stream.job_id
    looks = (await client.get(job_id), await client.explain(job_id), await client.timeline(job_id))
    run.ended(name, stream.ending, *looks)


async def wrongly_over_grpc(run: Run, channel: grpc.aio.Channel) -> None:
    """Ask for what is refused, and send what is no request at all."""
    stub = rpc.InferenceServiceStub(channel)
    path = "/beeyard.queen.v1.InferenceService/SubmitJob"
    # None leaves bytes as they are, which grpc documents and its types do not know.
    method: Any = channel.unary_unary(path, None, None)
    calls = [stub.SubmitJob(request) for request in WRONG_REQUESTS]
    for call in [*calls, method(WRONG_REQUESTS[0].SerializeToString() + ASKED.encode())]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        error = refused.value
        run.ended(f"grpc: {error.code().name}", error.details(), error.trailing_metadata())


async def over_http(run: Run, http: httpx.AsyncClient) -> None:
    """Let jobs end in every way, asked for by OpenAI's routes and the jobs API."""
    run.answers_well()
    chat = {**MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    answer = await http.post("/v1/chat/completions", json=chat)
    assert ANSWERED in answer.text
    run.ended("http: ok")
    run.quotes()
    answer = await http.post("/v1/completions", json={**MODEL, "prompt": PROMPT})
    assert answer.is_error
    run.ended("http: refused upstream", answer.text, answer.headers)
    answer = await http.post("/v1/completions", json={**MODEL, "prompt": TOO_LONG})
    assert answer.is_error
    run.ended("http: too long", answer.text, answer.headers)
    run.answers_and_hangs()
    asked = {**MODEL, "prompt": PROMPT, "stream": True}
    async with http.stream("POST", "/v1/completions", json=asked) as streamed:
        job = f"/v2/jobs/{streamed.headers['x-beeyard-job-id']}"
        async for each in sent_events(streamed):
            if each.id:
                run.told.append((await http.post(f"{job}/cancel")).text)
            elif ANSWERED not in each.data:
                run.ended("http: cancelled", each.data, (await http.get(job)).text)
    late = {"X-Deadline": str(DEADLINE_MS)}
    answer = await http.post("/v1/completions", json={**MODEL, "prompt": PROMPT}, headers=late)
    assert "DEADLINE" in answer.text
    run.ended("http: too late", answer.text, answer.headers)
    run.told.append((await http.get("/v2/jobs")).text)


async def wrongly_over_http(run: Run, http: httpx.AsyncClient) -> None:
    """Send what every route must refuse."""
    broken = json.dumps({**MODEL, "prompt": PROMPT})[:-3]
    for path in ("/v1/completions", "/v1/chat/completions", "/v2/jobs"):
        for body in (*map(json.dumps, WRONG_BODIES), broken, json.dumps(PROMPT)):
            answer = await http.post(
                path, content=body, headers={"Content-Type": "application/json"}
            )
            assert 400 <= answer.status_code < 500, (path, body[:200], answer.text)
            run.ended(f"http: {answer.status_code}", answer.text, answer.headers)


async def figures(stack: Stack, http: httpx.AsyncClient) -> list[str]:
    """Return what every process shows to Prometheus."""
    (line,) = [file.read_text() for file in (stack.folder / "pool").rglob("*.stdout")]
    addresses = [
        ready["metrics_address"]
        for ready in (stack.queen.ready, stack.pool_manager.ready, json.loads(line))
    ]
    texts = [await asyncio.to_thread(scrape, str(address)) for address in addresses]
    return [*texts, (await http.get("/metrics")).text]


def scrape(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def written(folder: Path) -> dict[str, bytes]:
    """Return every file of the run but the store."""
    store = {STORE, f"{STORE}-wal", f"{STORE}-shm"}
    files = (file for file in folder.rglob("*") if file.is_file() and file.name not in store)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


async def test_nothing_that_a_run_writes_or_tells_has_what_was_asked_or_answered() -> None:
    async with receiving_otlp() as receiver, serving_upstream(ScriptedUpstream()) as upstream:
        run = Run(upstream)
        flags = ("--otlp-endpoint", receiver.endpoint, "--log-level", "debug")
        traces = {"BEEYARD_OTLP_ENDPOINT": receiver.endpoint}
        async with Stack(
            models={"told": f"{upstream.url}#small"},
            queen_flags=flags,
            pool_manager_flags=flags,
            env={"BEEYARD_WORKER_LOG_LEVEL": "debug"},
        ) as stack:
            async with (
                gateway_process(stack, *flags) as gateway,
                traced(receiver) as provider,
                BeeyardClient(stack.queen_address, tracer_provider=provider) as client,
                httpx.AsyncClient(
                    base_url=f"http://{gateway.address}", trust_env=False, timeout=60
                ) as http,
            ):
                await client.deploy_policy(POLICY, name="mine")
                async with live_view(run, gateway):
                    await over_grpc(run, client)
                    await wrongly_over_grpc(run, stack.channel(stack.queen_address))
                    await over_http(run, http)
                    await wrongly_over_http(run, http)
                    await over_the_command_line(run, stack.queen_address, traces)
                    await over_heavy_work(run, client)
                if shutil.which("go"):
                    await over_go(run, stack.queen_address)
                shown = await figures(stack, http)
            # What processes say when they end counts as well.
            await stack.pool_manager.stop()
            await stack.queen.stop()
            files, kept = written(stack.folder), (stack.folder / STORE).read_bytes()
    places = {
        **files,
        "figures": "\n".join(shown).encode(),
        "spans": b"\n".join(receiver.batches),
        "told": "\n".join(run.told).encode(),
    }
    _check_that_all_happened(run)
    _check_that_the_search_sees(places, run.job_id.encode())
    found = {name: at for name, content in places.items() if (at := places_of(content))}
    assert not found
    # All jobs have ended: their prompts are erased, and their answers can still be asked for.
    assert ASKED.encode() not in kept
    assert ANSWERED.encode() in kept


def _check_that_all_happened(run: Run) -> None:
    assert run.endings - {"go: told"} == ENDINGS
    assert ASKED in json.dumps(run.upstream.asked)


def _check_that_the_search_sees(places: dict[str, bytes], job_id: bytes) -> None:
    """Hold that what has nothing to hide is found: files are read as they are written, at the level that was set."""
    (journal,) = (name for name in places if name.endswith(".journal"))
    for name in ("queen.log", journal, "spans", "told"):
        assert job_id in places[name], name
    logs = {name for name in places if name.endswith(".log")}
    assert len(logs) == len(("queen", "pool manager", "worker", "gateway"))
    for name in logs:
        # The client library of HTTP tells of each request, with its address, in which an operator may have a password.
        assert b"HTTP Request" not in places[name], name
    for name in logs - {"pool_manager.log"}:
        assert b"_done" in places[name], f"{name} has nothing that is said at level debug"
    for name in ("pool_manager.log", "queen.sqlite.audit.jsonl"):
        assert places[name], name
    assert b"tokens_out_total" in places["figures"]
