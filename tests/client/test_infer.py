"""Following one job: the events, the text, the end."""

import asyncio

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2, job_pb2
from beeyard_client import (
    BeeyardClient,
    BeeyardError,
    Cancelled,
    Event,
    Failed,
    Finished,
    FinishReason,
    JobCancelledError,
    JobFailedError,
    Message,
    Placement,
    Progress,
    Queued,
    Requirements,
    Started,
    Tokens,
    limits,
)

from tests.support import scripted_queen as say
from tests.support.eventually import eventually
from tests.support.scripted_queen import Hang, Refuse, ScriptedQueen, Until


async def test_events_come_in_order_and_as_values(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append(
        [
            say.queued(2),
            say.progress("loading_model", 0.5, "half"),
            say.started(),
            say.tokens(0, "The", " bee"),
            say.tokens(2, "."),
            say.finished(),
        ]
    )
    stream = client.infer("hello")
    events: list[Event] = [event async for event in stream]
    kinds = [type(event) for event in events]
    assert kinds == [Queued, Progress, Started, Tokens, Tokens, Finished]
    assert stream.job_id == say.JOB_ID
    assert stream.text_so_far == "The bee."
    assert stream.token_ids == (0, 1, 2)
    assert isinstance(stream.ending, Finished)
    assert stream.ending.reason is FinishReason.LENGTH


async def test_text_is_the_whole_text_even_after_some_events_were_read(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "a"), say.tokens(1, "b"), say.finished()])
    stream = client.infer("hello")
    async for event in stream:
        if isinstance(event, Tokens):
            break
    assert await stream.text() == "ab"


async def test_every_option_reaches_the_queen(queen: ScriptedQueen, client: BeeyardClient) -> None:
    queen.infer.append([say.queued(), say.finished()])
    await client.infer(
        messages=[Message("user", "hello")],
        model="tiny",
        max_tokens=9,
        seed=7,
        temperature=0.0,
        top_p=0.5,
        top_k=0,
        stop=["END"],
        priority="high",
        tenant_id="t",
        session_id="s",
        deadline_ms=5_000,
        engine="synthetic",
        requirements=Requirements(min_vram_bytes=1, quantizations=["Q4_K_M"]),
        placement=Placement(pin_pool_id="p"),
        labels={"a": "b"},
        max_attempts=2,
    ).text()
    (asked,) = queen.asked
    assert isinstance(asked, inference_service_pb2.InferRequest)
    assert asked.messages[0].content == "hello"
    assert (asked.model, asked.max_tokens, asked.seed) == ("tiny", 9, 7)
    assert asked.HasField("temperature")
    assert asked.HasField("top_k")
    assert asked.priority == job_pb2.PRIORITY_INTERACTIVE
    assert asked.requirements.quantizations == ["Q4_K_M"]
    assert asked.placement.pin_pool_id == "p"
    assert asked.labels == {"a": "b"}
    assert len(asked.request_id) == 32


async def test_what_is_left_out_stays_unset(queen: ScriptedQueen, client: BeeyardClient) -> None:
    queen.infer.append([say.queued(), say.finished()])
    await client.infer("hello").text()
    (asked,) = queen.asked
    assert {one.name for one, _ in asked.ListFields()} == {"request_id", "prompt"}


async def test_a_failed_job_is_an_event_and_an_error_of_text(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.extend([[say.queued(), say.failed()]] * 2)
    events = [event async for event in client.infer("hello")]
    assert isinstance(events[-1], Failed)
    with pytest.raises(JobFailedError) as caught:
        await client.infer("hello").text()
    assert caught.value.reason == "ATTEMPTS_EXHAUSTED"
    assert caught.value.retriable
    assert caught.value.retry_after_ms == 500
    assert caught.value.job_id == say.JOB_ID


async def test_a_cancelled_job_has_no_text(queen: ScriptedQueen, client: BeeyardClient) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "a"), say.cancelled()])
    stream = client.infer("hello")
    with pytest.raises(JobCancelledError):
        await stream.text()
    assert isinstance(stream.ending, Cancelled)


