"""`policy validate`: whether a policy loads and decides sensibly in many worlds, and how long it takes at worst.

What it tries, and when it says no, is in `validation.py`; the queen's desk asks the same.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from beeyard_runtime.faults import StartFailed

from beeyard_queen.policy.context_file import ContextInvalid, Scene
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.program import language_of, read_text
from beeyard_queen.policy.trial import sandbox
from beeyard_queen.policy.try_command import EXIT_NOT, EXIT_OK, complain, read_scene
from beeyard_queen.policy.validation import Finding, Problem, scenes, validate


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
    text = read_text(path)
    async with sandbox() as zygote:
        return await validate(zygote, language_of(path), text, scenes(scene))


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
    error = finding.error
    told = {
        "valid": error is None,
        "outcome": trial.verdict if trial else "decision",
        "reason": trial.reason if trial else "",
        "line": (error.line or None) if error else None,
        "column": (error.column or None) if error else None,
        "world": world,
        "worlds": finding.worlds,
        "warnings": [one.message for one in finding.problems if not one.is_error],
        "worst_ms": round(finding.worst_ms, 3),
        "worst_cpu_us": finding.worst_cpu_us,
        "worst_instructions": finding.worst_instructions,
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _as_text(name: str, finding: Finding) -> str:
    lines = [f"{name}:{_place(one)}: {_told(one)}" for one in finding.problems]
    if finding.error is None:
        lines.append(
            f"{name}: valid in {finding.worlds} worlds; "
            f"at worst {finding.worst_ms:.1f} ms and {finding.worst_instructions} instructions"
        )
    return "\n".join(lines) + "\n"


def _place(problem: Problem) -> str:
    line = problem.line or 1
    return f"{line}:{problem.column}" if problem.column else str(line)


def _told(problem: Problem) -> str:
    return problem.message if problem.is_error else f"warning: {problem.message}"
