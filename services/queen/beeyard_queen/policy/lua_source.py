"""The Lua files that are packaged with the queen, as text.

They are read as resources and not by a path beside this file, so that they are found in a wheel, a zip and a checkout
alike.
"""

from functools import cache
from importlib.resources import files


@cache
def lua_text(name: str) -> str:
    """Return the text of a packaged Lua file.

    Args:
        name: Its name within `policy/lua`, such as `index.lua`.

    Raises:
        FileNotFoundError: No such file is packaged; a bug, since names are written in code.
    """
    return (files("beeyard_queen.policy") / "lua" / name).read_text(encoding="utf-8")