async def test_a_refusal_says_reason_field_pause_and_metadata(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    refuse = Refuse(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL_REJECT",
        "the queue is full",
        retry_after_ms=1_500,
        field="priority",
        metadata={"policy_label": "first"},
    )
    queen.infer.append([refuse])
    with pytest.raises(BeeyardError) as caught:
        await client.infer("hello").text()
    error = caught.value
    assert error.reason == "QUEUE_FULL_REJECT"
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.message == "the queue is full"
    assert error.retry_after_ms == 1_500
    assert error.field == "priority"
    assert error.metadata == {"policy_label": "first"}


async def test_a_refused_submission_is_not_tried_again(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append([Refuse(grpc.StatusCode.UNAVAILABLE, "NO_WORKERS_AVAILABLE", "none")])
    with pytest.raises(BeeyardError, match="NO_WORKERS_AVAILABLE"):
        await client.infer("hello").text()
    assert len(queen.asked) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": 1 << 31}, "max_tokens"),
        ({"seed": 1 << 63}, "seed"),
        ({"deadline_ms": -(1 << 64)}, "deadline_ms"),
        ({"model": "\udcff"}, "model"),
        ({"priority": "urgent"}, "priority"),
        ({"messages": [Message("user", "x")]}, "prompt"),
        ({"stop": ["\udcff"]}, ""),
    ],
)
async def test_what_no_message_can_carry_is_an_invalid_request(
    client: BeeyardClient, options: dict[str, object], field: str
) -> None:
    with pytest.raises(BeeyardError) as caught:
        client.infer("hello", **options)  # type: ignore[arg-type]
    assert caught.value.reason == "INVALID_REQUEST"
    assert caught.value.field == field


async def test_neither_prompt_nor_messages_is_an_invalid_request(client: BeeyardClient) -> None:
    with pytest.raises(BeeyardError, match="INVALID_REQUEST"):
        await client.submit()


async def test_cancel_names_the_job_that_runs(queen: ScriptedQueen, client: BeeyardClient) -> None:
    queen.infer.append([say.queued(), Hang()])
    async with client.infer("hello") as stream:
        await anext(aiter(stream))
        job = await stream.cancel()
    assert job.state == "CANCELLED"
    assert queen.kinds_asked() == ["InferRequest", "CancelJobRequest"]


async def test_cancel_before_the_first_event_finds_the_job_by_its_request_id(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    stream = client.infer("hello", seed=3)
    job = await stream.cancel()
    await stream.aclose()
    assert job.job_id == say.JOB_ID
    submit, _cancel = queen.asked
    assert isinstance(submit, inference_service_pb2.SubmitJobRequest)
    assert submit.request_id == stream.request_id
    assert submit.seed == 3


async def test_an_event_that_this_client_does_not_know_is_passed_over(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append([say.queued(), job_pb2.JobEvent(job_id=say.JOB_ID), say.finished()])
    events = [event async for event in client.infer("hello")]
    assert [type(event) for event in events] == [Queued, Finished]


async def test_a_call_that_has_told_everything_is_left_to_its_queen_to_end(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    # One that is cut in that moment costs a queen memory for good.
    ended = asyncio.Event()
    queen.infer.append([say.queued(), say.tokens(0, "a"), say.finished(), Until(ended)])
    stream = client.infer("hello")
    text = asyncio.create_task(stream.text())
    await eventually(lambda: stream.ending is not None, "the last event is there")
    assert not text.done()
    ended.set()
    assert await text == "a"


async def test_a_call_is_cut_when_its_caller_is_cancelled_while_the_queen_ends_it(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    hang = Hang()
    queen.infer.append([say.queued(), say.finished(), hang])
    stream = client.infer("hello")
    text = asyncio.create_task(stream.text())
    await eventually(lambda: stream.ending is not None, "the last event is there")
    text.cancel()
    await eventually(hang.left.is_set, "the queen sees that the call was cut")


async def test_a_call_that_its_queen_does_not_end_is_cut(
    queen: ScriptedQueen, client: BeeyardClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_END_MS", 1)
    queen.infer.append([say.queued(), say.tokens(0, "a"), say.finished(), Hang()])
    assert await client.infer("hello").text() == "a"


async def test_closing_the_client_ends_an_open_stream(queen: ScriptedQueen, address: str) -> None:
    queen.infer.append([say.queued(), Hang()])
    async with BeeyardClient(address) as client:
        stream = client.infer("hello")
        await anext(aiter(stream))
    with pytest.raises(BeeyardError):
        await stream.text()


async def test_a_client_outside_its_block_says_so(address: str) -> None:
    with pytest.raises(BeeyardError, match="async with"):
        await BeeyardClient(address).models()
