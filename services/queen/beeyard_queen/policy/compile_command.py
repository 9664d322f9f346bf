"""`policy compile`: what a YAML policy becomes, or where it is wrong; what it would decide; the schema for editors.

The text that a queen would run goes to stdout, so that it can be read, compared and kept; faults go to stderr in the
form that editors follow: file, line, column. `--explain` answers from the rules themselves and runs no Lua.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import BinaryIO

from beeyard_core import limits

from beeyard_queen.policy.context_file import ContextInvalid, Scene, read_context
from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_compile import compile_policy
from beeyard_queen.policy.yaml_interpret import interpret
from beeyard_queen.policy.yaml_model import json_schema
from beeyard_queen.policy.yaml_rules import Policy, read_policy

EXIT_OK, EXIT_INVALID, EXIT_USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Run `policy compile`.

    Args:
        argv: What follows `compile` on the command line.

    Returns:
        The exit code: 0 compiled, 1 the policy is wrong, 2 it cannot be read or the call is wrong.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.schema:
        sys.stdout.write(json_schema())
        return EXIT_OK
    if options.file is None:
        parser.error("FILE is missing")
    try:
        text = _read(options.file, limits.POLICY_SOURCE_BYTES_MAX + 1)
        scene = _scene(options.explain) if options.explain else None
    except OSError as error:
        sys.stderr.write(f"beeyard policy: {error.filename}: {error.strerror}\n")
        return EXIT_USAGE
    except ContextInvalid as error:
        sys.stderr.write(f"beeyard policy: {options.explain}: {error}\n")
        return EXIT_USAGE
    try:
        policy = read_policy(text)
        lua = compile_policy(policy)
    except PolicyInvalid as fault:
        return _tell_fault(options.file, fault, as_json=options.json)
    if scene:
        sys.stdout.write(_explanation(policy, scene))
    else:
        sys.stdout.write(_as_json(policy, lua) if options.json else lua)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard policy compile",
        description="Compile a YAML policy to the Lua that a queen would run.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="the YAML; - reads stdin")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--explain",
        metavar="CONTEXT.json",
        help="print which rule decides in this context, and what, instead",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema instead")
    return parser


def _read(name: str, most: int) -> bytes:
    """Return a file's first bytes; one more than may be is enough to be refused."""
    if name == "-":
        stdin: BinaryIO = sys.stdin.buffer
        return stdin.read(most)
    with Path(name).open("rb") as file:
        return file.read(most)


def _scene(name: str) -> Scene:
    text = _read(name, limits.POLICY_CONTEXT_BYTES_MAX + 1)
    if len(text) > limits.POLICY_CONTEXT_BYTES_MAX:
        raise ContextInvalid(f"larger than {limits.POLICY_CONTEXT_BYTES_MAX} bytes")
    return read_context(text)


def _explanation(policy: Policy, scene: Scene) -> str:
    verdict = interpret(policy, scene.world, scene.now_ms)
    rule = verdict.rule
    told = {
        "rule": rule.name if rule else None,
        "line": rule.line if rule else None,
        "decision": verdict.decision or {"use": "platform-scheduler"},
    }
    return json.dumps(told, ensure_ascii=False) + "\n"


def _tell_fault(name: str, fault: PolicyInvalid, *, as_json: bool) -> int:
    if as_json:
        told = {
            "reason": "POLICY_INVALID",
            "message": fault.message,
            "line": fault.line,
            "column": fault.column,
        }
        sys.stdout.write(json.dumps({"error": told}, ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(f"{name}:{fault.line or 1}:{fault.column or 1}: {fault.message}\n")
    return EXIT_INVALID


def _as_json(policy: Policy, lua: str) -> str:
    rules = [
        {"name": rule.name, "priority": rule.priority, "line": rule.line} for rule in policy.rules
    ]
    told = {"name": policy.name, "version": policy.version, "rules": rules, "lua": lua}
    return json.dumps(told, ensure_ascii=False) + "\n"
