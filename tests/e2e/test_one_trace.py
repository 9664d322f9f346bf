"""A job of a program that traces its own part is one trace over all processes, silent on what was said in it."""

from itertools import pairwise

from beeyard_client import BeeyardClient
from beeyard_client.events import Finished, Started
from beeyard_runtime import semconv

from tests.support.otlp import ATTEMPT, ReceivedSpan, receiving_otlp, traced
from tests.support.stack import Stack

PROMPT = "The keeper whispers a secret"
WHOLE = ("infer", ("beeyard.queen.v1.InferenceService/Infer", ("admission",), *ATTEMPT))
SPANS = 9


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
        assert tree.shape() == WHOLE
        assert isinstance(started, Started)
        assert isinstance(ending, Finished)
        spans = {s.name: s for s in receiver.spans if s.trace_id == stream.trace_id}
        _check_services(spans)
        _check_attributes(spans, started, worker_id)
        _check_order(spans)
        _check_silence(receiver.spans, text)


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
