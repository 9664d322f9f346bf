"""The single writer: what arrives together is committed together, and nothing is done before it is durable."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from beeyard_core import limits
from beeyard_core.dispatch import enqueue
from beeyard_core.effect import Accept, Effect, Refuse
from beeyard_core.event import Event, JobSubmitted
from beeyard_core.ids import JobId, ModelName, WorkId
from beeyard_core.job import JobSpec
from beeyard_core.policy.projection import Projection, world_of
from beeyard_core.state import QueenState
from beeyard_queen.loop import WriterLoop
from beeyard_queen.policy.deltas import digest
from beeyard_queen.policy.runtime import PolicyRuntime
from beeyard_queen.policy.sandbox import Sandbox
from beeyard_queen.store.memory import MemoryStore
from beeyard_queen.store.port import Batch
from beeyard_queen.store.rows import row_of

from tests.support.core_values import job_of, spec_of
from tests.support.eventually import eventually
from tests.support.gated_store import GatedStore
from tests.support.running_queen import PacedClock


class RecordingActor:
    """Saves jobs as they are and writes down what it is told, in order."""

    def __init__(self, state: QueenState) -> None:
        self.told: list[str] = []
        self.effects: list[Effect] = []
        self._state = state

    def fill(self, batch: Batch, saved: set[JobId], *, everything: bool) -> None:
        batch.jobs |= {job_id: row_of(self._state.jobs[job_id]) for job_id in saved}
        self.told.append("fill everything" if everything else "fill")

    def fill_work(self, batch: Batch, saved: set[WorkId]) -> None:
        pass

    def committed(self, batch: Batch) -> None:
        self.told.append(f"committed {len(batch.jobs)}")

    async def act(self, effect: Effect) -> None:
        self.effects.append(effect)
        self.told.append("act")

    def store_failed(self) -> None:
        self.told.append("store failed")


class Rig:
    """A loop with everything round it."""

    def __init__(self, store: MemoryStore) -> None:
        self.state = QueenState()
        self.state.fleet.known_models.add(ModelName("tiny"))
        self.store, self.clock = store, PacedClock()
        self.loop = WriterLoop(self.state, store, self.clock)
        self.actor = RecordingActor(self.state)
        self.policies = PolicyRuntime(self.state, self.clock, self.loop.poke, Sandbox())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.store.open()
        task = asyncio.create_task(self.loop.run(self.actor, self.policies))
        try:
            yield
        finally:
            self.loop.stop()
            await task

    async def accepted(self, count: int) -> None:
        await eventually(
            lambda: sum(isinstance(e, Accept) for e in self.actor.effects) == count,
            f"{count} jobs are accepted",
        )


def submitted(number: int, model: str = "tiny") -> Event:
    spec = JobSpec(model=ModelName(model), prompt_tokens=1, max_tokens=1)
    return JobSubmitted(job_id=JobId(f"job-{number}"), spec=spec)


@pytest.fixture
def rig() -> Rig:
    return Rig(MemoryStore())


async def test_what_arrives_together_shares_one_commit(rig: Rig) -> None:
    for number in range(limits.BATCH_EVENTS_MAX):
        rig.loop.post(submitted(number))
    async with rig.running():
        await rig.accepted(limits.BATCH_EVENTS_MAX)
    assert rig.loop.commits_count == 1
    assert rig.actor.told[:3] == ["fill", f"committed {limits.BATCH_EVENTS_MAX}", "act"]


async def test_a_batch_is_bounded(rig: Rig) -> None:
    count = 3 * limits.BATCH_EVENTS_MAX + 1
    for number in range(count):
        rig.loop.post(submitted(number))
    async with rig.running():
        await rig.accepted(count)
    assert rig.loop.commits_count == 4
    order = [e.job_id for e in rig.actor.effects if isinstance(e, Accept)]
    assert order == [f"job-{number}" for number in range(count)]


async def test_others_have_a_turn_while_policies_are_told_of_a_full_queue(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOBS_TOLD_AT_ONCE_MAX", 8)
    for number in range(5 * 8):
        job = job_of(f"job-{number}", number, spec_of("tiny"))
        rig.state.jobs[job.job_id] = job
        enqueue(rig.state, job)
    rig.loop.poke()
    async with rig.running():
        asyncio.get_running_loop().call_soon(rig.loop.post, submitted(99))
        await rig.accepted(1)
        await eventually(lambda: not rig.policies.is_behind, "all are told")
    # A piece, a new job beside the next piece, and the rest.
    assert rig.actor.told[:4] == ["fill", "fill", "committed 1", "act"]
    assert rig.actor.told.count("fill") >= 5
    world = world_of(rig.state, 0, Projection())
    assert rig.policies.digest() == digest(world)


async def test_what_arrives_during_a_commit_shares_the_next_one() -> None:
    store = GatedStore()
    rig = Rig(store)
    async with rig.running():
        store.shut()
        rig.loop.post(submitted(0))
        await store.somebody_waits()
        for number in range(1, 30):
            rig.loop.post(submitted(number))
        await asyncio.sleep(0)
        assert not rig.actor.effects, "nothing is acknowledged before it is durable"
        store.pass_all()
        await rig.accepted(30)
    assert rig.loop.commits_count == 2


async def test_nothing_is_committed_for_a_refusal(rig: Rig) -> None:
    rig.loop.post(submitted(1, model="unheard-of"))
    async with rig.running():
        await eventually(lambda: rig.actor.effects, "an answer")
    assert isinstance(rig.actor.effects[0], Refuse)
    assert rig.loop.commits_count == 0


async def test_a_failed_commit_is_tried_again_and_acted_upon_once(rig: Rig) -> None:
    rig.store.fail_next_commits(3)
    async with rig.running():
        rig.loop.post(submitted(1))
        await eventually(lambda: rig.clock.sleepers, "the loop waits before it tries again")
        assert not rig.loop.is_store_healthy
        assert rig.actor.told == ["fill", "store failed"]
        await rig.clock.advance(limits.RECONNECT_MIN_MS)
        assert rig.actor.told.count("store failed") == 2
        await rig.clock.advance(10 * limits.RECONNECT_MIN_MS)
        await rig.accepted(1)
        assert rig.loop.is_store_healthy
    assert rig.actor.told.count("act") == 1
    assert is_kept(rig.store, "job-1")


async def test_stopping_saves_what_there_is(rig: Rig) -> None:
    async with rig.running():
        rig.loop.post(submitted(1))
        rig.loop.poke()
    assert rig.actor.told[-1] == "fill everything"
    assert is_kept(rig.store, "job-1")


async def test_a_store_that_does_not_heal_does_not_keep_the_queen_from_stopping(rig: Rig) -> None:
    rig.store.fail_next_commits(1_000)
    async with rig.running():
        rig.loop.post(submitted(1))
        await eventually(lambda: rig.clock.sleepers, "the loop waits before it tries again")
        rig.loop.stop()
        await rig.clock.advance(limits.RECONNECT_MIN_MS)
    assert "act" not in rig.actor.told
    assert not is_kept(rig.store, "job-1")


async def test_settled_means_durable() -> None:
    store = GatedStore()
    rig = Rig(store)
    await rig.loop.settled()
    async with rig.running():
        store.shut()
        rig.loop.post(submitted(1))
        await store.somebody_waits()
        settling = asyncio.create_task(rig.loop.settled())
        await asyncio.sleep(0)
        assert not settling.done()
        store.pass_all()
        await settling
        assert is_kept(store, "job-1")


async def test_a_poke_brings_a_turn_without_an_event(rig: Rig) -> None:
    async with rig.running():
        rig.loop.poke()
        await eventually(lambda: rig.actor.told == ["fill"], "a turn")
    assert rig.loop.commits_count == 0


async def test_the_ticker_follows_the_clock(rig: Rig) -> None:
    async with rig.running():
        ticking = asyncio.create_task(rig.loop.tick())
        await rig.clock.advance(3 * limits.TICK_INTERVAL_MS)
        await eventually(lambda: rig.loop.events_count == 3, "three ticks")
        ticking.cancel()
        await asyncio.wait([ticking])


def test_the_inbox_says_when_it_is_full(rig: Rig) -> None:
    event = submitted(1)
    for _ in range(limits.INBOX_EVENTS_MAX):
        assert not rig.loop.is_full
        rig.loop.post(event)
    assert rig.loop.is_full


def is_kept(store: MemoryStore, job_id: str) -> bool:
    return job_id in store._jobs
