"""One job is one trace over every process: asserted as a whole tree, with nothing of what was said in it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import httpx
from beeyard_client import BeeyardClient
from beeyard_client.events import Finished, Started, Tokens
from beeyard_runtime import semconv
from beeyard_runtime.telemetry import setup_telemetry
from opentelemetry.sdk.trace import TracerProvider

from tests.support.gateway_process import gateway_process
from tests.support.killing import kill_worker
from tests.support.otlp import OtlpReceiver, ReceivedSpan, SpanTree, receiving_otlp
from tests.support.stack import Stack

PROMPT = "The keeper whispers a secret"
SERVER = "beeyard.queen.v1.InferenceService/Infer"
ATTEMPT = (("lease", ("decode",), ("prefill",)), ("policy.decide", ("placement",)), ("queue.wait",))
WHOLE = ("infer", (SERVER, ("admission",), *ATTEMPT))
SPANS = 9


def shape(tree: SpanTree) -> tuple[object, ...]:
    """The names with their children's shapes, in the order of the names: moments that tie have no order."""
    return (tree.span.name, *sorted((shape(child) for child in tree.children), key=str))


@asynccontextmanager
async def traced(receiver: OtlpReceiver) -> AsyncIterator[TracerProvider]:
    """A program that traces its own part."""
    telemetry = setup_telemetry("test", otlp_endpoint=receiver.endpoint)
    assert telemetry._provider is not None
    try:
        yield telemetry._provider
    finally:
        await asyncio.to_thread(telemetry.shutdown)


async def test_one_job_is_one_trace() -> None:
    async with receiving_otlp() as receiver:
        flags = ["--otlp-endpoint", receiver.endpoint]
        async with Stack(queen_flags=flags, pool_manager_flags=flags) as stack:
            async with (
                traced(receiver) as provider,
                BeeyardClient(stack.queen_address, tracer_provider=provider) as client,
            ):
                stream = client.infer(PROMPT, model="tiny", max_tokens=12, seed=7)
                text = await stream.text()
                started, ending, job = (
                    stream.started,
                    stream.ending,
                    await client.get(stream.job_id),
                )
            assert job.trace_id == stream.trace_id
            await receiver.wait_for(
                lambda r: sum(s.trace_id == stream.trace_id for s in r.spans) >= SPANS, 20
            )
            worker_id = stack.worker_id
        # Every process has ended and sent all that it had.
        (tree,) = receiver.tree(stream.trace_id)
        assert shape(tree) == WHOLE
        assert isinstance(started, Started)
        assert isinstance(ending, Finished)
        spans = {s.name: s for s in receiver.spans if s.trace_id == stream.trace_id}
        _check_services(spans)
        _check_attributes(spans, started, worker_id)
        _check_order(spans)
        _check_silence(receiver.spans, text)


async def test_over_http_the_trace_of_the_client_goes_on_through_the_gateway() -> None:
    trace_id, parent_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with receiving_otlp() as receiver:
        flags = ["--otlp-endpoint", receiver.endpoint]
        async with (
            Stack(queen_flags=flags, pool_manager_flags=flags) as stack,
            gateway_process(stack, *flags, "--log-level", "debug") as gateway,
            httpx.AsyncClient(base_url=f"http://{gateway.address}", trust_env=False) as client,
        ):
            asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 7}
            answer = await client.post(
                "/v1/completions",
                json=asked,
                headers={"traceparent": f"00-{trace_id}-{parent_id}-01", "X-Correlation-Id": "c-7"},
            )
            figures = (await client.get("/metrics")).text
            log = (stack.folder / "gateway.log").read_text(encoding="utf-8")
        told = answer.json()
        assert "request_done" in log
        for where in (log, figures):
            assert PROMPT not in where
            assert told["choices"][0]["text"].strip() not in where
        (tree,) = receiver.tree(trace_id)
        assert shape(tree) == ("POST /v1/completions", WHOLE)
        spans = {s.name: s for s in receiver.spans if s.trace_id == trace_id}
        assert spans["infer"].service == spans["POST /v1/completions"].service == "beeyard.gateway"
        request = spans["POST /v1/completions"].attributes
        assert request[semconv.HTTP_ROUTE] == "/v1/completions"
        assert (request[semconv.HTTP_STATUS], request[semconv.CORRELATION_ID]) == (200, "c-7")
        assert spans["infer"].attributes[semconv.GEN_AI_OUTPUT_TOKENS] == 12
        job_id = answer.headers["x-beeyard-job-id"]
        assert spans["infer"].attributes[semconv.JOB_ID] == job_id
        _check_silence(receiver.spans, told["choices"][0]["text"])


