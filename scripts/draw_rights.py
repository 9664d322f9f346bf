"""Draws the table of docs/security.md from the table of rights in the code.

Usage: python scripts/draw_rights.py [--check]
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from beeyard_runtime.security.authorization import METHODS, ROUTES, IdentityRule, Row, TenantRule

PAGE = Path(__file__).resolve().parent.parent / "docs" / "security.md"
BEGIN = "<!-- Drawn by scripts/draw_rights.py. Do not edit. -->"
END = "<!-- Drawn up to here. -->"


def table() -> str:
    """Return both tables as Markdown."""
    return "\n".join([*_table("method", METHODS), "", *_table("route", ROUTES)])


def page(text: str) -> str:
    """Return the page with the table drawn anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _table(what: str, rows: Mapping[str, Row]) -> Iterator[str]:
    yield f"| {what} | roles | whose |"
    yield "|---|---|---|"
    for name, row in rows.items():
        roles = ", ".join(sorted(row.roles)) if row.roles else "everybody"
        audited = ", audited" if row.audited is not None else ""
        yield f"| `{name.removeprefix('beeyard.')}` | {roles}{audited} | {_whose(row)} |"


def _whose(row: Row) -> str:
    if row.identity is not IdentityRule.NONE:
        return row.identity.value
    return {
        TenantRule.NONE: "",
        TenantRule.ASKED: "the tenant's: the request is held to it",
        TenantRule.OWNED: "the tenant's: others' is not there",
    }[row.tenant]


def main() -> int:
    """Draw, or with --check say whether the page is stale."""
    text = PAGE.read_text(encoding="utf-8")
    drawn = page(text)
    if "--check" in sys.argv:
        return int(drawn != text)
    PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
