"""Policies that mean harm, as data.

`python -m tests.support.hostile_cases` runs them all, for whoever watches from outside.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from beeyard_queen.policy.trial import run_trial, sandbox
from beeyard_queen.policy.try_command import read_scene

FOLDER = Path(__file__).parent.parent / "policy" / "hostile"


class Case(NamedTuple):
    """A policy and the ways in which it may end."""

    name: str
    lua: str
    allowed: tuple[str, ...]


def cases() -> Iterator[Case]:
    """The worked examples, then cases of our own."""
    for file in ("examples.jsonl", "more.jsonl"):
        for line in (FOLDER / file).read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            expect = case["expect"]
            allowed = (
                expect if isinstance(expect, list) else [expect.replace("harmless", "decision")]
            )
            if case["name"].startswith("mem_"):
                # A loaded machine may take longer to hand out the memory than the policy has time.
                allowed = [*allowed, "killed"]
            yield Case(case["name"], case["lua"], tuple(allowed))


async def main() -> None:
    """Run every case once; say how many."""
    count = 0
    async with sandbox() as zygote:
        for case in cases():
            await run_trial(zygote, case.lua.encode(), read_scene(None))
            count += 1
    sys.stdout.write(f"{count} cases\n")


if __name__ == "__main__":
    asyncio.run(main())
