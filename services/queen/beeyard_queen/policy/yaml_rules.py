"""A YAML policy as values: what the compiler writes out and the interpreter walks.

Built from a document that the models have judged, so nothing here can be of the wrong shape; what a schema cannot say
(a rule's name used twice, too many tests) is refused here. Each part keeps its place in the text.
"""

from dataclasses import dataclass

from beeyard_core import limits

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_fields import Field, Subject, field_of
from beeyard_queen.policy.yaml_model import judge
from beeyard_queen.policy.yaml_patterns import Pattern, read_pattern
from beeyard_queen.policy.yaml_source import (
    Mapping,
    Mark,
    Node,
    Sequence,
    Value,
    plain,
    quoted,
    read_yaml,
)

#: What a test compares with: a value, a list of them, or a pattern.
Operand = Value | tuple[Value, ...] | Pattern


@dataclass(frozen=True, slots=True)
class Always:
    """Holds for every job, and without one."""


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison. `mark` is where it stands in the text."""

    field: Field
    operator: str
    operand: Operand
    mark: Mark


@dataclass(frozen=True, slots=True)
class All:
    """Holds if every part does."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Any:
    """Holds if at least one part does."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Holds if its part does not."""

    part: "Condition"


Condition = Always | Test | All | Any | Not


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Place the job."""

    selection: str
    is_model_required: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Place nothing for so long."""

    duration_ms: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop an idle worker: this one, or the one that `selection` chooses; exactly one of them is set."""

    selection: str | None
    worker_id: str | None


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker; None: any pool, the job's model."""

    gpu_selection: str
    pool_id: str | None
    model_ref: str | None


@dataclass(frozen=True, slots=True)
class Preempt:
    """Stop a running job of a class less urgent than `below` and than the job's own."""

    below: str


@dataclass(frozen=True, slots=True)
class Reject:
    """End the job."""

    reason: str


@dataclass(frozen=True, slots=True)
class UsePlatform:
    """Let the platform policy decide."""


Action = Dispatch | Wait | Evict | StartWorker | Preempt | Reject | UsePlatform


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; `line` is where its name stands."""

    name: str
    condition: Condition
    action: Action
    priority: int
    line: int

    @property
    def needs_job(self) -> bool:
        """Whether it is about a queued job: its action is for one, or its condition looks at one."""
        match self.action:
            case Wait() | Evict() | UsePlatform():
                return looks_at_job(self.condition)
            case StartWorker(model_ref=model_ref) if model_ref is not None:
                return looks_at_job(self.condition)
            case _:
                return True


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy; `rules` in the order in which they are tried."""

    name: str
    version: str
    rules: tuple[Rule, ...]


def looks_at_job(condition: Condition) -> bool:
    """Return whether a condition tests a field of a job or of its tenant."""
    return any(test.field.subject is not Subject.METRICS for test in tests_of(condition))


def tests_of(condition: Condition) -> tuple[Test, ...]:
    """Return every comparison of a condition, in the order of the text."""
    match condition:
        case Always():
            return ()
        case Test():
            return (condition,)
        case Not(part=part):
            return tests_of(part)
        case All(parts=parts) | Any(parts=parts):
            return tuple(test for part in parts for test in tests_of(part))


def read_policy(text: str | bytes) -> Policy:
    """Return the policy that a YAML text describes.

    Args:
        text: The whole file; bytes are read as UTF-8.

    Raises:
        PolicyInvalid: It is no YAML, does not fit the schema, or contradicts itself; with line and column.
    """
    root = read_yaml(text)
    judge(root)
    scheduler = _child(root, "scheduler")
    rules = _child(scheduler, "rules")
    assert isinstance(rules, Sequence)
    built = [_rule(node) for node in rules.items]
    _refuse_duplicates(rules, built)
    ordered = sorted(built, key=lambda rule: -rule.priority)
    return Policy(_text(scheduler, "name"), _text(scheduler, "version"), tuple(ordered))


