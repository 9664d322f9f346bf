"""`policy templates [NAME]`: policies to start from, each with what it does and when to use it."""

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
    names = [argument for argument in argv if argument != "--json"]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        sys.stderr.write("usage: beeyard policy templates [--json] [NAME]\n")
        return 2
    chosen = [each for each in templates() if not names or each.name == names[0]]
    if not chosen:
        known = ", ".join(each.name for each in templates())
        sys.stderr.write(f"beeyard policy: there is no template {names[0]!r}; there are {known}\n")
        return 2
    if "--json" in argv:
        sys.stdout.write(json.dumps([asdict(each) for each in chosen]) + "\n")
    elif names:
        sys.stdout.write(chosen[0].source)
    else:
        for each in chosen:
            about = f"{each.does}\n{'':26} Use it when: {each.use_when}"
            sys.stdout.write(f"{each.name:20} {each.language:5} {about}\n")
    return 0
