"""`policy source`: the platform policy's text, to read, to copy and to change."""

import argparse
import sys

from beeyard_queen.policy.lua_source import lua_text


def main(argv: list[str]) -> int:
    """Run `policy source`.

    Args:
        argv: What follows `source` on the command line; nothing.

    Returns:
        The exit code, 0.
    """
    argparse.ArgumentParser(
        prog="beeyard policy source", description="Print the platform policy, in Lua."
    ).parse_args(argv)
    sys.stdout.write(lua_text("platform.lua"))
    return 0
