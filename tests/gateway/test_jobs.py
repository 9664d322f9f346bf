"""The jobs API: submit, look, follow, cancel, explain, over HTTP."""

from pathlib import Path

import pytest
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard_core.state import QueenState

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.running_gateway import (
    RunningGateway,
    SentEvent,
    asking,
    running_gateway,
    sent_events,
)
from tests.support.running_queen import RunningQueen, running_queen

JOB = {"model": "tiny", "prompt": "bee", "max_tokens": 4}


async def submitted(gateway: RunningGateway, **changes: object) -> str:
    answer = await gateway.client.post("/v2/jobs", json={**JOB, **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


async def events_of(gateway: RunningGateway, job_id: str, **headers: str) -> list[SentEvent]:
    url = f"/v2/jobs/{job_id}/events"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.client.stream("GET", url, headers=named) as response:
        assert response.status_code == 200
        return [event async for event in sent_events(response)]


async def test_a_job_is_accepted_with_its_place_and_goes_on_by_itself(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    answer = await gateway.client.post("/v2/jobs", json=JOB)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["queue_position"], told["predicted_start_ms"]) == (0, 0)
    assert answer.headers["location"] == f"/v2/jobs/{told['job_id']}"
    await worker.serve(await worker.offer(), " the", " hive")
    events = await events_of(gateway, told["job_id"])
    assert events[-1].event == "finished"
    job = (await gateway.client.get(answer.headers["location"])).json()
    assert (job["state"], job["finish_reason"], job["next_index"]) == ("COMPLETED", "LENGTH", 2)
    assert job["priority"] == "NORMAL"
    assert isinstance(job["seed"], int)


async def test_whoever_waits_hears_how_far_the_model_is_loaded(
    queen: RunningQueen, gateway: RunningGateway, worker: AttachedWorker
) -> None:
    status = engine_pb.EngineStatus()
    status.CopyFrom(worker.status)
    status.state, status.load_progress = engine_pb.WORKER_STATE_STARTING, 0.42
    await worker.report(heartbeat=worker_pb.Heartbeat(status=status))
    await eventually(lambda: not queen.queen.loop.state.fleet.open_workers, "the worker loads")
    url = f"/v2/jobs/{await submitted(gateway)}/events"
    async with gateway.client.stream("GET", url) as response:
        async for event in sent_events(response):
            if event.event == "progress":
                break
    assert event.json["stage"] == "loading_model"
    assert event.json["fraction"] == 0.4
    assert event.json["message"] == "loading the model, 40%"


async def test_events_are_told_in_their_order_and_go_on_by_index(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    job_id = await submitted(gateway)
    await worker.serve(await worker.offer(), " the", " queen", " flew")
    await worker.over(1)
    events = await events_of(gateway, job_id)
    assert [event.event for event in events] == ["queued", "started", "tokens", "finished"]
    assert (events[2].id, events[2].json["text"]) == ("2", " the queen flew")
    assert events[1].json["policy_version"]
    later = await events_of(gateway, job_id, Last_Event_ID="0")
    assert [e.json["text"] for e in later if e.event == "tokens"] == [" queen flew"]
    # An EventSource comes back by itself, also after the end; 204 tells it to stop.
    headers = {"Last-Event-ID": events[-1].id}
    stopped = await gateway.client.get(f"/v2/jobs/{job_id}/events", headers=headers)
    assert stopped.status_code == 204


async def test_an_index_beyond_the_end_is_no_place_to_go_on(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    job_id = await submitted(gateway)
    await worker.serve(await worker.offer(), " the")
    await worker.over(1)
    for index, status in (("1", 200), ("2", 416), ("x", 400), ("99999999999", 400)):
        url = f"/v2/jobs/{job_id}/events?from_token={index}"
        assert (await gateway.client.get(url)).status_code == status


async def test_a_listing_can_be_filtered_and_comes_in_pages(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    ids = [await submitted(gateway, tenant_id="mine") for _ in range(3)]
    await submitted(gateway)
    query = {"tenant_id": "mine", "page_size": "2", "state": "queued,leased"}
    first = (await gateway.client.get("/v2/jobs", params=query)).json()
    query["page_token"] = first["next_page_token"]
    second = (await gateway.client.get("/v2/jobs", params=query)).json()
    assert [job["job_id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]


async def test_cancelling_twice_is_cancelling_once(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    job_id = await submitted(gateway)
    for _ in range(2):
        answer = await gateway.client.post(f"/v2/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")
    events = await events_of(gateway, job_id)
    assert events[-1].event == "cancelled"


async def test_a_waiting_job_is_explained(gateway: RunningGateway, worker: AttachedWorker) -> None:
    for _ in range(2):
        await submitted(gateway)
    job_id = await submitted(gateway)
    told = (await gateway.client.get(f"/v2/jobs/{job_id}/explain")).json()
    assert told["job"]["job_id"] == job_id
    assert "waits" in told["summary"]
    assert told["candidates"][0]["excluded_by"] == "WORKER_BUSY"


async def test_headers_and_body_say_the_same_or_nothing(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    headers = {
        "X-Beeyard-Priority": "high",
        "X-Beeyard-Tenant": "mine",
        "X-Beeyard-Session": "talk",
        "X-Deadline": "60000",
        "Idempotency-Key": "once",
    }
    ids = [
        (await gateway.client.post("/v2/jobs", json=JOB, headers=headers)).json()["job_id"]
        for _ in range(2)
    ]
    assert ids[0] == ids[1]
    job = (await gateway.client.get(f"/v2/jobs/{ids[0]}")).json()
    assert (job["priority"], job["tenant_id"], job["session_id"]) == ("INTERACTIVE", "mine", "talk")
    assert "expire_time" in job
    differs = {**JOB, "priority": "batch"}
    refused = await gateway.client.post("/v2/jobs", json=differs, headers=headers)
    assert (refused.status_code, refused.json()["field"]) == (400, "priority")


async def test_a_full_queue_says_when_to_come_back() -> None:
    async with (
        running_queen(queue_depth=1) as queen,
        attached_worker(queen.channel),
        running_gateway(queen.queen.server.address) as gateway,
    ):
        for _ in range(3):
            await submitted(gateway)
        state: QueenState = queen.queen.loop.state
        await eventually(lambda: len(state.queue) == 1, "the queue is full")
        for path, body in (("/v2/jobs", JOB), ("/v1/completions", JOB)):
            answer = await gateway.client.post(path, json=body)
            assert answer.status_code == 429
            backoff_ms = int(answer.headers["x-backoff-ms"])
            assert int(answer.headers["retry-after"]) * 1_000 >= backoff_ms > 0
            assert answer.headers["x-queue-position"] == "1"
            assert answer.headers["x-queue-eta-ms"].isdecimal()
            told = answer.json().get("error", answer.json())
            assert (told["reason"], told["retriable"]) == ("QUEUE_FULL_REJECT", True)
            assert (told["policy_label"], told["retry_after_ms"]) == ("reject", backoff_ms)
        figures = await gateway.figures()
        assert figures['tasks_rejected_total{reason="QUEUE_FULL_REJECT"}'] == 2
        assert figures['admission_backpressure_events_total{reason="QUEUE_FULL_REJECT"}'] == 2


async def test_who_made_way_for_more_urgent_work_is_told_when_to_come_back() -> None:
    async with (
        running_queen(queue_depth=1, queue_overflow="drop-lru") as queen,
        attached_worker(queen.channel, slots=0),
        running_gateway(queen.queen.server.address) as gateway,
    ):
        headers = {"X-Beeyard-Priority": "background"}
        async with asking(gateway.client, "/v1/completions", JOB, **headers) as waiting:
            state: QueenState = queen.queen.loop.state
            await eventually(lambda: len(state.queue) == 1, "the queue is full")
            await submitted(gateway)
            answer = await waiting
            assert answer.status_code == 429
            assert int(answer.headers["x-backoff-ms"]) > 0
            assert answer.headers["retry-after"].isdecimal()
            await answer.aread()
            told = answer.json()["error"]
            assert (told["reason"], told["retriable"]) == ("QUEUE_FULL_DROP_LRU", True)
            assert told["policy_label"] == "drop-lru"


async def test_a_session_is_told_what_is_left_of_its_budget(tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(
        "[default]\nsession_tokens = 100\nsession_cost_units = 9\n", encoding="utf-8"
    )
    async with (
        running_queen(tenants=tenants, policy_mode="platform") as queen,
        attached_worker(queen.channel, slots=0),
        running_gateway(queen.queen.server.address) as gateway,
    ):
        asked = {**JOB, "session_id": "talk", "max_tokens": 60}
        answer = await gateway.client.post("/v2/jobs", json=asked)
        assert answer.status_code == 202
        assert answer.json()["budget"] == {"tokens_remaining": 39, "cost_units_remaining": 8}
        assert answer.headers["x-budget-tokens-remaining"] == "39"
        assert answer.headers["x-budget-cost-remaining"] == "8"
        for path in ("/v2/jobs", "/v1/completions"):
            headers = {"X-Beeyard-Session": "talk"}
            body = asked if path == "/v2/jobs" else {**JOB, "max_tokens": 60}
            answer = await gateway.client.post(path, json=body, headers=headers)
            assert answer.status_code == 429
            assert answer.headers["x-budget-tokens-remaining"] == "39"
            assert int(answer.headers["retry-after"]) > 0
            told = answer.json().get("error", answer.json())
            assert (told["reason"], told["retriable"]) == ("BUDGET_EXCEEDED", True)


@pytest.mark.parametrize("path", ["", "/events", "/explain"])
async def test_a_job_that_nobody_knows_is_not_found(gateway: RunningGateway, path: str) -> None:
    for job_id in ("job-0", "x" * 500, "%00", "%ff"):
        answer = await gateway.client.get(f"/v2/jobs/{job_id}{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["reason"] == "JOB_NOT_FOUND"
