"""Tells what happens in a seed: `python -m tests.simulation --seed N`. The same seed always gives the same bytes.

Exits with 1 if something broke that must hold.
"""

import argparse
import sys

from tests.simulation.run import run_story
from tests.simulation.shrink import shrink
from tests.simulation.story import story_of


def main() -> int:
    """Run what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--trace", action="store_true", help="what the services log, too")
    parser.add_argument("--steps", action="store_true", help="every turn of every process, too")
    parser.add_argument(
        "--shrink", action="store_true", help="leave out what the failure does not need"
    )
    asked = parser.parse_args()
    broken = 0
    for seed in range(asked.seed, asked.seed + asked.count):
        story = story_of(seed)
        if asked.shrink:
            story = shrink(story, lambda shorter: bool(run_story(shorter).broken))
        run = run_story(story, trace=asked.trace, steps=asked.steps)
        sys.stdout.write("\n".join([*run.lines, run.summary]) + "\n")
        broken += bool(run.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
