"""The Lua that YAML policies are compiled to, piece by piece: values, tests, and the functions that rules share.

Readable on purpose: an operator who outgrows YAML goes on from this text. It calls public helpers only and keeps
nothing between two decisions.
"""

from dataclasses import dataclass

from beeyard_queen.policy.yaml_fields import Field, Kind, Subject
from beeyard_queen.policy.yaml_patterns import Pattern
from beeyard_queen.policy.yaml_rules import All, Always, Any, Condition, Not, Operand, Test

#: Up to so many values, `in` is written out; beyond, it is a table.
_WRITTEN_OUT_MAX = 4
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def lua_text(text: str) -> str:
    """Return a text as a Lua literal on one line."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}
    return '"' + "".join(escapes.get(c) or _visible(c) for c in text) + '"'


def _visible(sign: str) -> str:
    return sign if sign.isprintable() else "".join(f"\\{byte:03d}" for byte in sign.encode())


def lua_value(value: object) -> str:
    """Return a text, number or truth value as a Lua literal."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return lua_text(value)
        case _:
            return repr(value)


def lua_test(test: Test, lists: list[str]) -> str:
    """Return one comparison as a Lua expression that is true or false and never fails.

    Args:
        test: The comparison.
        lists: Gets a table for each long list of values; the expression calls them list_1, list_2 ...
    """
    field, operand = test.field, test.operand
    read = _read(field)
    match test.operator:
        case "exists":
            return _exists(field, read, "~=" if operand else "==")
        case "eq":
            return f"{read} == {lua_value(operand)}"
        case "ne":
            return f"{read} ~= {lua_value(operand)}"
        case "in" | "not_in":
            return _one_of(read, operand, lists, negated=test.operator == "not_in")
        case "contains":
            return (
                f"context.helpers.string_contains({_or_empty(field, read)}, {lua_value(operand)})"
            )
        case "starts_with":
            return f"context.helpers.string_starts_with({_or_empty(field, read)}, {lua_value(operand)})"
        case "matches":
            assert isinstance(operand, Pattern)
            return f"matches({read}, {lua_text(operand.lua)}, {operand.bytes_max})"
        case ordered:
            compared = f"{read} {_COMPARISONS[ordered]} {lua_value(operand)}"
            return f"({read} ~= nil and {compared})" if _may_be_nil(field) else compared


def _read(field: Field) -> str:
    match field.subject:
        case Subject.METRICS:
            return f"context.metrics.{field.path}"
        case Subject.TENANT:
            return f"tenant_of(context, job).{field.path}"
        case Subject.JOB:
            if field.path.startswith("labels."):
                return f"job.labels[{lua_text(field.path.removeprefix('labels.'))}]"
            return f"job.{field.path}"


def _may_be_nil(field: Field) -> bool:
    # A job's tenant may be one that the queen knows nothing of.
    return field.is_optional or field.subject is Subject.TENANT


def _exists(field: Field, read: str, sign: str) -> str:
    return f'({read} or "") {sign} ""' if field.kind is Kind.TEXT else f"{read} {sign} nil"


def _or_empty(field: Field, read: str) -> str:
    return f'{read} or ""' if _may_be_nil(field) else read


def _one_of(read: str, operand: Operand, lists: list[str], *, negated: bool) -> str:
    assert isinstance(operand, tuple)
    if len(operand) <= _WRITTEN_OUT_MAX:
        sign, word = ("~=", " and ") if negated else ("==", " or ")
        tests = word.join(f"{read} {sign} {lua_value(value)}" for value in operand)
        return tests if len(operand) == 1 else f"({tests})"
    values = ", ".join(f"[{lua_value(value)}] = true" for value in dict.fromkeys(operand))
    lists.append(f"{{ {values} }}")
    return f"{'not ' * negated}is_one_of({read}, list_{len(lists)})"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of Lua; `yaml_line` is the line of the YAML that it came from, told in a comment."""

    text: str
    yaml_line: int | None = None
    depth: int = 0

    def __str__(self) -> str:
        mark = "" if self.yaml_line is None else f" -- YAML line {self.yaml_line}"
        return "  " * self.depth + self.text + mark


def lua_condition(condition: Condition, depth: int, lists: list[str]) -> list[Line]:
    """Return a condition as lines that together are one Lua expression; each test names its YAML line.

    Args:
        condition: The condition.
        depth: How far the lines are indented.
        lists: As for `lua_test`.
    """
    match condition:
        case Always():
            return [Line("true", None, depth)]
        case Test():
            return [Line(lua_test(condition, lists), condition.mark.line, depth)]
        case Not(part=part):
            return [
                Line("not (", None, depth),
                *lua_condition(part, depth + 1, lists),
                Line(")", None, depth),
            ]
        case All(parts=parts):
            return _joined(parts, "and", depth, lists)
        case Any(parts=parts):
            return _joined(parts, "or", depth, lists)


def _joined(parts: tuple[Condition, ...], word: str, depth: int, lists: list[str]) -> list[Line]:
    lines: list[Line] = []
    for at, part in enumerate(parts):
        if isinstance(part, All | Any) and len(part.parts) > 1:
            inner = [
                Line("(", None, depth),
                *lua_condition(part, depth + 1, lists),
                Line(")", None, depth),
            ]
        else:
            inner = lua_condition(part, depth, lists)
        if at > 0:
            inner[0] = Line(f"{word} {inner[0].text}", inner[0].yaml_line, depth)
        lines += inner
    return lines


# --- Functions that rules share; a text carries only those that it calls, in this order ---

SHARED: dict[str, str] = {
    "matches": """
