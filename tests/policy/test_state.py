"""`context.state`: it outlives decisions and processes, within bounds, and nothing else of a policy is promised to."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beeyard_queen.policy.hosts import Outcome, PolicyHost
from beeyard_queen.policy.zygote import Zygote
from beeyard_runtime.clock import SystemClock

from tests.support.eventually import PATIENCE_S
from tests.support.policy_sandbox import running_policy, running_zygote

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTS = """
function schedule(context)
  local s = context.state
  s.n = (s.n or 0) + 1
  s.seen = s.seen or {}
  s.seen[s.n] = s.n / 2
  return { action = "wait", reason = s.n .. " " .. tostring(s.seen[s.n]) .. " " .. #s.seen }
end
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with running_zygote() as running:
        yield running


async def said(policy: PolicyHost) -> str:
    """Ask once; return the reason of the decision, or why there is none."""
    ruling = await policy.decide(seed=1, now_ms=0)
    if ruling.outcome is not Outcome.DECIDED:
        return f"{ruling.outcome.value}: {ruling.reason}"
    return str(ruling.reply.decisions[0]["reason"])


async def test_what_a_policy_keeps_is_there_at_its_next_decision(zygote: Zygote) -> None:
    async with running_policy(zygote, COUNTS) as policy:
        assert [await said(policy) for _ in range(3)] == ["1 0.5 1", "2 1.0 2", "3 1.5 3"]


async def test_a_host_that_takes_over_goes_on_with_it(zygote: Zygote) -> None:
    async with running_policy(zygote, COUNTS) as policy:
        await said(policy)
        await said(policy)
        assert policy.current is not None
        policy.current.kill("a test")
        assert (await said(policy)).startswith("killed")
        await policy.settle()
        # Numbers are what they were: a float is not a whole number now.
        assert await said(policy) == "3 1.5 3"


async def test_a_policy_that_is_started_anew_is_given_what_it_kept(zygote: Zygote) -> None:
    async with running_policy(zygote, COUNTS) as policy:
        await said(policy)
        kept = policy.state
    again = PolicyHost(
        zygote, name="again", clock=SystemClock(), snapshot=tuple, state=kept, patience_ms=5_000
    )
    await again.start(COUNTS.encode())
    assert await said(again) == "2 1.0 2"
    await again.stop()


async def test_equal_tables_are_equal_bytes_in_whatever_order_they_were_filled(
    zygote: Zygote,
) -> None:
    fills = [
        "s.b, s.a, s[2], s[1], s.x = 'ü', true, -1, 2^40|0, {y = 0/0, [3] = 1e300}",
        "s.x = {[3] = 1e300, y = -(0/0)} s[1] = 1 << 40 s[2] = -1 s.c = 1 s.a = true s.c = nil s.b = 'ü'",
    ]
    kept = set()
    for fill in fills:
        source = f"function schedule(c) local s = c.state {fill} return {{action = 'wait'}} end"
        async with running_policy(zygote, source) as policy:
            await policy.decide(seed=1, now_ms=0)
            kept.add(policy.state)
    assert len(kept) == 1
    assert len(kept.pop()) > 50


async def test_nothing_is_sent_back_when_nothing_changed(zygote: Zygote) -> None:
    source = "function schedule(c) c.state.x = 1 return {action = 'wait'} end"
    async with running_policy(zygote, source) as policy:
        first = await policy.decide(seed=1, now_ms=0)
        second = await policy.decide(seed=1, now_ms=0)
        assert first.reply.state == policy.state != b""
        assert second.reply.state is None


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("function() end", "holds a function"),
        ("context", "holds a table with a metatable"),
        ("context.queue", "holds a table with a metatable"),
        ("setmetatable({}, {__index = function() while true do end end})", "with a metatable"),
        ("{[1.5] = 1}", "a key that is a float"),
        ("{[true] = 1}", "a key that is a boolean"),
        ("('x'):rep(70000)", "more than 65536 bytes"),
        ("(function() local t = {} for i = 1, 9000 do t[i] = i * 1000 end return t end)()", "more than 65536 bytes"),
        ("(function() local t = {} t.t = t return t end)()", "more than 16 deep"),
    ],
)  # fmt: skip
async def test_what_cannot_be_kept_is_an_error_and_the_state_stays_as_it_was(
    zygote: Zygote, value: str, wrong: str
) -> None:
    source = f"""
    function schedule(context)
      if context.state.n then return {{ action = "wait", reason = "still " .. context.state.n }} end
      if context.now_ms == 0 then context.state.n = nil context.state.bad = {value}
      else context.state.n = 1 end
      return {{ action = "wait", reason = "kept" }}
    end
    """
    async with running_policy(zygote, source) as policy:
        ruling = await policy.decide(seed=1, now_ms=0)
        assert ruling.outcome is Outcome.FAILED
        assert f"context.state {wrong}" in ruling.reason or wrong in ruling.reason
        assert policy.state == b""
        assert (await policy.decide(seed=1, now_ms=1)).outcome is Outcome.DECIDED
        assert await said(policy) == "still 1"


async def test_a_decision_that_fails_leaves_the_state_as_it_was(zygote: Zygote) -> None:
    source = """
    function schedule(context)
      context.state.n = (context.state.n or 0) + 1
      if context.now_ms == 1 then error("no") end
      return { action = "wait", reason = tostring(context.state.n) }
    end
    """
    async with running_policy(zygote, source) as policy:
        assert await said(policy) == "1"
        assert (await policy.decide(seed=1, now_ms=1)).outcome is Outcome.FAILED
        assert await said(policy) == "2"


async def test_a_decision_that_came_too_late_leaves_the_state_as_it_was(zygote: Zygote) -> None:
    source = """
    function schedule(context)
      context.state.n = (context.state.n or 0) + 1
      if context.now_ms == 1 then for _ = 1, 2000000 do end end
      return { action = "wait", reason = tostring(context.state.n) }
    end
    """
    async with running_policy(zygote, source, patience_ms=0) as policy:
        n = await counted(policy)
        # Until it is late: the machine may be faster than one look of the watch.
        while (ruling := await policy.decide(seed=1, now_ms=1)).outcome is Outcome.DECIDED:
            n = int(str(ruling.reply.decisions[0]["reason"]))
        assert ruling.outcome is Outcome.LATE
        assert await counted(policy) == n + 1


async def counted(policy: PolicyHost) -> int:
    """Ask until an answer comes in time, which on a loaded machine even a short one may not; return its count."""
    async with asyncio.timeout(PATIENCE_S):
        while not (answer := await said(policy)).isdecimal():
            assert answer.startswith("late"), answer
            await asyncio.sleep(0)
    return int(answer)
