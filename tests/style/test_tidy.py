"""The rules of the house that a machine can check, beyond what ruff, mypy and import-linter know.

Each test collects every offence and names the way out, so that one run tells all there is to do. None has a list of
exemptions: a file that cannot keep a rule is split, or the rule is changed for everybody.
"""

import ast
import re
import statistics
import sys
from collections.abc import Iterable, Iterator

from tests.style import repository
from tests.style.repository import Module

FUNCTION_LINES_MAX = 70
FUNCTION_LINES_P90 = 35
MODULE_LINES_MAX = 500
MODULE_LINES_MEDIAN = 150

SERVICES = "services/"
CORE = "services/core/"
CLIENT = "clients/python/src/"

# What the core may import: values and structures. Anything else is a clock, chance, a socket, a file or a thread.
CORE_IMPORTS = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq", "itertools",
    "math", "operator", "re", "statistics", "struct", "types", "typing", "beeyard_core",
}  # fmt: skip

CLOCK = "take `now: Instant` as an argument"
CHANCE = "take the value as an argument; the shell draws it"
# Calls that decide by what nobody handed in.
CORE_CALLS = {
    "time.": CLOCK,
    "datetime.": CLOCK,
    "random.": CHANCE,
    "secrets.": CHANCE,
    "uuid.": CHANCE,
    "open": "return an effect; the shell does the writing",
    "print": "return an effect; the shell does the writing",
    "input": "take the value as an argument",
    "id": "use the thing's own id; addresses differ between runs",
    "hash": "use hashlib; string hashes differ between processes",
}
SERVICE_CALLS = {
    "time.sleep": "use `await clock.sleep_ms(...)`; a sleeping thread stops the event loop",
    "asyncio.sleep": "use `await clock.sleep_ms(...)`, so that a test can turn the clock",
    "datetime.datetime.now": "use Clock; the wall clock jumps",
    "os.fork": "start a process by asyncio.create_subprocess_exec; grpc does not survive a fork",
    "multiprocessing.Process": "start a process by asyncio.create_subprocess_exec; grpc does not survive a fork",
}
QUEUES = (
    "asyncio.Queue",
    "asyncio.LifoQueue",
    "asyncio.PriorityQueue",
    "queue.Queue",
    "queue.LifoQueue",
)
VAGUE = {"manager", "handler", "util", "utils", "common", "helper", "helpers", "data", "info"}
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def offences(lines: Iterable[str]) -> str:
    return "\n".join(sorted(lines))


def test_no_function_is_longer_than_seventy_lines() -> None:
    long = [
        f"{module.at(node)} {node.name} has {lines} lines: keep branches in the parent, push loops down"
        for module in repository.modules()
        for node, lines in repository.functions_of(module)
        if lines > FUNCTION_LINES_MAX
    ]
    assert not long, offences(long)


def test_no_module_is_longer_than_five_hundred_lines() -> None:
    long = [
        f"{module.name} has {module.lines} lines: one file, one idea; split it"
        for module in repository.modules()
        if module.lines > MODULE_LINES_MAX
    ]
    assert not long, offences(long)


def test_no_lua_file_is_longer_than_a_module() -> None:
    """What only documents (`---@meta`) is a list for editors and runs nowhere."""
    counted = {
        name: text.count("\n")
        for name in repository.files()
        if name.endswith(".lua") and not (text := repository.text_of(name)).startswith("---@meta")
    }
    assert max(counted.values()) <= MODULE_LINES_MAX, offences(
        [f"{name} has {n} lines: split it" for name, n in counted.items() if n > MODULE_LINES_MAX]
    )
    assert statistics.median(counted.values()) <= MODULE_LINES_MEDIAN


