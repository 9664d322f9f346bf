"""Draws docs/reference/reasons.md: the closed list of reasons for which Beeyard says no, with what each is on the wire.

Usage: python scripts/draw_reasons.py
"""

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final

from beeyard_core.refusal import Refusal
from beeyard_gateway.faults import STATUSES, HttpReason
from beeyard_runtime.rpc_errors import CODES

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/reference/reasons.md"
HEAD: Final = """# Reasons

<!-- Drawn by scripts/draw_reasons.py. Do not edit. -->

Whatever is refused or fails says why by one word out of this list, and nobody needs to read messages. In gRPC it is
`google.rpc.ErrorInfo.reason` (domain `beeyard`) among the details of the status; over HTTP `reason` in the problem
document, or in the error of OpenAI's shape; on the command line it is in what `--json` prints. *Transient* means that
the same request may be accepted later: gRPC then brings `RetryInfo`, HTTP `Retry-After`.

What each method refuses, and when, stands with the method: [queen](protos-queen.md), [pool manager](protos-pool.md),
[worker](protos-worker.md).
"""
OF_GATEWAY: Final = """
## Of the gateway itself

Said where no queen was asked, or none answered.

| reason | HTTP |
|---|---|
"""
#: In the source a comment begins each group.
LINE: Final = re.compile(r"^    (?:# (?P<about>.+)|(?P<name>[A-Z_]+) = )", re.MULTILINE)


def groups(reasons: type[Enum]) -> Iterator[tuple[str, list[str]]]:
    """Yield what is said of each group of reasons, and their names."""
    about, names = "", list[str]()
    for found in LINE.finditer(inspect.getsource(reasons)):
        if found["name"]:
            names.append(found["name"])
        else:
            if names:
                yield about, names
            about, names = found["about"], []
    yield about, names


def page() -> str:
    """Return the whole page."""
    lines = [HEAD]
    for about, names in groups(Refusal):
        title, _, rest = about.rstrip(".").partition(": ")
        lines.append(f"\n## {title}\n")
        if rest:
            lines.append(f"\n{rest[0].upper()}{rest[1:]}.\n")
        lines.append("\n| reason | gRPC | HTTP | transient |\n|---|---|---|---|\n")
        for name in names:
            refusal = Refusal[name]
            status = STATUSES[name]
            lines.append(
                f"| `{name}` | {CODES[refusal].name} | {status.value} "
                f"| {'yes' if refusal.is_transient else 'no'} |\n"
            )
    lines.append(OF_GATEWAY)
    for reason in HttpReason:
        status = STATUSES[reason.value]
        lines.append(f"| `{reason.value}` | {status.value} |\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
