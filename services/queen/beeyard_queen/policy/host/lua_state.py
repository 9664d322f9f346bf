"""The Lua state of a host: the trusted files, in order, and the few functions that the process calls.

Strings are bytes on both sides: what a policy writes need not be text, and nothing is decoded on its way. Only bytes,
numbers, booleans and None may be handed to Lua; anything else would arrive there as a Python object, which must never
happen, so each value is checked.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from lupa import lua54

LuaMemoryError: Final[type[Exception]] = lua54.LuaMemoryError
_SCALARS: Final = frozenset({bytes, int, float, bool, type(None)})

_BOOT: Final = b"""
local text, limits = ...
local rooms = { allowlist = text["allowlist.txt"], platform = text["platform.lua"], limits = limits }
local function chunk(name) return assert(load(text[name], "=" .. name, "t")) end
rooms.guard = chunk("guard.lua")(limits)
rooms.library = chunk("library.lua")(rooms.guard, limits)
rooms.border = chunk("border.lua")(limits)
rooms.state = chunk("state.lua")(limits)
rooms.mirror, rooms.helpers = {}, {}
local views, shared = {}, {}
for name in text["context"]:gmatch("%S+") do chunk(name)(rooms.mirror, views, rooms.helpers, shared) end
local policy = chunk("prelude.lua")(rooms)
return policy.load, policy.decide, policy.names, rooms.mirror
"""


class LuaState:
    """One Lua 5.4 with everything but a policy in it."""

    def __init__(self, texts: Mapping[bytes, bytes], limits: Mapping[bytes, int]) -> None:
        """Load the trusted files.

        Args:
            texts: File name -> its text; `context`: the names of the files that make the context, in their order.
            limits: Name -> number, for the files that keep to it.

        Raises:
            LuaError: A trusted file has a fault; a bug.
        """
        self._lua: Any = lua54.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            max_memory=limits[b"memory_bytes_max"],
            attribute_handlers=(_deny, _deny),
        )
        table = self._lua.table_from
        load, decide, names, mirror = self._lua.execute(_BOOT, table(texts), table(limits))
        self._load: Callable[..., bytes] = load
        self._decide: Callable[..., bytes] = decide
        self._names: Callable[[], bytes] = names
        self._mirror: Any = mirror
        self._appliers: dict[bytes, Callable[..., None]] = {}

    def load(self, source: bytes, cpu_ms: int, instructions: int) -> bytes:
        """Load a policy; return the packed reply."""
        return self._load(source, cpu_ms, instructions)

    def decide(
        self, seed: int, now_ms: int, cpu_ms: int, instructions: int, held: bytes | None
    ) -> bytes:
        """Ask the policy for a decision; return the packed reply.

        Args:
            seed: Of everything that it draws by chance.
            now_ms: The instant that it sees.
            cpu_ms: CPU time that it may use.
            instructions: How many it may execute.
            held: What `context.state` holds; None: what the last decision left in it.
        """
        return self._decide(seed, now_ms, cpu_ms, instructions, held)

    def apply(self, deltas: Sequence[Sequence[bytes | float | None]]) -> None:
        """Bring the mirror up to date.

        Args:
            deltas: Each the name of a function of the mirror, then its arguments.

        Raises:
            TypeError: An argument is no scalar.
            LuaError: The mirror refuses a delta; a bug of the queen's.
        """
        for name, *arguments in deltas:
            for value in arguments:
                if value.__class__ not in _SCALARS:
                    raise TypeError(f"a delta holds a {type(value).__name__}")
            self._applier(bytes(name))(*arguments)  # type: ignore[arg-type]

    def digest(self) -> bytes:
        """Return the mirror's digest."""
        digest: bytes = self._mirror[b"digest"]()
        return digest

    def names(self) -> bytes:
        """Return the names that a policy sees, with spaces between them."""
        return self._names()

    def memory_bytes(self) -> int:
        """Return what this state uses."""
        used: int = self._lua.get_memory_used()
        return used

    def limit_memory(self, bytes_max: int) -> None:
        """Set what this state may use."""
        self._lua.set_max_memory(bytes_max)

    def _applier(self, name: bytes) -> Callable[..., None]:
        found = self._appliers.get(name)
        if found is None:
            found = self._appliers[name] = self._mirror[name]
        return found


def _deny(*_: object) -> NoReturn:
    raise AttributeError("Lua does not look into Python objects here")
