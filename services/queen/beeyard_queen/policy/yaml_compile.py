"""Compiles a YAML policy to Lua that a person can read, change and go on from.

The text is what runs: the policy host knows no YAML. Every rule and every test carries its YAML line in a comment, so
that an error at a line of the Lua is told at the line that its author wrote. Decisions are the same as those of
`yaml_interpret.py`, which reads the rules directly; a test holds the two together on random worlds.
"""

import re

from beeyard_core import limits

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_lua import SHARED, Line, lua_condition, lua_text
from beeyard_queen.policy.yaml_rules import (
    Action,
    Always,
    Dispatch,
    Evict,
    Policy,
    Preempt,
    Reject,
    Rule,
    StartWorker,
    UsePlatform,
    Wait,
    read_policy,
)

#: How a decision says which rule made it.
REASON = "rule {name}"
#: The reason of the decision where no rule applies.
NO_RULE = "no rule applies"

_SELECTIONS = {
    "least-loaded": "workers:least_loaded()",
    "most-vram-free": "workers:most_vram_free()",
    "round-robin": "workers:round_robin()",
    "first": "workers:first()",
    "lowest-cost": 'workers:min_by("cost_per_token") or workers:least_loaded()',
    "fastest": 'workers:max_by("tokens_per_s") or workers:least_loaded()',
    "nearest": "nearest(context, job, workers)",
    "prefix-affinity": "workers:prefix_overlap(job):first() or workers:least_loaded()",
}
_GPUS = {
    "most-vram-free": "gpu.vram_free > best.vram_free",
    "least-utilized": "(gpu.utilization or 0) < (best.utilization or 0)",
    "first": "false",
}
_YAML_LINE = re.compile(r"-- (?:YAML line |Rule .*\(YAML line )(\d+)\)?")


def compile_yaml(text: str | bytes) -> str:
    """Return the Lua of a YAML policy.

    Args:
        text: The whole YAML file; bytes are read as UTF-8.

    Raises:
        PolicyInvalid: The YAML is wrong, with line and column; or its Lua would be too long.
    """
    return compile_policy(read_policy(text))


def compile_policy(policy: Policy) -> str:
    """Return the Lua of a policy.

    Raises:
        PolicyInvalid: It would be longer than a policy may be.
    """
    rules = [line for at, rule in enumerate(policy.rules, 1) for line in _rule(at, rule)]
    body = "\n".join(str(line) for line in rules)
    shared = _shared(body)
    parts = [_head(policy), *(SHARED[name].strip() for name in shared), body]
    lua = "\n\n".join([*parts, _schedule(shared)]) + "\n"
    if len(lua.encode()) > limits.POLICY_SOURCE_BYTES_MAX:
        raise PolicyInvalid(
            f"the policy compiles to {len(lua.encode())} bytes of Lua; "
            f"{limits.POLICY_SOURCE_BYTES_MAX} are the most",
            1,
            1,
        )
    return lua


def yaml_line_of(lua: str, line: int) -> int | None:
    """Return the YAML line that a line of compiled Lua came from.

    Args:
        lua: A compiled text.
        line: A line of it, from 1.

    Returns:
        The line told on it, or by the nearest comment above it; None in front of the first rule.
    """
    for text in reversed(lua.splitlines()[:line]):
        if found := _YAML_LINE.search(text):
            return int(found[1])
    return None


def _head(policy: Policy) -> str:
    version = f", version {policy.version}" if policy.version else ""
    return (
        f'-- Policy "{policy.name}"{version}: compiled from YAML by Beeyard. Change the YAML and compile it again.\n'
        "-- Rules are tried in this order. A rule acts on the first queued job that meets its condition and for which\n"
        "-- its action can be done; the first rule that acts makes the decision."
    )


def _shared(body: str) -> list[str]:
    """Return which shared functions a text needs, those that they call included, in the order of definition."""
    needed: list[str] = []
    for name in reversed(SHARED):
        callers = [body, *(SHARED[other].split("\n", 2)[2] for other in needed)]
        if any(re.search(rf"\b{name}\(", text) for text in callers):
            needed.insert(0, name)
    return needed


def _schedule(shared: list[str]) -> str:
    lines = [
        "function schedule(context)",
        *(["  tenants = nil"] if "tenant_of" in shared else []),
        *(["  refused = {}"] if "candidates" in shared else []),
        "  for _, rule in ipairs(rules) do",
        "    local decision = rule(context)",
        "    if decision then return decision end",
        "  end",
        f'  return {{ action = "wait", reason = {lua_text(NO_RULE)} }}',
        "end",
    ]
    return "\n".join(lines)


