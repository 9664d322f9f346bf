"""What validation finds: the same for the command line and for the queen's desk."""

from collections.abc import AsyncIterator

import pytest
from beeyard_core import limits
from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.try_command import read_scene
from beeyard_queen.policy.validation import Finding, scenes, validate
from beeyard_queen.policy.zygote import Zygote
from beeyard_queen.store.versions import Language

from tests.support.policy_sandbox import running_zygote

PLATFORM = "function schedule(context) return platform.schedule(context) end"
RULES = """\
scheduler:
  name: careful
  rules:
    - name: first
      condition: always
      action: {wait: {duration_ms: 5}}
"""


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    async with running_zygote() as zygote:
        yield zygote


async def found(
    zygote: Zygote, language: Language, text: str, scene: Scene | None = None
) -> Finding:
    return await validate(zygote, language, text.encode(), scenes(scene or read_scene(None)))


async def test_a_good_policy_is_tried_in_every_world_and_measured(zygote: Zygote) -> None:
    finding = await found(zygote, "lua", PLATFORM)
    assert (finding.problems, finding.error, finding.worlds) == ((), None, 10)
    assert finding.worst_cpu_us > 0
    rules = await found(zygote, "yaml", RULES)
    assert rules.error is None
    assert rules.program is not None
    assert (rules.program.name, rules.program.text) == ("careful", RULES.encode())


@pytest.mark.parametrize(
    ("language", "text", "place", "message"),
    [
        ("lua", "function schedule(c)\n return {action= end", (2, 18), "unexpected symbol near 'end'"),
        ("lua", "x = = = 1", (1, 0), "unexpected symbol near '='"),
        ("lua", "x = 1", (0, 0), "there is no function schedule(context)"),
        ("lua", "", (0, 0), "there is no function schedule(context)"),
        ("lua", "\x1bLuaS", (0, 0), "bytecode is not accepted, only text"),
        ("lua", "-- " + "x" * limits.POLICY_SOURCE_BYTES_MAX, (0, 0), "longer than 262144 bytes"),
        ("lua", "local x\nwhile true do end", (2, 0), "killed while it was loaded: used more than"),
        ("lua", "function schedule(c)\n error('no') end", (2, 0), "fallback in the given world: no"),
        ("lua", "function schedule(c)\n while true do end end", (2, 0), "killed in the given world"),
        ("lua", "function schedule(c) return 7 end", (0, 0), "fallback in the given world"),
        ("yaml", "", (1, 1), "empty"),
        ("yaml", "a: &a [1]\nb: *a", (1, 4), "anchors (&name) are not allowed"),
        ("yaml", "scheduler:\n  name: x\n  rulez: []", (3, 3), 'unknown field "rulez"'),
        ("yaml", RULES + RULES[RULES.index("    - ") :], (7, 13), 'the rule "first" stands twice'),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told_where_it_stands(
    zygote: Zygote, language: Language, text: str, place: tuple[int, int], message: str
) -> None:
    finding = await found(zygote, language, text)
    assert finding.error is not None
    assert message in finding.error.message
    assert (finding.error.line, finding.error.column) == place
    assert finding.problems[0] == finding.error


async def test_a_memory_bomb_is_not_loaded(zygote: Zygote) -> None:
    finding = await found(
        zygote, "lua", "local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) .. #t end"
    )
    assert finding.error is not None
    assert finding.worlds == 1


async def test_a_fault_of_the_schema_names_its_field(zygote: Zygote) -> None:
    finding = await found(zygote, "yaml", RULES.replace("always", "sometimes"))
    assert finding.error is not None
    assert finding.error.field == "scheduler.rules[0].condition"


async def test_a_line_of_compiled_rules_is_told_as_the_line_of_the_yaml(zygote: Zygote) -> None:
    finding = await found(zygote, "yaml", RULES)
    assert finding.program is not None
    lua = finding.program.lua.decode().splitlines()
    assert [finding.program.line_of(n) for n in range(1, len(lua) + 1)].count(4) >= 1


async def test_what_does_not_hold_is_a_warning_once(zygote: Zygote) -> None:
    text = "function schedule(c) return {action='batch', actions={{action='wait'}, {action='reject', job_id='no'}}} end"
    finding = await found(zygote, "lua", text)
    assert finding.error is None
    (warning,) = finding.problems
    assert not warning.is_error
    assert warning.message == (
        "in the given world it decided what does not hold: reject: no such job waits"
    )


async def test_it_stops_at_the_first_world_that_goes_wrong(zygote: Zygote) -> None:
    text = "function schedule(c) return #c.get_all_workers() == 0 and error('nobody') or {action='wait'} end"
    finding = await found(zygote, "lua", text)
    assert finding.error is not None
    assert finding.error.message == "fallback in a world without workers: nobody"
    assert finding.worlds == 2
