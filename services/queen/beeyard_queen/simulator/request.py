"""What the queen asks of a simulation in a process of its own, and what that process tells, as lines of JSON.

The process is started for one request, reads it from its input to the end, and writes any number of `progress` and then
one `report` or one `fault`. Both ends are this program, but a line is read with care all the same: the process runs a
stranger's policy, if only in a sandbox of its own.
"""

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from beeyard_queen.simulator.fleet import read_fleet
from beeyard_queen.simulator.load import read_load
from beeyard_queen.simulator.policies import Chosen, choose
from beeyard_queen.simulator.scenario import Result, Scenario

FaultKind = Literal["policy", "scenario", "sandbox"]
#: The trace that came with the request, as a stream of its load names it.
ENCLOSED: Final = "enclosed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationRequest:
    """A policy and what to try it on.

    Attributes:
        policy: Its name; `platform` or a baseline if there is no `lua`.
        lua: Its text.
        fleet: YAML.
        load: YAML; a stream whose trace is `enclosed` takes `trace`.
        trace: A recorded trace.
    """

    policy: str
    lua: str
    fleet: str
    load: str
    trace: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """How far a simulation is; `virtual_ms` since its start."""

    ended: int
    total: int
    virtual_ms: int


@dataclass(frozen=True, slots=True)
class Reported:
    """What a simulation found, as `report.Report` and `report.Measured` in plain values."""

    report: dict[str, Any]
    measured: dict[str, float]


@dataclass(frozen=True, slots=True)
class Faulted:
    """Why there is no report. Lines and columns from 1; 0: not known."""

    kind: FaultKind
    message: str
    line: int = 0
    column: int = 0


Told = Progressed | Reported | Faulted


def encode_request(request: SimulationRequest) -> bytes:
    """Return a request as it is written."""
    plain = asdict(request) | {"trace": base64.b64encode(request.trace).decode()}
    return json.dumps(plain).encode()


def decode_request(text: bytes) -> tuple[Scenario, Chosen]:
    """Return what is to be simulated.

    Raises:
        ScenarioInvalid: Fleet, load or trace are wrong.
    """
    plain = json.loads(text)
    request = SimulationRequest(**plain | {"trace": base64.b64decode(plain["trace"])})
    load = read_load(request.load, traces={ENCLOSED: request.trace} if request.trace else {})
    scenario = Scenario(read_fleet(request.fleet, "fleet"), load, request.seed)
    if not request.lua:
        return scenario, choose(request.policy)
    return scenario, Chosen(request.policy, request.lua.encode())


def encode_told(told: Told) -> bytes:
    """Return a line."""
    return json.dumps({"kind": type(told).__name__, "told": asdict(told)}).encode() + b"\n"


def decode_told(line: bytes) -> Told:
    """Return what a line says.

    Raises:
        ValueError: It says nothing that a simulation says.
    """
    plain = json.loads(line)
    kinds: dict[str, type[Told]] = {one.__name__: one for one in (Progressed, Reported, Faulted)}
    try:
        return kinds[plain["kind"]](**plain["told"])
    except (KeyError, TypeError) as fault:
        raise ValueError("not a line of a simulation") from fault


def reported(result: Result) -> Reported:
    """Return a result as it is told."""
    return Reported(asdict(result.report), asdict(result.measured))
