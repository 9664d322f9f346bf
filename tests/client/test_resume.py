"""A stream that breaks goes on where it broke; a queen that stays away is given up."""

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2
from beeyard_client import (
    BeeyardClient,
    BeeyardError,
    Finished,
    LinkBrokenError,
    QueenUnreachableError,
    Queued,
    Started,
    Tokens,
    limits,
)
from beeyard_core import limits as core_limits

from tests.client.conftest import CountedPauses
from tests.support import scripted_queen as say
from tests.support.scripted_queen import Refuse, ScriptedQueen, serve

BROKEN = Refuse(grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    "ending",
    [
        [Refuse(grpc.StatusCode.UNAVAILABLE)],
        [Refuse(grpc.StatusCode.CANCELLED)],
        [Refuse(grpc.StatusCode.INTERNAL)],
        [Refuse(grpc.StatusCode.UNKNOWN)],
        [Refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING")],
        [],
    ],
    ids=["unavailable", "cancelled", "internal", "unknown", "draining", "ended early"],
)
async def test_a_broken_stream_resumes_from_the_next_token(
    queen: ScriptedQueen, client: BeeyardClient, ending: say.Script
) -> None:
    queen.infer.append([say.queued(), say.started(), say.tokens(0, "a", "b"), *ending])
    queen.watch.append([say.queued(), say.started(), say.tokens(2, "c"), say.finished()])
    stream = client.infer("hello")
    events = [event async for event in stream]
    assert stream.text_so_far == "abc"
    # What was told before the break is not told again.
    assert [type(event) for event in events] == [Queued, Started, Tokens, Tokens, Finished]
    resumed = queen.asked[1]
    assert isinstance(resumed, inference_service_pb2.WatchJobRequest)
    assert resumed.from_token == 2


async def test_a_second_attempt_is_told_after_a_break(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append([say.queued(), say.started(1), say.tokens(0, "a"), BROKEN])
    queen.watch.append([say.started(2), say.tokens(1, "b"), say.finished()])
    events = [event async for event in client.infer("hello")]
    assert [one.attempt for one in events if isinstance(one, Started)] == [1, 2]


async def test_tokens_that_came_already_are_dropped(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "a", "b"), BROKEN])
    queen.watch.append([say.tokens(0, "a", "b"), say.tokens(2, "c"), say.finished()])
    assert await client.infer("hello").text() == "abc"


async def test_a_missing_token_opens_the_stream_again(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "a"), say.tokens(2, "c"), say.finished()])
    queen.watch.append([say.tokens(1, "b"), say.tokens(2, "c"), say.finished()])
    assert await client.infer("hello").text() == "abc"


