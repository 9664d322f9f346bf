"""The loop round the planner: what it hands out, whom it holds back, and what breaks with a step."""

import asyncio

import pytest
from beeyard_core import limits
from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.step_plan import StepBounds, StepPlan
from beeyard_core.refusal import Refusal
from beeyard_worker.engine.batch_loop import BatchLoop, Seat
from beeyard_worker.engine.port import EngineFault


class Device:
    """Executes a step when a test says so."""

    def __init__(self, *, step_ms: float = 1.0) -> None:
        self.plans: list[StepPlan] = []
        self.step_ms = step_ms
        self.fault: Exception | None = None
        self._allowed = asyncio.Semaphore(0)

    async def execute(self, plan: StepPlan) -> float:
        await self._allowed.acquire()
        if self.fault is not None:
            raise self.fault
        self.plans.append(plan)
        return self.step_ms

    async def steps(self, count: int) -> None:
        """Let so many steps happen, or as many as there are."""
        await _settle()
        for _ in range(count):
            self._allowed.release()
            await _settle()


async def _settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def loop_of(device: Device, *, kv_tokens: int = 4_096, step_ms: float = 0.0) -> BatchLoop:
    bounds = StepBounds(step_ms=step_ms)
    return BatchLoop(BatchPlanner(slots_max=8, kv_tokens=kv_tokens, bounds=bounds), device.execute)


def join(loop: BatchLoop, *, prompt: int = 4, answer: int = 100) -> Seat:
    return loop.join(rank=2, prompt_tokens=prompt, answer_tokens_max=answer)


async def test_each_step_makes_a_token_for_everybody_in_the_batch() -> None:
    device = Device()
    loop = loop_of(device)
    seats = [join(loop) for _ in range(3)]
    await device.steps(5)
    assert [await loop.take(seat) for seat in seats] == [5, 5, 5]
    assert [len(plan.slices) for plan in device.plans] == [3, 0, 0, 0, 0]
    await loop.close()


async def test_a_reader_that_is_behind_holds_up_nobody_else_and_goes_on_later() -> None:
    device = Device()
    loop = loop_of(device)
    slow, fast = join(loop, answer=500), join(loop, answer=500)
    read = 0
    for _ in range(300):
        await device.steps(1)
        read += await loop.take(fast)
    assert read == 300
    assert slow.unread == limits.BATCH_UNREAD_TOKENS_MAX
    assert await loop.take(slow) == limits.BATCH_UNREAD_TOKENS_MAX
    # The step that is being executed was planned before.
    await device.steps(2)
    assert await loop.take(slow) == 1
    await loop.close()


async def test_while_every_reader_is_behind_nothing_is_computed() -> None:
    device = Device()
    loop = loop_of(device)
    seat = join(loop)
    await device.steps(limits.BATCH_UNREAD_TOKENS_MAX + 20)
    assert loop.steps == limits.BATCH_UNREAD_TOKENS_MAX
    await loop.take(seat)
    await device.steps(1)
    assert loop.steps > limits.BATCH_UNREAD_TOKENS_MAX
    await loop.close()


async def test_the_last_tokens_of_a_finished_answer_can_still_be_taken() -> None:
    device = Device()
    loop = loop_of(device)
    seat = join(loop, answer=3)
    await device.steps(3)
    assert await loop.take(seat) == 3
    loop.leave(seat)
    again = join(loop, answer=1)
    await device.steps(1)
    assert await loop.take(again) == 1


async def test_whoever_leaves_during_a_step_leaves_its_memory() -> None:
    device = Device()
    loop = loop_of(device, kv_tokens=64)
    seat = join(loop, prompt=40, answer=20)
    await device.steps(0)
    loop.leave(seat)
    loop.leave(seat)
    other = join(loop, prompt=40, answer=20)
    await device.steps(2)
    assert await loop.take(other) == 1
    await loop.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (EngineFault(Refusal.VRAM_OOM, "no memory"), Refusal.VRAM_OOM),
        (ZeroDivisionError(), Refusal.WORKER_ERROR),
    ],
    ids=["a fault of the engine", "a bug"],
)
async def test_a_step_that_breaks_breaks_every_answer_and_the_next_one_begins_anew(
    fault: Exception, reason: Refusal
) -> None:
    device = Device()
    loop = loop_of(device)
    seats = [join(loop), join(loop)]
    device.fault = fault
    await device.steps(1)
    for seat in seats:
        with pytest.raises(EngineFault) as caught:
            await loop.take(seat)
        assert caught.value.reason is reason
    device.fault = None
    seat = join(loop)
    await device.steps(1)
    assert await loop.take(seat) == 1
    await loop.close()


async def test_what_could_never_be_held_is_refused() -> None:
    loop = loop_of(Device(), kv_tokens=64)
    with pytest.raises(EngineFault) as caught:
        join(loop, prompt=60, answer=5)
    assert caught.value.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT


async def test_another_number_of_slots_is_told_when_it_changes() -> None:
    device = Device(step_ms=50.0)
    loop = loop_of(device, step_ms=10.0)
    told: list[int] = []
    loop.watch_slots(told.append)
    seats = [join(loop, answer=1_000) for _ in range(4)]
    for _ in range(3 * limits.BATCH_REVIEW_STEPS):
        await device.steps(1)
        for seat in seats:
            await loop.take(seat)
    # Steps take five times as long as they should, whoever is in them: one slot is all that is worth opening.
    assert told == [limits.BATCH_SLOTS_START, 1]
    await loop.close()
