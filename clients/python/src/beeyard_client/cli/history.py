"""`beeyard jobs stats` and `beeyard forecast`: what became of jobs, and how good the predictions were."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from beeyard_client.cli.printing import clock, print_json, print_table, say
from beeyard_client.cli.services import PASS_ON, become
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.history import ForecastReport, ForecastScore, GroupBy, JobGroup, Spans
from beeyard_client.prediction import PredictedMoment, Prediction

forecast = typer.Typer(
    no_args_is_help=True, help="How good predictions are: of a queen, or of simulated jobs."
)

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
Model = Annotated[str, typer.Option(help="Only for this model.")]
Hours = Annotated[
    float, typer.Option(min=0.0, help="Only what ended within the last hours; 0: all there is.")
]
_COLUMNS: Final = (
    *("jobs", "completed", "success", "failed", "expired", "cancelled", "tokens"),
    *("wait p50", "wait p95", "first token p95", "total p50", "total p95"),
)


def _since(hours: float) -> datetime | None:
    return datetime.now(UTC) - timedelta(hours=hours) if hours else None


def statistics(
    context: typer.Context,
    *,
    by: Annotated[GroupBy, typer.Option(help="What to tell jobs apart by.")] = GroupBy.TENANT,
    tenant: Tenant = "",
    model: Model = "",
    hours: Hours = 0.0,
    as_json: AsJson = False,
) -> None:
    """Show how many jobs ended, how, and how long they waited and took."""

    async def command(client: BeeyardClient) -> int:
        found = await client.job_statistics(by, tenant_id=tenant, model=model, since=_since(hours))
        if as_json:
            print_json(found)
            return OK
        if not found.everything.jobs:
            say("no job has ended that is remembered")
            return OK
        rows = [(one.name or "-", *_figures(one)) for one in found.groups]
        print_table("", (by.value, *_COLUMNS), [*rows, ("all", *_figures(found.everything))])
        if found.is_truncated:
            say(f"older jobs than of {clock(found.oldest_end_time)} were not looked at")
        return OK

    ask(context, command, as_json=as_json)


def _figures(group: JobGroup) -> tuple[object, ...]:
    rate = "-" if group.success_rate is None else f"{group.success_rate:.1%}"
    return (
        group.jobs,
        group.completed,
        rate,
        group.failed,
        group.expired,
        group.cancelled,
        group.tokens,
        *(_seconds(group.wait, group.wait.p50_ms), _seconds(group.wait, group.wait.p95_ms)),
        _seconds(group.first_token, group.first_token.p95_ms),
        *(_seconds(group.total, group.total.p50_ms), _seconds(group.total, group.total.p95_ms)),
    )


def _seconds(spans: Spans, ms: float) -> str:
    return f"{ms / 1000:.2f} s" if spans.n else "-"


def predicted(prediction: Prediction) -> str:
    """Return a prediction as one line."""
    return f"starts in {_between(prediction.start)}, ends in {_between(prediction.end)}"


def _between(moment: PredictedMoment) -> str:
    low, middle, high = (
        f"{ms / 1000:.1f}" for ms in (moment.low_ms, moment.middle_ms, moment.high_ms)
    )
    return f"{middle} s ({low} to {high})"


@forecast.command("report")
def report(
    context: typer.Context,
    *,
    tenant: Tenant = "",
    model: Model = "",
    hours: Hours = 0.0,
    as_json: AsJson = False,
) -> None:
    """Hold what a queen predicted against what came."""

    async def command(client: BeeyardClient) -> int:
        found = await client.forecast_report(tenant_id=tenant, model=model, since=_since(hours))
        if as_json:
            print_json(found)
        else:
            _show(found)
        return OK

    ask(context, command, as_json=as_json)


def _show(found: ForecastReport) -> None:
    levels = [f"by {level:.0%}" for level in found.levels]
    columns = ("predicted", "jobs", f"inside (of {found.promised_coverage:.0%})", *levels)
    scores = (
        ("end", found.end),
        ("end, had to wait", found.waited_end),
        ("start, had to wait", found.start),
    )
    rows = [(name, *_score(score, len(levels))) for name, score in scores]
    print_table("", (*columns, "width p50", "off p50", "off p95"), rows)
    say(f"{found.unpredicted} jobs completed without a prediction")
    if found.is_truncated:
        say("older jobs were not looked at")


def _score(score: ForecastScore, levels: int) -> tuple[object, ...]:
    if score.coverage is None:
        return (0, *("-" for _ in range(levels + 4)))
    return (
        score.n,
        f"{score.coverage:.1%}",
        *(f"{share:.1%}" for share in score.shares),
        *(f"{ms / 1000:.2f} s" for ms in (score.width_p50_ms, score.error_p50_ms)),
        f"{score.error_p95_ms / 1000:.2f} s",
    )


@forecast.command("score", context_settings=PASS_ON, add_help_option=False)
def score(context: typer.Context) -> None:
    """Hold predictions of simulated jobs against what came, here; all arguments are its own."""
    become("queen", "beeyard_queen.forecast", list(context.args))
