"""Draws docs/policies/helpers.md from the annotations that editors read.

The annotations say once what each function takes and gives; a test holds them against the functions, runs their
examples, and fails when the page is stale.

Usage: python scripts/draw_policy_functions.py
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "services/queen/beeyard_queen/policy/lua/annotations.lua"
PAGE = ROOT / "docs/policies/helpers.md"

HEAD = """# The functions that a policy can call

<!-- Drawn by scripts/draw_policy_functions.py from the annotations of `policy/lua/annotations.lua`. Do not edit. -->

Every function is called as `context.helpers.name(...)`, as `context.name(...)` or as `context:name(...)`. Sizes are
bytes, times are milliseconds; where a record is asked for, its id will do. A wrong kind of argument is an error that
names the function and the argument; an amount that is negative or not finite matches nothing. What a function gives is
read-only, apart from lists, which are the policy's own. Ties always fall to the smaller id, so that equal worlds give
equal answers.

An editor that reads LuaCATS annotations completes all of this: point it at
`services/queen/beeyard_queen/policy/lua/annotations.lua`.

The examples hold in this world, ten minutes after its clock began (`context.now_ms` is 600000):

| worker | pool, GPUs | model | slots free | VRAM free | tokens/s | cost a token | last used at |
|---|---|---|---|---|---|---|---|
| worker-1 | pool-1, 0 | llama-7b | 3 of 4 | 8 GiB | 50 | 0.2 | 590000 |
| worker-2 | pool-1, 1 | llama-7b | 4 of 4 | 4 GiB | 40 | 0.1 | 500000 |
| worker-3 | pool-2, 0 | llama-13b | 0 of 1 | none | 30 | 0.3 | 600000 |
| worker-4 | pool-2, 0 and 1 | llama-70b | 2 of 2 | 6 GiB | 10 | 0.9 | 100000 |

| job | class | tenant | model | waits for |
|---|---|---|---|---|
| job-1 | interactive | tenant-1 | llama-7b | 30 s; 100 of its 200 prompt tokens are in the cache of worker-1 |
| job-3 | normal | tenant-2 | llama-7b | 20 s; its second attempt |
| job-2 | batch | tenant-2 | llama-13b | 6 min |

The background job job-9 runs on worker-1. Tenant-1 uses 32 of 48 GiB, tenant-2 runs the one job that it may. Pool-1 has
two RTX 4090 with 8 and 16 GiB free, pool-2 an A100 with 6 GiB free.
"""


@dataclass
class Function:
    """One function of the annotations.

    Attributes:
        owner: `Helpers` or `WorkerList`.
        parameters: Name, type and meaning of each.
        returns: Type and meaning of each.
        example: An expression, and what it is worth.
    """

    owner: str = ""
    name: str = ""
    meaning: str = ""
    parameters: list[tuple[str, str, str]] = field(default_factory=list)
    returns: list[tuple[str, str]] = field(default_factory=list)
    example: tuple[str, str] = ("", "")

    @property
    def call(self) -> str:
        """How it is called."""
        names = ", ".join(name for name, _, _ in self.parameters)
        return (
            f"workers:{self.name}({names})"
            if self.owner == "WorkerList"
            else f"{self.name}({names})"
        )


@dataclass
class Section:
    """Functions under one heading."""

    title: str
    meaning: str = ""
    functions: list[Function] = field(default_factory=list)


PARAMETER = re.compile(r"---@param (\S+) (\S*fun\(.*?\): \w+\??|\S+) ?(.*)")
RETURN = re.compile(r"---@return (fun\(.*|\S+) ?(.*)")
EXAMPLE = re.compile(r"---Example: `(.*)` → `(.*)`")
FUNCTION = re.compile(r"function (\w+)[.:](\w+)\(")


def sections() -> Iterator[Section]:
    """Read the annotations of the functions, heading by heading."""
    _, *parts = SOURCE.read_text(encoding="utf-8").split("\n-- ## ")
    for part in parts:
        title, *lines = part.splitlines()
        section = Section(title)
        function = Function()
        for line in lines:
            if line.startswith("-- "):
                section.meaning += line[3:] + "\n"
            elif found := FUNCTION.match(line):
                function.owner, function.name = found.groups()
                section.functions.append(function)
                function = Function()
            else:
                read_line(function, line)
        yield section


def read_line(function: Function, line: str) -> None:
    """Add one line of a function's annotations to it."""
    if found := PARAMETER.match(line):
        name, kind, meaning = found.groups()
        function.parameters.append((name, kind, meaning))
    elif found := RETURN.match(line):
        function.returns.append((found[1], found[2].removeprefix("# ")))
    elif found := EXAMPLE.match(line):
        function.example = (found[1], found[2])
    elif line.startswith("---"):
        function.meaning += line[3:] + "\n"


def drawn(function: Function) -> Iterator[str]:
    """One function as Markdown."""
    yield f"### `{function.call}`\n\n{function.meaning}"
    lines = [
        f"- `{name}`: {cell(kind)}{'. ' + meaning if meaning else ''}"
        for name, kind, meaning in function.parameters
    ]
    gives = "; ".join(
        cell(kind) + (f" ({meaning})" if meaning else "") for kind, meaning in function.returns
    )
    lines.append(f"- gives {gives or 'nothing'}")
    yield "\n".join(lines) + "\n"
    expression, worth = function.example
    yield f"```lua\n{expression}  --> {worth}\n```\n"


def cell(kind: str) -> str:
    """A type as code; `?` at its end says that nil will do."""
    return f"`{kind[:-1]}` or nil" if kind.endswith("?") else f"`{kind}`"


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for section in sections():
        parts.append(f"## {section.title}\n")
        if section.meaning:
            parts.append(section.meaning)
        for function in section.functions:
            parts.extend(drawn(function))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
