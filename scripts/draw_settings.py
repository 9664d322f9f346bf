"""Draws docs/reference/configuration.md from the settings of every service, as `--help` is made from them.

Usage: python scripts/draw_settings.py
"""

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from annotated_types import Ge, Gt, Le, Lt
from beeyard_gateway.config import GatewaySettings
from beeyard_pool_manager.config import PoolManagerSettings
from beeyard_queen.config import QueenSettings
from beeyard_runtime.config import DialingSettings, ServiceSettings
from beeyard_runtime.flags import documentation_of
from beeyard_worker.config import WorkerSettings
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/reference/configuration.md"
ROLES: Final[dict[str, type[ServiceSettings]]] = {
    "queen": QueenSettings,
    "pool_manager": PoolManagerSettings,
    "worker": WorkerSettings,
    "gateway": GatewaySettings,
}
UNITS: Final = {
    "_ms": "ms",
    "_s": "s",
    "_hours": "h",
    "_days": "d",
    "_tokens": "tokens",
    "_percent": "%",
    "_units": "units",
}
HEAD: Final = """# Configuration

<!-- Drawn by scripts/draw_settings.py. Do not edit. -->

Each service takes its settings from four places; the later one wins:

1. the defaults below;
2. `beeyard.toml` in the working folder, or the file that `BEEYARD_CONFIG` names, each service in a section of its own;
3. environment variables, `BEEYARD_` with the section and the name of the setting, such as `BEEYARD_QUEEN_LISTEN`;
4. flags, such as `--listen`.

A name that no service knows is an error, wherever it stands, and a value out of range stops the start. A setting that
may be given several times is a list in the file, and JSON in a variable: `BEEYARD_QUEEN_KEEP='["small", "big=2"]'`.

```toml
[queen]
listen = "127.0.0.1:7700"
keep = ["small", "big=2"]

[pool_manager]
models_dir = "models"
```

What cannot be configured is a limit: every bound of a queue, a buffer, a retry or a deadline is in
[limits.py](../../services/core/beeyard_core/limits.py), with its reason.

## Of every service

`SECTION` stands for `QUEEN`, `POOL_MANAGER`, `WORKER` or `GATEWAY`.

"""
DIALING: Final = """
## Of every service that dials the queen

Pool manager, worker and gateway take these besides.

"""


def rows(names: Mapping[str, FieldInfo], texts: Mapping[str, str], section: str) -> Iterator[str]:
    """Yield a table of some settings."""
    yield "| setting | default | range | what it is |\n|---|---|---|---|\n"
    for name, field in names.items():
        flag = "no flag" if field.annotation is SecretStr else f"`--{name.replace('_', '-')}`"
        names_ = f"`{name}`<br>{flag}<br>`BEEYARD_{section}_{name.upper()}`"
        text = texts[name].replace("|", "\\|").replace("<", "&lt;")
        yield f"| {names_} | {default_of(name, field)} | {range_of(name, field)} | {text} |\n"


def default_of(name: str, field: FieldInfo) -> str:
    """Return what holds if nobody says anything."""
    if field.is_required():
        return "must be set"
    if field.default_factory is not None:
        # A list that nothing was put into, or what only the machine knows.
        return "none" if field.default_factory is list else "see there"
    match field.default:
        case bool() as is_on:
            return "yes" if is_on else "no"
        case None | [] | SecretStr():
            return "none"
        case "":
            return "empty"
        case int() | float() as number:
            return f"`{plain(number)}`{unit_of(name)}"
        case value if value is not PydanticUndefined:
            return f"`{value}`"
        case _:
            raise AssertionError(name)


def plain(number: float) -> str:
    """Return a number as one would write it into the file."""
    return str(int(number)) if float(number).is_integer() else str(number)


def unit_of(name: str) -> str:
    """Return the unit that a setting's name ends in."""
    return next((f" {unit}" for suffix, unit in UNITS.items() if name.endswith(suffix)), "")


def range_of(name: str, field: FieldInfo) -> str:
    """Return what is allowed, in the setting's unit."""
    kinds = [field.annotation]
    if typing.get_origin(field.annotation) in {typing.Union, types.UnionType}:
        kinds = [kind for kind in typing.get_args(field.annotation) if kind is not types.NoneType]
    if choices := [one for kind in kinds for one in typing.get_args(kind) if isinstance(one, str)]:
        return ", ".join(f"`{one}`" for one in choices)
    if bool in kinds:
        return "yes, no"
    if field.default_factory is list or isinstance(field.default, list):
        return "several"
    words = {Ge: "from", Gt: "above", Le: "to", Lt: "below"}
    bounds = [
        f"{word} {plain(value)}"
        for kind, word in words.items()
        for one in field.metadata
        if isinstance(one, kind)
        and (value := typing.cast(float, getattr(one, kind.__name__.lower()))) is not None
    ]
    return " ".join(bounds) + (unit_of(name) if bounds else "")


def page() -> str:
    """Return the whole page."""
    common = ServiceSettings.model_fields
    dialing = {k: v for k, v in DialingSettings.model_fields.items() if k not in common}
    parts = [HEAD, *rows(common, documentation_of(ServiceSettings), "SECTION")]
    parts += [DIALING, *rows(dialing, documentation_of(DialingSettings), "SECTION")]
    for section, cls in ROLES.items():
        own = {k: v for k, v in cls.model_fields.items() if k not in common and k not in dialing}
        parts += [
            f"\n## The {section.replace('_', ' ')}\n\nSection `[{section}]`.\n\n",
            *rows(own, documentation_of(cls), section.upper()),
        ]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
