"""The platform policy in the queen's own process: trusted Lua over a mirror of the world, kept current by deltas.

Only scalars and strings cross the border. A decision comes back as the values of one call and not as a table, which
would cost a look across the border for each field. The policy is our own, bounded by construction and tests, so there
is no deadline in here; operators' policies run in hosts (see `hosts.py`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from beeyard_core.policy.changes import Change
from beeyard_core.policy.intent import Dispatch, Evict, Intent, Preempt, StartWorker, Wait
from lupa import lua54

from beeyard_queen.policy.deltas import Delta, Scalar, deltas_of
from beeyard_queen.policy.lua_source import context_texts, lua_text

#: The platform policy, as decisions name it.
PLATFORM_LABEL: Final = "platform@0"

# The policy's text sees a global table of its own, as in a host, so that `schedule` is found and nothing leaks.
_BOOT: Final = """
local source = ...
local function chunk(text, name, env) return assert(load(text, "=" .. name, "t", env)) end
-- This policy is our own: it may see the records themselves, which cost half of what read-only views cost.
local M, V, H, K = {}, { plain = true }, {}, {}
for at = 2, select("#", ...), 2 do
  local name, text = select(at, ...)
  chunk(text, name, _G)(M, V, H, K)
end
local env = setmetatable({}, { __index = _G })
chunk(source, "platform.lua", env)()
local schedule, begin, context = env.schedule, M.begin, M.context()
M.platform = { schedule = schedule, source = source }
local NONE = {}
local function decide(now_ms, seed)
  begin(now_ms, seed)
  local decided = schedule(context)
  local start = decided.start_worker or NONE
  local gpu_id = start.gpu_id
  return decided.action, decided.reason, decided.job_id, decided.worker_id, decided.for_job_id,
    decided.evict_worker_id, start.model_ref, start.pool_id, gpu_id ~= nil and tostring(gpu_id) or nil,
    decided.retry_after_ms
end
return M, decide
"""


class PlatformPolicy:
    """The platform policy over its own mirror. Not for two threads at once."""

    def __init__(self, source: str | None = None, label: str = PLATFORM_LABEL) -> None:
        """Load the trusted files.

        Args:
            source: Another policy of ours to decide instead; the simulator compares policies with such.
            label: What its decisions are signed with.

        Raises:
            LuaError: One of them has a fault; a bug.
        """
        text = lua_text("platform.lua") if source is None else source
        lua: Any = lua54.LuaRuntime(
            register_eval=False, register_builtins=False, unpack_returned_tuples=True
        )
        mirror, decide = lua.execute(_BOOT, text, *context_texts())
        self.label = label
        self._lua = lua
        self._mirror: Any = mirror
        self._decide: Callable[[int, int], tuple[Any, ...]] = decide
        self._appliers: dict[Scalar, Callable[..., None]] = dict(mirror.deltas)

    def apply(self, deltas: Iterable[Delta]) -> None:
        """Bring the mirror up to date.

        Args:
            deltas: Each the name of a function of the mirror and its arguments (see `deltas.py`).

        Raises:
            KeyError: The mirror has no such function; a bug.
            LuaError: It refuses the arguments; a bug.
        """
        appliers = self._appliers
        for delta in deltas:
            appliers[delta[0]](*delta[1:])

    def take(self, changes: Sequence[Change]) -> None:
        """Bring the mirror up to date: the same as `apply`, in the core's terms."""
        self.apply(deltas_of(changes))

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        """Return what the platform policy decides.

        Args:
            now_ms: The instant of the decision, on the clock of the rows.
            seed: What chance is drawn from; this policy draws none.
        """
        action, reason, job_id, worker_id, for_job_id, evicted, model, pool, gpu, retry = (
            self._decide(now_ms, seed)
        )
        match action:
            case "dispatch":
                return Dispatch(job_id=job_id, worker_id=worker_id, reason=reason)
            case "wait":
                return Wait(reason=reason, retry_after_ms=retry)
            case "preempt":
                return Preempt(job_id=job_id, for_job_id=for_job_id, reason=reason)
            case "start_worker":
                return StartWorker.at(model, pool, gpu, reason=reason)
            case "evict":
                return Evict(evict_worker_id=evicted, reason=reason)
            case _:
                raise AssertionError(f"platform.lua has no action {action}")

    def digest(self) -> str:
        """Return the mirror's digest, to compare with the world's."""
        digest: str = self._mirror.digest()
        return digest


def platform_source() -> str:
    """Return the platform policy's text: what `GetPlatformSource` answers and people copy."""
    return lua_text("platform.lua")
