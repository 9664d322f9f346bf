"""The screen of `beeyard top`: tables that are renewed in place, and what a person asks of one job."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final

from rich.console import Group
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.css.query import NoMatches
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, RichLog, Static, TabbedContent, TabPane

from beeyard_client.cli.fleet import (
    DEVICE_COLUMNS,
    POOL_COLUMNS,
    WORKER_COLUMNS,
    device_row,
    pool_row,
    worker_row,
)
from beeyard_client.cli.jobs import explanation_view
from beeyard_client.cli.policy import decision_line
from beeyard_client.cli.printing import clock, printable
from beeyard_client.cli.trace import timeline_view
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError
from beeyard_client.fleet import Fleet
from beeyard_client.job import Job

JOBS_SHOWN: Final = 100
DECISIONS_SHOWN: Final = 500
JOB_COLUMNS: Final = (
    "job", "state", "model", "class", "tenant", "tokens", "attempt", "worker", "accepted",
)  # fmt: skip
_RETRY_S: Final = 1.0


class Details(ModalScreen[None]):
    """What is known of one job, over the tables, until a key is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter", "dismiss", "Back")]
    CSS = (
        "Details { align: center middle; } #box { width: 90%; height: 80%; border: round $accent; }"
    )

    def __init__(self, view: Group) -> None:
        """Show what the command line prints of the job."""
        super().__init__()
        self.view = view

    def compose(self) -> ComposeResult:
        """Lay the box out."""
        with VerticalScroll(id="box"):
            yield Static(self.view)


