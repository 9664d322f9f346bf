"""Every story in this folder ends as it is written. `tests/support/transcript.py` says how to write one.

After a change that is meant to change a story, `BEEYARD_RETELL=1 pytest tests/scenarios` writes what happens now into
the files; read the difference before you commit it.
"""

import os
from pathlib import Path

import pytest

from tests.support.transcript import retell

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_ends_as_it_is_written(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    told = retell(written)
    if os.environ.get("BEEYARD_RETELL"):
        path.write_text(told, encoding="utf-8")
        return
    assert told == written


def test_a_story_with_a_typing_error_is_refused() -> None:
    with pytest.raises(AssertionError, match="what is"):
        retell("submit j1 colour=amber\n----\n")


def test_a_story_without_its_end_is_refused() -> None:
    with pytest.raises(AssertionError, match="nothing below"):
        retell("submit j1\n")
