"""How many cases a property is tried on.

Few by default, so that the core answers within seconds; `make test` asks for more of them beside the other tests,
and `BEEYARD_CASES=10000 pytest tests/core` looks as hard as one has time for.
"""

import os
from typing import Final

from hypothesis import settings

_WANTED: Final = int(os.environ.get("BEEYARD_CASES", "0"))


_SCHEDULING: Final = int(os.environ.get("BEEYARD_SCHEDULING_CASES", "0"))


def cases(few: int) -> int:
    """Return how many cases are to be tried: `few`, or as many as the environment asks for."""
    return max(few, _WANTED)


def in_cases(few: int) -> settings:
    """Return settings for a property that is tried on so many cases: always the same ones, as slow as they are."""
    return settings(max_examples=cases(few), deadline=None, derandomize=True, database=None)


def in_scheduling_cases(few: int) -> settings:
    """The same for what scheduling promises, which is cheap to try and may ask for more cases than all the rest."""
    most = max(cases(few), _SCHEDULING)
    return settings(in_cases(few), max_examples=most)
