"""The way in: what a request becomes, and what a request id promises."""

import asyncio

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import generation_pb2
from beeyard_core import limits
from beeyard_core.job import Priority
from beeyard_queen.ingress.request import check_request, refuse_unknown_fields
from beeyard_queen.ingress.wire import digest_of, generate_request_of, spec_of
from beeyard_runtime.rpc_errors import RpcRefusal
from google.protobuf.message import Message

from tests.support.attached_worker import AttachedWorker
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import kinds, refusal

CONFLICT = (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT")


def ask(**changes: object) -> pb.SubmitJobRequest:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=2, seed=7)
    request.MergeFrom(pb.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return request


def test_both_requests_are_field_for_field_the_same() -> None:
    def fields(message: type[Message]) -> list[tuple[object, ...]]:
        return [(f.number, f.name, f.type, f.is_repeated) for f in message.DESCRIPTOR.fields]

    assert fields(pb.InferRequest) == fields(pb.SubmitJobRequest)
    infer = pb.InferRequest.FromString(ask().SerializeToString())
    assert digest_of(infer) == digest_of(ask())


def test_the_digest_is_of_everything_but_the_request_id() -> None:
    assert digest_of(ask(request_id="a")) == digest_of(ask(request_id="b"))
    assert digest_of(ask(max_tokens=3)) != digest_of(ask())
    assert digest_of(ask(labels={"a": "1", "b": "2"})) == digest_of(
        ask(labels={"b": "2", "a": "1"})
    )


def test_what_is_left_out_has_its_default() -> None:
    schema = check_request(pb.SubmitJobRequest(prompt="honey bee"), seed=42)
    spec = spec_of(schema)
    assert (spec.max_tokens, spec.max_attempts, spec.cost_units) == (256, 3, 1)
    assert (spec.priority, spec.tenant_id, spec.deadline_ms) == (Priority.NORMAL, "default", None)
    assert spec.prompt_tokens == 3
    generate = generate_request_of(schema)
    assert (generate.temperature, generate.top_p, generate.top_k) == (0.8, 0.95, 40)
    assert (generate.seed, generate.max_tokens) == (42, 256)


def test_a_zero_that_was_given_is_no_default() -> None:
    request = pb.SubmitJobRequest(prompt="bee", temperature=0.0, top_k=0, seed=0)
    schema = check_request(request, seed=42)
    assert (schema.temperature, schema.top_k, schema.seed) == (0.0, 0, 0)


def test_a_conversation_reaches_the_worker_as_it_is() -> None:
    turns = [
        generation_pb2.ChatMessage(role="system", content="You are a bee."),
        generation_pb2.ChatMessage(role="user", content="Hum."),
    ]
    schema = check_request(pb.SubmitJobRequest(messages=turns), seed=1)
    assert list(generate_request_of(schema).messages) == turns


def test_a_refusal_never_quotes_the_client() -> None:
    secret = "the honey is under the oak"
    with pytest.raises(RpcRefusal) as refused:
        check_request(pb.SubmitJobRequest(prompt=secret, engine=secret), seed=1)
    assert refused.value.refused.field == "engine"
    assert secret not in refused.value.refused.message


def test_a_field_of_the_future_is_named_by_its_number() -> None:
    request = pb.SubmitJobRequest.FromString(ask().SerializeToString() + bytes([0xC0, 0x3E, 1]))
    with pytest.raises(RpcRefusal) as refused:
        refuse_unknown_fields(request)
    assert refused.value.refused.field == "#1000"


async def test_the_same_request_id_is_the_same_job(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    first = await queen.inference.SubmitJob(ask(request_id="key"))
    again = await queen.inference.SubmitJob(ask(request_id="key"))
    assert again.job_id == first.job_id
    # Infer asks the same: it follows the job that is there.
    call = queen.inference.Infer(
        pb.InferRequest.FromString(ask(request_id="key").SerializeToString())
    )
    await worker.serve(await worker.offer(), " the", " bee")
    assert kinds([event async for event in call]) == ["queued", "started", "tokens", "finished"]
    assert len(worker.orders.offers) == 1


async def test_two_at_once_with_one_request_id_are_one_job(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    jobs = await asyncio.gather(
        *(queen.inference.SubmitJob(ask(request_id="key")) for _ in range(20))
    )
    assert len({job.job_id for job in jobs}) == 1


async def test_another_body_under_the_same_request_id_is_refused(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    await queen.inference.SubmitJob(ask(request_id="key"))
    told = await refusal(queen.inference.SubmitJob(ask(request_id="key", max_tokens=3)))
    assert (told.code, told.reason, told.field) == (*CONFLICT, "request_id")


async def test_tenants_do_not_share_request_ids(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    mine = await queen.inference.SubmitJob(ask(request_id="key", tenant_id="mine"))
    yours = await queen.inference.SubmitJob(ask(request_id="key", tenant_id="yours"))
    assert mine.job_id != yours.job_id


async def test_a_request_id_holds_when_its_job_has_left_memory(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    first = await queen.inference.SubmitJob(ask(request_id="key"))
    await worker.serve(await worker.offer(), " the", " bee")
    await worker.over(1)
    # A queen that starts later remembers only what has not ended.
    await queen.store.close()
    async with running_queen(queen.store) as later:
        assert not later.queen.loop.state.jobs
        again = await later.inference.SubmitJob(ask(request_id="key"))
        assert again.job_id == first.job_id
        assert again.state == job_pb2.JOB_STATE_COMPLETED
        told = await refusal(later.inference.SubmitJob(ask(request_id="key", max_tokens=3)))
        assert (told.code, told.reason) == CONFLICT
        infer = pb.InferRequest.FromString(ask(request_id="key").SerializeToString())
        events = [event async for event in later.inference.Infer(infer)]
        assert "".join(event.tokens.text for event in events) == " the bee"
    await queen.store.open()


async def test_a_full_inbox_turns_new_work_away_with_a_time_to_return(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    class Crowded:
        """As many events as the inbox holds."""

        def __len__(self) -> int:
            return limits.INBOX_EVENTS_MAX

    inbox = queen.queen.loop._inbox
    events, inbox.events = inbox.events, Crowded()  # type: ignore[assignment]
    # The writer is idle and does not look before somebody wakes it.
    told = await refusal(queen.inference.SubmitJob(ask()))
    inbox.events = events
    assert (told.code, told.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL_REJECT",
    )
    assert told.retry_after_ms == limits.RECONNECT_MAX_MS


async def test_a_job_without_a_model_gets_the_only_one(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    job = await queen.inference.SubmitJob(pb.SubmitJobRequest(prompt="bee"))
    assert job.model == "tiny"


async def test_without_any_worker_there_is_a_reason_and_a_time_to_return(
    queen: RunningQueen,
) -> None:
    told = await refusal(queen.inference.SubmitJob(ask()))
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKERS_AVAILABLE")
    assert told.retry_after_ms
    # Nothing is kept of what was refused.
    assert not queen.queen._actor.prompts._unsaved
    assert not queen.queen._feeds.by_job
