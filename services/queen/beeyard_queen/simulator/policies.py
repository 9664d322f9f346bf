"""The policies that a simulation can ask, by name: the platform policy, the baselines, templates, and any file.

The platform policy and the baselines are Beeyard's own text and decide in this process, as the platform policy does in
the queen. Everything else decides in a sandbox (`sandboxed.py`).
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from beeyard_core.effect import Effect
from beeyard_core.instant import Instant
from beeyard_core.policy.changes import Change
from beeyard_core.policy.decider import Decider
from beeyard_core.policy.intent import Intent
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import schedule
from beeyard_core.state import QueenState

from beeyard_queen.policy.in_process import PlatformPolicy
from beeyard_queen.policy.program import make_program, read_program
from beeyard_queen.policy.starters import templates
from beeyard_queen.simulator.sandboxed import Sandboxed
from beeyard_queen.simulator.shapes import ScenarioInvalid
from beeyard_queen.simulator.simulation import Place
from beeyard_queen.simulator.tally import Tally

PLATFORM: Final = "platform"
#: What policies are compared with. They are no templates: nobody should deploy them.
BASELINES: Final = ("fifo", "least-loaded")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A policy to simulate.

    Attributes:
        name: What the report calls it.
        lua: Its text; empty for the platform policy.
        is_trusted: It is Beeyard's own and decides in this process.
    """

    name: str
    lua: bytes = b""
    is_trusted: bool = False


def choose(name: str) -> Chosen:
    """Return the policy of a name: `platform`, a baseline, a template, or else a file.

    Raises:
        PolicyInvalid: The file is YAML that is wrong.
        ScenarioInvalid: There is nothing of that name.
    """
    if name == PLATFORM:
        return Chosen(name, is_trusted=True)
    if name in BASELINES:
        text = (files("beeyard_queen.simulator") / "baselines" / f"{name}.lua").read_bytes()
        return Chosen(name, text, is_trusted=True)
    template = next((each for each in templates() if each.name == name), None)
    if template is not None:
        return Chosen(name, make_program(template.language, template.source.encode()).lua)
    try:
        program = read_program(Path(name))
    except OSError as fault:
        known = ", ".join((PLATFORM, *BASELINES, *(each.name for each in templates())))
        message = f"{fault.strerror or 'cannot be read'}; there are also {known}"
        raise ScenarioInvalid(message, name) from None
    return Chosen(program.name or Path(name).stem, program.lua)


def asking(chosen: Chosen, tally: Tally) -> AbstractContextManager[Place]:
    """Return what lets a policy decide for the time of a block, and counts what it does.

    Raises:
        PolicyInvalid: On entry: the text does not load.
        StartFailed: On entry: the sandbox does not work on this machine.
    """
    if not chosen.is_trusted:
        return Sandboxed(chosen.name, chosen.lua, tally)
    text = chosen.lua.decode() or None
    return nullcontext(_InProcess(_Timed(PlatformPolicy(text, label=chosen.name), tally), tally))


@dataclass(slots=True)
class _Timed:
    """A decider whose decisions are timed."""

    decider: Decider
    tally: Tally

    @property
    def label(self) -> str:
        return self.decider.label

    def take(self, changes: Sequence[Change]) -> None:
        self.decider.take(changes)

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        began = time.perf_counter_ns()
        intent = self.decider.decide(now_ms, seed)
        self.tally.spent_ns.append(time.perf_counter_ns() - began)
        return intent


@dataclass(slots=True)
class _InProcess:
    """Lets a trusted policy decide, as the queen's loop does."""

    decider: Decider
    tally: Tally
    projection: Projection = field(default_factory=Projection)

    def __call__(self, state: QueenState, now: Instant, effects: list[Effect]) -> None:
        for outcome in schedule(state, self.projection, self.decider, now, effects):
            self.tally.count(outcome.intent.action, outcome.refused)
