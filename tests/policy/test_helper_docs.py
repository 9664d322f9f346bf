"""The annotations and their page against the functions themselves: names, arguments and every example."""

import pytest

from scripts import draw_policy_functions
from scripts.draw_policy_functions import Function
from tests.support.mirror import Mirror
from tests.support.sample_world import NOW_MS, sample_world

FUNCTIONS = [each for section in draw_policy_functions.sections() for each in section.functions]
#: Functions that exist for each: what they are called, how many arguments they name, and whether they take more.
LIST = """
local found, tables = {}, { Helpers = M.helpers, WorkerList = M.views.worker_methods }
for owner, functions in pairs(tables) do
  for name, call in pairs(functions) do
    local about = debug.getinfo(call, "u")
    local self = owner == "WorkerList" and 1 or 0
    found[#found + 1] = owner .. "." .. name .. "/" .. (about.isvararg and "..." or about.nparams - self)
  end
end
table.sort(found)
return table.concat(found, " ")
"""


@pytest.fixture(name="mirror")
def sample() -> Mirror:
    mirror = Mirror(sample_world())
    mirror.run(
        "M.platform = { schedule = function() return { action = 'wait' } end, source = '-' }"
    )
    mirror.begin(NOW_MS)
    return mirror


def signature(function: Function) -> str:
    names = [name for name, _, _ in function.parameters]
    takes = "..." if names == ["..."] else len(names)
    # The platform policy knows its context; it is taken so that both may be called alike.
    return (
        f"{function.owner}.{function.name}/{0 if function.name == 'platform_schedule' else takes}"
    )


def test_every_function_is_annotated_with_its_arguments(mirror: Mirror) -> None:
    assert mirror.run(LIST).split() == sorted(map(signature, FUNCTIONS))


@pytest.mark.parametrize(
    "function", FUNCTIONS, ids=lambda function: f"{function.owner}.{function.name}"
)
def test_every_example_gives_what_it_says(mirror: Mirror, function: Function) -> None:
    expression, worth = function.example
    assert expression, "every function has an example"
    given = mirror.value(f"({expression})")
    assert given == mirror.value(worth)


def test_the_page_is_what_the_annotations_say() -> None:
    assert draw_policy_functions.PAGE.read_text(encoding="utf-8") == draw_policy_functions.page(), (
        "run scripts/draw_policy_functions.py"
    )
