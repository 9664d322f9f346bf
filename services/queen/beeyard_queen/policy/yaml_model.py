"""The shape of a YAML policy, as pydantic models: the one schema, from which the published JSON Schema is made.

The models judge; what the compiler works on is built from the same text afterwards (`yaml_rules.py`), so that each
part knows its line.
"""

import json
from collections.abc import Mapping as Mapped
from typing import Annotated, Any, Literal, Self

from beeyard_core import limits
from pydantic import ConfigDict, Field, StringConstraints, ValidationError, model_validator

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_conditions import (
    LABEL_PATTERN,
    Condition,
    FieldTests,
    Shape,
    absent,
    exactly_one,
)
from beeyard_queen.policy.yaml_faults import first_fault
from beeyard_queen.policy.yaml_source import Mapping, Node, plain

_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
# What goes into the compiled text's comments and into reasons stays on one line.
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_LINE)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_LINE)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=limits.ID_BYTES_MAX, pattern=_LINE)]

WorkerSelection = Literal[
    "least-loaded",
    "most-vram-free",
    "round-robin",
    "first",
    "lowest-cost",
    "nearest",
    "fastest",
    "prefix-affinity",
]
EvictSelection = Literal["lru", "lfu"]
GpuSelection = Literal["most-vram-free", "least-utilized", "first"]


class Dispatch(Shape):
    """Place the job on a worker that can take it now."""

    worker_selection: WorkerSelection = Field("least-loaded", description="Which of them.")
    model_match: Literal["required", "preferred"] = Field(
        "required",
        description="required: only workers that serve the job's model; preferred: those first, and if none can take "
        "the job, workers of another model of its family.",
    )


class Wait(Shape):
    """Place nothing; look again later, or when something changes."""

    duration_ms: int = Field(ge=1, le=limits.POLICY_WAIT_MS_MAX, description="In milliseconds.")


class Evict(Shape):
    """Stop an idle worker to free its memory."""

    selection: EvictSelection = absent(
        description="lru: the idle worker used least recently; lfu: least often."
    )
    worker_id: Id = absent(description="This worker, if it is idle.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, "evict")
        return self


class StartWorker(Shape):
    """Start a worker of the job's model where it fits."""

    gpu_selection: GpuSelection = Field("most-vram-free", description="Which GPU with room for it.")
    pool: Id = absent(description="Only on this pool.")
    model_ref: Id = absent(description="This model and not the job's.")


class Preempt(Shape):
    """Stop a less urgent job, to make room for the job that the rule looks at."""

    below: Literal["interactive", "normal", "batch"] = Field(
        description="Only jobs of classes less urgent than this one are stopped."
    )


class Reject(Shape):
    """End the job without running it."""

    reason: Reason = Field(description="What its client is told.")


class Action(Shape):
    """What a rule does; exactly one."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    dispatch: Dispatch = absent(description="Place the job on a worker.")
    wait: Wait = absent(description="Place nothing for a while.")
    evict: Evict = absent(description="Stop an idle worker.")
    start_worker: StartWorker = absent(description="Start a worker.")
    preempt: Preempt = absent(description="Stop a less urgent job for this one.")
    reject: Reject = absent(description="End the job without running it.")
    use: Literal["platform-scheduler"] = absent(description="Let the platform policy decide.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, "an action")
        return self


class Rule(Shape):
    """When, and what then."""

    name: Name = Field(description="Unique; stands in reasons and in the compiled text.")
    condition: Condition = Field(description="`always`, or tests that must all hold.")
    action: Action
    priority: int = Field(
        0,
        ge=-limits.POLICY_RULE_PRIORITY_MAX,
        le=limits.POLICY_RULE_PRIORITY_MAX,
        description="Higher ones first; rules of one priority keep their order.",
    )


class Scheduler(Shape):
    """A policy."""

    name: Name
    version: Name = Field("", description="The author's own; Beeyard numbers what is deployed.")
    rules: list[Rule] = Field(min_length=1, max_length=limits.POLICY_RULES_MAX)


class PolicyFile(Shape):
    """A scheduling policy of Beeyard."""

    scheduler: Scheduler


PolicyFile.model_rebuild(_types_namespace={"FieldTests": FieldTests})


def judge(root: Node) -> None:
    """Hold a document against the schema.

    Args:
        root: The document.

    Raises:
        PolicyInvalid: It does not fit; the first fault in the order of the text, with its field, line and column.
    """
    if not isinstance(root, Mapping):
        raise PolicyInvalid(
            "a policy is a mapping that begins with scheduler:", root.mark.line, root.mark.column
        )
    try:
        PolicyFile.model_validate(plain(root))
    except ValidationError as error:
        raise first_fault(root, error) from None


def json_schema() -> str:
    """Return the JSON Schema of a policy, as it is published for editors."""
    schema = _without_defaults(PolicyFile.model_json_schema(by_alias=True))
    assert isinstance(schema, dict)
    tests = schema["$defs"]["FieldTests"]
    # Labels are the only names that are not listed.
    tests["patternProperties"] = {LABEL_PATTERN: tests.pop("additionalProperties")}
    tests["additionalProperties"] = False
    tests["minProperties"] = 1
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Beeyard scheduling policy",
    }
    return json.dumps(head | schema, indent=2, sort_keys=False) + "\n"


def _without_defaults(schema: object) -> Any:
    """Drop what pydantic adds for itself: titles of fields, and the None that stands for an absent field."""
    if isinstance(schema, list):
        return [_without_defaults(part) for part in schema]
    if not isinstance(schema, Mapped):
        return schema
    return {
        key: {name: _without_defaults(entry) for name, entry in part.items()}
        if key in {"properties", "$defs"}
        else _without_defaults(part)
        for key, part in schema.items()
        if key != "title" and (key, part) != ("default", None) and key != "discriminator"
    }
