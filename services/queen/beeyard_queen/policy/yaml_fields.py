"""What a rule may ask about, and with which words: the closed list of fields, their types and their operators.

The models, the compiler, the interpreter and the documentation all read this one table, so a field that is added here
is everywhere, and one that is not here is an error with a suggestion.
"""

from dataclasses import dataclass
from enum import Enum, unique

from beeyard_core.policy.world import CLASSES


@unique
class Kind(Enum):
    """What values a field has, and so which operators fit."""

    TEXT = "text"
    NUMBER = "number"
    CLASS = "class"
    PLACE = "place"


@unique
class Subject(Enum):
    """Whose field it is: the job's that a rule looks at, its tenant's, or the system's."""

    JOB = "job"
    TENANT = "tenant"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Field:
    """One field that a condition may test.

    Attributes:
        path: As a policy writes it, after the subject: `user.geo` of `job.user.geo`.
        is_optional: Whether it can be absent; an empty text is absent.
        meaning: For people: what it says, with its unit.
    """

    subject: Subject
    path: str
    kind: Kind
    meaning: str
    is_optional: bool = False

    @property
    def name(self) -> str:
        """The whole name: `job.user.geo`."""
        return f"{self.subject.value}.{self.path}"


LABEL_PREFIX = "job.labels."
PRIORITIES = CLASSES


def _fields(subject: Subject, table: str) -> dict[str, Field]:
    fields = {}
    for line in table.strip().splitlines():
        path, kind, meaning = (part.strip() for part in line.split("|"))
        field = Field(subject, path, Kind(kind.rstrip("?")), meaning, kind.endswith("?"))
        fields[field.name] = field
    return fields


# name | kind, with ? where it can be absent | meaning
FIELDS = {
    **_fields(
        Subject.JOB,
        """
        id                    | text    | the job's id
        tenant_id             | text    | on whose behalf it runs
        session_id            | text?   | jobs of one conversation share it
        priority              | class   | interactive, normal, batch or background
        model_ref             | text    | the model that it asks for
        prompt_hash           | text?   | equal prompts have equal hashes
        prompt_tokens         | number  | tokens of the prompt; an estimate until a worker counts
        max_tokens            | number  | the most tokens of the answer
        expected_tokens       | number  | tokens that the answer is expected to have
        seed                  | number? | the client's seed, if it gave one
        created_at            | number  | when it was accepted, in ms
        queued_at             | number  | since when it has waited, in ms; later than created_at for another attempt
        wait_time_ms          | number  | how long it has waited
        attempt               | number  | which try this would be, from 1
        deadline_ms           | number? | how long after created_at its answer must be there
        estimated_vram_bytes  | number  | memory that it needs on its worker's device; 0: unknown
        estimated_duration_ms | number  | how long it would run; 0: unknown
        cost_units            | number  | what it counts against a budget
        type                  | text?   | what kind of work it is, such as image-gen
        user.geo              | place?  | where its user is
        """,
    ),
    **_fields(
        Subject.TENANT,
        """
        id                | text   | the tenant's id
        quota_vram        | number? | bytes of device memory it may use; absent: any
        quota_used        | number | bytes of device memory it uses
        quota_jobs        | number? | jobs it may have running; absent: any
        jobs_running      | number | jobs it has running
        tokens_served     | number | its virtual token counter of fair share
        tokens_per_minute | number? | tokens that it may get a minute; absent: any
        weight            | number | its share of the fleet relative to other tenants
        """,
    ),
    **_fields(
        Subject.METRICS,
        """
        queue_depth   | number | queued jobs
        total_workers | number | workers of any state
        busy_workers  | number | workers that run at least one job
        """,
    ),
}


def field_of(name: str) -> Field | None:
    """Return the field of that name, a label's included; None if there is none."""
    if name.startswith(LABEL_PREFIX) and len(name) > len(LABEL_PREFIX):
        path = name.removeprefix("job.")
        return Field(Subject.JOB, path, Kind.TEXT, "the client's label of that key", True)
    return FIELDS.get(name)


@dataclass(frozen=True, slots=True)
class Operator:
    """One comparison.

    Attributes:
        kinds: The kinds of field that it fits.
        meaning: For people.
    """

    name: str
    kinds: frozenset[Kind]
    meaning: str


_EVERY = frozenset(Kind)
_COMPARED = frozenset({Kind.TEXT, Kind.NUMBER, Kind.CLASS})
_ORDERED = frozenset({Kind.NUMBER})
_TEXTS = frozenset({Kind.TEXT})
OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("exists", _EVERY, "true: it is there; false: it is absent"),
        Operator("eq", _COMPARED, "equal; the short form `field: value` means this"),
        Operator("ne", _COMPARED, "not equal; true if absent"),
        Operator("gt", _ORDERED, "greater than"),
        Operator("gte", _ORDERED, "greater than or equal to"),
        Operator("lt", _ORDERED, "less than"),
        Operator("lte", _ORDERED, "less than or equal to"),
        Operator("in", _COMPARED, "equal to one of the list"),
        Operator("not_in", _COMPARED, "equal to none of the list; true if absent"),
        Operator("contains", _TEXTS, "has this text in it"),
        Operator("starts_with", _TEXTS, "begins with this text"),
        Operator("matches", _TEXTS, "a pattern is found in it; see Patterns"),
    )
}