-- Whether a pattern is found in a text. What is absent or longer than `longest` bytes matches nothing.
local function matches(text, pattern, longest)
  return text ~= nil and text ~= "" and #text <= longest and string.find(text, pattern) ~= nil
end
""",
    "is_one_of": """
local function is_one_of(value, list)
  return value ~= nil and list[value] == true
end
""",
    "tenant_of": """
-- The tenant of a job; of one that is not known, nothing is. Tenants are looked up once a decision.
local tenants
local function tenant_of(context, job)
  if not tenants then
    tenants = {}
    for _, tenant in ipairs(context.tenants) do tenants[tenant.id] = tenant end
  end
  return tenants[job.tenant_id] or {}
end
""",
    "has_no_demands": """
-- Whether any worker of its model with enough memory will do for a job.
local function has_no_demands(job)
  return (job.engine or "") == "" and (job.min_context_tokens or 0) == 0 and (job.quantizations or "") == ""
    and (job.pin_pool_id or "") == "" and (job.avoid_pool_ids or "") == "" and (job.min_compute_capability or "") == ""
    and (job.min_vram_bytes or 0) == 0 and (job.extensions or "") == ""
end
""",
    "candidates": """
-- Workers that can take a job now. A job that needs as much as one that found none finds none, either: this is kept for
-- one decision, so that a long queue costs little while nothing fits.
local refused
local function candidates(context, job)
  local bytes, tokens = job.estimated_vram_bytes or 0, job.prompt_tokens + job.max_tokens
  local least = refused[job.model_ref]
  if least and bytes >= least.bytes and tokens >= least.tokens then return least.workers end
  local workers = context.helpers.find_candidates(job)
  if #workers == 0 and bytes >= 0 and has_no_demands(job) then
    if not least or bytes <= least.bytes and tokens <= least.tokens then
      refused[job.model_ref] = { bytes = bytes, tokens = tokens, workers = workers }
    end
  end
  return workers
end
""",
    "nearest": """
-- The nearest to the job's user of the workers whose place is known; without places, the least loaded.
local function nearest(context, job, workers)
  local here = job.user.geo
  local placed = workers:filter(function(worker) return here ~= nil and worker.geo ~= nil end)
  return placed:min_by(function(worker) return context.helpers.distance(here, worker.geo) end)
    or workers:least_loaded()
end
""",
    "is_served": """
-- Whether a worker of a model has a free slot, or is starting.
local function is_served(context, model_ref)
  for _, worker in ipairs(context.helpers.find_workers_by_model(model_ref)) do
    local is_up = worker.status == "ready" or worker.status == "busy"
    if worker.status == "starting" or is_up and worker.slots_free > 0 then return true end
  end
  return false
end
""",
    "room_for": """
-- The best GPU with room for a model that nobody serves, on a healthy pool, and its pool. `tried` remembers models.
local function room_for(context, model_ref, pool_id, tried, is_better)
  if tried[model_ref] then return nil end
  tried[model_ref] = true
  if is_served(context, model_ref) then return nil end
  local need = context.helpers.get_model_vram(model_ref) or 0
  local best, home
  for _, pool in ipairs(context.pools) do
    if (pool_id == nil or pool.id == pool_id) and context.helpers.is_pool_healthy(pool.id) then
      for _, gpu in ipairs(pool.gpus) do
        if gpu.vram_free >= need and (best == nil or is_better(gpu, best)) then
          best, home = gpu, pool
        end
      end
    end
  end
  return best, home
end
""",
    "victim_for": """
-- The running job that makes way for another one, if its class is below `below`; none where a worker can take the job.
local function victim_for(context, job, below)
  if candidates(context, job):first() then return nil end
  local running = context.helpers.find_job_to_preempt(job)
  local rank = { interactive = 1, normal = 2, batch = 3, background = 4 }
  if running and rank[running.priority] > rank[below] then return running end
  return nil
end
""",
}
