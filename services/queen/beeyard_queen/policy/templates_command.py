"""`policy templates [NAME]`: policies to start from, each with what it does and when to use it."""

import argparse
import json
import sys
from dataclasses import asdict

from beeyard_queen.policy.starters import templates


def main(argv: list[str]) -> int:
    """Run `policy templates`.

    Args:
        argv: What follows `templates`: nothing lists them, a name prints that template's text; `--json` as JSON.

    Returns:
        The exit code: 0, or 2 if there is no such template.
    """
    options = _parser().parse_args(argv)
    chosen = [each for each in templates() if options.name in {None, each.name}]
    if not chosen:
        known = ", ".join(each.name for each in templates())
        sys.stderr.write(
            f"beeyard policy: there is no template {options.name!r}; there are {known}\n"
        )
        return 2
    if options.json:
        sys.stdout.write(json.dumps([asdict(each) for each in chosen]) + "\n")
    elif options.name:
        sys.stdout.write(chosen[0].source)
    else:
        for each in chosen:
            about = f"{each.does}\n{'':26} Use it when: {each.use_when}"
            sys.stdout.write(f"{each.name:20} {each.language:5} {about}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard policy templates", description="List policies to start from, or print one."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="which one; all, if left out")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    return parser
