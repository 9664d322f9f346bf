"""The command line of a service, made from its settings: one flag a field, its help from the field's documentation.

So a setting is described once, in the `Attributes` of its class, and `--help`, the file and the environment agree.
"""

import argparse
import inspect
import re
import types
import typing
from collections.abc import Sequence

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from beeyard_runtime.config import ServiceSettings

_ATTRIBUTE = re.compile(r"^    (\w+): ", re.MULTILINE)


def parse_flags(
    cls: type[ServiceSettings], arguments: Sequence[str], *, role: str, description: str
) -> dict[str, object]:
    """Return what the command line sets, by field; None where a flag was not given.

    Secrets have no flag: command lines are seen by everybody on the machine.

    Args:
        cls: The role's settings, each field documented under `Attributes` of its docstring or its base's.
        arguments: The command line without the program.
        role: The command, such as `pool-manager`; the names of section and variables follow from it.
        description: What the service is, in a sentence.
    """
    section = role.replace("-", "_")
    parser = argparse.ArgumentParser(
        prog=f"beeyard {role}",
        description=description,
        epilog=f"Settings may also stand in beeyard.toml under [{section}], or in BEEYARD_{section.upper()}_* "
        "variables; the command line wins over those, and they over the file.",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    texts = documentation_of(cls)
    for name, field in cls.model_fields.items():
        if not _is_secret(field):
            _add(parser, name, field, texts.get(name, ""))
    return dict(vars(parser.parse_args(arguments)))


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def documentation_of(cls: type[ServiceSettings]) -> dict[str, str]:
    """Return each field's text under `Attributes` in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        documentation = inspect.cleandoc(base.__doc__ or "")
        _, _, attributes = documentation.partition("Attributes:\n")
        parts = _ATTRIBUTE.split(attributes)
        texts |= {
            name: " ".join(text.split())
            for name, text in zip(parts[1::2], parts[2::2], strict=True)
        }
    return texts


def _is_secret(field: FieldInfo) -> bool:
    return field.annotation is SecretStr


def _add(parser: argparse.ArgumentParser, name: str, field: FieldInfo, text: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    kinds = _kinds_of(field.annotation)
    shown = f"{text}{_default_of(field)}".replace("%", "%%")
    if bool in kinds:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=shown)
    elif choices := [option for kind in kinds for option in typing.get_args(kind)]:
        if list in {typing.get_origin(kind) for kind in kinds}:
            parser.add_argument(flag, action="append", metavar="TEXT", help=shown)
        else:
            # The settings judge the value, in one line and the same words wherever it comes from.
            metavar = "{" + ",".join(map(str, choices)) + "}"
            parser.add_argument(flag, metavar=metavar, help=shown)
    else:
        parser.add_argument(flag, metavar=_metavar_of(kinds), help=shown)


def _kinds_of(annotation: object) -> set[object]:
    """Return what a field may be, without None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {kind for kind in typing.get_args(annotation) if kind is not type(None)}
    return {annotation}


def _metavar_of(kinds: set[object]) -> str:
    names = {int: "N", float: "N", str: "TEXT"}
    return next((names[kind] for kind in kinds if kind in names), "PATH")


def _default_of(field: FieldInfo) -> str:
    default = field.default
    if default is PydanticUndefined:
        return " (required)" if field.is_required() else ""
    return f" (default {default})" if default not in (None, "", False, True) else ""
