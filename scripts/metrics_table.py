"""Write the table of docs/metrics.md: every figure of every process, out of the code that keeps it.

python scripts/metrics_table.py            writes it
python scripts/metrics_table.py --check    fails if it is out of date
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from beeyard_gateway import metrics as gateway
from beeyard_pool_manager import metrics as pool_manager
from beeyard_queen import gauges
from beeyard_queen import metrics as queen
from beeyard_runtime.metrics import Family, Figures
from beeyard_worker import metrics as worker
from prometheus_client.metrics import MetricWrapperBase

DOCS = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def counted(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, kind, labels and meaning of what is counted as it happens."""
    for metric in set(figures.registry._collector_to_names):  # noqa: SLF001 - the library lists them nowhere else
        if isinstance(metric, MetricWrapperBase):
            suffix = "_total" if metric._type == "counter" else ""  # noqa: SLF001
            labels = ", ".join(metric._labelnames)  # noqa: SLF001
            yield metric._name + suffix, str(metric._type), labels, metric._documentation  # noqa: SLF001


def sampled(module: ModuleType) -> Iterator[tuple[str, str, str, str]]:
    """Yield the same of what is read off the state."""
    for each in vars(module).values():
        if isinstance(each, Family):
            suffix = "_total" if each.kind == "counter" else ""
            yield each.name + suffix, each.kind, ", ".join(each.labels), each.text


def table() -> str:
    """Return all tables, one for each process."""
    of_queen, of_worker, of_host = Figures(), Figures(), Figures()
    queen.QueenMetrics(of_queen)
    worker.WorkerMetrics(of_worker, engine="", model="")
    pool_manager.HostMetrics(of_host)
    of_gateway = gateway.GatewayMetrics().figures
    parts = {
        "queen": [*counted(of_queen), *sampled(gauges)],
        "gateway": [*counted(of_gateway)],
        "pool manager": [*counted(of_host), *sampled(pool_manager)],
        "worker": [*counted(of_worker), *sampled(worker)],
    }
    lines = []
    for role, rows in parts.items():
        lines += [
            f"\n### The {role}\n\n",
            "| figure | kind | labels | what it says |\n",
            "|---|---|---|---|\n",
        ]
        lines += [
            f"| `{name}` | {kind} | {labels or '-'} | {text} |\n"
            for name, kind, labels, text in sorted(rows)
        ]
    return "".join(lines)


def main() -> int:
    """Write or check; return the exit code."""
    text = DOCS.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    fresh = head + BEGIN + table() + "\n" + END + rest.split(END)[1]
    if "--check" in sys.argv:
        return int(fresh != text)
    DOCS.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
