"""`beeyard lease` as a real process against a real queen."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from beeyard_client import BeeyardClient, WorkState
from beeyard_core import limits
from beeyard_core.fleet import HostLoad

from tests.support.command import Ended, beeyard, start
from tests.support.eventually import eventually
from tests.support.lease_requests import report
from tests.support.running_queen import RunningQueen, running_queen

PATIENCE_S = 60.0


@pytest.fixture
async def yard() -> AsyncIterator[RunningQueen]:
    """A queen with an idle host, whose own clock stands still; heartbeats come three times a second."""
    async with running_queen(work_lease_ttl_ms=limits.WORK_LEASE_TTL_MS_MIN) as queen:
        await report(queen)
        yield queen


async def lease(yard: RunningQueen, *arguments: str) -> Ended:
    return await beeyard("lease", *arguments, queen=yard.queen.server.address)


async def the_work(yard: RunningQueen) -> tuple[WorkState, str]:
    async with BeeyardClient(yard.queen.server.address) as client:
        (work,) = [one async for one in client.list_work()]
        return work.state, work.failure


def python(code: str) -> list[str]:
    return ["--", sys.executable, "-c", code]


async def test_a_command_runs_under_a_lease_with_its_streams_and_its_code(
    yard: RunningQueen,
) -> None:
    code = "import os, sys; print(os.environ['BEEYARD_LEASE_ID'], sys.stdin.read()); sys.exit(7)"
    process = await start(
        *("lease", "run", "--units", "5", *python(code)), queen=yard.queen.server.address
    )
    stdout, _ = await process.communicate(b"in")
    assert process.returncode == 7
    assert stdout.decode().split() == ["lease-1", "in"]
    assert await the_work(yard) == (WorkState.FAILED, "the command ended with code 7")


async def test_a_command_that_succeeds_completes_its_work(yard: RunningQueen) -> None:
    ended = await lease(yard, "run", "--kind", "backup", *python("pass"))
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")
    assert await the_work(yard) == (WorkState.COMPLETED, "")


async def test_options_behind_the_command_are_the_commands_own(yard: RunningQueen) -> None:
    ended = await lease(yard, "run", sys.executable, "-c", "import sys; print(sys.argv)", "--units")
    assert (ended.code, ended.stdout) == (0, "['-c', '--units']\n")


async def test_a_command_that_dies_by_a_signal_ends_as_a_shell_would_tell(
    yard: RunningQueen,
) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ended = await lease(yard, "run", *python(code))
    assert ended.code == 128 + signal.SIGKILL


async def test_a_command_that_is_not_there_says_so(yard: RunningQueen) -> None:
    ended = await lease(yard, "run", "--", "no-such-command")
    assert ended.code == 127
    assert ended.stderr == "beeyard: no-such-command cannot be run: No such file or directory\n"
    assert (await the_work(yard))[0] is WorkState.FAILED


async def test_a_command_is_killed_with_all_that_it_started_when_its_lease_is_lost(
    yard: RunningQueen, tmp_path: Path
) -> None:
    """The command ignores SIGTERM and has a child; both are gone when `lease run` ends."""
    told = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)']);"
        f"open({str(told)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ');"
        "time.sleep(600)"
    )
    process = await start(
        *("lease", "run", "--grace-ms", "100", *python(code)), queen=yard.queen.server.address
    )
    await eventually(
        lambda: told.exists() and told.read_text().endswith(" "), "it runs", PATIENCE_S
    )
    pids = [int(pid) for pid in told.read_text().split()]
    revoked = await lease(yard, "revoke", "lease-1", "--reason", "reboot", "--json")
    assert revoked.json()["state"] == "FAILED"
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert "stop the work" in stderr.decode()
    await eventually(lambda: not any(is_alive(pid) for pid in pids), "both are gone")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to look does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_an_interrupted_run_ends_its_command_and_gives_its_lease_back(
    yard: RunningQueen,
) -> None:
    process = await start(
        *("lease", "run", *python("import time; print('up', flush=True); time.sleep(600)")),
        queen=yard.queen.server.address,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 1
    assert await the_work(yard) == (WorkState.FAILED, "its holder was stopped")


async def test_a_run_that_waits_says_why_and_gives_up_when_told(yard: RunningQueen) -> None:
    await report(yard, HostLoad(cpu_percent=10.0, memory_percent=99.0))
    ended = await lease(yard, "run", "--wait-ms", "10", *python("print('must not run')"))
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr == (
        "beeyard: waiting: too busy for NORMAL work: rated 10, memory_percent is 99\n"
        "beeyard: too busy for NORMAL work: rated 10, memory_percent is 99; "
        '"beeyard lease capacity" shows how busy the hosts are\n'
    )
    assert (await the_work(yard))[0] is WorkState.FAILED


async def test_work_is_submitted_listed_shown_and_cancelled(yard: RunningQueen) -> None:
    submitted = await lease(
        yard,
        *("submit", "backup", "--units", "5", "--payload", '{"a": 1}', "--label", "x=y"),
        *("--priority", "low", "--json"),
    )
    work = submitted.json()
    assert (work["state"], work["priority"], work["labels"]) == ("QUEUED", "BATCH", {"x": "y"})
    listed = (await lease(yard, "list", "--state", "queued", "--json")).json()["work"]
    assert listed == [work]
    assert "backup" in (await lease(yard, "list")).stdout
    assert (await lease(yard, "list", "--kind", "other")).stdout == "no heavy work\n"
    work_id = str(work["work_id"])
    assert (await lease(yard, "get", work_id, "--json")).json() == work
    cancelled = await lease(yard, "cancel", work_id, "--reason", "enough")
    assert cancelled.stdout == f"{work_id} FAILED: cancelled: enough\n"


async def test_capacity_is_shown_as_a_table_and_as_json(yard: RunningQueen) -> None:
    await lease(yard, "submit", "backup", "--units", "5")
    shown = (await lease(yard, "capacity")).stdout
    assert "busy 0 of 10: 100 of 100 units are usable, 0 leased" in shown
    assert "1 NORMAL wait for 5 units" in shown
    assert "p1" in shown
    told = (await lease(yard, "capacity", "--json")).json()
    assert (told["units_usable"], told["busy_rating"], told["fresh"]) == (100, 0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("submit", "backup", "--payload", "[]"), 2, "JSON object"),
        (("submit", "backup", "--label", "x"), 2, "NAME=VALUE"),
        (("submit", "backup", "--units", "101"), 2, "or equal to 100"),
        (("list", "--state", "gone"), 2, "a state is one of"),
        (("run",), 2, "Missing argument"),
        (("revoke", "lease-9"), 1, "there is no such lease"),
        (("get", "work-9"), 1, "there is no such work"),
    ],
    ids=["payload", "label", "units", "state", "no command", "no lease", "no work"],
)
async def test_bad_input_is_told_in_a_line(
    yard: RunningQueen, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = await lease(yard, *arguments)
    assert ended.code == code
    assert said in ended.stderr.replace("\n", " ")


async def test_two_runs_that_do_not_fit_together_run_one_after_the_other(
    yard: RunningQueen, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    code = (
        f"import time; log = open({str(log)!r}, 'a', buffering=1); log.write('begin ');"
        "time.sleep(0.2); log.write('end ')"
    )
    runs = [lease(yard, "run", "--units", "60", *python(code)) for _ in range(2)]
    ended = await asyncio.gather(*runs)
    assert [one.code for one in ended] == [0, 0]
    assert log.read_text().split() == ["begin", "end"] * 2
