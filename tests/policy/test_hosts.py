"""A policy at work under the queen's side of the border: late, killed, replaced, suspended, and never in the way."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from beeyard_core import limits
from beeyard_queen.policy.deltas import snapshot
from beeyard_queen.policy.host_process import HostGone, HostProcess
from beeyard_queen.policy.hosts import Outcome, PolicyHost, Ruling
from beeyard_queen.policy.reply import Status
from beeyard_queen.policy.try_command import read_scene
from beeyard_queen.policy.zygote import Terms, Zygote
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.testing import ManualClock

from tests.support.policy_sandbox import running_policy, running_zygote

pytestmark = pytest.mark.asyncio(loop_scope="module")
WAITS = "function schedule() return {action = 'wait'} end"
RUNS = "function schedule() while true do end end"
# Spends its time in C, where no hook sees it: only a kill from outside ends it.
RUNS_IN_C = (
    "function schedule() local s = ('a'):rep(19000) local p = ('a'):rep(9000) .. 'b' "
    "while true do s:find(p, 1, true) end end"
)
# Lua itself never leaves this chain: no hook, no error, only SIGKILL.
RUNS_IN_LUAS_OWN_CODE = "function schedule() local t = {} setmetatable(t, {__call = t}) t() end"
COUNTS = (
    "local n = 0 function schedule() n = n + 1 return {action = 'wait', reason = 'call ' .. n} end"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with running_zygote() as running:
        yield running


def tell(figure: str) -> None:
    """Show a figure to whoever runs pytest with -s."""
    sys.stdout.write(f"\n{figure}\n")


async def turns_of_the_loop(until: "asyncio.Task[Ruling]") -> tuple[int, float]:
    """Return how often the event loop came round while something else went on, and the longest turn in ms."""
    turns, longest, last = 0, 0.0, time.perf_counter()
    while not until.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        turns, longest, last = turns + 1, max(longest, now - last), now
    return turns, longest * 1_000


@pytest.mark.parametrize(
    "source", [RUNS, RUNS_IN_C, RUNS_IN_LUAS_OWN_CODE], ids=["in Lua", "in C", "beyond any hook"]
)
async def test_a_runaway_is_stopped_and_the_event_loop_does_not_notice(
    source: str, zygote: Zygote
) -> None:
    async with running_policy(zygote, source) as policy, running_policy(zygote, WAITS) as other:
        host = policy.current
        assert host is not None
        cpu_before = host.cpu_ms()
        question = asyncio.ensure_future(policy.decide(seed=1, now_ms=0))
        decided = 0
        used = 0.0
        longest, last = 0.0, time.perf_counter()
        while not question.done():
            used = max(used, host.cpu_ms() - cpu_before)
            decided += (await other.decide(seed=1, now_ms=0)).outcome is Outcome.DECIDED
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        ruling = await question
    assert ruling.outcome is Outcome.KILLED
    assert used < 250, "ms of CPU"
    # One turn of this loop is a decision of another policy, which goes on meanwhile.
    assert decided > 10
    tell(
        f"stopped after {used:.0f} ms of CPU; {decided} other decisions; longest turn {longest * 1e3:.1f} ms"
    )


async def test_the_event_loop_goes_round_while_a_runaway_is_killed(zygote: Zygote) -> None:
    async with running_policy(zygote, RUNS_IN_LUAS_OWN_CODE) as policy:
        question = asyncio.ensure_future(policy.decide(seed=1, now_ms=0))
        turns, longest_ms = await turns_of_the_loop(question)
        assert question.result().outcome is Outcome.KILLED
    # Counted and not timed: a loop that waited for the host would come round a handful of times.
    assert turns > 100
    tell(f"{turns} turns of the event loop, the longest {longest_ms:.1f} ms")


async def test_the_next_question_after_a_kill_is_answered_by_the_standby(zygote: Zygote) -> None:
    source = (
        "function schedule(context) if #context.queue > 0 then while true do end end "
        "return {action = 'wait'} end"
    )
    rows = list(snapshot(read_scene(None).world))
    jobs = [("job_gone", f"job-{n}") for n in range(1, 5)]
    async with running_policy(zygote, source, snapshot=lambda: rows) as policy:
        first = policy.current
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.KILLED
        await policy.settle()
        assert policy.current is not None
        assert policy.current is not first
        policy.note(jobs)
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.DECIDED
        assert policy.counts.replaced == 1


async def test_a_policy_that_is_late_is_not_waited_for_and_comes_back(zygote: Zygote) -> None:
    source = "function schedule() for i = 1, 2e6 do end return {action = 'wait'} end"
    async with running_policy(zygote, source, patience_ms=1) as policy:
        ruling = await policy.decide(seed=1, now_ms=0)
        if ruling.outcome is Outcome.LATE:  # a machine may be faster than one look of the watch
            again = await policy.decide(seed=1, now_ms=0)
            assert (again.outcome, again.reason) == (Outcome.LATE, "its host is busy")
            assert policy.current is not None
            while policy.current.is_busy:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert policy.counts.decided == 1
        assert not policy.breaker.mishaps


async def test_three_kills_suspend_a_policy(zygote: Zygote) -> None:
    clock = ManualClock()
    async with running_policy(zygote, RUNS, clock=clock) as policy:
        for _ in range(3):
            assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.KILLED
            await policy.settle()
        ruling = await policy.decide(seed=1, now_ms=0)
        assert (ruling.outcome, ruling.reason) == (Outcome.SUSPENDED, "killed 3 times in 60 s")
        assert policy.current is None


async def test_kills_far_apart_do_not_suspend(zygote: Zygote) -> None:
    clock = ManualClock()
    async with running_policy(zygote, RUNS, clock=clock) as policy:
        for _ in range(4):
            assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.KILLED
            await policy.settle()
            await clock.advance(limits.POLICY_BREAKER_WINDOW_MS)
        assert not policy.breaker.suspended


async def test_an_error_costs_a_decision_and_not_the_host(zygote: Zygote) -> None:
    source = "function schedule()\n  error('no idea')\nend"
    async with running_policy(zygote, source) as policy:
        first = policy.current
        ruling = await policy.decide(seed=1, now_ms=0)
        assert (ruling.outcome, ruling.reason) == (Outcome.FAILED, "line 2: no idea")
        assert policy.current is first


async def test_a_host_out_of_memory_is_never_used_again(zygote: Zygote) -> None:
    source = (
        "function schedule() pcall(function() local s = 'x' while true do s = s .. s end end) end"
    )
    async with running_policy(zygote, source) as policy:
        first = policy.current
        ruling = await policy.decide(seed=1, now_ms=0)
        # A loaded machine may take longer to hand out the memory than the policy has time.
        assert ruling.reply.status in {Status.MEMORY, Status.KILLED}
        await policy.settle()
        assert first is not None
        assert first.is_gone
        assert policy.current not in {None, first}


async def test_a_host_that_somebody_kills_is_replaced(zygote: Zygote) -> None:
    async with running_policy(zygote, WAITS) as policy:
        assert policy.current is not None
        os.kill(policy.current.pid, signal.SIGKILL)
        ruling = await policy.decide(seed=1, now_ms=0)
        assert (ruling.outcome, ruling.reason) == (Outcome.KILLED, "it died")
        await policy.settle()
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.DECIDED


async def test_a_host_that_never_answers_is_killed_by_the_wall_clock(zygote: Zygote) -> None:
    async with running_policy(zygote, WAITS) as policy:
        assert policy.current is not None
        os.kill(policy.current.pid, signal.SIGSTOP)
        ruling = await policy.decide(seed=1, now_ms=0)
        assert (ruling.outcome, ruling.reason) == (
            Outcome.KILLED,
            "it did not answer within 2000 ms",
        )


async def test_a_withdrawn_question_does_not_answer_the_next(zygote: Zygote) -> None:
    async with running_policy(zygote, COUNTS) as policy:
        question = asyncio.ensure_future(policy.decide(seed=1, now_ms=0))
        await asyncio.sleep(0)
        question.cancel()
        with pytest.raises(asyncio.CancelledError):
            await question
        await policy.settle()
        ruling = await policy.decide(seed=1, now_ms=0)
        assert ruling.reply.decisions[0]["reason"] == "call 1"
        assert not policy.breaker.mishaps


async def test_the_mirror_of_a_replaced_host_equals_the_first(zygote: Zygote) -> None:
    rows = list(snapshot(read_scene(None).world))
    async with running_policy(zygote, WAITS, snapshot=lambda: rows) as policy:
        policy.note([("metric", "m", 1.0)])
        noted = await policy.digest()
        rows.append(("metric", "m", 1.0))
        assert policy.current is not None
        os.kill(policy.current.pid, signal.SIGKILL)
        await policy.decide(seed=1, now_ms=0)
        await policy.settle()
        assert await policy.digest() == noted
        policy.note([("metric", "m", 2.0)])
        assert await policy.digest() != noted


async def test_a_delta_that_the_mirror_does_not_know_ends_the_host(zygote: Zygote) -> None:
    async with running_policy(zygote, WAITS) as policy:
        policy.note([("no_such_delta", 1)])
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.KILLED


async def test_a_text_that_does_not_load_says_where(zygote: Zygote) -> None:
    for source, status, text in (
        (
            b"function schedule(\n\n  return end",
            Status.REJECTED,
            "<name> or '...' expected near 'return'",
        ),
        (b"\n\nerror('at load')", Status.REJECTED, "at load"),
        (b"\n\nwhile true do end", Status.KILLED, "used more than its 10000000 instructions"),
    ):
        policy = PolicyHost(zygote, name="x", clock=SystemClock(), snapshot=tuple)
        reply = await policy.start(source)
        assert (reply.status, reply.text, reply.line) == (status, text, 3), reply
        assert policy.current is None
        await policy.stop()


async def test_hosts_die_with_their_zygote_even_while_they_run() -> None:
    async with running_zygote() as zygote:
        policy = PolicyHost(zygote, name="x", clock=SystemClock(), snapshot=tuple, patience_ms=1)
        await policy.start(RUNS_IN_LUAS_OWN_CODE.encode())
        host = policy.current
        assert host is not None
        question = asyncio.ensure_future(policy.decide(seed=1, now_ms=0))
        await asyncio.sleep(0)
        os.kill(zygote.pid, signal.SIGKILL)
        ruling = await question
        assert ruling.outcome in {Outcome.KILLED, Outcome.LATE}
        while not host.is_gone:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0)
        await policy.stop()
        try:
            another = await HostProcess.open(zygote, Terms())
        except HostGone:  # whoever asks first notices; the next one gets a new zygote
            another = await HostProcess.open(zygote, Terms())
        another.kill("seen")


async def test_a_withdrawn_fork_does_not_become_somebody_elses_host(zygote: Zygote) -> None:
    withdrawn = asyncio.ensure_future(HostProcess.open(zygote, Terms()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    withdrawn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await withdrawn
    host = await HostProcess.open(zygote, Terms())
    os.kill(host.pid, 0)
    assert host.cpu_ms() > 0
    assert await host.ask("ping") is None
    host.kill("seen")


async def test_figures(zygote: Zygote) -> None:
    """Prints what the design promises; the bounds here are only there to notice a disaster."""
    large = 2 * limits.POLICY_LARGE_QUEUE_JOBS
    assert Terms.for_queue(0).memory_bytes_max < Terms.for_queue(large).memory_bytes_max
    async with running_policy(zygote, WAITS) as policy:
        times = sorted([await timed(policy) for _ in range(3_000)])
        assert policy.current is not None
        pss_kb = pss(policy.current.pid)
        floor = sorted([await echo_us(policy.current) for _ in range(3_000)])
    spawns = []
    for _ in range(30):
        began = time.perf_counter()
        host = await HostProcess.open(zygote, Terms())
        spawns.append((time.perf_counter() - began) * 1e3)
        host.kill("measured")
    spawns.sort()
    returns = sorted([await kill_to_serving_ms(zygote) for _ in range(15)])
    tell(
        f"wait: {times[1_500]:.0f} / {times[2_970]:.0f} us (p50 / p99), "
        f"of which an empty message {floor[1_500]:.0f} / {floor[2_970]:.0f}; "
        f"a host ready in {spawns[15]:.1f} ms p50; from SIGKILL to serving {returns[7]:.1f} ms p50; "
        f"{pss_kb / 1e3:.1f} MB a host"
    )
    assert times[1_500] < 5_000
    assert spawns[15] < 100
    assert pss_kb < 16_000


async def kill_to_serving_ms(zygote: Zygote) -> float:
    async with running_policy(zygote, WAITS) as policy:
        assert policy.current is not None
        began = time.perf_counter()
        policy.current.kill("measured")
        await policy.decide(seed=1, now_ms=0)
        while policy.current is None:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0)
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.DECIDED
        return (time.perf_counter() - began) * 1e3


async def echo_us(host: HostProcess) -> float:
    """The control of a decision's time: what the machine takes to pass an empty message there and back."""
    began = time.perf_counter()
    await host.request("ping", cpu_ms_max=limits.POLICY_KILL_CPU_MS)
    return (time.perf_counter() - began) * 1e6


async def timed(policy: PolicyHost) -> float:
    began = time.perf_counter()
    ruling = await policy.decide(seed=1, now_ms=0)
    assert ruling.outcome is Outcome.DECIDED
    return (time.perf_counter() - began) * 1e6


def pss(pid: int) -> int:
    """Return a process's proportional share of memory in kB; 0 where that cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
