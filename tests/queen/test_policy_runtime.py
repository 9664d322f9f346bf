"""A policy of the operator's own at work in a queen: real hosts, a real writer loop, scripted workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from beeyard.pool.v1 import snapshot_pb2 as pool_pb
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.effect import Effect
from beeyard_core.event import PoolReported
from beeyard_core.instant import Instant
from beeyard_core.policy.intent import Dispatch, Reject, Wait
from beeyard_core.refusal import Refusal
from beeyard_queen.ingress.pool_wire import pool_report_of
from beeyard_queen.policy.decision_feed import DecisionFeed, DecisionRecord
from beeyard_queen.policy.in_process import PLATFORM_LABEL
from beeyard_queen.policy.journal_file import (
    JournalReader,
    StateEntry,
    journal_files,
)
from beeyard_queen.policy.replay import Replay
from beeyard_queen.policy.reply import Status
from beeyard_queen.policy.trial import sandbox
from beeyard_runtime.testing import ManualClock

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.played_host import CALM
from tests.support.running_queen import RunningQueen, running_queen

LAST_WORKER = b"""
function schedule(context)
  for _, job in ipairs(context.queue) do
    local last
    for _, worker in ipairs(context.get_all_workers()) do
      if worker.slots_free > 0 then last = worker end
    end
    if last then
      return { action = "dispatch", job_id = job.id, worker_id = last.id, reason = "the last one" }
    end
  end
  return { action = "wait" }
end
"""
RAISES = b"function schedule(context) if #context.queue > 0 then error('not today') end return { action = 'wait' } end"
SPINS = b"function schedule(context) if #context.queue > 0 then while true do end end return { action = 'wait' } end"
INVENTS = b"""
function schedule(context)
  if #context.queue == 0 then return { action = "wait" } end
  return { action = "dispatch", job_id = context.queue[1].id, worker_id = "nobody" }
