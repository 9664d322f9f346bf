"""The Lua files that are packaged with the queen, as text.

They are read as resources and not by a path beside this file, so that they are found in a wheel, a zip and a checkout
alike. `CONTEXT_FILES` is one set for both runtimes, the queen's process and its hosts.
"""

from functools import cache
from importlib.resources import files
from typing import Final

_MIRROR: Final = (
    "heaps", "lines", "lists", "needs", "classes", "tenants", "jobs", "scopes", "workers", "runs", "hosts", "catalog",
    "decisions", "digest",
)  # fmt: skip
_HELPERS: Final = (
    "arguments", "jobs", "durations", "fitting", "queue", "workers", "lists", "pools", "gpus", "models", "tenants",
    "eviction", "preemption", "room", "small", "context",
)  # fmt: skip
#: The mirror, what a policy sees of it, and the functions that it calls, in the order in which they load. Each file is
#: called with four tables that all share: M the mirror, V the views, H the functions, K what their files share.
CONTEXT_FILES: Final = (
    *(f"mirror/{name}.lua" for name in _MIRROR),
    "views.lua",
    *(f"helpers/{name}.lua" for name in _HELPERS),
)


@cache
def lua_text(name: str) -> str:
    """Return the text of a packaged Lua file.

    Args:
        name: Its path within `policy/lua`, such as `mirror/jobs.lua`.

    Raises:
        FileNotFoundError: No such file is packaged; a bug, since names are written in code.
    """
    return (files("beeyard_queen.policy") / "lua" / name).read_text(encoding="utf-8")


def context_texts() -> tuple[str, ...]:
    """Return the names and texts of the context's files by turns, as the boot of a Lua state takes them."""
    return tuple(part for name in CONTEXT_FILES for part in (name, lua_text(name)))