def _refuse_duplicates(rules: Sequence, built: list[Rule]) -> None:
    first: dict[str, Rule] = {}
    for at, (node, rule) in enumerate(zip(rules.items, built, strict=True)):
        if rule.name in first:
            mark = _child(node, "name").mark
            raise PolicyInvalid(
                f"scheduler.rules[{at}].name: the rule {quoted(rule.name)} stands twice; "
                f"first at line {first[rule.name].line}",
                mark.line,
                mark.column,
            )
        first[rule.name] = rule


def _child(node: Node, key: str) -> Node:
    assert isinstance(node, Mapping)
    entry = node.entry(key)
    assert entry is not None
    return entry.node


def _given(node: Node, key: str) -> Value:
    """Return a scalar of a mapping; None if it is absent."""
    assert isinstance(node, Mapping)
    entry = node.entry(key)
    value = None if entry is None else plain(entry.node)
    assert not isinstance(value, list | dict)
    return value


def _text(node: Node, key: str) -> str:
    return str(_given(node, key) or "")


def _given_text(node: Node, key: str) -> str | None:
    return _text(node, key) or None


def _rule(node: Node) -> Rule:
    condition = _condition(_child(node, "condition"))
    tests = tests_of(condition)
    if len(tests) > limits.POLICY_CONDITION_TESTS_MAX:
        mark = tests[limits.POLICY_CONDITION_TESTS_MAX].mark
        raise PolicyInvalid(
            f"a condition has at most {limits.POLICY_CONDITION_TESTS_MAX} tests",
            mark.line,
            mark.column,
        )
    return Rule(
        name=_text(node, "name"),
        condition=condition,
        action=_action(_child(node, "action")),
        priority=int(_given(node, "priority") or 0),
        line=_child(node, "name").mark.line,
    )


def _condition(node: Node) -> Condition:
    if not isinstance(node, Mapping):
        return Always()
    parts: list[Condition] = []
    for entry in node.entries:
        match entry.key:
            case "all" | "any":
                assert isinstance(entry.node, Sequence)
                several = tuple(_condition(item) for item in entry.node.items)
                parts.append(All(several) if entry.key == "all" else Any(several))
            case "not":
                parts.append(Not(_condition(entry.node)))
            case name:
                parts += _tests(name, entry.mark, entry.node)
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _tests(name: str, mark: Mark, node: Node) -> list[Condition]:
    field = field_of(name)
    assert field is not None
    if not isinstance(node, Mapping):
        return [Test(field, "eq", _operand("eq", node), mark)]
    return [
        Test(field, entry.key, _operand(entry.key, entry.node), entry.mark)
        for entry in node.entries
    ]


def _operand(operator: str, node: Node) -> Operand:
    value = plain(node)
    assert not isinstance(value, dict)
    if isinstance(value, list):
        return tuple(item for item in value if not isinstance(item, list | dict))
    if operator == "matches":
        return read_pattern(str(value))
    return value


def _action(node: Node) -> Action:
    assert isinstance(node, Mapping)
    (entry,) = node.entries
    options = entry.node
    match entry.key:
        case "dispatch":
            selection = _given_text(options, "worker_selection") or "least-loaded"
            return Dispatch(selection, _given(options, "model_match") != "preferred")
        case "wait":
            return Wait(int(_given(options, "duration_ms") or 0))
        case "evict":
            return Evict(_given_text(options, "selection"), _given_text(options, "worker_id"))
        case "start_worker":
            selection = _given_text(options, "gpu_selection") or "most-vram-free"
            pool_id, model_ref = _given_text(options, "pool"), _given_text(options, "model_ref")
            return StartWorker(selection, pool_id, model_ref)
        case "preempt":
            return Preempt(_text(options, "below"))
        case "reject":
            return Reject(_text(options, "reason"))
        case _:
            return UsePlatform()
