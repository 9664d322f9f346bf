"""A refusal crosses the wire whole: reason, field, delay and facts, in both directions."""

import grpc
import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as pb_grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.rpc_errors import CODES, STATUS_DETAILS_KEY, from_error, refuse, to_status
from beeyard_runtime.testing import serving
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships none

from tests.support.scripted import ENGINE_TO_SERVER, Context, scripted_engine

_DETAILS = {
    "google.rpc.ErrorInfo": error_details_pb2.ErrorInfo,
    "google.rpc.RetryInfo": error_details_pb2.RetryInfo,
    "google.rpc.BadRequest": error_details_pb2.BadRequest,
    "google.rpc.QuotaFailure": error_details_pb2.QuotaFailure,
}


async def _refused_by_server(refused: Refused) -> tuple[grpc.aio.AioRpcError, Refused]:
    async def get_status(request: pb.GetStatusRequest, context: Context) -> pb.EngineStatus:
        raise refuse(
            refused.reason,
            refused.message,
            field=refused.field,
            retry_after_ms=refused.retry_after_ms,
            metadata=refused.metadata,
        )

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest())
    return caught.value, from_error(caught.value)


def _bare(code: grpc.StatusCode, details: str | None = None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details, None)


@pytest.mark.parametrize("reason", list(Refusal), ids=lambda reason: reason.value)
def test_every_refusal_has_a_code_and_names_itself(reason: Refusal) -> None:
    status = to_status(Refused(reason=reason, message="no", metadata={"worker": "w1"}))
    assert status.code == CODES[reason].value[0] != 0
    found = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(found)
    assert (found.reason, found.domain, dict(found.metadata)) == (
        reason.value,
        "beeyard",
        {"worker": "w1"},
    )


@pytest.mark.parametrize("reason", list(Refusal), ids=lambda reason: reason.value)
def test_only_what_can_help_later_is_unavailable(reason: Refusal) -> None:
    if CODES[reason] is grpc.StatusCode.UNAVAILABLE:
        assert reason.is_transient


def test_the_details_are_those_of_the_contract() -> None:
    refused = Refused(
        reason=Refusal.QUEUE_FULL_REJECT,
        message="the queue is full",
        field="priority",
        retry_after_ms=1_500,
        metadata={"policy_label": "p1", "subject": "tenant-a"},
    )
    found = {}
    for detail in to_status(refused).details:
        message = _DETAILS[detail.TypeName()]()
        detail.Unpack(message)
        found[detail.TypeName().rpartition(".")[2]] = message
    assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1_500
    (violation,) = found["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("priority", "the queue is full")
    (quota,) = found["QuotaFailure"].violations
    assert (quota.subject, quota.description) == ("tenant-a", "the queue is full")


async def test_a_refusal_comes_back_as_it_was_sent() -> None:
    sent = Refused(
        reason=Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
        message="ask for less than 24 GiB",
        field="requirements.min_vram_bytes",
        retry_after_ms=0,
        metadata={"needed": "48", "best": "24"},
    )
    error, received = await _refused_by_server(sent)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "ask for less than 24 GiB"
    assert received == sent


async def test_the_largest_refusal_still_arrives_whole() -> None:
    _, received = await _refused_by_server(
        Refused(
            reason=Refusal.BUDGET_EXCEEDED,
            message="\N{HONEYBEE}" * limits.PROMPT_BYTES_MAX,
            field="f" * 100_000,
            retry_after_ms=1,
            metadata={f"{n:03}{'k' * 1_000}": "v" * 100_000 for n in range(100)},
        )
    )
    assert received.reason is Refusal.BUDGET_EXCEEDED
    assert received.message.endswith("\N{HONEYBEE}...")
    assert len(received.message.encode()) <= limits.ERROR_MESSAGE_BYTES_MAX
    assert received.retry_after_ms == 1
    assert len(received.metadata) == limits.ERROR_METADATA_ENTRIES_MAX


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, Refusal.WORKER_COMMUNICATION_FAILED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Refusal.DEADLINE_EXCEEDED),
        (grpc.StatusCode.UNKNOWN, Refusal.INTERNAL),
        (grpc.StatusCode.UNIMPLEMENTED, Refusal.INTERNAL),
    ],
)
def test_a_status_without_details_is_read_by_its_code(
    code: grpc.StatusCode, reason: Refusal
) -> None:
    assert from_error(_bare(code)) == Refused(reason=reason, message=code.name)
    assert from_error(_bare(code, "gone")).message == "gone"


def test_strange_details_are_no_reason() -> None:
    stranger = to_status(Refused(reason=Refusal.WORKER_BUSY, message="busy"))
    stranger.details[0].Pack(error_details_pb2.ErrorInfo(reason="WORKER_BUSY", domain="elsewhere"))
    newer = to_status(Refused(reason=Refusal.WORKER_BUSY, message="busy"))
    newer.details[0].Pack(error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="beeyard"))
    for raw in (stranger.SerializeToString(), newer.SerializeToString(), b"\xff\xff"):
        trailing = grpc.aio.Metadata((STATUS_DETAILS_KEY, raw))
        error = grpc.aio.AioRpcError(
            grpc.StatusCode.ABORTED, grpc.aio.Metadata(), trailing, "busy", None
        )
        assert from_error(error) == Refused(reason=Refusal.INTERNAL, message="busy")
