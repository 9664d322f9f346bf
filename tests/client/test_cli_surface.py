"""What holds for every command: JSON, help, completion, and the exit codes as the page tells them."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from beeyard_client.cli.app import app

from tests.support.command import beeyard

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
#: Commands that tell nothing: they run something until it ends, or are a screen.
SILENT = {"up", "lease run", "top"}
EXIT_CODE = re.compile(r"^\| (\d+) \|.*\| `beeyard (.+)` \|$", re.MULTILINE)
EXAMPLES = EXIT_CODE.findall(PAGE.read_text(encoding="utf-8"))


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command under its whole name."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", {})
        waiting += [(f"{name} {word}".strip(), one) for word, one in inner.items()]
        if not inner or getattr(command, "invoke_without_command", False):
            yield name, command


def test_every_command_that_tells_something_tells_it_as_json() -> None:
    told = {name for name, command in commands() if "--json" in _options(command)}
    # Those that pass everything on are the services' own; their options are theirs.
    passed_on = {
        name
        for name, command in commands()
        if command.context_settings.get("ignore_unknown_options")
    }
    every = {name for name, _ in commands()}
    assert every - told - passed_on == SILENT
    assert {"infer", "fleet", "models", "jobs list", "doctor"} <= told


def test_every_command_and_option_says_what_it_is_for() -> None:
    for name, command in commands():
        assert command.help, name
        for option in command.params:
            is_told = getattr(option, "help", None) or getattr(option, "hidden", False)
            assert is_told, f"{name} {option.name}"


def _options(command: Any) -> set[str]:
    return {word for option in command.params for word in option.opts}


async def test_a_shell_completes_commands() -> None:
    asked = {"COMP_WORDS": "beeyard jo", "COMP_CWORD": "1", "_BEEYARD_COMPLETE": "complete_bash"}
    # By the name that completion is installed for.
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("beeyard"),
        env={**os.environ, **asked},
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert stdout.decode().split() == ["jobs"]


def test_the_page_has_an_example_of_each_exit_code() -> None:
    assert {int(code) for code, _ in EXAMPLES} == {0, 1, 2}


@pytest.mark.parametrize(("code", "line"), EXAMPLES)
async def test_a_command_ends_with_the_code_that_the_page_tells(
    code: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = await beeyard(*shlex.split(line))
    assert ended.code == int(code), ended
    assert "Traceback" not in ended.stderr