def test_the_usual_file_and_function_stay_small() -> None:
    ours = list(repository.modules_under(SERVICES, CLIENT))
    functions = sorted(n for module in ours for _, n in repository.functions_of(module))
    assert statistics.median(module.lines for module in ours) <= MODULE_LINES_MEDIAN
    assert functions[len(functions) * 9 // 10] <= FUNCTION_LINES_P90


def test_every_module_opens_with_its_purpose() -> None:
    silent = [
        f"{module.name}: say in a docstring why the file exists"
        for module in repository.modules()
        # What `python -m` runs is documented by its room.
        if module.tree.body
        and not module.name.endswith("__main__.py")
        and ast.get_docstring(module.tree) is None
    ]
    assert not silent, offences(silent)


def test_the_core_imports_only_values() -> None:
    strangers = [
        f"{module.at(node)} imports {name}: the core takes such things as arguments"
        for module in repository.modules_under(CORE)
        for node, name in repository.imports_of(module)
        if name.partition(".")[0] not in CORE_IMPORTS
    ]
    assert not strangers, offences(strangers)


def test_the_core_asks_nobody_for_time_chance_or_files() -> None:
    asked = list(banned(repository.modules_under(CORE), CORE_CALLS))
    assert not asked, offences(asked)


def test_services_wait_by_the_clock_and_never_fork() -> None:
    excepted = {
        # The one clock that everybody is handed has to be built of something.
        "services/runtime/beeyard_runtime/clock.py",
        # A bare interpreter that never imports grpc, made to be forked; nothing else runs in it.
        "services/queen/beeyard_queen/policy/host/__main__.py",
    }
    rooms = (m for m in repository.modules_under(SERVICES) if m.name not in excepted)
    asked = [line for line in banned(rooms, SERVICE_CALLS) if "asyncio.sleep(0)" not in line]
    assert not asked, offences(asked)


def banned(rooms: Iterable[Module], calls: dict[str, str]) -> Iterator[str]:
    """Yield each banned call with what to use instead; a key that ends in a dot bans everything below it."""
    for module in rooms:
        for node, name in repository.calls_of(module):
            for ban, instead in calls.items():
                if name == ban or (ban.endswith(".") and name.startswith(ban)):
                    yield f"{module.at(node)} calls {ast.unparse(node)[:60]}: {instead}"


def test_every_queue_has_a_bound() -> None:
    unbounded = [
        f"{module.at(node)} {name}() has no maxsize: take it from beeyard_core/limits.py"
        for module in repository.modules_under(SERVICES, CLIENT)
        for node, name in repository.calls_of(module)
        if name in QUEUES
        and not node.args
        and all(keyword.arg != "maxsize" for keyword in node.keywords)
    ]
    simple = [
        f"{module.at(node)} queue.SimpleQueue cannot be bounded: use queue.Queue(maxsize=...)"
        for module in repository.modules_under(SERVICES, CLIENT)
        for node, name in repository.calls_of(module)
        if name == "queue.SimpleQueue"
    ]
    assert not unbounded + simple, offences(unbounded + simple)


def test_tests_do_not_sleep() -> None:
    asleep = [
        f"{module.at(node)} {ast.unparse(node)}: wait for the thing itself, or turn a ManualClock"
        for module in repository.modules_under("tests/")
        for node, name in repository.calls_of(module)
        if name == "time.sleep" or (name == "asyncio.sleep" and ast.unparse(node.args[0]) != "0")
    ]
    assert not asleep, offences(asleep)


def test_nothing_but_a_move_assigns_a_state() -> None:
    assigned = [
        f"{module.at(node)} assigns `.state` in {function.name}: call move(), which knows the table"
        for module in repository.modules_under(CORE)
        for function, _ in repository.functions_of(module)
        if function.name != "move"
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and target.attr == "state"
    ]
    assert not assigned, offences(assigned)


def test_every_file_is_imported_by_another_or_run() -> None:
    dead = [
        f"{name}: nobody imports it but tests; delete it, or use it"
        for name in unused(list(repository.modules_under(SERVICES, CLIENT)))
    ]
    assert not dead, offences(dead)


def unused(rooms: list[Module]) -> Iterator[str]:
    # What `make bench` measures is in use.
    users = [*rooms, *repository.modules_under("benchmarks")]
    used = {name for module in users for _, name in repository.imports_of(module)}
    scripts = repository.text_of("pyproject.toml")
    for module in rooms:
        dotted = importable(module.name)
        is_run = module.name.endswith(("__main__.py", "__init__.py")) or f'"{dotted}:' in scripts
        # Fakes are shipped, so that whoever builds on a port can test without its adapters.
        is_fake = dotted.endswith((".testing", ".memory"))
        if not is_run and not is_fake and dotted not in used:
            yield module.name


def importable(name: str) -> str:
    """Return the name under which a file is imported: `services/core/beeyard_core/job.py` -> `beeyard_core.job`."""
    parts = name.removesuffix(".py").split("/")
    first = next(i for i, part in enumerate(parts) if part.startswith("beeyard_"))
    return ".".join(parts[first:])


def test_no_name_is_vague() -> None:
    named = [
        (module.name, part.removesuffix(".py"))
        for module in repository.modules_under(SERVICES, CLIENT)
        for part in module.name.split("/")
    ] + [
        (module.at(node), node.name)
        for module in repository.modules_under(SERVICES, CLIENT)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    ]
    vague = {
        f"{where}: {name!r} says nothing; find the noun" for where, name in named if is_vague(name)
    }
    assert not vague, offences(vague)


def is_vague(name: str) -> bool:
    """Return whether a word of the name is banned; the pool manager is a noun of the domain."""
    words = " ".join(WORDS.findall(name)).lower().replace("pool manager", "")
    return not VAGUE.isdisjoint(words.split())


def test_the_core_runs_on_the_oldest_python_that_is_promised() -> None:
    # Everything the core may import is in the standard library: the list above cannot rot into a third-party name.
    assert CORE_IMPORTS - {"beeyard_core"} <= set(sys.stdlib_module_names)


def test_every_limit_is_enforced_somewhere() -> None:
    names = ("limits", "batching_limits", "placement_limits", "simulator_limits")
    files = {f"{CORE}beeyard_core/{name}.py" for name in names}
    named = {
        node.target.id
        for module in repository.modules()
        if module.name in files
        for node in module.tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for module in repository.modules_under(SERVICES)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.alias)
    }
    idle = [f"{name} is in limits.py and nobody keeps to it" for name in named - used]
    assert not idle, offences(idle)