async def test_a_submission_whose_answer_was_lost_is_sent_again_under_the_same_key(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.infer.extend([[BROKEN], [say.queued(), say.tokens(0, "a"), say.finished()]])
    assert await client.infer("hello").text() == "a"
    first, second = queen.asked
    assert first == second


async def test_what_a_queen_turns_away_because_it_ends_is_sent_to_the_next_one(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    draining = Refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_after_ms=500)
    queen.submit.extend([draining, draining])
    job = await client.submit("hello")
    assert job.job_id
    first, second, third = queen.asked
    assert first == second == third
    queen.infer.extend([[draining], [say.queued(), say.tokens(0, "a"), say.finished()]])
    assert await client.infer("hello").text() == "a"


async def test_any_other_refusal_of_a_new_job_is_final(
    queen: ScriptedQueen, client: BeeyardClient
) -> None:
    queen.submit.append(Refuse(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"))
    with pytest.raises(BeeyardError, match="STORE_UNAVAILABLE"):
        await client.submit("hello")
    assert len(queen.asked) == 1


async def test_many_breaks_in_a_row_are_waited_for_longer_and_longer(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    queen.infer.append([say.queued(), BROKEN])
    queen.watch.extend([[BROKEN]] * 6)
    queen.watch.append([say.tokens(0, "a"), say.finished()])
    assert await client.infer("hello").text() == "a"
    assert pauses.waits == [100, 200, 400, 800, 1600, 2000, 2000]


async def test_progress_makes_the_next_break_the_first_again(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    queen.infer.append([say.queued(), say.tokens(0, "a"), BROKEN])
    queen.watch.extend([[say.tokens(index, "b"), BROKEN] for index in range(1, 50)])
    queen.watch.append([say.finished()])
    assert await client.infer("hello").text() == "a" + "b" * 49
    assert set(pauses.waits) == {100}


async def test_a_pause_that_the_queen_asks_for_is_kept(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    draining = Refuse(grpc.StatusCode.UNAVAILABLE, "DRAINING", retry_after_ms=700)
    queen.infer.append([say.queued(), draining])
    queen.watch.append([say.finished()])
    await client.infer("hello").text()
    assert pauses.waits == [700]


async def test_a_job_is_given_up_at_its_deadline(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    queen.infer.append([say.queued(), BROKEN])
    queen.watch.extend([[BROKEN]] * 100)
    with pytest.raises(LinkBrokenError) as caught:
        await client.infer("hello", deadline_ms=3_000).text()
    assert caught.value.job_id == say.JOB_ID
    assert pauses.ms <= 3_000 + limits.DEADLINE_MARGIN_MS


async def test_a_job_without_deadline_is_given_up_when_nothing_comes_for_long(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    queen.infer.append([say.queued(), BROKEN])
    queen.watch.extend([[BROKEN]] * 100)
    with pytest.raises(LinkBrokenError):
        await client.infer("hello").text()
    assert 0 <= limits.RESUME_PATIENCE_MS - pauses.ms < limits.RECONNECT_MAX_MS


async def test_a_watched_job_is_looked_for_as_long_as_a_submitted_one(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    queen.watch.append([say.queued(), say.tokens(0, "a"), BROKEN])
    queen.watch.extend([[BROKEN]] * 20)
    queen.watch.append([say.tokens(1, "b"), say.finished()])
    assert await client.watch(say.JOB_ID).text() == "ab"
    assert pauses.ms > limits.CONNECT_PATIENCE_MS


async def test_a_job_that_nobody_told_of_is_given_up_soon(
    queen: ScriptedQueen, client: BeeyardClient, pauses: CountedPauses
) -> None:
    queen.watch.extend([[BROKEN]] * 20)
    with pytest.raises(LinkBrokenError):
        await client.watch(say.JOB_ID).text()
    assert pauses.ms <= limits.CONNECT_PATIENCE_MS


@pytest.mark.parametrize("reason", ["JOB_NOT_FOUND", "RESUME_OFFSET_GONE"])
async def test_a_job_that_is_gone_is_not_looked_for(
    queen: ScriptedQueen, client: BeeyardClient, reason: str
) -> None:
    queen.infer.append([say.queued(), BROKEN])
    queen.watch.append([Refuse(grpc.StatusCode.NOT_FOUND, reason)])
    with pytest.raises(BeeyardError, match=reason):
        await client.infer("hello").text()


async def test_a_job_goes_on_after_the_queen_was_restarted(pauses: CountedPauses) -> None:
    first, second = ScriptedQueen(), ScriptedQueen()
    first.infer.append([say.queued(), say.tokens(0, "a"), say.Hang()])
    second.watch.append([say.tokens(1, "b"), say.finished()])
    server, address = await serve(first)
    async with BeeyardClient(address) as client, client.infer("hello") as stream:
        events = aiter(stream)
        while stream.text_so_far != "a":
            await anext(events)
        await server.stop(grace=None)
        server, _ = await serve(second, address)
        try:
            assert await stream.text() == "ab"
        finally:
            await server.stop(grace=None)


async def test_watch_starts_where_it_is_told(queen: ScriptedQueen, client: BeeyardClient) -> None:
    queen.watch.append([say.tokens(5, "f"), say.finished()])
    stream = client.watch(say.JOB_ID, from_token=5)
    assert await stream.text() == "f"


async def test_nobody_there_is_said_with_the_address(pauses: CountedPauses) -> None:
    server, address = await serve(ScriptedQueen())
    await server.stop(grace=None)
    async with BeeyardClient(address, pauses=pauses) as client:
        with pytest.raises(QueenUnreachableError, match=f"no queen at {address}"):
            await client.infer("hello").text()
        with pytest.raises(QueenUnreachableError):
            await client.get("job-1")
    assert pauses.ms <= 2 * limits.CONNECT_PATIENCE_MS


@pytest.mark.parametrize(
    "name",
    [
        "PROMPT_BYTES_MAX",
        "MESSAGE_BYTES_MAX",
        "LIST_PAGE_MAX",
        "RPC_DEADLINE_MS",
        "KEEPALIVE_TIME_MS",
        "KEEPALIVE_TIMEOUT_MS",
        "RECONNECT_MIN_MS",
        "RECONNECT_MAX_MS",
        "DEADLINE_MS_MAX",
    ],
)
def test_shared_limits_are_the_cores(name: str) -> None:
    assert getattr(limits, name) == getattr(core_limits, name)
