"""Whether a policy may decide: tried in many worlds, in a real sandbox, before anybody relies on it.

The same for `policy validate` and for the queen's desk, so that what one accepts the other does. The worlds are the
given ones, the same fleet without workers, and random ones from a fixed seed, so that the same text gets the same
verdict everywhere. A policy that falls back in any of them is not valid: an operator would find that out at night.
"""

import asyncio
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from beeyard_core import limits
from beeyard_core.policy.world import CLASSES

from beeyard_queen.policy.context_file import Scene
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.program import Program, make_program
from beeyard_queen.policy.trial import Trial, rejected, run_trial
from beeyard_queen.policy.zygote import Zygote
from beeyard_queen.store.versions import Language

_WORLDS: Final = 8
_JOBS_MAX: Final = 400
_SEED: Final = 20_260
# How a schema fault begins, and how Lua says where it stumbled.
_FIELD: Final = re.compile(r"(scheduler[\w.\[\]-]*): ")
_NEAR: Final = re.compile(r" near '(.+)'$")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a policy.

    Attributes:
        is_error: Whether it keeps the policy from deciding; otherwise somebody should look.
        message: What is wrong, in one line, without the place.
        line: Line of the author's text, from 1; 0: the policy as a whole.
        column: Column of that line, from 1; 0: the line as a whole.
        field: The rule or field at fault, as a path; empty if none is.
    """

    is_error: bool
    message: str
    line: int = 0
    column: int = 0
    field: str = ""

    def __str__(self) -> str:
        if not self.line:
            return self.message
        place = f"line {self.line}, column {self.column}" if self.column else f"line {self.line}"
        return f"{place}: {self.message}"


@dataclass(frozen=True)
class Finding:
    """What validation found.

    Attributes:
        fault: The first trial that went wrong, and in which world; None if all went well.
        problems: What to tell the author: errors first, then warnings by line.
        program: What would run; None if the text does not compile.
        worlds: In how many worlds the policy was tried.
        worst_ms: The longest decision, in wall time.
        worst_cpu_us: The same in CPU time of the host; 0 where that cannot be read.
        worst_instructions: The most instructions of a decision, to the thousand.
    """

    fault: tuple[str, Trial] | None
    problems: tuple[Problem, ...] = ()
    program: Program | None = None
    worlds: int = 0
    worst_ms: float = 0.0
    worst_cpu_us: int = 0
    worst_instructions: int = 0

    @property
    def is_rejected(self) -> bool:
        """Whether the text does not load at all."""
        return self.fault is not None and self.fault[1].verdict == "rejected"

    @property
    def error(self) -> Problem | None:
        """The first error; None if the policy may decide."""
        return next((one for one in self.problems if one.is_error), None)


async def validate(
    zygote: Zygote, language: Language, text: bytes, given: Iterable[tuple[str, Scene]]
) -> Finding:
    """Compile a policy and try it until it fails, or in every given world.

    Args:
        zygote: Where hosts come from.
        language: What it is written in.
        text: Its source.
        given: The worlds by name, as `scenes` makes them.

    Raises:
        HostGone: The sandbox itself does not work.
    """
    try:
        program = await asyncio.to_thread(make_program, language, text)
    except PolicyInvalid as invalid:
        return Finding(("text", rejected(invalid)), (problem_of(invalid),))
    tried: list[tuple[str, Trial]] = []
    for name, scene in given:
        tried.append((name, await run_trial(zygote, program.lua, scene)))
        if tried[-1][1].verdict != "decision":
            break
    trials = [trial for _, trial in tried]
    return Finding(
        fault=tried[-1] if trials[-1].verdict != "decision" else None,
        problems=tuple(_problems(program, tried)),
        program=program,
        worlds=len(tried),
        worst_ms=max(one.elapsed_ms for one in trials),
        worst_cpu_us=max(one.cpu_us for one in trials),
        worst_instructions=max(one.instructions for one in trials),
    )


def scenes(base: Scene, called: str = "the given world") -> Iterator[tuple[str, Scene]]:
    """Yield the worlds that a policy is tried in, by name; always the same for the same base."""
    yield called, base
    yield "a world without workers", Scene(replace(base.world, workers={}), base.now_ms)
    chance = random.Random(_SEED)  # noqa: S311  repeatable, not secret
    for index in range(_WORLDS):
        yield f"random world {index + 1}", _varied(base, chance, _JOBS_MAX >> (_WORLDS - index - 1))


def problem_of(invalid: PolicyInvalid) -> Problem:
    """Return what to tell the author of a text that does not compile."""
    field = _FIELD.match(invalid.message)
    return Problem(
        is_error=True,
        message=invalid.message,
        line=invalid.line or 0,
        column=invalid.column or 0,
        field=field[1] if field else "",
    )


def _problems(program: Program, tried: list[tuple[str, Trial]]) -> Iterator[Problem]:
    world, last = tried[-1]
    if last.verdict != "decision":
        yield _error(program, world, last)
    told: set[str] = set()
    for world, trial in tried:
        remark = trial.reason if trial.verdict == "decision" else ""
        if remark and remark not in told and len(told) < limits.POLICY_WARNINGS_MAX:
            told.add(remark)
            yield Problem(
                is_error=False, message=f"in {world} it decided what does not hold: {remark}"
            )


def _error(program: Program, world: str, trial: Trial) -> Problem:
    message = trial.reason
    if trial.line is not None:
        # The line of the Lua; the author's own is told beside it.
        message = message.removeprefix(f"line {trial.line}: ")
    line = program.line_of(trial.line) or 0
    column = _column(program.text, line, message) if program.language == "lua" else 0
    if trial.verdict != "rejected":
        where = "while it was loaded" if trial.at_load else f"in {world}"
        message = f"{trial.verdict} {where}: {message}"
    return Problem(is_error=True, message=message, line=line, column=column)


def _column(text: bytes, line: int, message: str) -> int:
    """Return the column at which Lua stumbled; 0 unless the text that it names stands once in that line."""
    near = _NEAR.search(message)
    lines = text.decode(errors="replace").split("\n")
    if near is None or not 0 < line <= len(lines):
        return 0
    before, found, after = lines[line - 1].partition(near[1])
    return len(before) + 1 if found and near[1] not in after else 0


def _varied(base: Scene, chance: random.Random, job_count: int) -> Scene:
    """Return a world with other jobs and another load on the same fleet."""
    world = base.world
    patterns = list(world.jobs.values())
    jobs = {}
    for seq in range(1, job_count + 1 if patterns else 1):
        job = chance.choice(patterns)._replace(
            job_id=f"job-{seq}",
            seq=seq,
            priority=chance.choice(CLASSES),
            queued_at=base.now_ms - chance.randrange(600_000),
        )
        jobs[job.job_id] = job
    workers = {}
    for worker_id, worker in world.workers.items():
        free = chance.randint(0, worker.slots_total)
        load = (worker.slots_total - free) / max(worker.slots_total, 1)
        status = chance.choice(("ready", "ready", "busy", "draining", "starting"))
        workers[worker_id] = worker._replace(slots_free=free, load=load, status=status)
    return Scene(replace(world, jobs=jobs, workers=workers), base.now_ms)
