"""Everything that the command line shows: JSON, tables, one line for an error.

What a model or a host says is shown as text: control characters cannot move a person's cursor or colour a terminal.
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough that nothing is cut when a table goes into a file or another program.
_PIPED_WIDTH = 200


def print_json(value: object, *, one_line: bool = False) -> None:
    """Print one JSON value on stdout; dataclasses become objects, times ISO 8601 in UTC."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    text = json.dumps(plain(value), ensure_ascii=encoding != "utf8", indent=None if one_line else 2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def plain(value: object) -> object:
    """Return `value` made of what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {one.name: plain(getattr(value, one.name)) for one in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value


def say(line: str) -> None:
    """Print one line for a person on stdout."""
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print one line about something wrong on stderr."""
    sys.stderr.write(f"beeyard: {printable(' '.join(line.split()))}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Return `text` without the control characters that a terminal would obey; line breaks and tabs stay."""
    return "".join(
        one if one.isprintable() or one in "\n\t" or (one.isspace() and one > "\x9f") else "\ufffd"
        for one in text
    )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table; cells are shown as they are, never as markup."""
    made = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for name in columns:
        made.add_column(name)
    for row in rows:
        made.add_row(*(Text(printable(str(cell))) for cell in row))
    return made


def console() -> Console:
    """Return a console on stdout that does not cut what goes into a pipe."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout."""
    console().print(table(title, columns, rows))


def size(count: int) -> str:
    """Return a number of bytes in words, such as `1.5 GiB`; `-` for none."""
    if count <= 0:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def clock(moment: datetime | None) -> str:
    """Return a time of day on the reader's clock; `-` for none."""
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
