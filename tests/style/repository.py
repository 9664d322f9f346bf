"""What the style tests look at: the files that git knows, or would take, and their syntax trees."""

import ast
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
GENERATED = ("clients/python/gen/", "clients/go/gen/", "clients/web/src/gen/")


@functools.cache
def files() -> tuple[str, ...]:
    """Return every file of the project that is not generated, as paths from its root; new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    names = sorted(set(listed.split("\0")) - {""})
    return tuple(
        name for name in names if not name.startswith(GENERATED) and (ROOT / name).is_file()
    )


def text_of(name: str) -> str:
    """Return a file's text; bytes that are not UTF-8 are replaced."""
    return (ROOT / name).read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Module:
    """One Python file.

    Attributes:
        name: Its path from the root of the project.
        lines: How many lines it has.
        tree: Its syntax tree.
    """

    name: str
    lines: int
    tree: ast.Module

    def at(self, node: ast.stmt | ast.expr) -> str:
        """Return where a node stands, as an editor understands it."""
        return f"{self.name}:{node.lineno}"


@functools.cache
def modules() -> tuple[Module, ...]:
    """Return every Python file of the project that is not generated."""
    return tuple(_parse(name) for name in files() if name.endswith(".py"))


def _parse(name: str) -> Module:
    text = text_of(name)
    return Module(name, text.count("\n"), ast.parse(text, filename=name))


def modules_under(*folders: str) -> Iterator[Module]:
    """Return the Python files in these folders, which end in a slash."""
    return (module for module in modules() if module.name.startswith(folders))


def functions_of(module: Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Return each function of a file with its length in lines."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for such an expression; empty for any other."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            left = dotted(value)
            return f"{left}.{attr}" if left else ""
        case _:
            return ""


def imports_of(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Return every module that a file imports; `from a import b` counts as `a` and as `a.b`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node, node.module
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def calls_of(module: Module) -> Iterator[tuple[ast.Call, str]]:
    """Return every call of a name, with the name spelt out through the file's own imports."""
    spelt = _spelling(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (name := dotted(node.func)):
            head, _, rest = name.partition(".")
            full = spelt.get(head, head)
            yield node, f"{full}.{rest}" if rest else full


def _spelling(module: Module) -> dict[str, str]:
    """Return what each imported name stands for: `from time import sleep as nap` gives nap -> time.sleep."""
    spelt: dict[str, str] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            spelt |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            spelt |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return spelt
