"""A simulation's report for a person: tables in a terminal, JSON for everything else."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeyard_queen.simulator.differences import Difference, sentences
from beeyard_queen.simulator.report import Group, Measured, Report
from beeyard_queen.simulator.scenario import Result, Scenario

_SYNTHESISED = "The trace says only when requests came and how long they were"


def as_json(scenario: Scenario, results: Iterable[Result], found: Iterable[Difference]) -> str:
    """Return everything as one JSON object; `measured` is what differs from run to run."""
    reports = list(results)
    told: dict[str, object] = {
        "scenario": _scenario(scenario),
        "reports": [asdict(one.report) for one in reports],
        "measured": [asdict(one.measured) for one in reports],
    }
    differences = [asdict(one) for one in found]
    if len(reports) > 1:
        told["differences"] = differences
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


def _scenario(scenario: Scenario) -> dict[str, object]:
    fleet, load = scenario.names
    return {"fleet": fleet, "load": load, "seed": scenario.seed, "note": note_of(scenario)}


def note_of(scenario: Scenario) -> str:
    """Return what must be said beside every result."""
    said = "Time, clients, hosts and workers are simulated; the core and the policy runtime are the queen's own."
    if scenario.load.is_recorded:
        said += f" {_SYNTHESISED}; tenants, classes, models and deadlines are drawn from seed {scenario.seed}."
    return said


def show_report(console: Console, scenario: Scenario, result: Result) -> None:
    """Print one report."""
    report = result.report
    console.print(_title(scenario, report))
    console.print(_groups(report))
    console.print(_facts(report, result.measured))
    console.print(Text(note_of(scenario), style="dim"))


def show_differences(
    console: Console, scenario: Scenario, results: list[Result], found: list[Difference]
) -> None:
    """Print several results side by side, and for each but the first how it differs from that."""
    console.print(_side_by_side(scenario, results))
    for other, difference in zip(results[1:], found, strict=True):
        reports = (results[0].report, other.report)
        console.print()
        for sentence in sentences(difference, reports):
            console.print(Text(sentence))
        if not difference.is_same:
            console.print(_changes(difference))
            console.print(_jobs(difference))
    console.print(Text(note_of(scenario), style="dim"))


def _title(scenario: Scenario, report: Report) -> Text:
    fleet, load = scenario.names
    return Text(
        f"{report.policy}: {report.everything.jobs} jobs, load {load}, fleet {fleet}, seed {report.seed}",
        style="bold",
    )


def seconds(ms: float) -> str:
    """Return a duration as people read it."""
    return f"{ms / 1_000:.2f} s" if ms >= 1_000 else f"{ms:.0f} ms"


def share(value: float | None) -> str:
    """Return a share; a dash for none."""
    return "-" if value is None else f"{value:.1%}"


def _groups(report: Report) -> Table:
    table = Table(box=None, header_style="bold")
    for name in ("", "jobs", "done", "wait mean", "p50", "p95", "p99", "longest"):
        table.add_column(name, justify="left" if not name else "right")
    for name in ("first token p50", "p99", "end to end p50", "p99", "deadlines met"):
        table.add_column(name, justify="right")
    rows = [("all", report.everything)]
    for groups in (report.classes, report.tenants, report.models):
        rows += [(name, group) for name, group in groups.items() if len(groups) > 1]
    for name, group in rows:
        table.add_row(*_row(name, group))
    return table


def _row(name: str, group: Group) -> list[str | Text]:
    wait, first, total = group.wait, group.first_token, group.total
    return [
        Text(name),
        str(group.jobs),
        str(group.completed),
        *map(seconds, (wait.mean_ms, wait.p50_ms, wait.p95_ms, wait.p99_ms, wait.max_ms)),
        *map(seconds, (first.p50_ms, first.p99_ms, total.p50_ms, total.p99_ms)),
        share(group.deadlines_met),
    ]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _facts(report: Report, measured: Measured) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    group = report.everything
    ends = {name: getattr(group, name) for name in ("refused", "failed", "expired", "unfinished")}
    facts = {
        "utilization": share(report.utilization),
        "fairness": f"{report.fairness:.3f} (Jain, tokens a second while tenants had to share)",
        "not completed": _counted({name: count for name, count in ends.items() if count}),
        "workers": f"{report.worker_starts} started, {report.evictions} evicted, {report.worker_ends} ended",
        "preemptions": f"{report.preemptions} ({report.requeued} jobs back in the queue)",
        "decisions": _counted(report.decisions),
        "dropped": _counted(report.dropped),
        "fallbacks": _counted(report.fallbacks),
        "virtual time": seconds(report.virtual_ms),
        "measured": f"{measured.jobs_per_s:,.0f} jobs/s; a decision {measured.decision_us_p50:.0f} us (p50), "
        f"{measured.decision_us_p99:.0f} us (p99) of real time",
    }
    for why, reason in report.fallback_reasons.items():
        facts[f"  {why}"] = reason
    if report.suspended_ms is not None:
        facts["suspended"] = f"after {seconds(report.suspended_ms)}: {report.suspension}"
    for name, fact in facts.items():
        table.add_row(name, Text(fact))
    return table


def _side_by_side(scenario: Scenario, results: list[Result]) -> Table:
    fleet, load = scenario.names
    table = Table(title=f"load {load}, fleet {fleet}, seed {scenario.seed}", box=None)
    table.add_column("")
    for result in results:
        table.add_column(Text(result.report.policy), justify="right")
    first = results[0].report
    for name in first.classes:
        groups = [result.report.classes[name] for result in results]
        for what, ms in (
            ("wait mean", [group.wait.mean_ms for group in groups]),
            ("wait p99", [group.wait.p99_ms for group in groups]),
            ("longest wait", [group.wait.max_ms for group in groups]),
            ("first token p99", [group.first_token.p99_ms for group in groups]),
        ):
            table.add_row(f"{name}: {what}", *map(seconds, ms))
    reports = [result.report for result in results]
    table.add_row("fairness", *(f"{one.fairness:.3f}" for one in reports))
    table.add_row("deadlines met", *(share(one.everything.deadlines_met) for one in reports))
    table.add_row("utilization", *(share(one.utilization) for one in reports))
    table.add_row("completed", *(str(one.everything.completed) for one in reports))
    table.add_row("preemptions", *(str(one.preemptions) for one in reports))
    table.add_row("fallbacks", *(str(sum(one.fallbacks.values())) for one in reports))
    return table


def _changes(found: Difference) -> Table:
    table = Table(title=f"{found.first} -> {found.second}", box=None, header_style="bold")
    table.add_column("jobs of")
    for name in ("jobs", "wait mean", "change", "wait p99", "waited longer", "waited less"):
        table.add_column(name, justify="right")
    for group in found.groups:
        name = group.name if group.kind == "all" else f"{group.kind} {group.name}"
        table.add_row(
            Text(name),
            str(group.jobs),
            " -> ".join(map(seconds, group.wait_mean_ms)),
            _signed(group.mean_wait_change_ms),
            " -> ".join(map(seconds, group.wait_p99_ms)),
            str(group.waited_longer),
            str(group.waited_less),
        )
    return table


def _signed(ms: float) -> str:
    return f"{'-' if ms < 0 else '+'}{seconds(abs(ms))}"


def _jobs(found: Difference) -> Table:
    table = Table(title="the largest differences", box=None, header_style="bold")
    for name in ("job", "class", "tenant", "model"):
        table.add_column(name)
    for name in ("came after", found.first, found.second):
        table.add_column(Text(name), justify="right")
    for job in found.jobs:
        table.add_row(
            job.job,
            job.priority,
            Text(job.tenant),
            Text(job.model),
            seconds(job.at_ms),
            *map(seconds, job.wait_ms),
        )
    return table
