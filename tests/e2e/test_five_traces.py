"""What becomes of jobs that come by HTTP, each story as the whole tree of its trace, under an operator's own policy.

Done, refused, cancelled, preempted, and begun again after the death of the worker: the stories share one stack whose
workers have one slot each, so that it is known who must make way for whom. The trees are read when every process has
ended and sent all that it had.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from beeyard_client import BeeyardClient
from beeyard_queen.policy.in_process import PLATFORM_LABEL
from beeyard_runtime import semconv

from tests.support.gateway_process import gateway_process
from tests.support.killing import kill_worker
from tests.support.otlp import ATTEMPT, OtlpReceiver, ReceivedSpan, SpanTree, receiving_otlp
from tests.support.running_gateway import sent_events
from tests.support.stack import Stack

POLICY = "function schedule(context) return platform.schedule(context) end"
MINE = "mine@1"
ROUTE, SERVER = "POST /v1/completions", "beeyard.queen.v1.InferenceService/Infer"
#: What the client had open when it asked.
PARENT = "00f067aa0ba902b7"
DONE, REFUSED, CANCELLED, PREEMPTED, URGENT, RETRIED = (f"{n:032x}" for n in range(1, 7))
MODELS = {"tiny": "synthetic:100", "mortal": "synthetic:100"}
#: Tokens: seconds of them, so that a busy machine, too, gets between the first and the last.
LONG = 250

OnFirstToken = Callable[[dict[str, Any]], Awaitable[object]]


class Storyteller:
    """Asks for jobs over HTTP, each in a trace of its own."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(
        self,
        trace_id: str,
        on_first_token: OnFirstToken | None = None,
        *,
        model: str = "tiny",
        max_tokens: int = 12,
        priority: str = "normal",
    ) -> str:
        """Follow a job to its end; `on_first_token` is told the job meanwhile. Return the last line, or the refusal."""
        body = {"model": model, "prompt": "The bee", "max_tokens": max_tokens, "stream": True}
        headers = {
            "traceparent": f"00-{trace_id}-{PARENT}-01",
            "X-Beeyard-Priority": priority,
            "X-Correlation-Id": f"story-{trace_id[-1]}",
        }
        last = ""
        async with self._http.stream(
            "POST", "/v1/completions", json=body, headers=headers
        ) as answer:
            if answer.is_error:
                return (await answer.aread()).decode()
            async for event in sent_events(answer):
                last = event.data
                if event.id and on_first_token is not None:
                    job = f"/v2/jobs/{answer.headers['x-beeyard-job-id']}"
                    await on_first_token((await self._http.get(job)).json())
                    on_first_token = None
        return last

    async def tell_all_on_one_worker(self) -> None:
        """Let one job end well, and others be refused, cancelled and preempted."""
        assert await self.ask(DONE) == "[DONE]"
        assert "MODEL_NOT_FOUND" in await self.ask(REFUSED, model="nobody-has-it")

        async def cancel(job: dict[str, Any]) -> None:
            (await self._http.post(f"/v2/jobs/{job['job_id']}/cancel")).raise_for_status()

        assert "CANCELLED" in await self.ask(CANCELLED, cancel, max_tokens=LONG)

        async def come_first(_: dict[str, Any]) -> None:
            assert await self.ask(URGENT, priority="interactive") == "[DONE]"

        assert await self.ask(PREEMPTED, come_first, max_tokens=LONG, priority="batch") == "[DONE]"


async def test_every_story_of_a_job_over_http_is_one_whole_tree() -> None:
    async with receiving_otlp() as receiver:
        flags = ["--otlp-endpoint", receiver.endpoint]
        async with (
            Stack(
                models=MODELS, queen_flags=flags, pool_manager_flags=[*flags, "--slots", "1"]
            ) as stack,
            gateway_process(stack, *flags) as gateway,
            BeeyardClient(stack.queen_address) as client,
            httpx.AsyncClient(
                base_url=f"http://{gateway.address}", trust_env=False, timeout=60
            ) as http,
        ):
            assert (await client.deploy_policy(POLICY, name="mine")).label == MINE
            teller = Storyteller(http)

            async def kill(job: dict[str, Any]) -> None:
                await kill_worker(stack, job["worker_id"])

            _, ending = await asyncio.gather(
                teller.tell_all_on_one_worker(),
                teller.ask(RETRIED, kill, model="mortal", max_tokens=LONG),
            )
            assert ending == "[DONE]"
    # Every process has ended and sent all that it had.
    _check_done(_tree(receiver, DONE))
    _check_refused(_tree(receiver, REFUSED))
    _check_cancelled(_tree(receiver, CANCELLED))
    _check_done(_tree(receiver, URGENT))
    _check_preempted(_tree(receiver, PREEMPTED))
    _check_retried(_tree(receiver, RETRIED))
    # On a busy machine an answer may be late, and the platform policy decides in its place; not every time.
    decided = [span.attributes for span in receiver.named("policy.decide")]
    deciders = {attributes[semconv.POLICY_VERSION] for attributes in decided}
    assert MINE in deciders
    assert deciders <= {MINE, PLATFORM_LABEL}
    for attributes in decided:
        name = attributes[semconv.POLICY_NAME]
        assert str(attributes[semconv.POLICY_VERSION]).startswith(f"{name}@")
        assert "open)" in str(attributes[semconv.POLICY_REASON])
        if name != "mine":
            assert attributes[semconv.POLICY_IS_FALLBACK]


