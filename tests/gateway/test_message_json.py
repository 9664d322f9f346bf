"""Messages as JSON and back: the names of the protos, plain numbers, and errors that name the field."""

import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard.queen.v1 import policy_service_pb2 as policy_pb
from beeyard_gateway.faults import Fault
from beeyard_gateway.message_json import from_json, to_json
from beeyard_gateway.openapi import document
from beeyard_gateway.routing import RouteRow
from google.protobuf.timestamp_pb2 import Timestamp


def test_a_message_is_told_under_the_names_of_the_protos() -> None:
    job = job_pb2.Job(
        job_id="j",
        priority=job_pb2.PRIORITY_BATCH,
        state=job_pb2.JOB_STATE_QUEUED,
        seed=4_294_967_295,
        create_time=Timestamp(seconds=1_700_000_000, nanos=5_000_000),
        labels={"a": "b"},
    )
    told = to_json(job)
    assert (told["priority"], told["state"], told["seed"]) == ("BATCH", "QUEUED", 4_294_967_295)
    assert told["create_time"] == "2023-11-14T22:13:20.005Z"
    assert told["labels"] == {"a": "b"}
    # What is not there is not told, and neither is an enum without a value.
    assert not {"end_time", "usage", "failure", "finish_reason"} & set(told)
    assert told["position"] == 0


def test_of_several_only_the_one_that_is_set_is_told() -> None:
    decision = policy_pb.Decision(wait=policy_pb.WaitIntent(reason="none fits"), applied=True)
    told = to_json(decision)
    assert told["wait"] == {"reason": "none fits", "retry_after_ms": 0}
    assert "dispatch" not in told


def test_what_is_told_can_be_sent() -> None:
    request = pb.InferRequest(
        prompt="bee",
        temperature=0.5,
        stop=["a", "b"],
        priority=job_pb2.PRIORITY_INTERACTIVE,
        labels={"a": "b"},
        requirements=job_pb2.Requirements(min_vram_bytes=1 << 40),
    )
    request.messages.add(role="user", content="hum")
    assert from_json(to_json(request), pb.InferRequest) == request


def test_unset_and_null_are_the_same_and_zero_is_not() -> None:
    assert not from_json({"temperature": None}, pb.InferRequest).HasField("temperature")
    assert from_json({"temperature": 0}, pb.InferRequest).HasField("temperature")


def test_priorities_have_their_aliases() -> None:
    for word in ("high", "INTERACTIVE", "Interactive", "PRIORITY_INTERACTIVE"):
        assert (
            from_json({"priority": word}, pb.InferRequest).priority == job_pb2.PRIORITY_INTERACTIVE
        )


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"bees": 1}, "bees"),
        ({"max_tokens": "4"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"seed": 10**400}, "seed"),
        ({"temperature": 10**400}, "temperature"),
        ({"prompt": 7}, "prompt"),
        ({"stop": "x"}, "stop"),
        ({"stop": ["x", None]}, "stop[1]"),
        ({"messages": [{"role": "user", "words": ""}]}, "messages[0].words"),
        ({"messages": ["hum"]}, "messages[0]"),
        ({"priority": "urgent"}, "priority"),
        ({"priority": 1}, "priority"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": []}, "labels"),
        ({"requirements": {"min_vram_bytes": -(2**70)}}, "requirements.min_vram_bytes"),
        ({"x" * 300: 1}, "x" * 77 + "..."),
    ],
)
def test_a_wrong_value_is_named(sent: object, field: str) -> None:
    with pytest.raises(Fault) as caught:
        from_json(sent, pb.InferRequest)
    assert (caught.value.reason, caught.value.field) == ("INVALID_REQUEST", field)


@pytest.mark.parametrize("sent", [None, 1, "bee", []])
def test_only_an_object_is_a_message(sent: object) -> None:
    with pytest.raises(Fault):
        from_json(sent, pb.InferRequest)


def test_only_one_of_several_can_be_given() -> None:
    sent = {"synthetic": {"jobs": 1}, "trace": ""}
    with pytest.raises(Fault, match="only one of synthetic, trace"):
        from_json(sent, policy_pb.SimulatePolicyRequest)


def test_bytes_are_base64() -> None:
    sent = from_json({"trace": "YmVl"}, policy_pb.SimulatePolicyRequest)
    assert sent.trace == b"bee"
    with pytest.raises(Fault):
        from_json({"trace": "bee!"}, policy_pb.SimulatePolicyRequest)


def test_every_field_of_a_message_is_described() -> None:
    async def answer(exchange: object) -> None: ...

    row = RouteRow(method="POST", path="/x", answer=answer, summary="s", body=pb.SubmitJobRequest)
    schemas = document([row], "1")["components"]["schemas"]
    fields = {field.name for field in pb.SubmitJobRequest.DESCRIPTOR.fields}
    assert set(schemas["SubmitJobRequest"]["properties"]) == fields
    assert schemas["SubmitJobRequest"]["properties"]["priority"]["enum"][0] == "INTERACTIVE"
