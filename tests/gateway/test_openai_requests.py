"""What OpenAI's parameters become, and what the answers say."""

from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import generation_pb2

from tests.support.attached_worker import AttachedWorker
from tests.support.eventually import eventually
from tests.support.running_gateway import CHAT, TEXT, RunningGateway, asking
from tests.support.running_queen import RunningQueen


async def test_values_that_ask_for_nothing_are_taken(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    nothing = {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "user": "somebody",
        "store": True,
        "stop": None,
        "seed": None,
        "top_p": None,
        "stream_options": None,
    }
    async with asking(gateway.client, "/v1/chat/completions", {**CHAT, **nothing}) as asked:
        await worker.serve(await worker.offer(), " hum")
        assert (await asked).status_code == 200


async def test_every_parameter_reaches_the_worker(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    asked = {
        "model": "tiny",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "bee"}],
            },
            {"role": "assistant", "content": None},
        ],
        "max_tokens": 9,
        "max_completion_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "seed": -1,
        "stop": "END",
        "metadata": {"purpose": "test"},
    }
    headers = {"X_Beeyard_Priority": "batch", "X_Beeyard_Tenant": "t", "X_Deadline": "9000"}
    async with asking(gateway.client, "/v1/chat/completions", asked, **headers):
        request = (await worker.offer()).request
        (job,) = queen.queen.loop.state.jobs.values()
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "be brief"),
        ("user", "a bee"),
        ("assistant", ""),
    ]
    assert (request.max_tokens, request.seed, list(request.stop)) == (5, 2**32 - 1, ["END"])
    assert (request.temperature, request.top_p, request.top_k) == (0, 0.5, 3)
    assert (job.spec.priority.name, job.spec.tenant_id) == ("BATCH", "t")
    assert job.spec.deadline_ms == 9_000
    assert job.spec.labels == (("purpose", "test"),)


async def test_a_deadline_may_be_a_moment_but_not_of_a_request_that_is_repeated(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    moment = {"X-Deadline": "2100-01-01T00:00:00+02:00"}
    async with asking(gateway.client, "/v1/completions", TEXT, X_Deadline=moment["X-Deadline"]):
        await eventually(lambda: queen.queen.loop.state.jobs, "the job is accepted")
        (job,) = queen.queen.loop.state.jobs.values()
    assert job.spec.deadline_ms == 24 * 3_600_000, "the longest that there is"
    repeated = {**moment, "Idempotency-Key": "k"}
    answer = await gateway.client.post("/v1/completions", json=TEXT, headers=repeated)
    assert answer.json()["error"]["param"] == "X-Deadline"


async def test_what_the_queen_refuses_keeps_its_reason(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    for changes, status, code in (
        ({"model": "wasp"}, 404, "model_not_found"),
        ({"prompt": "bee " * 20_000}, 400, "context_length_exceeded"),
    ):
        answer = await gateway.client.post("/v1/completions", json={**TEXT, **changes})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == "false"


async def test_the_answer_tells_usage_and_how_it_ended(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", TEXT) as asked:
        await worker.serve(await worker.offer(), " the", " hive")
        response = await asked
        await response.aread()
    told = response.json()
    job_id = response.headers["x-beeyard-job-id"]
    assert (told["id"], told["object"], told["model"]) == (
        f"cmpl-{job_id}",
        "text_completion",
        "tiny",
    )
    assert told["choices"] == [
        {"index": 0, "text": " the hive", "logprobs": None, "finish_reason": "length"}
    ]
    assert told["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_the_enums_that_are_translated_are_all_there() -> None:
    assert set(generation_pb2.FinishReason.keys()) == {
        "FINISH_REASON_UNSPECIFIED",
        "FINISH_REASON_STOP",
        "FINISH_REASON_LENGTH",
    }
    assert len(job_pb2.Priority.keys()) == 5
