"""`policy validate`: whether a policy loads and decides sensibly in many worlds, and how long it takes at worst.

The worlds are the built-in sample, the same without workers, and random ones from a fixed seed, so that the same
text gets the same verdict everywhere. A policy that falls back in any of them is not valid: an operator would find that
out at night.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from beeyard_core.policy.world import CLASSES
from beeyard_runtime.faults import StartFailed

from beeyard_queen.policy.context_file import ContextInvalid, Scene
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.trial import Trial, read_source, rejected, run_trial, sandbox
from beeyard_queen.policy.try_command import EXIT_NOT, EXIT_OK, complain, read_scene

_WORLDS: Final = 8
_JOBS_MAX: Final = 400
_SEED: Final = 20_260


@dataclass(frozen=True)
class Finding:
    """What validation found.

    Attributes:
        fault: The first trial that went wrong, and in which world; None if all went well.
        worlds: In how many worlds the policy was tried.
        worst_ms: The longest decision, in wall time.
        worst_instructions: The most instructions of a decision, to the thousand.
    """

    fault: tuple[str, Trial] | None
    worlds: int
    worst_ms: float
    worst_instructions: int


def main(argv: list[str]) -> int:
    """Run `policy validate`.

    Args:
        argv: What follows `validate` on the command line.

    Returns:
        The exit code: 0 valid, 1 not, 2 a file cannot be read or the call is wrong.
    """
    options = _parser().parse_args(argv)
    try:
        finding = asyncio.run(_validated(Path(options.file), read_scene(options.context)))
    except OSError as fault:
        return complain(f"{fault.filename}: {fault.strerror}")
    except (ContextInvalid, StartFailed, HostGone) as fault:
        return complain(str(fault))
    sys.stdout.write(_as_json(finding) if options.json else _as_text(options.file, finding))
    return EXIT_OK if finding.fault is None else EXIT_NOT


async def _validated(path: Path, scene: Scene) -> Finding:
    try:
        source = read_source(path)
    except PolicyInvalid as invalid:
        return Finding(("text", rejected(invalid)), 0, 0.0, 0)
    tried: list[Trial] = []
    fault = None
    async with sandbox() as zygote:
        for name, world in scenes(scene):
            trial = await run_trial(zygote, source, world)
            tried.append(trial)
            if trial.verdict != "decision":
                fault = (name, trial)
                break
    return Finding(
        fault,
        len(tried),
        max(one.elapsed_ms for one in tried),
        max(one.instructions for one in tried),
    )


def scenes(base: Scene) -> Iterator[tuple[str, Scene]]:
    """Yield the worlds that a policy is tried in, by name; always the same for the same base."""
    yield "the given world", base
    yield "a world without workers", Scene(replace(base.world, workers={}), base.now_ms)
    chance = random.Random(_SEED)  # noqa: S311  repeatable, not secret
    for index in range(_WORLDS):
        yield f"random world {index + 1}", _varied(base, chance, _JOBS_MAX >> (_WORLDS - index - 1))


def _varied(base: Scene, chance: random.Random, job_count: int) -> Scene:
    """Return a world with other jobs and another load on the same fleet."""
    world = base.world
    patterns = list(world.jobs.values())
    jobs = {}
    for seq in range(1, job_count + 1 if patterns else 1):
        job = chance.choice(patterns)._replace(job_id=f"job-{seq}", seq=seq, priority=chance.choice(CLASSES),
            queued_at=base.now_ms - chance.randrange(600_000),
        )  # fmt: skip
        jobs[job.job_id] = job
    workers = {}
    for worker_id, worker in world.workers.items():
        free = chance.randint(0, worker.slots_total)
        load = (worker.slots_total - free) / max(worker.slots_total, 1)
        status = chance.choice(("ready", "ready", "busy", "draining", "starting"))
        workers[worker_id] = worker._replace(slots_free=free, load=load, status=status)
    return Scene(replace(world, jobs=jobs, workers=workers), base.now_ms)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard policy validate",
        description="Load a policy and try it in many worlds, in a real sandbox.",
        epilog="Exit code 0: valid; 1: not; 2: it could not be tried.",
    )
    parser.add_argument("file", metavar="FILE", help="the policy: Lua, or YAML if so named")
    parser.add_argument("--context", metavar="JSON", help="a world to begin with")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _as_json(finding: Finding) -> str:
    world, trial = finding.fault or ("", None)
    told = {
        "valid": trial is None,
        "outcome": trial.verdict if trial else "decision",
        "reason": trial.reason if trial else "",
        "line": trial.line if trial else None,
        "world": world,
        "worlds": finding.worlds,
        "worst_ms": round(finding.worst_ms, 3),
        "worst_instructions": finding.worst_instructions,
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _as_text(name: str, finding: Finding) -> str:
    if finding.fault is None:
        return (
            f"{name}: valid in {finding.worlds} worlds; "
            f"at worst {finding.worst_ms:.1f} ms and {finding.worst_instructions} instructions\n"
        )
    world, trial = finding.fault
    return f"{name}:{trial.line or 1}: {trial.verdict} in {world}: {trial.reason}\n"