end
"""
SAYS = b"""
function schedule(context)
  context.log_info("hello from Lua")
  context.emit_metric("jobs_seen", #context.queue)
  return platform.schedule(context)
end
"""


@asynccontextmanager
async def two_workers() -> AsyncIterator[tuple[RunningQueen, AttachedWorker, AttachedWorker]]:
    async with (
        running_queen() as queen,
        attached_worker(queen.channel, "w1", slots=8) as first,
        attached_worker(queen.channel, "w2", slots=8) as second,
    ):
        yield queen, first, second


async def activate(
    queen: RunningQueen, source: bytes, label: str = "mine@1", *, patience_ms: int = 5_000
) -> None:
    # An innocent policy must not be late only because the machine that runs the tests is busy.
    queen.queen.policies.patience_ms = patience_ms
    reply = await queen.queen.policies.activate(source, label)
    assert reply.status is Status.OK, reply


async def submit(queen: RunningQueen, **fields: object) -> str:
    job = await queen.inference.SubmitJob(
        pb.SubmitJobRequest(model="tiny", prompt="bee", max_tokens=4, **fields)  # type: ignore[arg-type]
    )
    return job.job_id


async def leased(queen: RunningQueen, job_id: str) -> job_pb2.Job:
    """Return the job once some worker has it."""
    async with asyncio.timeout(10):
        while True:
            job = await queen.inference.GetJob(pb.GetJobRequest(job_id=job_id))
            if job.worker_id:
                return job


async def test_the_operators_policy_decides_and_signs() -> None:
    async with two_workers() as (queen, _, _):
        before = await leased(queen, await submit(queen))
        assert (before.worker_id, before.policy_version) == ("w1", PLATFORM_LABEL)
        await activate(queen, LAST_WORKER)
        assert queen.queen.policies.label == "mine@1"
        after = await leased(queen, await submit(queen))
        assert (after.worker_id, after.policy_version) == ("w2", "mine@1")
        queen.queen.policies.use_platform()
        # w2 has one job and so has w1: the platform policy decides again.
        back = await leased(queen, await submit(queen))
        assert (back.worker_id, back.policy_version) == ("w1", PLATFORM_LABEL)


async def test_a_text_that_does_not_load_changes_nothing() -> None:
    async with two_workers() as (queen, _, _):
        await activate(queen, LAST_WORKER)
        reply = await queen.queen.policies.activate(b"function schedule(", "broken@2")
        assert reply.status is Status.REJECTED
        assert queen.queen.policies.label == "mine@1"
        assert (await leased(queen, await submit(queen))).policy_version == "mine@1"


@pytest.mark.parametrize(
    ("source", "patience_ms", "because"),
    [(RAISES, 5_000, "failed"), (SPINS, 1, "late"), (SPINS, 5_000, "killed")],
)
async def test_a_policy_that_fails_costs_a_decision_and_no_job(
    source: bytes, patience_ms: int, because: str
) -> None:
    async with two_workers() as (queen, _, _):
        await activate(queen, source, patience_ms=patience_ms)
        job = await leased(queen, await submit(queen))
        policies = queen.queen.policies
        assert job.policy_version == PLATFORM_LABEL
        assert policies.counts.fallbacks[because] >= 1
        assert policies.counts.decisions["dispatch", "fallback"] == 1
        last = policies.decisions.last[-1]
        assert last.is_fallback
        assert isinstance(last.intent, Dispatch)
        explained = await queen.inference.ExplainJob(pb.ExplainJobRequest(job_id=job.job_id))
        assert "fallback to the platform policy" in explained.summary


async def test_a_policy_that_fails_too_often_is_suspended_loudly() -> None:
    async with two_workers() as (queen, _, _):
        told: list[tuple[str, str]] = []
        queen.queen.policies.on_suspended = lambda label, reason: told.append((label, reason))
        await activate(queen, RAISES)
        while not told:
            await leased(queen, await submit(queen))
        ((label, reason),) = told
        assert (label, reason) == ("mine@1", f"failed {limits.POLICY_FAILURES_MAX} times in 60 s")
        assert queen.queen.policies.label == PLATFORM_LABEL


async def test_what_the_state_does_not_allow_is_dropped_counted_and_told() -> None:
    async with two_workers() as (queen, _, _):
        await activate(queen, INVENTS)
        job_id = await submit(queen)
        policies = queen.queen.policies
        await eventually(
            lambda: policies.counts.decisions["dispatch", "dropped"] > 0, "the intent is dropped"
        )
        record = policies.decisions.last[-1]
        assert record.refused is not None
        assert record.refused.reason is Refusal.WORKER_NOT_FOUND
        explained = await queen.inference.ExplainJob(pb.ExplainJobRequest(job_id=job_id))
        assert explained.summary == (
            "waits with 0 jobs before it; mine@1 wanted to dispatch it, which was dropped: "
            "WORKER_NOT_FOUND, there is no such worker"
        )
        # It is not asked the same over and over: only a change, or some time, brings the next question.
        assert policies.counts.decisions["dispatch", "dropped"] <= 2


async def test_a_long_answer_is_applied_in_several_turns_and_in_order() -> None:
    source = b"""
    function schedule(context)
      local actions = {}
      for n, job in ipairs(context.queue) do
        actions[n] = { action = "reject", job_id = job.id, reason = tostring(n) }
      end
      if #actions == 0 then return { action = "wait" } end
      return { action = "batch", actions = actions }
    end
    """
    count = limits.DECISIONS_PER_ROUND_MAX + 44
    async with running_queen() as queen, attached_worker(queen.channel, "w1", slots=0):
        jobs = [await submit(queen) for _ in range(count)]
        policies = queen.queen.policies
        rejected: list[int] = []
        decide = policies.decide

        def watched(now: Instant) -> list[Effect]:
            effects = decide(now)
            rejected.append(policies.counts.decisions["reject", "applied"])
            return effects

        policies.decide = watched  # type: ignore[method-assign]  # watched, and not replaced
        await activate(queen, source)
        await eventually(
            lambda: policies.counts.decisions["reject", "applied"] == count, "all are rejected"
        )
        assert limits.DECISIONS_PER_ROUND_MAX in rejected
        order = [r.intent.job_id for r in policies.decisions.last if isinstance(r.intent, Reject)]
        assert order == jobs


async def test_no_queued_job_notices_that_policies_are_swapped() -> None:
    async with running_queen() as queen, attached_worker(queen.channel, "w1", slots=0):
        jobs = [await submit(queen) for _ in range(20)]
        for number in range(3):
            await activate(queen, LAST_WORKER, f"mine@{number}")
        async with attached_worker(queen.channel, "w2", slots=32):
            for job_id in jobs:
                assert (await leased(queen, job_id)).policy_version == "mine@2"


async def test_what_a_policy_says_and_measures_is_kept() -> None:
    async with two_workers() as (queen, _, _):
        await activate(queen, SAYS)
        assert (await leased(queen, await submit(queen))).policy_version == "mine@1"
        assert ("mine@1", "jobs_seen") in queen.queen.policies.counts.metrics


COUNTS = b"""
function schedule(context)
  context.state.n = (context.state.n or 0) + 1
  local job = context.queue[1]
  if job and job.prompt_tokens > 0 and context.random() < 0.2 then error("moody") end
  local decision = platform.schedule(context)
  decision.reason = "decision " .. context.state.n .. " " .. context.random()
  return decision
end
"""


async def test_what_a_queen_decided_can_be_decided_again(tmp_path: Path) -> None:
    labels = set()
    for run in ("first", "second"):
        async with (
            running_queen(decision_journal=str(tmp_path)) as queen,
            attached_worker(queen.channel, "w1", slots=4),
            attached_worker(queen.channel, "w2", slots=8),
        ):
            await leased(queen, await submit(queen))
            for source, label in ((COUNTS, f"counts@{run}"), (LAST_WORKER, f"last@{run}")):
                await activate(queen, source, label)
                for _ in range(4):
                    labels.add((await leased(queen, await submit(queen))).policy_version)
    assert {"counts@second", "last@first", "last@second"} <= labels
    first, second = journal_files(tmp_path)
    async with sandbox() as zygote:
        for path in (first, second):
            report = await Replay(zygote, path).run(lambda _: None)
            assert report.first is None, report.first.told()
            assert report.decisions > 10
            assert not report.skipped
    # The second queen went on with what the first left in `context.state`.
    entries = [entry for _, entry in JournalReader(second).entries()]
    assert any(isinstance(entry, StateEntry) and entry.state for entry in entries)


@pytest.mark.parametrize(
    ("given", "found"), [("site=north", "north"), ("site=7", "7.0"), ("site=true", "true")]
)
async def test_a_policy_finds_what_the_operator_configured(given: str, found: str) -> None:
    source = b"""
    function schedule(context)
      local job = context.queue[1]
      if not job then return { action = "wait" } end
      return { action = "reject", job_id = job.id, reason = "at " .. tostring(context.config.site) }
    end
    """
    async with (
        running_queen(policy_config=[given]) as queen,
        attached_worker(queen.channel, "w1"),
    ):
        await activate(queen, source)
        job_id = await submit(queen)
        await eventually(lambda: bool(queen.queen.policies.decisions.last), "the policy decides")
        job = await queen.inference.GetJob(pb.GetJobRequest(job_id=job_id))
        assert job.state is job_pb2.JOB_STATE_FAILED
        assert job.failure.reason == "POLICY_DENIED"
        assert job.failure.message == f"the scheduling policy refused the job: at {found}"


async def test_policies_see_what_operators_say_of_hosts_and_clients_of_themselves() -> None:
    nearest = b"""
    function schedule_job(job, pools, workers)
      if job.type ~= "chat" then return nil end
      return workers:min_by(function(w) return distance(job.user.geo, w.geo) * w.cost_per_token end)
    end
    """
    hosts = {"p1": (48.9, 2.4), "p2": (52.4, 13.1)}
    async with running_queen() as queen, AsyncExitStack() as stack:
        for pool_id, (latitude, longitude) in hosts.items():
            traits = pool_pb.HostTraits(cost_per_token=1, latitude=latitude, longitude=longitude)
            snapshot = pool_pb.HostSnapshot(pool_id=pool_id, traits=traits, load=CALM)
            queen.queen.loop.post(PoolReported(pool_report_of(snapshot)))
            worker = attached_worker(queen.channel, f"worker-{pool_id}", pool_id=pool_id)
            await stack.enter_async_context(worker)
        await activate(queen, nearest)
        berlin = {"type": "chat", "geo.lat": "52.5", "geo.lon": "13.4"}
        paris = {"type": "chat", "geo.lat": "48.8", "geo.lon": "2.3"}
        for labels, worker_id in ((berlin, "worker-p2"), (paris, "worker-p1")):
            job = await leased(queen, await submit(queen, labels=labels))
            assert (job.worker_id, job.policy_version) == (worker_id, "mine@1")


async def test_a_mirror_in_a_host_holds_what_the_queen_holds() -> None:
    async with two_workers() as (queen, _, _):
        await activate(queen, LAST_WORKER)
        for _ in range(3):
            await leased(queen, await submit(queen))
        policies = queen.queen.policies
        hosted = policies._hosted
        assert hosted is not None
        await eventually(lambda: hosted.question is None, "the policy has answered")
        assert await hosted.host.digest() == policies.digest()


# --- Who watches ---


def record_of(number: int, *, waits: bool = False) -> DecisionRecord:
    intent = Wait() if waits else Dispatch(job_id=f"j{number}", worker_id="w1")
    return DecisionRecord(
        at=ManualClock().now(), label="mine@1", state_version=number, seed=0, intent=intent
    )


async def test_a_slow_watcher_loses_the_oldest_and_sees_the_gap() -> None:
    feed = DecisionFeed()
    with feed.watch(lambda record: not isinstance(record.intent, Wait)) as watch:
        for number in range(limits.DECISIONS_UNREAD_MAX + 5):
            feed.tell(record_of(number))
            feed.tell(record_of(number, waits=True))
        feed.close()
        read = [sequence async for sequence, _ in watch.decisions()]
    assert read == list(range(6, limits.DECISIONS_UNREAD_MAX + 6))
    assert not feed.is_watched
    # Decisions to wait are kept for nobody.
    assert not any(isinstance(record.intent, Wait) for record in feed.last)
