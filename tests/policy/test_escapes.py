"""One test for each way out of a plain deadline and each thing that a policy must not reach, all with their controls.

The control runs the same text in a bare Lua with a deadline hook and nothing else: there it runs away, or gets what it
wants. So a test here fails when a guard is lost, and also when an attack goes stale.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from beeyard_core import limits
from beeyard_queen.policy.hosts import Outcome, Ruling
from beeyard_queen.policy.lua_source import lua_text
from beeyard_queen.policy.zygote import Zygote

from tests.support.policy_sandbox import (
    running_policy,
    running_zygote,
    runs_away_unguarded,
    unguarded,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Every one of these outlives an error raised by a hook.
RUNAWAYS = {
    "pcall_swallows_the_deadline": "while true do pcall(function() while true do end end) end",
    "xpcall_handlers_run_without_hooks": "local function l() while true do end end xpcall(l, l)",
    "pcall_at_the_end_of_the_c_stack": "local function f() while true do pcall(f) end end f()",
    "coroutines_have_hooks_of_their_own": "coroutine.wrap(function() while true do end end)()",
    "finalizers_run_without_hooks": (
        "setmetatable({}, {__gc = function() while true do end end}) "
        "for i = 1, 1e6 do local t = {} end"
    ),
    "closing_values_swallow_the_deadline": (
        "local mt = {} local o = setmetatable({}, mt) "
        "mt.__close = function() while true do pcall(function() while true do end end) end end "
        "do local x <close> = o end"
    ),
    "patterns_backtrack_in_c": 'string.find(("a"):rep(5000), (".-"):rep(12) .. "b")',
    "gsub_backtracks_in_c": 'string.gsub(("a"):rep(60000), ".-.-b", "")',
    "plain_search_of_long_texts_in_c": (
        'local s, p = ("a"):rep(4e6), ("a"):rep(2e6) .. "b" string.find(s, p, 1, true)'
    ),
    "table_move_over_a_huge_range": "table.move({}, 1, 2^52, 2)",
    "table_insert_believes_len": (
        "table.insert(setmetatable({}, {__len = function() return 2^52 end}), 1, 1)"
    ),
    "repeating_nothing_very_often": 'string.rep("", 1e15)',
}
# What a bare Lua hands out, as an expression that is true if it did.
REACHABLE = {
    "the_system": "os ~= nil and os.execute ~= nil",
    "files": "io ~= nil and io.open ~= nil",
    "python": "python ~= nil",
    "the_debug_library": "debug ~= nil",
    "loading_code": "load ~= nil",
    "bytecode": "string.dump ~= nil",
    "modules": "require ~= nil or package ~= nil",
    "the_collector": "collectgarbage ~= nil",
    "coroutines": "coroutine ~= nil",
    "the_metatable_that_all_strings_share": "type(getmetatable('')) == 'table'",
    "addresses_by_tostring": "tostring({}):find('0x') ~= nil",
    "addresses_by_format": "(select(2, pcall(string.format, '%p', {})) or ''):find('^0x') ~= nil",
    "finalizers": "pcall(setmetatable, {}, {__gc = function() end})",
    "weak_references": "pcall(setmetatable, {}, {__mode = 'k'})",
    "the_order_of_a_hash_by_next": "pcall(next, {a = 1, b = 2}, 'a')",
    "seeding_chance": "math.randomseed ~= nil",
    "the_wall_clock": "os.time() > 1e9",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def zygote() -> AsyncIterator[Zygote]:
    async with running_zygote() as running:
        yield running


def schedule(body: str) -> str:
    return f"function schedule(context)\n{body}\nreturn {{action = 'wait'}}\nend"


async def asked(zygote: Zygote, body: str) -> Ruling:
    """Return how a policy ended in a host."""
    async with running_policy(zygote, schedule(body)) as policy:
        return await policy.decide(seed=1, now_ms=1_000)


@pytest.mark.parametrize("name", RUNAWAYS)
async def test_nothing_runs_away(name: str, zygote: Zygote) -> None:
    ruling = await asked(zygote, RUNAWAYS[name])
    assert ruling.outcome in {Outcome.FAILED, Outcome.KILLED, Outcome.DECIDED}
    # Wall time on a loaded machine; a runaway would sit until the cap.
    assert ruling.elapsed_ms < limits.POLICY_WALL_MS
    assert await runs_away_unguarded(schedule(RUNAWAYS[name])), "the attack is stale"


@pytest.mark.parametrize("name", REACHABLE)
async def test_a_policy_does_not_reach(name: str, zygote: Zygote) -> None:
    ruling = await asked(zygote, f"if {REACHABLE[name]} then error('reached') end")
    assert ruling.outcome is Outcome.DECIDED, ruling.reason
    bare = await unguarded(f"function schedule() return {REACHABLE[name]} end")
    assert bare.startswith("(True, b'true')"), "the attack is stale"


async def test_bytecode_is_not_loaded(zygote: Zygote) -> None:
    made = await unguarded(
        "function schedule() return (string.dump(function() return 7 end)):byte(1) end"
    )
    assert made.startswith("(True, b'27')")
    with pytest.raises(AssertionError, match="bytecode is not accepted"):
        async with running_policy(zygote, "\x1bLua"):
            pass


async def test_a_policy_sees_exactly_what_the_list_names(zygote: Zygote) -> None:
    listed = {
        line.split()[0]
        for line in lua_text("allowlist.txt").splitlines()
        if line and not line.startswith("#")
    }
    async with running_policy(zygote, schedule("")) as policy:
        assert policy.current is not None
        seen = set(str(await policy.current.ask("names")).split())
    assert seen == listed | {"_G", "schedule"}


async def test_what_a_policy_does_to_its_library_stays_its_own(zygote: Zygote) -> None:
    body = "string.find = nil table.sort = nil pairs = nil assert(('ab'):find('b') == 2)"
    async with running_policy(zygote, schedule(body)) as policy:
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.DECIDED
        assert (await policy.decide(seed=1, now_ms=0)).outcome is Outcome.DECIDED


async def test_the_same_seed_gives_the_same_chance_in_every_host(zygote: Zygote) -> None:
    body = "do return {action = 'wait', reason = math.random() .. ' ' .. math.random(1, 999)} end"
    told = []
    for _ in range(2):
        async with running_policy(zygote, schedule(body)) as policy:
            told.append([(await policy.decide(seed=s, now_ms=0)).reply.decisions for s in (1, 2)])
    assert told[0] == told[1]
    assert told[0][0] != told[0][1]


async def test_sorting_is_stable_and_pairs_has_an_order(zygote: Zygote) -> None:
    body = """
    local list = {}
    for i = 1, 300 do list[i] = {key = i % 3, at = i} end
    table.sort(list, function(a, b) return a.key < b.key end)
    for i = 2, 300 do
      local a, b = list[i - 1], list[i]
      assert(a.key < b.key or (a.key == b.key and a.at < b.at))
    end
    local seen = {}
    for key in pairs({b = 1, a = 2, [3] = 3, [1] = 4, [true] = 5}) do seen[#seen + 1] = tostring(key) end
    assert(table.concat(seen, ' ') == 'true 1 3 a b', table.concat(seen, ' '))
    """
    ruling = await asked(zygote, body)
    assert ruling.outcome is Outcome.DECIDED, ruling.reason
