"""The worker's stream to the queen: what is said when, what survives a break, what stops decoding."""

import asyncio
import random

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.outbox import HeldLease
from beeyard_core.refusal import Refusal
from beeyard_runtime.testing import ManualClock
from beeyard_worker.engine.port import EngineFault
from beeyard_worker.session import reconnect_pause_ms

from tests.support.attached_queen import Attachment
from tests.worker.conftest import OpenRig, Rig, load


async def attached(rig: Rig, **welcome: int) -> Attachment:
    """Return the worker's stream after the welcome."""
    stream = await rig.queen.attachment()
    await stream.welcome(**welcome)  # type: ignore[arg-type]
    return stream


async def settle() -> None:
    """Let everything run that can run without time or network."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_hello_tells_who_the_worker_is_while_it_still_loads(open_rig: OpenRig) -> None:
    async with open_rig(loaded=False, slots=3) as rig:
        stream = await attached(rig)
        hello = stream.hello
        assert (hello.status.worker_id, hello.pool_id) == ("worker-1", "pool-1")
        assert (hello.incarnation, hello.address) == ("first", "127.0.0.1:1")
        assert hello.status.state == engine_pb.WORKER_STATE_STARTING
        assert list(hello.leases) == []
        await stream.offer(1, "too early")
        await stream.until(lambda s: s.replies(1))
        assert stream.replies(1)[0].reason == "WORKER_BUSY"
        await load(rig.engine, rig.status, 500)
        await stream.until(lambda s: s.heartbeats())
        status = stream.heartbeats()[0].status
        assert status.state == engine_pb.WORKER_STATE_READY
        assert (status.slots_total, status.kv_tokens_total) == (3, 500)


async def test_an_offer_is_accepted_run_and_finished(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.offer(5, "the bee", seed=9)
        rig.engine.emit("the bee", 3)
        await stream.until(lambda s: s.ids(5))
        rig.engine.emit("the bee", 2)
        rig.engine.finish("the bee")
        await stream.until(lambda s: s.results(5))
        assert [r.accepted for r in stream.replies(5)] == [True]
        assert stream.ids(5) == [0, 1, 2, 3, 4]
        assert "".join(f.text for f in stream.frames(5)) == " 0 1 2 3 4"
        result = stream.results(5)[0].finished
        assert (result.next_index, result.generation.usage.completion_tokens) == (5, 5)
        assert result.generation.usage.prompt_tokens == 2
        assert rig.engine.generations["the bee"].seed == 9
        assert rig.leases.held(), "the result is kept until it is committed"
        await stream.acknowledge(5, 5, committed=True)
        await stream.revoke(99)
        await stream.until(lambda s: s.results(99))
        assert rig.leases.is_idle
        assert rig.status.slots.free == 2


async def test_frames_are_contiguous_and_bounded(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.offer(1, "a", max_tokens=3_000)
        rig.engine.emit("a", 3_000)
        rig.engine.finish("a")
        await stream.until(lambda s: s.results(1))
        assert stream.ids(1) == list(range(3_000))
        next_index = 0
        for frame in stream.frames(1):
            assert frame.first_index == next_index
            assert 0 < len(frame.text_lengths) <= limits.FRAME_TOKENS_MAX
            assert sum(frame.text_lengths) == len(frame.text)
            next_index += len(frame.text_lengths)
        for report in stream.reports:
            assert len({frame.lease_id for frame in report.frames}) == len(report.frames)


async def test_what_does_not_fit_is_refused_and_not_queued(open_rig: OpenRig) -> None:
    async with open_rig(slots=2, kv_tokens=100) as rig:
        stream = await attached(rig)
        await stream.offer(1, "a", max_tokens=60)
        await stream.offer(2, "b", max_tokens=60)
        await stream.offer(3, "c", max_tokens=30)
        await stream.offer(4, "d", max_tokens=1)
        await stream.offer(5, "e", max_tokens=101)
        await stream.until(lambda s: all(s.replies(epoch) for epoch in (1, 2, 3, 4, 5)))
        assert [stream.replies(epoch)[0].reason for epoch in (1, 2, 3, 4)] == [
            "",
            "WORKER_BUSY",
            "",
            "WORKER_BUSY",
        ]
        assert stream.replies(5)[0].reason == "WORKER_BUSY"
        await stream.revoke(3)
        await stream.until(lambda s: s.results(3))
        await stream.offer(6, "e", max_tokens=101)
        await stream.until(lambda s: s.replies(6))
        assert stream.replies(6)[0].reason == "NO_CAPACITY_INCOMPATIBLE_CONTEXT"
        assert rig.engine.running == {"a"}


async def test_a_bad_request_and_a_broken_engine_fail_the_lease(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.offer(1, "a", max_tokens=0)
        await stream.until(lambda s: s.results(1))
        assert stream.results(1)[0].failed.reason == "INVALID_REQUEST"
        await stream.offer(2, "b")
        rig.engine.emit("b", 1)
        rig.engine.fail("b", EngineFault(Refusal.VRAM_OOM, "no memory left"))
        await stream.until(lambda s: s.results(2))
        failed = stream.results(2)[0].failed
        assert (failed.reason, failed.message) == ("VRAM_OOM", "no memory left")
        assert stream.ids(2) == [0]
        assert rig.status.slots.free == 2


async def test_a_resumed_lease_goes_on_with_the_next_index(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.offer(1, "a", resume_ids=[0, 1, 2], resume_text=" 0 1 2", resume_count=3)
        await rig.engine.until(lambda e: e.running)
        rig.engine.emit("a", 2)
        await stream.until(lambda s: s.ids(1))
        assert stream.frames(1)[0].first_index == 3
        assert rig.engine.generations["a"].resume_ids == (0, 1, 2)


async def test_a_broken_stream_loses_and_repeats_nothing(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        first = await attached(rig)
        await first.offer(1, "a")
        await first.offer(2, "b")
        rig.engine.emit("a", 10)
        rig.engine.emit("b", 4)
        await first.until(lambda s: len(s.ids(1)) == 10 and len(s.ids(2)) == 4)
        await first.acknowledge(1, 3)
        await first.revoke(99)
        await first.until(lambda s: s.results(99))
        first.broken.set()
        rig.engine.emit("a", 5)
        rig.engine.finish("a")
        second = await rig.queen.attachment()
        held = {lease.lease_id: lease for lease in second.hello.leases}
        assert set(held) == {"lease-1", "lease-2"}
        assert held["lease-1"].first_kept_index == 3
        assert held["lease-2"].next_index == 4
        await second.welcome([HeldLease("lease-1", 1, 7, 0)])
        await second.until(lambda s: s.results(1))
        assert second.ids(1) == list(range(7, 15))
        assert second.results(1)[0].finished.next_index == 15
        assert second.frames(2) == []
        await rig.engine.until(lambda e: not e.running)
        assert rig.status.slots.free == 2


async def test_the_queen_may_ask_for_tokens_again(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.offer(1, "a")
        rig.engine.emit("a", 6)
        rig.engine.finish("a")
        await stream.until(lambda s: s.results(1))
        resend = pb.ResendRequest(lease_id="lease-1", epoch=1, from_index=2)
        await stream.order(pb.Orders(resends=[resend]))
        await stream.until(lambda s: len(s.results(1)) == 2)
        assert stream.ids(1) == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5]


async def test_a_revocation_stops_decoding_and_is_answered_once_the_slot_is_free(
    open_rig: OpenRig,
) -> None:
    async with open_rig(slots=1) as rig:
        stream = await attached(rig)
        await stream.offer(1, "a")
        rig.engine.emit("a", 2)
        await stream.until(lambda s: s.ids(1))
        await stream.revoke(1)
        await stream.until(lambda s: s.results(1))
        assert stream.results(1)[0].WhichOneof("result") == "stopped"
        assert rig.engine.running == set()
        assert rig.leases.is_idle
        await stream.offer(2, "b")
        await stream.until(lambda s: s.replies(2))
        assert stream.replies(2)[0].accepted


async def test_an_unknown_lease_is_answered_as_stopped(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.revoke(42)
        await stream.until(lambda s: s.results(42))
        assert stream.results(42)[0].WhichOneof("result") == "stopped"


async def test_an_engine_pauses_when_nothing_is_acknowledged(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stream = await attached(rig)
        await stream.offer(1, "a", max_tokens=9_000)
        rig.engine.emit("a", 9_000)
        await stream.until(lambda s: len(s.ids(1)) == 5_000)
        await settle()
        assert rig.engine.unread("a") == 4, "one step of a thousand tokens may overshoot"
        await stream.acknowledge(1, 5_000)
        await stream.until(lambda s: len(s.ids(1)) == 9_000)
        assert stream.ids(1) == list(range(9_000))


async def test_silence_of_the_queen_stops_all_decoding(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig, lease_ttl_ms=10_000)
        await stream.offer(1, "a")
        await stream.offer(2, "b")
        rig.engine.emit("a", 1)
        rig.engine.emit("b", 1)
        rig.engine.finish("b")
        await stream.until(lambda s: s.ids(1) and s.results(2))
        await clock.advance(9_999)
        assert rig.engine.running == {"a"}
        await clock.advance(1)
        assert rig.engine.running == set()
        assert [lease.lease_id for lease in rig.leases.held()] == ["lease-2"]
        # The stream is given up, too; what was finished in time is still claimed on the next one.
        await clock.advance(limits.RECONNECT_MAX_MS)
        again = await rig.queen.attachment()
        assert [lease.lease_id for lease in again.hello.leases] == ["lease-2"]


async def test_each_word_of_the_queen_renews_the_leases(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig, lease_ttl_ms=10_000)
        await stream.offer(1, "a")
        await rig.engine.until(lambda e: e.running)
        for epoch in range(100, 103):
            await clock.advance(9_000)
            # Any order will do; this one is answered, so the test knows that it was heard.
            await stream.revoke(epoch)
            await stream.until(lambda s, epoch=epoch: s.results(epoch))  # type: ignore[misc]
        assert rig.engine.running == {"a"}


async def test_decoding_stops_also_while_there_is_no_stream(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig, lease_ttl_ms=3_000)
        await stream.offer(1, "a")
        await rig.engine.until(lambda e: e.running)
        stream.broken.set()
        again = await _next_stream(rig, clock)
        assert [lease.lease_id for lease in again.hello.leases] == ["lease-1"]
        await clock.advance(3_000)
        assert rig.engine.running == set()


async def _next_stream(rig: Rig, clock: ManualClock) -> Attachment:
    """Return the stream after a break, moving the clock over the pause as often as it takes."""
    arrival = asyncio.create_task(rig.queen.attachment())
    while not arrival.done():
        await clock.advance(limits.RECONNECT_MIN_MS)
        await asyncio.wait([arrival], timeout=0.05)
    return arrival.result()


async def test_heartbeats_come_in_time_and_tell_the_progress(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig, heartbeat_interval_ms=500)
        await stream.offer(1, "a")
        rig.engine.emit("a", 3)
        await stream.until(lambda s: s.ids(1))
        assert stream.heartbeats() == []
        await clock.advance(500)
        await stream.until(lambda s: s.heartbeats())
        beat = stream.heartbeats()[0]
        assert (beat.status.slots_free, beat.status.slots_total) == (1, 2)
        assert [(p.lease_id, p.next_index) for p in beat.progress] == [("lease-1", 3)]


async def test_a_change_of_the_open_slots_is_told_at_once(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock, slots=4) as rig:
        stream = await attached(rig)
        rig.status.open_slots(2)
        await stream.until(lambda s: s.heartbeats())
        beat = stream.heartbeats()[-1]
        assert (beat.status.slots_free, beat.status.slots_total) == (2, 2)
        rig.status.open_slots(2)
        await clock.advance(100)
        assert len(stream.heartbeats()) == 1


async def test_an_offer_beyond_the_open_slots_is_refused(open_rig: OpenRig) -> None:
    async with open_rig(slots=2) as rig:
        stream = await attached(rig)
        rig.status.open_slots(1)
        await stream.offer(1, "a")
        await stream.offer(2, "b")
        await stream.until(lambda s: s.replies(2))
        assert [reply.accepted for reply in (*stream.replies(1), *stream.replies(2))] == [
            True,
            False,
        ]


async def test_a_first_token_goes_at_once_and_later_ones_gather(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig)
        await stream.offer(1, "a")
        await stream.until(lambda s: s.replies(1))
        rig.engine.emit("a", 1)
        await stream.until(lambda s: s.ids(1) == [0])
        for _ in range(5):
            rig.engine.emit("a", 1)
            await settle()
        assert stream.ids(1) == [0]
        # Another job's first token takes along what has gathered.
        rig.engine.emit("b", 1)
        await stream.offer(2, "b")
        await stream.until(lambda s: s.ids(2))
        assert [len(frame.ids) for frame in stream.frames(1)] == [1, 5]
        rig.engine.emit("a", 1)
        await settle()
        await clock.advance(limits.FLUSH_GAP_MS_MAX)
        await stream.until(lambda s: len(s.ids(1)) == 7)


async def test_after_a_rest_tokens_go_without_delay(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig)
        await stream.offer(1, "a")
        rig.engine.emit("a", 1)
        await stream.until(lambda s: s.ids(1))
        await clock.advance(limits.FLUSH_GAP_MS_MAX)
        rig.engine.emit("a", 1)
        await stream.until(lambda s: len(s.ids(1)) == 2)


async def test_jobs_of_one_engine_step_share_a_report(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock, slots=8) as rig:
        stream = await attached(rig)
        prompts = {epoch: f"p{epoch}" for epoch in range(1, 9)}
        for epoch, prompt in prompts.items():
            await stream.offer(epoch, prompt)
            rig.engine.emit(prompt, 1)
        await stream.until(lambda s: all(s.ids(epoch) for epoch in prompts))
        before = len(stream.reports)
        await clock.advance(limits.FLUSH_GAP_MS_MAX)
        for prompt in prompts.values():
            rig.engine.emit(prompt, 1)
        await stream.until(lambda s: all(len(s.ids(epoch)) == 2 for epoch in prompts))
        assert len(stream.reports) == before + 1


async def test_a_drain_refuses_new_work_and_delivers_the_old(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig)
        await stream.offer(1, "a")
        await rig.engine.until(lambda e: e.running)
        await stream.order(pb.Orders(drain=pb.DrainOrder(grace_ms=5_000)))
        await stream.until(lambda s: s.heartbeats())
        assert stream.heartbeats()[0].status.state == engine_pb.WORKER_STATE_DRAINING
        ending = asyncio.create_task(
            rig.drain.finish(lambda: rig.leases.is_idle, rig.leases.fail_running)
        )
        await stream.offer(2, "b")
        await stream.until(lambda s: s.replies(2))
        assert stream.replies(2)[0].reason == "DRAINING"
        rig.engine.emit("a", 1)
        rig.engine.finish("a")
        await stream.until(lambda s: s.results(1))
        await settle()
        assert not ending.done(), "the result is not committed yet"
        await stream.acknowledge(1, 1, committed=True)
        await ending


async def test_what_outlasts_the_grace_fails_as_drained(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        stream = await attached(rig)
        await stream.offer(1, "a")
        await rig.engine.until(lambda e: e.running)
        rig.drain.begin(2_000)
        rig.drain.begin(1)
        ending = asyncio.create_task(
            rig.drain.finish(lambda: rig.leases.is_idle, rig.leases.fail_running)
        )
        await clock.advance(1_999)
        assert rig.engine.running == {"a"}
        await clock.advance(1)
        await stream.until(lambda s: s.results(1))
        assert stream.results(1)[0].failed.reason == "DRAINING"
        assert rig.engine.running == set()
        await clock.advance(limits.DRAIN_DELIVERY_MS)
        await ending


async def test_a_queen_that_says_no_welcome_is_tried_again(open_rig: OpenRig) -> None:
    clock = ManualClock()
    async with open_rig(clock=clock) as rig:
        first = await rig.queen.attachment()
        await first.order(pb.Orders())
        await _next_stream(rig, clock)


def test_the_pause_before_attaching_again_grows_within_bounds() -> None:
    chance = random.Random(3)
    for attempt in range(20):
        full = min(limits.RECONNECT_MIN_MS * 2**attempt, limits.RECONNECT_MAX_MS)
        for _ in range(50):
            assert full / 2 - 1 <= reconnect_pause_ms(attempt, chance) <= full
