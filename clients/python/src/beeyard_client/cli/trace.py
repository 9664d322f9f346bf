"""`beeyard trace`: what happened to one job and when, drawn from the queen's own memory."""

from datetime import datetime, timedelta
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.text import Text

from beeyard_client.cli.printing import clock, console, print_json, printable, table
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.job import JobSpan, JobTimeline

_BAR_COLUMNS: Final = 40
_COLUMNS: Final = ("phase", "attempt", "after ms", "took ms", "", "")
_INSIDE_LEASE: Final = ("prefill", "decode")
#: What is worth a place in a line, and how it is introduced.
_FACTS: Final = (
    ("beeyard.worker.id", "on "),
    ("beeyard.policy.version", "by "),
    ("beeyard.policy.reason", ""),
    ("state", "ended "),
    ("reason", ""),
)


def trace(
    context: typer.Context,
    job_id: Annotated[str, typer.Argument(help="The job's id.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a drawing.")] = False,
) -> None:
    """Draw the timeline of a job: how long it waited, who decided what, where it ran, attempt by attempt.

    Needs no collector: the queen keeps the moments of its youngest jobs. Of an older job it shows what the job's record
    tells. A phase that goes on ends in an arrow.
    """

    async def command(client: BeeyardClient) -> int:
        told = await client.timeline(job_id)
        if as_json:
            print_json(told)
        else:
            console().print(timeline_view(told))
        return OK

    ask(context, command, as_json=as_json)


def timeline_view(told: JobTimeline) -> Group:
    """Return the phases of a job on one axis, to be printed or shown on a screen."""
    job, spans = told.job, told.spans
    trace_id = f", trace {job.trace_id}" if job.trace_id else ""
    head = f"{job.job_id} {job.state.value}, accepted {clock(job.create_time)}{trace_id}"
    if not spans:
        return Group(Text(printable(head)), Text("nothing is known of its phases"))
    begin = min(span.begin_time for span in spans)
    last = max(span.end_time or span.begin_time for span in spans)
    rows = [
        (
            ("  " if span.name in _INSIDE_LEASE else "") + span.name,
            span.attempt,
            _milliseconds(span.begin_time - begin),
            _milliseconds(span.end_time - span.begin_time) if span.end_time else "goes on",
            bar(span, begin, last),
            words(span),
        )
        for span in spans
    ]
    return Group(Text(printable(head)), table("", _COLUMNS, rows))


def bar(span: JobSpan, begin: datetime, last: datetime, columns: int = _BAR_COLUMNS) -> str:
    """Return one span as a bar on an axis from `begin` to `last`; at least a tick wide, with an arrow if it goes on."""
    whole = (last - begin) / timedelta(milliseconds=1) or 1.0
    start = int((span.begin_time - begin) / timedelta(milliseconds=1) / whole * columns)
    end_time = span.end_time or last
    stop = int((end_time - begin) / timedelta(milliseconds=1) / whole * columns)
    start = min(start, columns - 1)
    length = max(stop - start, 1)
    drawn = "|" if span.end_time == span.begin_time else "\u2588" * length
    if span.end_time is None:
        drawn = drawn[:-1] + ">"
    return " " * start + drawn


def words(span: JobSpan) -> str:
    """Return what is known of a span in a few words."""
    return ", ".join(
        intro + span.attributes[name] for name, intro in _FACTS if span.attributes.get(name)
    )


def _milliseconds(span: timedelta) -> str:
    return f"{span / timedelta(milliseconds=1):.0f}"
