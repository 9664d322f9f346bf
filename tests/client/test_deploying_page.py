"""The commands of docs/policies/deploying.md do what the page says, in its order."""

import re
import shlex
from pathlib import Path

import pytest

from tests.style import repository
from tests.support.command import beeyard
from tests.support.policy_service import policy_service

PAGE = repository.text_of("docs/policies/deploying.md")
FILE = re.compile(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ beeyard (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


async def test_the_pages_commands_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILE.findall(PAGE):
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = [found for block in CONSOLE.findall(PAGE) for found in COMMAND.findall(block)]
    assert len(commands) >= 7
    async with policy_service() as service:
        for command, expected in commands:
            ended = await beeyard(*shlex.split(command), queen=service.address)
            printed = ended.stdout + ended.stderr
            # Dots at the end stand for more of the same.
            shown, dots, _ = expected.partition("...\n")
            assert printed.startswith(shown) if dots else printed == shown, command
