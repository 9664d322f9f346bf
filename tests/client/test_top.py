"""The live view, driven by keys against a queen over gRPC."""

import io
from collections.abc import AsyncIterator

import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_client.cli.top_screen import Details, TopApp
from beeyard_client.client import BeeyardClient
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, RichLog, Static

from tests.support import scripted_queen as say
from tests.support.attached_worker import attached_worker
from tests.support.command import beeyard
from tests.support.eventually import eventually
from tests.support.running_queen import running_queen
from tests.support.scripted_queen import ScriptedQueen


@pytest.fixture
async def pilot(queen: ScriptedQueen, address: str) -> AsyncIterator[Pilot[int]]:
    queen.jobs = [say.a_job(f"job-{n}") for n in range(3)]
    async with (
        BeeyardClient(address) as client,
        TopApp(client, address, 250).run_test(size=(160, 40)) as found,
    ):
        await eventually(lambda: table(found, "jobs").row_count == 3, "the jobs are shown")
        yield found


def table(pilot: Pilot[int], name: str) -> "DataTable[object]":
    return pilot.app.query_one(f"#{name}", DataTable)


def shown(screen: Details) -> str:
    """What a person reads of the details."""
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(screen.view)
    return captured.get()


def status(pilot: Pilot[int]) -> str:
    return str(pilot.app.query_one("#status", Static).render())


async def test_jobs_workers_hosts_and_devices_are_shown(pilot: Pilot[int]) -> None:
    await eventually(lambda: table(pilot, "workers").row_count, "the workers are shown")
    assert [row.value for row in table(pilot, "jobs").rows] == ["job-0", "job-1", "job-2"]
    assert table(pilot, "hosts").row_count
    assert table(pilot, "devices").row_count
    assert "workers ready" in status(pilot)


async def test_enter_explains_the_job_under_the_cursor(pilot: Pilot[int]) -> None:
    table(pilot, "jobs").focus()
    await pilot.press("down", "enter")
    await eventually(lambda: isinstance(pilot.app.screen, Details), "the explanation is shown")
    screen = pilot.app.screen
    assert isinstance(screen, Details)
    assert "job-1" in shown(screen)
    assert "it ran on the only worker" in shown(screen)
    assert "WORKER_BUSY" in shown(screen)
    await pilot.press("escape")
    await eventually(lambda: not isinstance(pilot.app.screen, Details), "it is closed")


async def test_t_draws_the_timeline_of_the_job(pilot: Pilot[int]) -> None:
    table(pilot, "jobs").focus()
    await pilot.press("t")
    await eventually(lambda: isinstance(pilot.app.screen, Details), "the timeline is shown")
    screen = pilot.app.screen
    assert isinstance(screen, Details)
    assert "queue.wait" in shown(screen)
    assert "\u2588" in shown(screen)


async def test_the_cursor_stays_on_its_job_when_others_come(
    pilot: Pilot[int], queen: ScriptedQueen
) -> None:
    jobs = table(pilot, "jobs")
    jobs.focus()
    await pilot.press("down")
    queen.jobs = [say.a_job("job-new"), *queen.jobs]
    await eventually(lambda: jobs.row_count == 4, "the new job is shown")
    assert jobs.coordinate_to_cell_key(jobs.cursor_coordinate).row_key.value == "job-1"


async def test_p_holds_the_picture(pilot: Pilot[int], queen: ScriptedQueen) -> None:
    await pilot.press("p")
    await eventually(lambda: "paused" in status(pilot), "it is paused")
    queen.jobs = []
    asked = len(queen.asked)
    await eventually(lambda: len(queen.asked) > asked + 2, "the queen is asked again")
    assert table(pilot, "jobs").row_count == 3


async def test_decisions_are_written_as_they_are_made_and_a_lost_queen_is_waited_for() -> None:
    async with running_queen() as running, attached_worker(running.channel):
        address = running.queen.server.address
        async with (
            BeeyardClient(address, connect_patience_ms=200) as client,
            TopApp(client, address, 250).run_test(size=(160, 40)) as pilot,
        ):
            log = pilot.app.query_one("#decisions", RichLog)
            await pilot.press(*["right"] * 4)
            await eventually(lambda: "1 of 1 workers ready" in status(pilot), "the fleet")
            await running.inference.SubmitJob(pb.SubmitJobRequest(model="tiny", prompt="bee"))
            await eventually(lambda: log.lines, "the decision is shown")
            assert "platform@0" in log.lines[0].text
            await running.queen.server.stop(0)
            await eventually(lambda: "trying again" in status(pilot), "the loss is told")


async def test_without_a_terminal_it_says_what_to_use_instead(address: str) -> None:
    ended = await beeyard("top", queen=address)
    assert ended.code == 2
    assert "beeyard fleet --watch --json" in ended.stderr