class TopApp(App[int]):
    """The live view of one queen."""

    TITLE = "beeyard top"
    CSS = "#status { height: 1; background: $accent; color: $text; } DataTable { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("p", "pause", "Pause"),
        Binding("t", "timeline", "Timeline of the job"),
    ]

    def __init__(self, client: BeeyardClient, queen: str, interval_ms: int) -> None:
        """Watch the queen of `client`; `queen` is its address, for the reader."""
        super().__init__()
        self._client = client
        self._queen = queen
        self._interval_ms = interval_ms
        self._is_paused = False

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static(f"{self._queen}: connecting", id="status")
        with TabbedContent():
            with TabPane("Jobs", id="jobs-pane"):
                yield DataTable(id="jobs", cursor_type="row")
            with TabPane("Workers", id="workers-pane"):
                yield DataTable(id="workers", cursor_type="row")
            with TabPane("Devices", id="devices-pane"):
                yield DataTable(id="devices", cursor_type="row")
            with TabPane("Hosts", id="hosts-pane"):
                yield DataTable(id="hosts", cursor_type="row")
            with TabPane("Decisions", id="decisions-pane"):
                yield RichLog(id="decisions", max_lines=DECISIONS_SHOWN)
        yield Footer()

    def on_mount(self) -> None:
        """Name the columns and begin to watch."""
        for name, columns in (
            ("jobs", JOB_COLUMNS),
            ("workers", WORKER_COLUMNS),
            ("devices", DEVICE_COLUMNS),
            ("hosts", POOL_COLUMNS),
        ):
            self._table(name).add_columns(*columns)
        for watch in (self._watch_fleet, self._watch_jobs, self._watch_decisions):
            self.run_worker(self._again_and_again(watch), exit_on_error=True)

    async def _again_and_again(self, watch: Callable[[], Awaitable[None]]) -> None:
        """Watch; when the queen goes away, say so and try again."""
        while True:
            try:
                await self._once(watch)
            except NoMatches:
                return  # the screen is being taken down, its tables are gone already
            await asyncio.sleep(_RETRY_S)

    async def _once(self, watch: Callable[[], Awaitable[None]]) -> None:
        try:
            await watch()
        except BeeyardError as error:
            self._status(f"{error.message}; trying again")

    async def _watch_fleet(self) -> None:
        async for now in self._client.watch_fleet(self._interval_ms):
            if not self._is_paused:
                self.show_fleet(now)

    async def _watch_jobs(self) -> None:
        while True:
            found: list[Job] = []
            async for job in self._client.list_jobs(page_size=JOBS_SHOWN):
                found.append(job)
                if len(found) == JOBS_SHOWN:
                    break
            if not self._is_paused:
                renew(self._table("jobs"), [(job.job_id, _job_row(job)) for job in found])
            await asyncio.sleep(self._interval_ms / 1_000)

    async def _watch_decisions(self) -> None:
        async for decision in self._client.watch_decisions():
            if not self._is_paused:
                self.query_one("#decisions", RichLog).write(
                    Text(printable(decision_line(decision)))
                )

    def show_fleet(self, now: Fleet) -> None:
        """Renew everything that a picture of the fleet tells."""
        ready = sum(worker.is_ready for worker in now.workers)
        stale = sum(not pool.fresh for pool in now.pools)
        hosts = f"{len(now.pools)} hosts" + (f" ({stale} stale)" if stale else "")
        self._status(
            f"{hosts}, {ready} of {len(now.workers)} workers ready, {now.jobs_queued} jobs queued, "
            f"{now.jobs_running} running"
        )
        renew(self._table("workers"), [(each.worker_id, worker_row(each)) for each in now.workers])
        renew(self._table("hosts"), [(each.pool_id, pool_row(each)) for each in now.pools])
        devices = [
            (f"{pool.pool_id}/{device.uuid}", device_row(pool, device))
            for pool in now.pools
            for device in pool.devices
        ]
        renew(self._table("devices"), devices)

    def action_pause(self) -> None:
        """Hold the picture, or let it go on."""
        self._is_paused = not self._is_paused
        self._status("paused; p goes on" if self._is_paused else "going on")

    async def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Explain the job whose line was chosen."""
        if event.data_table.id == "jobs" and event.row_key.value:
            await self._show_details(self._explained(event.row_key.value))

    async def action_timeline(self) -> None:
        """Draw the timeline of the job under the cursor."""
        jobs = self._table("jobs")
        if jobs.row_count:
            key = jobs.coordinate_to_cell_key(jobs.cursor_coordinate).row_key.value
            await self._show_details(self._drawn(key or ""))

    async def _show_details(self, view: Awaitable[Group]) -> None:
        try:
            await self.push_screen(Details(await view))
        except BeeyardError as error:
            self._status(error.message)

    async def _explained(self, job_id: str) -> Group:
        return explanation_view(await self._client.explain(job_id))

    async def _drawn(self, job_id: str) -> Group:
        return timeline_view(await self._client.timeline(job_id))

    def _table(self, name: str) -> "DataTable[Text]":
        return self.query_one(f"#{name}", DataTable)

    def _status(self, text: str) -> None:
        self.query_one("#status", Static).update(Text(printable(f"{self._queen}: {text}")))


def renew(table: "DataTable[Text]", rows: Sequence[tuple[str, Sequence[object]]]) -> None:
    """Bring a table up to date and leave the cursor on its line: lines keep their keys, cells change in place."""
    keys = [key for key, _ in rows]
    shown = [row.value for row in table.rows]
    cells = {key: [Text(printable(str(cell))) for cell in row] for key, row in rows}
    if keys == shown:
        for key in keys:
            for column, cell in zip(table.columns, cells[key], strict=True):
                table.update_cell(key, column, cell)
        return
    cursor = table.cursor_coordinate
    under = shown[cursor.row] if cursor.row < len(shown) else None
    table.clear()
    for key in keys:
        table.add_row(*cells[key], key=key)
    if under in cells:
        table.move_cursor(row=keys.index(under or ""), column=cursor.column)


def _job_row(job: Job) -> tuple[object, ...]:
    return (
        job.job_id,
        job.state.value,
        job.model,
        job.priority.value,
        job.tenant_id,
        f"{job.next_index}/{job.max_tokens}",
        f"{job.attempt}/{job.max_attempts}",
        job.worker_id or "-",
        clock(job.create_time),
    )