def _tree(receiver: OtlpReceiver, trace_id: str) -> SpanTree:
    """Return the trace of a story, which goes on with what its client had open."""
    (tree,) = receiver.tree(trace_id)
    assert tree.span.parent_id == PARENT
    request = tree.span.attributes
    assert request[semconv.HTTP_ROUTE] == "/v1/completions"
    assert request[semconv.CORRELATION_ID] == f"story-{trace_id[-1]}"
    services = {span.name: span.service.removeprefix("beeyard.") for span in tree.spans()}
    assert services.pop(ROUTE) == services.pop("infer") == "gateway"
    assert {services.pop("prefill", "worker"), services.pop("decode", "worker")} == {"worker"}
    assert set(services.values()) == {"queen"}
    return tree


def _whole(*of_the_queen: object) -> tuple[object, ...]:
    return (ROUTE, ("infer", (SERVER, ("admission",), *sorted(of_the_queen, key=str))))


def _check_done(tree: SpanTree) -> None:
    assert tree.shape() == _whole(*ATTEMPT)
    _check_that_nothing_failed(tree)
    assert tree.span.attributes[semconv.HTTP_STATUS] == 200
    (infer,) = tree.named("infer")
    assert infer.attributes[semconv.GEN_AI_OUTPUT_TOKENS] == 12
    _check_attempts(tree)


def _check_refused(tree: SpanTree) -> None:
    assert tree.shape() == _whole()
    assert tree.span.attributes[semconv.HTTP_STATUS] == 404
    (infer,), (server,), (admission,) = (
        tree.named("infer"),
        tree.named(SERVER),
        tree.named("admission"),
    )
    assert (infer.failed, infer.attributes[semconv.ERROR_TYPE]) == (True, "MODEL_NOT_FOUND")
    assert server.attributes[semconv.RPC_STATUS] == "NOT_FOUND"
    assert admission.attributes == {semconv.REFUSAL_REASON: "MODEL_NOT_FOUND"}


def _check_cancelled(tree: SpanTree) -> None:
    assert tree.shape() == _whole(*ATTEMPT)
    (infer,), (decode,), (lease,) = tree.named("infer"), tree.named("decode"), tree.named("lease")
    # Who asked for it got it: nothing went wrong, wherever one looks.
    _check_that_nothing_failed(tree)
    for span in (infer, lease, decode):
        assert semconv.EVENT_CANCELLED in span.events, span
    assert semconv.GEN_AI_OUTPUT_TOKENS not in decode.attributes
    _check_attempts(tree)


def _check_preempted(tree: SpanTree) -> None:
    assert tree.shape() == _whole(*ATTEMPT, *ATTEMPT)
    first, second = _check_attempts(tree)
    assert first.attributes[semconv.WORKER_ID] == second.attributes[semconv.WORKER_ID]
    _check_that_nothing_failed(tree)
    assert semconv.EVENT_PREEMPTED in first.events
    assert semconv.EVENT_PREEMPTED not in second.events
    stopped, finished = tree.named("decode")
    assert semconv.EVENT_CANCELLED in stopped.events
    assert finished.attributes[semconv.GEN_AI_OUTPUT_TOKENS] == LONG


def _check_that_nothing_failed(tree: SpanTree) -> None:
    for span in tree.spans():
        assert not span.failed, span
        assert semconv.ERROR_TYPE not in span.attributes, span


def _check_retried(tree: SpanTree) -> None:
    (server,) = (child for infer in tree.children for child in infer.children)
    leases = [child for child in server.children if child.span.name == "lease"]
    # Of the worker that was killed, what it had not sent yet is lost.
    lost = ("lease", *(("prefill",) for _ in leases[0].children))
    assert len(lost) <= 2
    assert tree.shape() == _whole(lost, *ATTEMPT[1:], *ATTEMPT)
    first, second = _check_attempts(tree)
    assert (first.failed, second.failed) == (True, False)
    assert first.attributes[semconv.ERROR_TYPE] in {"WORKER_RESET", "WORKER_COMMUNICATION_FAILED"}
    assert first.attributes[semconv.WORKER_ID] != second.attributes[semconv.WORKER_ID]


def _check_attempts(tree: SpanTree) -> list[ReceivedSpan]:
    """Hold what is told of each attempt against its lease; return the leases, first attempt first."""
    leases = sorted(tree.named("lease"), key=lambda span: _number(span, semconv.LEASE_EPOCH))
    assert [span.attributes[semconv.ATTEMPT] for span in leases] == [*range(1, len(leases) + 1)]
    assert len({span.attributes[semconv.LEASE_EPOCH] for span in leases}) == len(leases)
    by_attempt = {_number(span, semconv.ATTEMPT): span.attributes for span in leases}
    for span in (*tree.named("placement"), *tree.named("prefill"), *tree.named("decode")):
        lease = by_attempt[_number(span, semconv.ATTEMPT)]
        told = [semconv.WORKER_ID]
        if span.name != "placement":
            told += [semconv.LEASE_EPOCH, semconv.LEASE_ID, semconv.GEN_AI_REQUEST_MODEL]
        assert {key: span.attributes[key] for key in told} == {key: lease[key] for key in told}
    jobs = {span.attributes[semconv.JOB_ID] for span in tree.named("infer")}
    assert jobs == {span.attributes[semconv.JOB_ID] for span in tree.named("admission")}
    return leases


def _number(span: ReceivedSpan, key: str) -> int:
    return int(str(span.attributes[key]))
