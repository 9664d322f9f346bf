"""What the files of a simulation have in common: bounded numbers and names, and how a fault is told."""

from pathlib import Path
from typing import Annotated, Final, TypeVar

from beeyard_core import limits
from pydantic import BaseModel, Field, ValidationError

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_faults import first_fault
from beeyard_queen.policy.yaml_model import Id
from beeyard_queen.policy.yaml_source import Mapping, Node, locate, plain, read_yaml

GIB: Final = 1 << 30
Name = Id
Count = Annotated[int, Field(ge=1, le=limits.WORKERS_MAX)]
Tokens = Annotated[int, Field(ge=1, le=limits.SIMULATED_TOKENS_MAX)]
Speed = Annotated[float, Field(gt=0, le=limits.SIMULATED_SPEED_MAX)]
Seconds = Annotated[float, Field(ge=0, le=limits.SIMULATED_MS_MAX / 1_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
#: What each name's part of the whole is; weights need not sum up to 1.
Shares = Annotated[dict[Name, Weight], Field(min_length=1, max_length=limits.SIMULATED_TENANTS_MAX)]

S = TypeVar("S", bound=BaseModel)


class ScenarioInvalid(Exception):
    """A fleet, a load or a trace cannot be used. Correct the file at the place that the message names.

    Args:
        message: What is wrong, in one line.
        file: The file, as it was named; empty for what is built in.
        line: Line of the file, from 1; 0 where it cannot be known.
        column: Column of that line, from 1; 0 where it cannot be known.
    """

    def __init__(self, message: str, file: str = "", line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.column = column

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return f"{place}: {self.message}" if place else self.message


def read_document(shape: type[S], text: str | bytes, file: str) -> tuple[S, Node]:
    """Read a YAML file of a simulation.

    Args:
        shape: The model that it must fit.
        text: What is in it.
        file: Its name, for messages.

    Returns:
        The model, and the document for the place of what is found wrong later.

    Raises:
        ScenarioInvalid: It is no YAML or does not fit; with line and column.
    """
    try:
        root = read_yaml(text)
    except PolicyInvalid as fault:
        raise _scenario_invalid(fault, file) from None
    if not isinstance(root, Mapping):
        raise fault_at(root, (), "must be a mapping", file)
    try:
        return shape.model_validate(plain(root)), root
    except ValidationError as error:
        raise _scenario_invalid(first_fault(root, error), file) from None


def _scenario_invalid(fault: PolicyInvalid, file: str) -> ScenarioInvalid:
    return ScenarioInvalid(fault.message, file, fault.line or 0, fault.column or 0)


def fault_at(root: Node, path: tuple[str | int, ...], message: str, file: str) -> ScenarioInvalid:
    """Return the fault of a field that fits the schema and yet cannot be."""
    mark, said = locate(root, path)
    return ScenarioInvalid(f"{said}: {message}" if said else message, file, mark.line, mark.column)


def read_file(path: Path, bytes_max: int) -> bytes:
    """Return what is in a file.

    Raises:
        ScenarioInvalid: It is larger than may be, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as fault:
        raise ScenarioInvalid(fault.strerror or "cannot be read", str(path)) from None
    if len(content) > bytes_max:
        raise ScenarioInvalid(f"larger than {bytes_max} bytes", str(path))
    return content