def _rule(at: int, rule: Rule) -> list[Line]:
    first = [Line("local rules = {}"), Line("")] if at == 1 else [Line("")]
    opening = [
        Line(f'-- Rule "{rule.name}", priority {rule.priority} (YAML line {rule.line})'),
        Line(f"rules[{at}] = function(context)"),
    ]
    lists: list[str] = []
    depth = 2 if rule.needs_job else 1
    body = _guarded(rule, depth, lists)
    if rule.needs_job:
        loop = Line("for _, job in ipairs(context.queue) do", None, 1)
        body = [loop, *body, Line("end", None, 1)]
    kept = [
        Line(f"local list_{number} = {values}", None, 1) for number, values in enumerate(lists, 1)
    ]
    if _starts(rule.action):
        kept.append(Line("local tried = {}", None, 1))
    return [*first, *opening, *kept, *body, Line("end")]


def _starts(action: Action) -> bool:
    return isinstance(action, StartWorker) or (
        isinstance(action, Dispatch) and not action.is_model_required
    )


def _guarded(rule: Rule, depth: int, lists: list[str]) -> list[Line]:
    if isinstance(rule.condition, Always):
        return _action(rule, depth)
    tests = lua_condition(rule.condition, depth + 1, lists)
    if len(tests) == 1:
        opening = [Line(f"if {tests[0].text} then", tests[0].yaml_line, depth)]
    else:
        opening = [Line("if", None, depth), *tests, Line("then", None, depth)]
    return [*opening, *_action(rule, depth + 1), Line("end", None, depth)]


def _action(rule: Rule, depth: int) -> list[Line]:
    reason = REASON.format(name=rule.name)
    texts = _statements(rule.action, lua_text(reason))
    return [
        Line(text.lstrip(" "), None, depth + (len(text) - len(text.lstrip(" "))) // 2)
        for text in texts
    ]


def _statements(action: Action, reason: str) -> list[str]:
    match action:
        case UsePlatform():
            return ["return platform.schedule(context)"]
        case Wait(duration_ms=duration_ms):
            return [_decision("wait", f"retry_after_ms = {duration_ms}, reason = {reason}")]
        case Reject(reason=why):
            return [_decision("reject", f"job_id = job.id, reason = {lua_text(why)}")]
        case Dispatch(selection=selection):
            return [
                "local workers = candidates(context, job)",
                f"local worker = {_SELECTIONS[selection]}",
                "if worker then",
                "  "
                + _decision(
                    "dispatch", "job_id = job.id, worker_id = worker.id, reason = " + reason
                ),
                "end",
                *(
                    []
                    if action.is_model_required
                    else _start(StartWorker("most-vram-free", None, None), reason)
                ),
            ]
        case StartWorker():
            return _start(action, reason)
        case Evict():
            return _evict(action, reason)
        case Preempt(below=below):
            return [
                f"local victim = victim_for(context, job, {lua_text(below)})",
                "if victim then",
                "  "
                + _decision(
                    "preempt", f"job_id = victim.id, for_job_id = job.id, reason = {reason}"
                ),
                "end",
            ]


def _decision(action: str, rest: str) -> str:
    return f'return {{ action = "{action}", {rest} }}'


def _start(action: StartWorker, reason: str) -> list[str]:
    model = "job.model_ref" if action.model_ref is None else lua_text(action.model_ref)
    pool = "nil" if action.pool_id is None else lua_text(action.pool_id)
    better = _GPUS[action.gpu_selection]
    return [
        f"local gpu, pool = room_for(context, {model}, {pool}, tried, function(gpu, best)",
        f"  return {better}",
        "end)",
        "if gpu then",
        "  local start = { model_ref = " + model + ", pool_id = pool.id, gpu_id = gpu.id }",
        "  " + _decision("start_worker", f"start_worker = start, reason = {reason}"),
        "end",
    ]


def _evict(action: Evict, reason: str) -> list[str]:
    if action.worker_id is None:
        find = f"context.helpers.find_worker_to_evict_{action.selection}()"
    else:
        find = (
            "context.helpers.idle_workers():filter(function(worker) "
            f"return worker.id == {lua_text(action.worker_id)} end):first()"
        )
    return [
        f"local worker = {find}",
        "if worker then",
        "  " + _decision("evict", f"evict_worker_id = worker.id, reason = {reason}"),
        "end",
    ]
