"""A mirror in this process, fed and questioned by tests."""

from typing import Any, cast

from beeyard_core.policy.world import World
from beeyard_queen.policy.deltas import Delta, snapshot
from beeyard_queen.policy.lua_source import context_texts
from lupa import lua54

LOAD = """
local M, V, H, K = {}, {}, {}, {}
for at = 1, select("#", ...), 2 do
  local name, text = select(at, ...)
  assert(load(text, "=" .. name))(M, V, H, K)
end
return M
"""
#: Compiles a test's text with the names that tests use.
CHUNK = """
local M, text, name = ...
return assert(load(text, "=" .. name, "t", setmetatable({
  M = M, context = M.context(), helpers = M.helpers, platform = M.platform_table,
}, { __index = _G })))
"""


class Mirror:
    """One Lua state with mirror, views and functions, as the queen's process has it."""

    def __init__(self, world: World | None = None) -> None:
        """Load the rooms and take in a world.

        Args:
            world: What the mirror holds at first; None: nothing.
        """
        self.lua = lua54.LuaRuntime(register_eval=False, register_builtins=False)
        # Lua's values have no types that Python knows.
        self.M = cast("Any", self.lua.execute(LOAD, *context_texts()))
        if world is not None:
            self.apply(*snapshot(world))

    def apply(self, *deltas: Delta) -> None:
        """Apply deltas in their order."""
        for kind, *arguments in deltas:
            self.M[kind](*arguments)

    def begin(self, now_ms: int = 0, seed: int = 1) -> None:
        """Open a decision."""
        self.M.begin(now_ms, seed)

    def run(self, text: str, *arguments: object, name: str = "test") -> Any:
        """Run Lua text, in which `M`, `context`, `helpers` and `platform` are names, and return what it returns."""
        return self.lua.execute(CHUNK, self.M, text, name)(*arguments)

    def value(self, expression: str) -> Any:
        """Return what a Lua expression is worth."""
        return self.run(f"return {expression}")

    def digest(self) -> str:
        """Return the mirror's digest."""
        return cast("str", self.M.digest())
