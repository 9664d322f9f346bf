"""How much a test does, and how it says what it found.

`make test` runs a little of each figure; `make soak` sets BEEYARD_SOAK and runs much. Either way a test that draws by
chance prints its seed, and BEEYARD_SEED draws the same again.
"""

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

IS_SOAK = os.environ.get("BEEYARD_SOAK", "") not in ("", "0")
T = TypeVar("T")
#: What a test adds to its report under this name, the end of the run prints.
FIGURE = "figure"


def scaled(small: T, large: T) -> T:
    """Return how much to do."""
    return large if IS_SOAK else small


def drawn_seed() -> int:
    """Return the seed that was asked for, or another one each time."""
    return int(os.environ.get("BEEYARD_SEED") or random.SystemRandom().randrange(2**31))


def figure_of(record: Callable[[str, object], None], what: str, **values: object) -> None:
    """Have a figure printed at the end of the run, with the commit that it is true of.

    Args:
        record: The fixture `record_property`.
        what: The figure in words.
        **values: What was found, N and the seed among them.
    """
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    record(FIGURE, f"{what}: {said}, commit={commit()}")


def commit() -> str:
    """Return the commit that is checked out; `unknown` outside of a repository."""
    command = ["git", "rev-parse", "--short=10", "HEAD"]
    folder = Path(__file__).parent
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"
