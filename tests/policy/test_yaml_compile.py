"""YAML becomes the Lua of the golden files, runs with public functions only, and its errors map back to the YAML."""

import random
import string
from typing import Any

import pytest
from beeyard_core import limits
from beeyard_core.policy.world import JobRow, WorkerRow, World
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_compile import compile_yaml, yaml_line_of
from beeyard_queen.policy.yaml_patterns import PatternInvalid, read_pattern
from lupa import lua54

from tests.style.repository import ROOT
from tests.support.mirror import Mirror

GOLDEN = ROOT / "tests/policy/golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_compiler_writes_what_the_golden_file_shows(name: str) -> None:
    lua = compile_yaml((GOLDEN / f"{name}.yaml").read_bytes())
    assert lua == (GOLDEN / f"{name}.lua").read_text(), (
        f"if meant: policy compile {name}.yaml > {name}.lua"
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_and_test_names_the_yaml_line_that_it_came_from(name: str) -> None:
    yaml = (GOLDEN / f"{name}.yaml").read_text().splitlines()
    lua = (GOLDEN / f"{name}.lua").read_text()
    for number, text in enumerate(lua.splitlines(), 1):
        line = yaml_line_of(lua, number)
        if text.startswith("-- Rule "):
            assert line is not None
            assert text.split('"')[1] in yaml[line - 1]
        if "job.priority ==" in text:
            assert line is not None
            assert "job.priority" in yaml[line - 1]
    assert yaml_line_of(lua, 1) is None


def world() -> World:
    """Two workers of one model: w1 is the least loaded, w2 has the most memory free."""
    w = World()
    rows = [("w1", 0.1, 1), ("w2", 0.9, 50)]
    for worker_id, load, vram_free in rows:
        w.workers[worker_id] = WorkerRow(
            worker_id=worker_id, pool_id="p", model_ref="llama-7b", load=load, vram_free=vram_free, slots_total=4,
            slots_free=2,
        )  # fmt: skip
    return w


def add(w: World, job_id: str, *, priority: str = "normal", seed: int | None = None) -> None:
    seq = len(w.jobs)
    w.jobs[job_id] = JobRow(
        job_id=job_id, seq=seq, priority=priority, model_ref="llama-7b", seed=seed
    )


def decide(name: str, w: World) -> dict[str, Any]:
    mirror = Mirror(w)
    mirror.begin(1_000)
    mirror.M.platform = mirror.run(
        'return { schedule = function() return { action = "platform" } end }'
    )
    lua = (GOLDEN / f"{name}.lua").read_text()
    decision = mirror.run(f"{lua}\nreturn schedule(context)")
    return dict(decision.items())


def test_determinism_first_of_the_specification_puts_seeded_jobs_first() -> None:
    w = world()
    add(w, "plain", priority="interactive")
    add(w, "batch", priority="batch")
    add(w, "seeded", priority="background", seed=42)
    decision = decide("determinism-first", w)
    assert decision == {
        "action": "dispatch",
        "job_id": "seeded",
        "worker_id": "w1",
        "reason": "rule prioritize-seeded-jobs",
    }
    del w.jobs["seeded"]
    decision = decide("determinism-first", w)
    assert (decision["job_id"], decision["worker_id"]) == ("batch", "w2")
    del w.jobs["batch"]
    assert decide("determinism-first", w) == {"action": "platform"}


def test_batch_optimized_of_the_specification_gives_batch_jobs_the_most_memory() -> None:
    w = world()
    add(w, "plain", priority="interactive")
    assert decide("batch-optimized", w) == {"action": "wait", "reason": "no rule applies"}
    add(w, "batch", priority="batch")
    decision = decide("batch-optimized", w)
    assert (decision["action"], decision["job_id"], decision["worker_id"]) == (
        "dispatch",
        "batch",
        "w2",
    )


def test_a_rule_whose_action_cannot_be_done_for_a_job_looks_at_the_next_one() -> None:
    w = world()
    w.jobs["elsewhere"] = JobRow(job_id="elsewhere", seq=0, priority="batch", model_ref="absent")
    add(w, "batch", priority="batch")
    assert decide("batch-optimized", w)["job_id"] == "batch"


@pytest.mark.parametrize(
    "name",
    [
        "--[[",
        "]]--",
        'a" .. x .. "',
        "a\\",
        "%s",
        "-- Rule",
        "end",
        "ü\u00a0x",
        "a'b",
        "{name}",
        "(YAML line 99)",
    ],
)
def test_no_name_or_value_of_a_policy_becomes_code(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    text = (
        f'scheduler:\n  name: "{quoted}"\n  rules:\n    - name: "{quoted}"\n'
        f'      condition: {{job.id: {{not_in: ["{quoted}"]}}, "job.labels.{quoted}": {{exists: false}}}}\n'
        f'      action: {{reject: {{reason: "{quoted}"}}}}\n'
    )
    w = world()
    add(w, "j")
    mirror = Mirror(w)
    mirror.begin(0)
    decision = mirror.run(compile_yaml(text) + "\nreturn schedule(context)")
    assert dict(decision.items()) == {"action": "reject", "job_id": "j", "reason": name}


def test_a_control_character_in_a_value_stays_in_its_text() -> None:
    text = (
        "scheduler: {name: x, rules: [{name: y, condition: "
        '{job.id: {ne: "a\\n\\r\\0\\x7f\\u2028]]"}}, action: {wait: {duration_ms: 1}}}]}'
    )
    lua = compile_yaml(text)
    assert all(sign.isprintable() for sign in lua.replace("\n", ""))


def test_a_policy_whose_lua_would_be_too_long_is_refused() -> None:
    values = ", ".join(f'"{number:0100}"' for number in range(200))
    rules = "".join(
        f"    - {{name: r{number}, condition: {{job.id: {{in: [{values}]}}}}, action: {{wait: {{duration_ms: 1}}}}}}\n"
        for number in range(12)
    )
    text = f"scheduler:\n  name: long\n  rules:\n{rules}"
    assert len(text) < limits.POLICY_SOURCE_BYTES_MAX
    with pytest.raises(PolicyInvalid, match="compiles to"):
        compile_yaml(text)


def test_the_largest_policy_loads() -> None:
    rules = "".join(
        f"    - {{name: r{number}, condition: {{job.id: a}}, action: {{start_worker: {{}}}}}}\n"
        for number in range(limits.POLICY_RULES_MAX)
    )
    lua = compile_yaml(f"scheduler:\n  name: large\n  rules:\n{rules}")
    lua54.LuaRuntime(register_eval=False, register_builtins=False).execute(lua)


# --- Patterns ---

PARTS = [
    "a",
    "b",
    "1",
    "-",
    ".",
    "\\.",
    "\\d",
    "\\w",
    "\\s",
    "[ab]",
    "[^a-y]",
    "[\\d.-]",
    "[a-c1-3]",
    "%",
    "\\[",
    " ",
]
SUFFIXES = ["", "", "", "*", "+", "?"]


def test_a_pattern_means_the_same_in_lua_as_in_python() -> None:
    chance = random.Random(7)
    find = lua54.LuaRuntime().eval("function(s, p) return string.find(s, p) ~= nil end")
    tried = hits = 0
    while tried < 3_000:
        parts = [
            chance.choice(PARTS) + chance.choice(SUFFIXES) for _ in range(chance.randint(1, 5))
        ]
        text = chance.choice(["", "^"]) + "".join(parts) + chance.choice(["", "$"])
        try:
            pattern = read_pattern(text)
        except PatternInvalid:
            continue
        value = "".join(chance.choice("ab1-. %[z\né") for _ in range(chance.randint(0, 6)))
        tried += 1
        hits += pattern.matches(value)
        assert pattern.matches(value) == find(value, pattern.lua), (text, pattern.lua, value)
    assert hits > tried // 10


@pytest.mark.parametrize(
    "text",
    ["", "(a)", "a|b", "a{2}", "a**", "a*?", "*a", "[", "[]", "[a", "[z-a]", "[a-Z]", "\\", "\\b", "\\1", "a$b", "a^",
     "é", "a\n", "x" * 65, "a*b*c*d*", "^a*b*c*d*", "]"],
)  # fmt: skip
def test_what_patterns_do_not_offer_is_refused(text: str) -> None:
    with pytest.raises(PatternInvalid):
        read_pattern(text)


def test_every_printable_sign_can_be_matched_literally() -> None:
    find = lua54.LuaRuntime().eval("function(s, p) return string.find(s, p) ~= nil end")
    for sign in string.punctuation + " az09":
        pattern = read_pattern(f"^\\{sign}$" if not sign.isalnum() else f"^{sign}$")
        assert pattern.matches(sign)
        assert find(sign, pattern.lua)
        assert not pattern.matches("~" if sign != "~" else "!")


def test_the_work_of_a_pattern_is_bounded_by_the_length_of_the_value() -> None:
    costly = read_pattern("a.*b.*c")
    assert not costly.matches("a" * costly.bytes_max + "bc")
    assert costly.matches("abc")
    assert (costly.bytes_max + 1) ** 3 <= limits.POLICY_PATTERN_STEPS_MAX
    assert read_pattern("^llama-\\d+").bytes_max == limits.POLICY_TEXT_BYTES_MAX
