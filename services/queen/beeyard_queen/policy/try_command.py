"""`policy try`: one decision of a policy in a real sandbox, on a world written as JSON or on the built-in sample."""

import argparse
import asyncio
import json
import sys
from importlib.resources import files
from pathlib import Path

from beeyard_core import limits
from beeyard_runtime.faults import StartFailed

from beeyard_queen.policy.context_file import ContextInvalid, Scene, read_context
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.trial import Trial, read_source, rejected, run_trial, sandbox

EXIT_OK, EXIT_NOT, EXIT_USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Run `policy try`.

    Args:
        argv: What follows `try` on the command line.

    Returns:
        The exit code: 0 a decision was accepted, 1 it was not, 2 a file cannot be read or the call is wrong.
    """
    options = _parser().parse_args(argv)
    try:
        scene = read_scene(options.context)
        trial = asyncio.run(_tried(Path(options.file), scene))
    except OSError as fault:
        return complain(f"{fault.filename}: {fault.strerror}")
    except (ContextInvalid, StartFailed, HostGone) as fault:
        return complain(str(fault))
    sys.stdout.write(_as_json(trial) if options.json else _as_text(trial))
    return EXIT_OK if trial.verdict == "decision" else EXIT_NOT


def read_scene(path: str | None) -> Scene:
    """Return the world of a file, or the built-in sample.

    Raises:
        ContextInvalid: The file does not describe a world.
        OSError: It cannot be read.
    """
    if path is None:
        sample = files("beeyard_queen.policy") / "sample_context.json"
        return read_context(sample.read_text(encoding="utf-8"))
    with Path(path).open("rb") as file:
        text = file.read(limits.POLICY_CONTEXT_BYTES_MAX + 1)
    if len(text) > limits.POLICY_CONTEXT_BYTES_MAX:
        raise ContextInvalid(f"{path} is longer than {limits.POLICY_CONTEXT_BYTES_MAX} bytes")
    return read_context(text)


def complain(message: str) -> int:
    """Say what stands in the way, in one line; return the exit code for it."""
    sys.stderr.write(f"beeyard policy: {message}\n")
    return EXIT_USAGE


async def _tried(path: Path, scene: Scene) -> Trial:
    try:
        source = read_source(path)
    except PolicyInvalid as fault:
        return rejected(fault)
    async with sandbox() as zygote:
        return await run_trial(zygote, source, scene)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard policy try",
        description="Run one decision of a policy in a real sandbox.",
        epilog="Exit code 0: the decision was accepted; 1: it was not; 2: it could not be tried.",
    )
    parser.add_argument("file", metavar="FILE", help="the policy: Lua, or YAML if so named")
    parser.add_argument(
        "--context", metavar="JSON", help="the world to decide on; a built-in sample by default"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _decision(trial: Trial) -> object:
    if len(trial.decisions) == 1:
        return trial.decisions[0]
    if trial.verdict == "rejected" or (not trial.decisions and trial.verdict != "decision"):
        return None
    return {"action": "batch", "actions": list(trial.decisions)}


def _as_json(trial: Trial) -> str:
    told = {
        "outcome": trial.verdict,
        "reason": trial.reason,
        "decision": _decision(trial),
        "elapsed_ms": round(trial.elapsed_ms, 3),
        "logs": [{"level": level, "message": text} for level, text in trial.logs],
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _as_text(trial: Trial) -> str:
    lines = [f"{trial.verdict}: {trial.reason}" if trial.reason else trial.verdict]
    decision = _decision(trial)
    if decision is not None:
        by = "" if trial.verdict == "decision" else "the platform policy would decide: "
        lines.append(f"  {by}{json.dumps(decision, ensure_ascii=False)}")
    lines += [f"  {level}: {text}" for level, text in trial.logs]
    lines.append(f"  {trial.elapsed_ms:.1f} ms, {trial.instructions} instructions")
    return "\n".join(lines) + "\n"
