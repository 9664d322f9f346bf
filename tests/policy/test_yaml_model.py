"""A policy that does not fit the schema is refused with its field, line and column; the published schema is fresh."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_fields import FIELDS, OPERATORS
from beeyard_queen.policy.yaml_model import json_schema
from beeyard_queen.policy.yaml_rules import read_policy

from tests.style.repository import ROOT

GOLDEN = ROOT / "tests/policy/golden"
SCHEMA = ROOT / "docs/policies/scheduler.schema.json"
GOOD = """\
scheduler:
  name: good
  version: "1.0"
  rules:
    - name: seeded
      condition:
        job.seed: { exists: true }
      action:
        dispatch:
          worker_selection: least-loaded
      priority: 100
    - name: fallback
      condition: always
      action: { use: platform-scheduler }
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "said"),
    [
        ("scheduler:", "schedular:", 1, 1, 'unknown field "schedular"; did you mean "scheduler"?'),
        ("  name: good", "  nam: good", 2, 3, '"nam"; did you mean "name"?'),
        ("  name: good\n", "", 1, 1, 'scheduler: the field "name" is missing'),
        ('"1.0"', "1.0", 3, 12, "scheduler.version: must be a text; write it in quotes"),
        ("name: seeded", "name: 5", 5, 13, "scheduler.rules[0].name: must be a text"),
        ("name: seeded", 'name: "a\\nb"', 5, 13, "one line"),
        ("job.seed", "job.sed", 7, 9, 'job.sed: unknown field "job.sed"; did you mean "job.seed"?'),
        ("job.seed", "seed", 7, 9, 'did you mean "job.seed"?'),
        ("job.seed", "job.labels.", 7, 9, "unknown field"),
        ("exists: true", "exist: true", 7, 21, 'unknown operator "exist"; did you mean "exists"?'),
        ("exists: true", "exists: yes", 7, 29, "job.seed.exists: must be true or false"),
        ("exists: true", "contains: x", 7, 21, 'unknown operator "contains"'),
        ("{ exists: true }", "{}", 7, 9, "a test needs an operator"),
        ("{ exists: true }", "forty", 7, 19, "must be a number"),
        ("{ exists: true }", "true", 7, 19, "must be a number"),
        ("{ exists: true }", "null", 7, 19, "must be a number"),
        ("{ exists: true }", "[1, 2]", 7, 9, "must be a number"),
        ("{ exists: true }", "{in: 5}", 7, 24, "must be a list"),
        ("{ exists: true }", "{in: []}", 7, 20, "must have at least one entry"),
        ("{ exists: true }", "{in: [1, x]}", 7, 28, "job.seed.in[1]: must be a number"),
        ("job.seed: { exists: true }", "job.priority: urgent", 7, 23, '"urgent" is not'),
        ("job.seed: { exists: true }", "job.priority: batsh", 7, 23, 'did you mean "batch"?'),
        ("job.seed: { exists: true }", "job.type: ''", 7, 19, "exists: false"),
        ("job.seed: { exists: true }", "job.user.geo: here", 7, 23, "must be a mapping"),
        ("job.seed: { exists: true }", "job.type: {matches: '(a)'}", 7, 29, "( is not offered"),
        ("job.seed: { exists: true }", "job.type: {matches: 'a.*b.*c.*d'}", 7, 29, "too many"),
        ("job.seed: { exists: true }", f"job.type: {'x' * 257}", 7, 19, "longer than 256 bytes"),
        ("job.seed: { exists: true }", "any: []", 7, 9, "any: must have at least one entry"),
        ("job.seed: { exists: true }", "any: [{not: {job.id: 5}}]", 7, 30, "any[0].not.job.id: must be a text"),
        ("job.seed: { exists: true }", "{}", 6, 7, "a condition needs a test"),
        ("condition: always", "condition: allways", 13, 18, 'did you mean "always"?'),
        ("condition: always\n      ", "", 12, 7, 'scheduler.rules[1]: the field "condition" is missing'),
        ("action: { use: platform-scheduler }", "action: {}", 14, 7, "exactly one of dispatch, wait"),
        ("use: platform-scheduler", "use: platform", 14, 22, 'must be "platform-scheduler"'),
        ("use: platform-scheduler", "use: platform-scheduler, wait: {duration_ms: 1}", 14, 7, "exactly one"),
        ("use: platform-scheduler", "dispatsh: {}", 14, 17, 'did you mean "dispatch"?'),
        ("use: platform-scheduler", "dispatch: null", 14, 27, "must be a mapping"),
        ("use: platform-scheduler", "wait: {duration_ms: 0}", 14, 37, "greater than or equal to 1"),
        ("use: platform-scheduler", "wait: {duration_ms: 1.5}", 14, 37, "must be a whole number"),
        ("use: platform-scheduler", "evict: {selection: lru, worker_id: w}", 14, 17, "exactly one of"),
        ("use: platform-scheduler", "evict: {}", 14, 17, "exactly one of selection, worker_id"),
        ("use: platform-scheduler", "preempt: {below: background}", 14, 34, "must be"),
        ("use: platform-scheduler", "reject: {reason: ''}", 14, 34, "must not be empty"),
        ("least-loaded", "least-load", 10, 29, 'did you mean "least-loaded"?'),
        ("priority: 100", "priority: 1.0", 11, 17, "must be a whole number"),
        ("priority: 100", "priority: 1000001", 11, 17, "less than or equal to 1000000"),
        ("name: fallback", "name: seeded", 12, 13, 'the rule "seeded" stands twice; first at line 5'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_field_line_and_column(
    old: str, new: str, line: int, column: int, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(PolicyInvalid) as caught:
        read_policy(GOOD.replace(old, new, 1))
    assert said in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("text", ["[]", "scheduler", "5", "null"])
def test_a_policy_is_a_mapping(text: str) -> None:
    with pytest.raises(PolicyInvalid, match="begins with scheduler:"):
        read_policy(text)


def test_the_first_of_several_faults_is_told_and_the_rest_counted() -> None:
    text = GOOD.replace("exists: true", "exists: 1").replace("always", "never")
    with pytest.raises(PolicyInvalid, match=r"true or false \(1 more after it\)") as caught:
        read_policy(text)
    assert caught.value.line == 7


def test_there_are_bounds_to_rules_and_tests() -> None:
    rule = "    - {name: r%d, condition: always, action: {use: platform-scheduler}}\n"
    rules = "".join(rule % number for number in range(limits.POLICY_RULES_MAX + 1))
    with pytest.raises(PolicyInvalid, match="at most 256 items"):
        read_policy(f"scheduler:\n  name: many\n  rules:\n{rules}")
    test = "{job.id: a, job.type: b}"
    several = ", ".join([test] * (limits.POLICY_CONDITION_TESTS_MAX // 2 + 1))
    with pytest.raises(PolicyInvalid, match="at most 64 tests"):
        read_policy(GOOD.replace("condition: always", f"condition: {{any: [{several}]}}"))


def test_rules_are_tried_by_falling_priority_and_else_in_their_order() -> None:
    rule = "    - {{name: {}, condition: always, action: {{use: platform-scheduler}}{}}}\n"
    rules = [
        ("a", ""),
        ("b", ", priority: 5"),
        ("c", ""),
        ("d", ", priority: -1"),
        ("e", ", priority: 5"),
    ]
    text = "scheduler:\n  name: x\n  rules:\n" + "".join(rule.format(*each) for each in rules)
    assert [rule.name for rule in read_policy(text).rules] == ["b", "e", "a", "c", "d"]


def test_the_published_schema_is_what_the_models_say() -> None:
    assert SCHEMA.read_text() == json_schema(), (
        "run: beeyard policy compile --schema > docs/policies/…"
    )


def test_the_published_schema_judges_as_the_models_do(tmp_path: Path) -> None:
    policies = sorted(GOLDEN.glob("*.yaml"))
    assert _judge(*policies).returncode == 0
    for number, (old, new) in enumerate(
        [
            ("job.seed", "job.sed"),
            ("exists: true", "exists: 1"),
            ("least-loaded", "x"),
            ("always", "no"),
        ]
    ):
        bad = tmp_path / f"{number}.yaml"
        bad.write_text(GOOD.replace(old, new))
        assert _judge(bad).returncode == 1, bad.read_text()


def _judge(*policies: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).parent / "check-jsonschema"
    command: list[str | Path] = [tool, "--schemafile", SCHEMA, *policies]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_schema_knows_every_field_and_operator() -> None:
    tests = json.loads(SCHEMA.read_text())["$defs"]
    assert set(FIELDS) <= set(tests["FieldTests"]["properties"])
    assert set(tests["TextTests"]["properties"]) | set(tests["NumberTests"]["properties"]) == set(
        OPERATORS
    )


def test_the_documentation_lists_every_field_operator_and_choice() -> None:
    text = (ROOT / "docs/policies/yaml.md").read_text()
    for field in FIELDS.values():
        assert re.search(
            rf"^\| `{re.escape(field.name)}` \| {field.kind.value} ", text, re.MULTILINE
        ), field.name
    for operator in OPERATORS.values():
        assert f"| `{operator.name}` |" in text, operator.name
    schema = json.loads(SCHEMA.read_text())["$defs"]
    choices = [
        schema["Dispatch"]["properties"][name]["enum"]
        for name in ("worker_selection", "model_match")
    ]
    choices += [
        schema["StartWorker"]["properties"]["gpu_selection"]["enum"],
        list(schema["Action"]["properties"]),
    ]
    for name in itertools.chain.from_iterable(choices):
        assert f"`{name}`" in text, name
