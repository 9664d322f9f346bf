"""The load of a simulation: what a small YAML file says of who asks for what, and when.

A load is one or more *streams*, merged by time. Each draws its arrivals (a Poisson process, with bursts if wanted) or
takes them from a trace, and draws the rest from shares:

    jobs: 10000
    streams:
      - {rate_per_s: 40, classes: {interactive: 3, batch: 1}, tenants: {ada: 1, bob: 1}}
      - {rate_per_s: 200, from_s: 60, until_s: 90, tenants: {flood: 1}}
      - {trace: azure-2023-code, speed: 2}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from beeyard_core import limits
from beeyard_core.job import Priority
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from beeyard_queen.policy.yaml_conditions import Shape
from beeyard_queen.simulator.shapes import (
    ScenarioInvalid,
    Seconds,
    Shares,
    Tokens,
    Weight,
    fault_at,
    read_document,
)
from beeyard_queen.simulator.trace import SAMPLES, Request, parse_trace, read_trace

_Rate = Annotated[float, Field(gt=0, le=limits.SIMULATED_RATE_MAX)]
_Label = Annotated[str, Field(max_length=limits.LABEL_BYTES_MAX)]
_Class = Literal["interactive", "normal", "batch", "background"]


class Length(Shape):
    """How long a text is, in tokens."""

    mean: float = Field(gt=0, le=limits.SIMULATED_TOKENS_MAX)
    shape: Literal["lognormal", "exponential", "constant"] = "lognormal"
    spread: float = Field(
        default=0.8, ge=0, le=3, description="Of a lognormal: sigma of the logarithm."
    )
    most: Tokens = Field(default=4_096, description="Longer ones are cut to this.")


class Burst(Shape):
    """For `lasts_s` of every `every_s` seconds, `times` as much comes."""

    every_s: float = Field(gt=0, le=limits.SIMULATED_MS_MAX / 1_000)
    lasts_s: float = Field(gt=0, le=limits.SIMULATED_MS_MAX / 1_000)
    times: float = Field(ge=1, le=1_000)


class Deadline(Shape):
    """Some jobs must have ended so long after they came."""

    within_s: float = Field(gt=0, le=limits.DEADLINE_MS_MAX / 1_000)
    share: float = Field(default=1.0, ge=0, le=1)
    classes: list[_Class] | None = Field(default=None, description="Only these; all if absent.")


class Stream(Shape):
    """Jobs of one kind: made up at a rate, or taken from a trace."""

    rate_per_s: _Rate | None = Field(default=None, description="Mean rate at which jobs come.")
    trace: str | None = Field(default=None, min_length=1, description="A sample's name, or a file.")
    speed: float = Field(
        default=1.0, gt=0, le=1_000, description="Of a trace: how much faster it runs."
    )
    from_s: Seconds = 0.0
    until_s: Seconds | None = None
    burst: Burst | None = None
    tenants: Shares = Field(default={"default": 1.0})
    classes: dict[_Class, Weight] = Field(default={"normal": 1.0}, min_length=1)
    models: Shares | None = Field(
        default=None, description="The fleet's, in equal shares, if absent."
    )
    prompt_tokens: Length = Length(mean=256)
    answer_tokens: Length = Length(mean=128, most=1_024)
    max_tokens: Tokens | None = Field(
        default=None,
        description="What clients ask for; the next power of two above the answer if absent.",
    )
    deadline: Deadline | None = None
    labels: dict[_Label, _Label] = Field(
        default={}, max_length=limits.LABEL_COUNT_MAX, description="Of every job, such as geo.lat."
    )

    @field_validator("tenants", "classes", "models")
    @classmethod
    def _some_weight(cls, shares: dict[str, float] | None) -> dict[str, float] | None:
        if shares is not None and not sum(shares.values()) > 0:
            raise PydanticCustomError("no_weight", "one share at least must be above 0")
        return shares

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.rate_per_s is None) == (self.trace is None):
            raise PydanticCustomError("origin", "a stream has either rate_per_s or trace")
        if self.until_s is not None and self.until_s <= self.from_s:
            raise PydanticCustomError("until", "until_s must come after from_s")
        return self


class LoadFile(Shape):
    """A load to simulate."""

    jobs: int = Field(default=10_000, ge=1, le=limits.SIMULATED_JOBS_MAX)
    streams: list[Stream] = Field(min_length=1, max_length=limits.SIMULATED_STREAMS_MAX)


@dataclass(frozen=True, slots=True)
class Source:
    """One stream, and the requests of its trace, if it has one."""

    stream: Stream
    requests: tuple[Request, ...] = ()

    @property
    def rate_per_s(self) -> float:
        """Mean rate at which jobs come."""
        if self.stream.rate_per_s is not None:
            return self.stream.rate_per_s
        return len(self.requests) * 1_000 * self.stream.speed / max(self.requests[-1].at_ms, 1)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a fleet.

    Attributes:
        jobs: How many jobs in all, at most.
        sources: Where they come from.
    """

    jobs: int
    sources: tuple[Source, ...]

    @property
    def jobs_at_most(self) -> int:
        """How many jobs come, if no stream ends early."""
        if all(source.requests for source in self.sources):
            return min(self.jobs, sum(len(source.requests) for source in self.sources))
        return self.jobs

    @property
    def is_recorded(self) -> bool:
        """Whether any of it comes from a trace."""
        return any(source.requests for source in self.sources)


def read_load(text: str | bytes, file: str = "", traces: Mapping[str, bytes] | None = None) -> Load:
    """Read a load from YAML, with the traces that it names.

    Args:
        text: The document.
        file: Its name, for messages and as the place that paths of traces are relative to.
        traces: Traces by the name that streams give them; if this is given, no file is read.

    Raises:
        ScenarioInvalid: It describes no load; with line and column.
    """
    found, root = read_document(LoadFile, text, file)
    tenants = {name for stream in found.streams for name in stream.tenants}
    if len(tenants) > limits.SIMULATED_TENANTS_MAX:
        message = f"more than {limits.SIMULATED_TENANTS_MAX} tenants in all"
        raise fault_at(root, ("streams",), message, file)
    folder = Path(file).parent
    return Load(found.jobs, tuple(_source(stream, folder, traces) for stream in found.streams))


def _source(stream: Stream, folder: Path, traces: Mapping[str, bytes] | None) -> Source:
    if stream.trace is None:
        return Source(stream)
    if traces is not None:
        if stream.trace not in traces:
            raise ScenarioInvalid("there is no such trace", stream.trace)
        return Source(stream, tuple(parse_trace(traces[stream.trace], stream.trace)))
    name = stream.trace if stream.trace in SAMPLES else str(folder / stream.trace)
    return Source(stream, tuple(read_trace(name)))


def load_of_trace(name: str) -> Load:
    """Return the load of a trace alone. What it does not say is made up: classes, tenants and deadlines.

    Raises:
        ScenarioInvalid: There is no such trace.
    """
    stream = Stream(
        trace=name,
        classes={"interactive": 5.0, "normal": 3.0, "batch": 2.0},
        tenants={"ada": 1.0, "bob": 1.0, "eve": 1.0},
        deadline=Deadline(within_s=20.0, classes=["interactive"]),
    )
    return Load(limits.SIMULATED_JOBS_MAX, (Source(stream, tuple(read_trace(name))),))


#: The classes of the core under the names of the file.
PRIORITY_OF: dict[str, Priority] = {priority.name.lower(): priority for priority in Priority}
