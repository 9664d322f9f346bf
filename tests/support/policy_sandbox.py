"""A policy sandbox for tests, and the same attacks without it: the controls.

A denial is only worth something if the attack is alive. So each named test runs its attack twice: in a real host, and
in a bare Lua with the usual half measure, a hook that raises an error after the deadline. The second must run away
until it is killed, or reach what the first must not.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from beeyard_queen.policy.hosts import Delta, PolicyHost
from beeyard_queen.policy.zygote import Terms, Zygote
from beeyard_runtime.clock import Clock, SystemClock

# What people usually do: an instruction hook that raises once the time is up. Eight times that is run away.
_BARE = """
import signal, sys
from lupa import lua54
signal.setitimer(signal.ITIMER_PROF, 0.4)
lua = lua54.LuaRuntime(encoding=None, max_memory=64 << 20)
run = lua.execute(b'''
local source = ...
local sethook, clock, load, pcall, error = debug.sethook, os.clock, load, pcall, error
local chunk = assert(load(source, "=policy", "t"))
chunk()
local deadline = clock() + 0.05
sethook(function() if clock() > deadline then sethook(nil) error("deadline", 0) end end, "", 1000)
local ok, result = pcall(schedule, {})
sethook()
return ok, tostring(result)
''', sys.argv[1].encode())
print(run)
"""


async def runs_away_unguarded(source: str) -> bool:
    """Return whether a policy outlives a plain deadline hook by so much that only the kernel ends it."""
    code, _ = await _bare(source)
    return code < 0


async def unguarded(source: str) -> str:
    """Return what a policy comes to in a bare Lua: `(True, result)` or `(False, error)`, as text."""
    _, out = await _bare(source)
    return out


async def _bare(source: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BARE, source, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@asynccontextmanager
async def running_zygote() -> AsyncIterator[Zygote]:
    """A zygote with the packaged Lua files, for the time of the block."""
    zygote = Zygote()
    await zygote.start()
    try:
        yield zygote
    finally:
        await zygote.stop()


@asynccontextmanager
async def running_policy(
    zygote: Zygote,
    source: str,
    *,
    clock: Clock | None = None,
    snapshot: Callable[[], Sequence[Delta]] = tuple,
    patience_ms: int = 5_000,
    terms: Callable[[], Terms] = Terms,
) -> AsyncIterator[PolicyHost]:
    """A policy that was accepted, with a standby beside it."""
    host = PolicyHost(
        zygote, name="tested", clock=clock or SystemClock(), snapshot=snapshot, terms=terms,
        patience_ms=patience_ms,
    )  # fmt: skip
    try:
        loaded = await host.start(source.encode())
        assert loaded.status.value == "ok", loaded
        await host.settle()
        yield host
    finally:
        await host.stop()