async def test_a_second_attempt_stands_beside_the_first() -> None:
    async with receiving_otlp() as receiver:
        flags = ["--otlp-endpoint", receiver.endpoint]
        models = {"tiny": "synthetic:100"}
        async with (
            Stack(models=models, workers=2, queen_flags=flags, pool_manager_flags=flags) as stack,
            traced(receiver) as provider,
            BeeyardClient(stack.queen_address, tracer_provider=provider) as client,
        ):
            stream = client.infer(PROMPT, model="tiny", max_tokens=60, seed=7)
            async for event in stream:
                if isinstance(event, Tokens) and event.first_index == 0:
                    assert stream.started is not None
                    await kill_worker(stack, stream.started.worker_id)
        (tree,) = receiver.tree(stream.trace_id)
        (server,) = tree.children
        names = Counter(child.span.name for child in server.children)
        assert names == {"admission": 1, "queue.wait": 2, "policy.decide": 2, "lease": 2}
        first, second = (child for child in server.children if child.span.name == "lease")
        assert [lease.span.attributes[semconv.ATTEMPT] for lease in (first, second)] == [1, 2]
        epochs = [int(str(lease.span.attributes[semconv.LEASE_EPOCH])) for lease in (first, second)]
        assert epochs[0] < epochs[1]
        assert [lease.span.failed for lease in (first, second)] == [True, False]
        # Of the worker that was killed, what it had not sent yet is lost.
        assert {child.span.name for child in first.children} <= {"prefill"}
        assert shape(second) == ATTEMPT[0]


def _check_services(spans: dict[str, ReceivedSpan]) -> None:
    services = {name: span.service for name, span in spans.items()}
    assert services.pop("infer") == "beeyard.test"
    assert services.pop("prefill") == services.pop("decode") == "beeyard.worker"
    assert set(services.values()) == {"beeyard.queen"}
    assert not any(span.failed for span in spans.values())


def _check_attributes(spans: dict[str, ReceivedSpan], started: Started, worker_id: str) -> None:
    lease = spans["lease"].attributes
    assert lease[semconv.LEASE_EPOCH] == 1
    assert lease[semconv.ATTEMPT] == 1
    assert lease[semconv.WORKER_ID] == worker_id == started.worker_id
    assert spans["policy.decide"].attributes[semconv.POLICY_VERSION] == started.policy_version
    assert spans["placement"].attributes[semconv.WORKER_ID] == worker_id
    assert spans["admission"].attributes[semconv.JOB_ID] == started.job_id
    decode = spans["decode"].attributes
    assert decode[semconv.GEN_AI_OUTPUT_TOKENS] == 12
    for name in ("prefill", "decode"):
        attributes = spans[name].attributes
        assert attributes[semconv.LEASE_EPOCH] == 1, attributes
        assert attributes[semconv.ATTEMPT] == 1, attributes


def _check_order(spans: dict[str, ReceivedSpan]) -> None:
    """Phases follow each other; the queen's moments are whole milliseconds."""
    slack_ns = 2_000_000
    order = ["admission", "queue.wait", "policy.decide", "lease", "prefill", "decode"]
    starts = [spans[name].start_ns for name in order]
    assert all(a <= b + slack_ns for a, b in pairwise(starts)), starts
    assert all(span.start_ns <= span.end_ns for span in spans.values())
    assert spans["prefill"].end_ns <= spans["decode"].start_ns + slack_ns


def _check_silence(spans: list[ReceivedSpan], text: str) -> None:
    """No span of any trace says anything of the prompt or the answer."""
    assert len(text.split()) == 12
    told = " ".join(str(v) for s in spans for v in (s.name, *s.attributes.values()))
    assert PROMPT not in told
    assert "whispers" not in told
    assert " ".join(text.split()[:3]) not in told
