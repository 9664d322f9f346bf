"""Runs the Lua cases beside it: each function of a policy, and what a policy sees, in the documents' little world."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.mirror import Mirror
from tests.support.sample_world import NOW_MS, sample_world

CASES = Path(__file__).parent / "lua"
#: Judges a file's case: returns what was wrong, a line each.
RUN = """
local cases_of, name = ...
local wrong = {}
local function line() return debug.getinfo(3, "l").currentline end
local function expect(actual, expected)
  if actual ~= expected then
    wrong[#wrong + 1] = line() .. ": " .. tostring(actual) .. " instead of " .. tostring(expected)
  end
end
local function refuses(message, call, ...)
  local done, told = pcall(call, ...)
  if done then
    wrong[#wrong + 1] = line() .. ": nothing was refused"
  elseif not string.find(told, message, 1, true) then
    wrong[#wrong + 1] = line() .. ": " .. told
  end
end
local cases = cases_of(expect, refuses)
if not name then
  local names = {}
  for each in pairs(cases) do names[#names + 1] = each end
  table.sort(names)
  return table.concat(names, " ")
end
cases[name]()
return table.concat(wrong, "\\n")
"""
CHUNK = "local text, name, env = ... return assert(load(text, '=' .. name, 't', env))"


def loaded(mirror: Mirror, file: str) -> Any:
    """Compile a file of cases in a mirror, with the names that cases use."""
    text = (CASES / file).read_text(encoding="utf-8")
    env = mirror.run(
        "return setmetatable({ M = M, context = context, helpers = helpers, platform = platform }, { __index = _G })"
    )
    return mirror.run(CHUNK, text, file, env)


def names(file: str) -> list[str]:
    mirror = Mirror()
    listed: str = mirror.run(RUN, loaded(mirror, file))
    return listed.split()


@pytest.mark.parametrize(
    ("file", "case"),
    [(file, case) for file in ("functions.lua", "views.lua") for case in names(file)],
)
def test_in_lua(file: str, case: str) -> None:
    mirror = Mirror(sample_world())
    mirror.begin(NOW_MS)
    assert mirror.run(RUN, loaded(mirror, file), case) == ""
