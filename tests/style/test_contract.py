"""Promises of the protos that buf does not know."""

import re
import tomllib

from beeyard.queen.v1 import inference_service_pb2 as pb
from google.protobuf.descriptor import FieldDescriptor

from tests.style import repository


def shape(field: FieldDescriptor) -> tuple[str, int, int, str, bool, bool]:
    """Return everything of a field that a client can see."""
    named = field.message_type or field.enum_type
    kind = named.full_name.removeprefix("beeyard.queen.v1.InferRequest.") if named else ""
    kind = kind.removeprefix("beeyard.queen.v1.SubmitJobRequest.")
    return (field.name, field.number, field.type, kind, field.is_repeated, field.has_presence)


def test_infer_and_submit_take_the_same_request() -> None:
    infer = [shape(field) for field in pb.InferRequest.DESCRIPTOR.fields]
    submit = [shape(field) for field in pb.SubmitJobRequest.DESCRIPTOR.fields]
    assert infer == submit


def test_every_proto_opens_with_its_purpose() -> None:
    silent = [
        name
        for name in repository.files()
        if name.endswith(".proto") and not repository.text_of(name).startswith("// ")
    ]
    assert not silent


def test_lower_bounds_are_not_below_what_the_generated_code_accepts() -> None:
    project = tomllib.loads(repository.text_of("pyproject.toml"))["project"]
    bounds = dict(re.findall(r"(grpcio|protobuf)>=([\d.]+)", " ".join(project["dependencies"])))
    stub = repository.text_of("clients/python/gen/beeyard/queen/v1/policy_service_pb2_grpc.py")
    types = repository.text_of("clients/python/gen/beeyard/queen/v1/job_pb2.py")
    numbers = re.findall(r"^    (\d+),$", types, re.MULTILINE)
    assert bounds == {
        "grpcio": re.findall(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub)[0],
        "protobuf": ".".join(numbers[:3]),
    }
