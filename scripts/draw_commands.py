"""Draws docs/reference/commands.md: every command of `beeyard` with its arguments and options.

Most commands are typer's and say what they take. Those that become another program (`beeyard tokens`, `beeyard policy
try`) hand their arguments on; each of these programs is called here up to the moment at which it would read them.

Usage: python scripts/draw_commands.py
"""

import argparse
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import typer
from beeyard_client.cli.app import app
from beeyard_queen.policy.__main__ import main as policy
from beeyard_queen.simulator.scoring import main as forecast
from beeyard_queen.store.__main__ import main as store
from beeyard_runtime.security import certs_command, tokens_command

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/reference/commands.md"
SERVICES: Final = ("queen", "pool-manager", "worker", "gateway")
KINDS: Final = {
    "file": "FILE",
    "float": "N",
    "int": "N",
    "int range": "N",
    "list[str]": "TEXT",
    "path": "PATH",
    "str": "TEXT",
}
HEAD: Final = """# Commands

<!-- Drawn by scripts/draw_commands.py. Do not edit. -->

Every command tells the same with `--help`. What holds for all of them, and how they end, is on [a page of its
own](../command-line.md).
"""


class ParserSeen(Exception):
    """A program was about to read its arguments."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        """Keep what would read them."""
        super().__init__()
        self.parser = parser


def parser_of(program: Callable[[], object]) -> argparse.ArgumentParser:
    """Return what a program reads its arguments with."""

    def seen(parser: argparse.ArgumentParser, *_: object) -> None:
        raise ParserSeen(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", seen):
        try:
            program()
        except ParserSeen as found:
            return found.parser
    raise AssertionError("it read no arguments")


def handed_on(path: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command that becomes another program."""
    now = dt.datetime.now(dt.UTC)
    match path:
        case ["policy", name]:
            return parser_of(lambda: policy([name]))
        case ["forecast", _]:
            return parser_of(lambda: forecast([]))
        case ["backup" | "restore" as name]:
            return _under(parser_of(lambda: store([])), name)
        case ["tokens"]:
            return parser_of(lambda: tokens_command.main([], now))
        case ["certs"]:
            return parser_of(lambda: certs_command.main([], now))
        case _:
            raise AssertionError(path)


def _under(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    return dict(_commands_of(parser))[name]


def _commands_of(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # noqa: SLF001 - the library lists them nowhere else
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            told = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
            for name, sub in action.choices.items():
                # What is said of it in the list of commands is all that some say.
                sub.description = sub.description or f"{told[name][0].upper()}{told[name][1:]}."
                yield name, sub


def cell(text: str) -> str:
    """Return a text that a table's cell can hold."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of arguments and options."""
    if not rows:
        return ""
    lines = "".join(f"| {name} | {cell(text)} |\n" for name, text in rows)
    return f"\n| argument or option | what it does |\n|---|---|\n{lines}"


def argparse_section(path: Sequence[str], parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the section of a program that reads its arguments with argparse, and of its commands."""
    rows = []
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):  # noqa: SLF001
            continue
        told = (action.help or "") % {"default": action.default, "prog": parser.prog}
        rows.append((_argparse_name(action), told))
    epilog = f"\n{parser.epilog}\n" if parser.epilog else ""
    yield f"\n## beeyard {' '.join(path)}\n\n{parser.description or ''}\n{table(rows)}{epilog}"
    for name, sub in _commands_of(parser):
        yield from argparse_section([*path, name], sub)


def _argparse_name(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if action.choices:
        value = "\\|".join(map(str, action.choices))
    if not action.option_strings:
        return f"`{cell(str(value))}`"
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{one}{takes}`" for one in action.option_strings)


def typer_section(path: Sequence[str], command: Any) -> Iterator[str]:
    """Yield the section of a command, and of the commands under it."""
    if hasattr(command, "commands"):
        yield f"\n## beeyard {' '.join(path)}".rstrip() + f"\n\n{command.help}\n"
        if not path:
            yield _options_of(command)
        for name, sub in command.commands.items():
            yield from typer_section([*path, name], sub)
    elif path[-1] in SERVICES:
        about = f"the settings of [{path[-1].replace('-', ' ')}s](configuration.md)"
        yield f"\n## beeyard {path[-1]}\n\n{command.help.partition(';')[0]}. Its options are {about}.\n"
    elif command.context_settings.get("ignore_unknown_options"):
        yield from argparse_section(path, handed_on(path))
    else:
        yield f"\n## beeyard {' '.join(path)}\n\n{command.help}\n" + _options_of(command)


def _options_of(command: Any) -> str:
    shown = [one for one in command.params if not one.hidden and one.name != "help"]
    context = command.make_context("beeyard", [], resilient_parsing=True)
    return table([(_typer_name(one, context), _typer_text(one)) for one in shown])


def _typer_name(one: Any, context: Any) -> str:
    kind = one.display_type(context).strip("<>")
    value = one.metavar or KINDS.get(kind, kind)
    if one.param_type_name == "argument" and not one.metavar:
        value = one.name.upper()
    if getattr(one, "is_flag", False):
        value = ""
    value = value.replace("|", "\\|")
    if one.param_type_name == "argument":
        return f"`{value}`"
    names = [f"`{name}{f' {value}' if value else ''}`" for name in one.opts]
    return ", ".join([*names, *(f"`{name}`" for name in one.secondary_opts)])


def _typer_text(one: Any) -> str:
    text = one.help or ""
    if one.envvar:
        text += f" Or `{one.envvar}`."
    if one.min is not None:
        text += f" At least {one.min}" + ("." if one.max is None else f", at most {one.max}.")
    if one.default not in (None, "", False, True, []) and not callable(one.default):
        text += f" Unless given: `{one.default}`."
    return text


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(typer_section([], typer.main.get_command(app)))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
