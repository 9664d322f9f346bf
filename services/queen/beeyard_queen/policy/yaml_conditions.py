"""The shape of a condition in YAML, as pydantic models made from the table of fields and operators.

Strict: a number is no text, and a field or operator that nobody knows is an error with a suggestion.
"""

import difflib
from typing import Annotated, Any, ClassVar, Literal, Self

from beeyard_core import limits
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)
from pydantic.functional_validators import AfterValidator
from pydantic_core import PydanticCustomError

from beeyard_queen.policy.yaml_fields import FIELDS, OPERATORS, Kind, field_of
from beeyard_queen.policy.yaml_patterns import PatternInvalid, read_pattern
from beeyard_queen.policy.yaml_source import quoted

#: Which names a label may have in a condition, for the JSON Schema.
LABEL_PATTERN = r"^job\.labels\..+$"

#: Branches of a union, as they stand in an error's path; the characters keep them apart from an author's words.
BRANCH_VALUE, BRANCH_TESTS, BRANCH_WORD = "<value>", "<tests>", "<word>"


def _bounded(text: str) -> str:
    if len(text.encode("utf-8", "replace")) > limits.POLICY_TEXT_BYTES_MAX:
        raise PydanticCustomError("too_long", f"longer than {limits.POLICY_TEXT_BYTES_MAX} bytes")
    return text


def _pattern(text: str) -> str:
    try:
        read_pattern(text)
    except PatternInvalid as error:
        raise PydanticCustomError("pattern", "{why}", {"why": str(error)}) from None
    return text


Text = Annotated[str, Field(min_length=1), AfterValidator(_bounded)]
# A strict float takes whole numbers, too, and nothing else.
Number = float
Priority = Literal["interactive", "normal", "batch", "background"]
Matching = Annotated[str, AfterValidator(_pattern)]


class Shape(BaseModel):
    """A mapping whose keys are all known; an unknown one is refused with the nearest that is."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    #: What an author called it: "unknown field", "unknown operator".
    thing: ClassVar[str] = "field"

    @model_validator(mode="before")
    @classmethod
    def _only_known_names(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in value:
            if key not in known and not cls._takes(key):
                raise unknown(cls.thing, str(key), known)
        return value

    @classmethod
    def _takes(cls, key: str) -> bool:  # noqa: ARG003 -- subclasses decide by it
        """Whether a name is known beyond the fields."""
        return False


def absent(alias: str | None = None, *, description: str) -> Any:
    """Return the declaration of a field that may be absent; `null` is not in its type, and refused."""
    return Field(None, alias=alias, description=description)


def exactly_one(shape: Shape, what: str) -> None:
    """Refuse a mapping that has not exactly one key."""
    if len(shape.model_fields_set) != 1:
        names = ", ".join(field.alias or name for name, field in type(shape).model_fields.items())
        message = f"{what} has exactly one of {names}"
        raise PydanticCustomError("not_one", "{message}", {"message": message})


def unknown(thing: str, name: str, known: list[str]) -> PydanticCustomError:
    """Return the error of a name that nobody knows, with the nearest that somebody does."""
    tails = {entry.rpartition(".")[2]: entry for entry in known}
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or [
        tails[tail]
        for tail in difflib.get_close_matches(name.rpartition(".")[2], list(tails), n=1, cutoff=0.6)
    ]
    offer = f"did you mean {quoted(near[0])}?" if near else f"known are {', '.join(known)}"
    message = f"unknown {thing} {quoted(name)}; {offer}"
    return PydanticCustomError("unknown_name", "{message}", {"message": message, "name": name})


class Tests(Shape):
    """Comparisons with one field; all must hold."""

    thing: ClassVar[str] = "operator"

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "a test needs an operator, such as eq")
        return self


def _branch(value: object) -> str:
    return BRANCH_TESTS if isinstance(value, dict) else BRANCH_VALUE


def _test_of(kind: Kind) -> Any:
    """Return the annotation of a field of that kind: its operators, or the short form of eq."""
    value: Any = {Kind.TEXT: Text, Kind.NUMBER: Number, Kind.CLASS: Priority}.get(kind)
    listed = Annotated[list[value], Field(min_length=1, max_length=limits.POLICY_LIST_VALUES_MAX)]
    types: dict[str, Any] = {
        "exists": bool,
        "in": listed,
        "not_in": listed,
        "contains": Text,
        "starts_with": Text,
        "matches": Matching,
    }
    operators: dict[str, Any] = {
        f"{name}_": (
            types.get(name, value),
            absent(name, description=operator.meaning),
        )
        for name, operator in OPERATORS.items()
        if kind in operator.kinds
    }
    tests: Any = create_model(f"{kind.value.title()}Tests", __base__=Tests, **operators)
    if value is None:
        return tests
    branches = Annotated[value, Tag(BRANCH_VALUE)] | Annotated[tests, Tag(BRANCH_TESTS)]
    return Annotated[branches, Discriminator(_branch)]


_TESTS = {kind: _test_of(kind) for kind in Kind}


def _condition_branch(value: object) -> str:
    return BRANCH_TESTS if isinstance(value, dict) else BRANCH_WORD


Condition = Annotated[
    # FieldTests is made from the table below; mypy cannot know it.
    Annotated[Literal["always"], Tag(BRANCH_WORD)] | Annotated["FieldTests", Tag(BRANCH_TESTS)],  # type: ignore[valid-type]
    Discriminator(_condition_branch),
]
Conditions = Annotated[
    list[Condition], Field(min_length=1, max_length=limits.POLICY_CONDITION_TESTS_MAX)
]


class ConditionWords(Shape):
    """What a condition is made of besides fields; everything in one mapping must hold."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _TESTS[Kind.TEXT]]  # type: ignore[valid-type]

    all_: Conditions = absent("all", description="All of these hold.")
    any_: Conditions = absent("any", description="At least one of these holds.")
    not_: Condition = absent("not", description="This does not hold.")

    @classmethod
    def _takes(cls, key: str) -> bool:
        return field_of(key) is not None

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("empty", "a condition needs a test, or is `always`")
        return self


_field_tests: dict[str, Any] = {
    name.replace(".", "_"): (
        _TESTS[field.kind],
        absent(name, description=field.meaning),
    )
    for name, field in FIELDS.items()
}
FieldTests = create_model("FieldTests", __base__=ConditionWords, **_field_tests)
