"""What a client may get wrong in a job, each answered with its code, its reason and the field at fault.

Infer and SubmitJob take the same request, so each case is tried on both.
"""

from dataclasses import dataclass

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.queen.v1.job_pb2 import Requirements
from beeyard_core import limits
from google.protobuf.message import Message

from tests.support.raw_calls import Outcome, call, outcome
from tests.support.reflection import ServedMethod
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
INFERENCE = "/beeyard.queen.v1.InferenceService"
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
RESTS = pb.InferRequest(model="tiny", prompt="bee", max_tokens=1)


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
        name: The mistake in words.
        change: What it changes in a request that is right.
        at: The fields that may be named; empty: none must be.
        answer: Code and reason.
        without_prompt: Whether it leaves the prompt out.
    """

    name: str
    change: dict[str, object]
    at: tuple[str, ...] = ()
    answer: tuple[grpc.StatusCode, str] = INVALID
    without_prompt: bool = False

    def request(self) -> pb.InferRequest:
        """Return the request with the mistake."""
        request = pb.InferRequest()
        request.CopyFrom(RESTS)
        if self.without_prompt:
            request.ClearField("prompt")
        request.MergeFrom(pb.InferRequest(**self.change))  # type: ignore[arg-type]  # a table of any field
        return request


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": "bee"} for role in roles]


LONG_ID = "x" * (limits.ID_BYTES_MAX + 1)
CASES = [
    Case("no prompt", {}, ("prompt",), without_prompt=True),
    Case("prompt and messages", {"messages": turns("user")}, ("prompt", "messages")),
    Case("prompt too long", {"prompt": "b" * (limits.PROMPT_BYTES_MAX + 1)}, ("prompt",)),
    Case(
        "prompt too long in bytes",
        {"prompt": "é" * (limits.PROMPT_BYTES_MAX // 2 + 1)},
        ("prompt",),
    ),
    Case(
        "messages too long",
        {"messages": [{"role": "user", "content": "b" * (limits.PROMPT_BYTES_MAX + 1)}]},
        ("messages",),
        without_prompt=True,
    ),
    Case(
        "too many messages",
        {"messages": turns("user") * (limits.MESSAGES_MAX + 1)},
        ("messages",),
        without_prompt=True,
    ),
    Case("bad role", {"messages": turns("robot")}, ("messages[0].role",), without_prompt=True),
    Case(
        "bad role later",
        {"messages": turns("user", "")},
        ("messages[1].role",),
        without_prompt=True,
    ),
    Case("negative max_tokens", {"max_tokens": -1}, ("max_tokens",)),
    Case("absurd max_tokens", {"max_tokens": 2**31 - 1}, ("max_tokens",)),
    Case("max_tokens by one", {"max_tokens": limits.MAX_TOKENS_LIMIT + 1}, ("max_tokens",)),
    Case("negative temperature", {"temperature": -0.1}, ("temperature",)),
    Case("absurd temperature", {"temperature": 2.1}, ("temperature",)),
    Case("temperature is no number", {"temperature": float("nan")}, ("temperature",)),
    Case("temperature is infinite", {"temperature": float("inf")}, ("temperature",)),
    Case("top_p of zero", {"top_p": 0.0}, ("top_p",)),
    Case("top_p above one", {"top_p": 1.01}, ("top_p",)),
    Case("top_p is no number", {"top_p": float("nan")}, ("top_p",)),
    Case("negative top_k", {"top_k": -1}, ("top_k",)),
    Case("absurd top_k", {"top_k": limits.TOP_K_MAX + 1}, ("top_k",)),
    Case("negative seed", {"seed": -1}, ("seed",)),
    Case("absurd seed", {"seed": limits.SEED_MAX + 1}, ("seed",)),
    Case("17 stops", {"stop": ["x"] * (limits.STOP_COUNT_MAX + 1)}, ("stop",)),
    Case("long stop", {"stop": ["a", "x" * (limits.STOP_BYTES_MAX + 1)]}, ("stop",)),
    Case("empty stop", {"stop": [""]}, ("stop",)),
    Case("negative deadline", {"deadline_ms": -1}, ("deadline_ms",)),
    Case("absurd deadline", {"deadline_ms": limits.DEADLINE_MS_MAX + 1}, ("deadline_ms",)),
    Case("negative attempts", {"max_attempts": -1}, ("max_attempts",)),
    Case("absurd attempts", {"max_attempts": limits.ATTEMPTS_MAX + 1}, ("max_attempts",)),
    Case("negative cost", {"cost_units": -1}, ("cost_units",)),
    Case("absurd cost", {"cost_units": limits.COST_UNITS_MAX + 1}, ("cost_units",)),
    Case("long request_id", {"request_id": LONG_ID}, ("request_id",)),
    Case("long tenant_id", {"tenant_id": LONG_ID}, ("tenant_id",)),
    Case("long session_id", {"session_id": LONG_ID}, ("session_id",)),
    Case("long model", {"model": LONG_ID}, ("model",)),
    Case("unknown priority", {"priority": 99}, ("priority",)),
    Case("unknown engine", {"engine": "steam"}, ("engine",)),
    Case(
        "33 labels",
        {"labels": {str(number): "x" for number in range(limits.LABEL_COUNT_MAX + 1)}},
        ("labels",),
    ),
    Case("long label", {"labels": {"a": "x" * (limits.LABEL_BYTES_MAX + 1)}}, ("labels",)),
    Case("long label key", {"labels": {"x" * (limits.LABEL_BYTES_MAX + 1): "a"}}, ("labels",)),
    Case(
        "negative VRAM",
        {"requirements": {"min_vram_bytes": -1}},
        ("requirements.min_vram_bytes",),
    ),
    Case(
        "negative context",
        {"requirements": {"min_context_tokens": -1}},
        ("requirements.min_context_tokens",),
    ),
    Case(
        "compute capability is no version",
        {"requirements": {"min_compute_capability": "new"}},
        ("requirements.min_compute_capability",),
    ),
    Case(
        "extension is no word",
        {"requirements": {"extensions": ["lora", "two words"]}},
        ("requirements.extensions",),
    ),
    Case(
        "no such extension",
        {"requirements": {"extensions": ["telepathy"]}},
        answer=(grpc.StatusCode.FAILED_PRECONDITION, "NO_CAPACITY_INCOMPATIBLE_ENGINE"),
    ),
    Case(
        "unknown model",
        {"model": "no-such-model"},
        ("model",),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ),
    Case(
        "no such VRAM",
        {"requirements": {"min_vram_bytes": 2**60}},
        answer=(grpc.StatusCode.FAILED_PRECONDITION, "NO_CAPACITY_INCOMPATIBLE_VRAM"),
    ),
]

INFER = ServedMethod(f"{INFERENCE}/Infer", pb.InferRequest, takes_stream=False, gives_stream=True)
SUBMIT = ServedMethod(
    f"{INFERENCE}/SubmitJob", pb.SubmitJobRequest, takes_stream=False, gives_stream=False
)
LIST = ServedMethod(
    f"{INFERENCE}/ListJobs", pb.ListJobsRequest, takes_stream=False, gives_stream=False
)
BOTH = pytest.mark.parametrize("method", [INFER, SUBMIT], ids=["Infer", "SubmitJob"])


async def ask(stack: Stack, method: ServedMethod, request: bytes) -> Outcome:
    return await call(stack.channel(stack.queen_address), method, request)


def assert_invalid(told: Outcome, *at: str) -> None:
    assert (told.code, told.reason, told.domain) == (*INVALID, "beeyard"), told
    assert not at or is_at(told.field, at), told


def is_at(field: str, at: tuple[str, ...]) -> bool:
    """Whether the named field is one of these or lies inside one, as `stop[1]` in `stop`."""
    return any(field == name or field.startswith((f"{name}.", f"{name}[")) for name in at)


@BOTH
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
async def test_a_mistake_is_named(stack: Stack, method: ServedMethod, case: Case) -> None:
    told = await ask(stack, method, case.request().SerializeToString())
    assert (told.code, told.reason, told.domain) == (*case.answer, "beeyard"), told
    assert not case.at or is_at(told.field, case.at), told
    assert told.message, told


@BOTH
async def test_a_field_that_nobody_knows_is_refused(stack: Stack, method: ServedMethod) -> None:
    for name, unknown in {
        "at the top": bytes([0xC0, 0x3E, 1]),  # field 1000, a varint
        "nested": bytes([0x82, 0x01, 3, 0xC0, 0x3E, 1]),  # the same inside field 16, requirements
    }.items():
        told = await ask(stack, method, RESTS.SerializeToString() + unknown)
        assert told.code is grpc.StatusCode.INVALID_ARGUMENT, f"{name}: {told}"
        assert_invalid(told)


@BOTH
@pytest.mark.parametrize(
    "broken",
    [b"\xff", b"\xc3", b"\xed\xa0\x80", b"bee\xf0\x9f\x90"],
    ids=["no-such-byte", "cut-short", "surrogate", "cut-at-the-end"],
)
async def test_text_that_is_not_utf8_is_an_invalid_request(
    stack: Stack, method: ServedMethod, broken: bytes
) -> None:
    prompt = bytes([0x1A, len(broken)]) + broken
    assert_invalid(await ask(stack, method, b"\x12\x04tiny" + prompt))


async def test_the_request_without_a_mistake_is_accepted(stack: Stack) -> None:
    # The control group: what all cases are made from is right by itself.
    for method in (INFER, SUBMIT):
        told = await ask(stack, method, RESTS.SerializeToString())
        assert told.code is grpc.StatusCode.OK, told


@pytest.mark.parametrize(
    ("request_", "at"),
    [
        (pb.ListJobsRequest(page_size=-1), "page_size"),
        (pb.ListJobsRequest(page_size=limits.LIST_PAGE_MAX + 1), "page_size"),
        (pb.ListJobsRequest(page_token="not one of ours"), "page_token"),
        (pb.ListJobsRequest(page_token="é" * 200), "page_token"),
        (pb.ListJobsRequest(states=[99]), "states"),  # type: ignore[list-item]  # not in the enum
    ],
    ids=lambda value: str(value).strip()[:30],
)
async def test_a_bad_listing_is_named(stack: Stack, request_: pb.ListJobsRequest, at: str) -> None:
    assert_invalid(await ask(stack, LIST, request_.SerializeToString()), at)


async def test_a_listing_goes_on_where_its_page_token_says(stack: Stack) -> None:
    stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
    ids = []
    for _ in range(3):
        job = await stub.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=1))
        ids.append(job.job_id)
    first = await stub.ListJobs(pb.ListJobsRequest(page_size=2))
    second = await stub.ListJobs(pb.ListJobsRequest(page_size=1, page_token=first.next_page_token))
    listed = [job.job_id for page in (first, second) for job in page.jobs]
    assert listed == list(reversed(ids))


TOO_LONG = [
    pb.InferRequest(model="tiny", prompt="bee", max_tokens=30_000),
    pb.InferRequest(
        model="tiny", prompt="bee", requirements=Requirements(min_context_tokens=30_000)
    ),
]


async def test_a_job_longer_than_any_worker_s_context_is_refused() -> None:
    # A queen of its own: such a job, once accepted, waits for ever.
    async with Stack() as stack:
        for request in TOO_LONG:
            told = await ask(stack, INFER, request.SerializeToString())
            right = (grpc.StatusCode.FAILED_PRECONDITION, "NO_CAPACITY_INCOMPATIBLE_CONTEXT")
            assert (told.code, told.reason) == right, told


async def test_a_job_that_cannot_run_holds_up_nobody() -> None:
    async with Stack() as stack:
        for request in TOO_LONG:
            await ask(stack, INFER, request.SerializeToString())
        stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
        events = stub.Infer(pb.InferRequest(model="tiny", prompt="bee", max_tokens=1), timeout=10)
        assert [event.WhichOneof("event") async for event in events][-1] == "finished"


@pytest.mark.parametrize("name", ["WatchJob", "GetJob", "CancelJob", "ExplainJob"])
async def test_a_job_that_is_not_there_is_not_found(stack: Stack, name: str) -> None:
    told = await _about(stack, name, "no-such-job")
    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND"), told


@pytest.mark.parametrize("name", ["WatchJob", "GetJob", "CancelJob", "ExplainJob"])
async def test_a_job_without_a_name_is_an_invalid_request(stack: Stack, name: str) -> None:
    assert_invalid(await _about(stack, name, ""), "job_id")


async def test_a_negative_index_to_watch_from_is_named(stack: Stack) -> None:
    stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
    job = await stub.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=1))
    told = await _about(stack, "WatchJob", job.job_id, from_token=-1)
    assert_invalid(told, "from_token")


async def test_an_index_beyond_the_end_is_out_of_range(stack: Stack) -> None:
    stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
    call_ = stub.Infer(pb.InferRequest(model="tiny", prompt="bee", max_tokens=1))
    told_ids = {event.job_id async for event in call_}
    (job_id,) = told_ids
    told = await _about(stack, "WatchJob", job_id, from_token=1_000)
    assert (told.code, told.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_OFFSET_GONE"), told


async def test_a_request_id_names_one_body(stack: Stack) -> None:
    stub = rpc.InferenceServiceStub(stack.channel(stack.queen_address))
    request = pb.SubmitJobRequest(request_id="once", model="tiny", prompt="bee", max_tokens=1)
    first = await stub.SubmitJob(request)
    assert (await stub.SubmitJob(request)).job_id == first.job_id
    request.max_tokens = 2
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.SubmitJob(request)
    told = outcome(refused.value)
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_CONFLICT"), told


async def _about(stack: Stack, name: str, job_id: str, *, from_token: int = 0) -> Outcome:
    """Ask one of the methods that take a job's id."""
    request: Message = pb.GetJobRequest(job_id=job_id)
    if from_token:
        request = pb.WatchJobRequest(job_id=job_id, from_token=from_token)
    method = ServedMethod(
        f"{INFERENCE}/{name}", type(request), takes_stream=False, gives_stream=name == "WatchJob"
    )
    return await ask(stack, method, request.SerializeToString())
