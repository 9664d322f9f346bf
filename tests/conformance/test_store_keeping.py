"""Looking a store over, copying it while it is used, and putting a copy back."""

# ruff: noqa: ASYNC240 - the files are the subject

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from beeyard_queen.store import sql
from beeyard_queen.store.backup import EPOCHS_SKIPPED, backup, restore
from beeyard_queen.store.checking import check_store
from beeyard_queen.store.port import JobFilter, StoreRefused
from beeyard_queen.store.sqlite import SqliteStore
from beeyard_runtime.finding import Finding

from tests.support.store_rows import ended_row, job_row, jobs_batch, tokens_row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queen.sqlite"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


async def fill(store: SqliteStore) -> None:
    """One job that waits, one that is complete with two pieces of output, and a lease number."""
    batch = jobs_batch(job_row(1), ended_row(2, next_index=3, epoch=7))
    batch.prompts["job-1"] = b"request"
    batch.tokens = [tokens_row("job-2", 0, ["a", "b"]), tokens_row("job-2", 2, ["c"])]
    batch.epoch = 7
    await store.commit(batch)


def told(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    return {each.check: (each.level, each.message) for each in findings}


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as direct:
        direct.execute(statement)
    direct.close()


# --- check ---


async def test_a_store_in_use_is_found_whole(store: SqliteStore, path: Path) -> None:
    await fill(store)
    found = check_store(path)
    assert [each for each in found if each.level != "ok"] == []
    assert told(found)["in use"] == ("ok", f"by process {os.getpid()}")
    assert told(found)["jobs"] == ("ok", "1 unfinished, 1 ended")
    assert told(found)["epochs"] == ("ok", "the last lease was number 7")


@pytest.mark.parametrize(
    ("statement", "check", "level", "words"),
    [
        ("DELETE FROM prompts", "requests", "fail", "without their request: 1 (job-1)"),
        ("INSERT INTO prompts VALUES (2, x'00')", "requests", "warn", "erased: 1 (job-2)"),
        (
            "DELETE FROM tokens WHERE first_index = 0",
            "answers",
            "fail",
            "gap or a repeat: 1 (job-2)",
        ),
        ("UPDATE tokens SET first_index = 1 WHERE first_index = 2", "answers", "fail", "a repeat"),
        ("DELETE FROM tokens WHERE first_index = 2", "answers", "fail", "cut short: 1 (job-2)"),
        ("UPDATE counters SET value = 6 WHERE name = 'epoch'", "epochs", "fail", "epoch 7"),
    ],
)
async def test_what_is_wrong_is_named_with_the_job(
    store: SqliteStore, path: Path, statement: str, check: str, level: str, words: str
) -> None:
    await fill(store)
    await store.close()
    change(path, statement)
    wrong = [each for each in check_store(path) if each.level != "ok"]
    assert {(each.check, each.level) for each in wrong} == {(check, level)}
    assert words in wrong[0].message
    assert wrong[0].advice


async def test_a_damaged_page_is_found(store: SqliteStore, path: Path) -> None:
    await store.commit(jobs_batch(*map(job_row, range(1, 500))))
    await store.close()
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096)
    assert [each.level for each in check_store(path)][-1] == "fail"


async def test_a_store_of_a_newer_version_and_a_strange_file_are_told_apart(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    await store.close()
    change(path, "PRAGMA user_version = 999")
    assert "newer Beeyard" in told(check_store(path))["schema"][1]
    strange = tmp_path / "notes.txt"
    strange.write_text("this is no database, and long enough to be looked at " * 20)
    assert "not a database" in check_store(strange)[-1].message
    assert check_store(tmp_path / "nothing")[0].message.startswith("there is no file")


async def test_an_older_schema_is_no_fault(path: Path) -> None:
    with sqlite3.connect(path) as older:
        older.executescript(sql.MIGRATIONS[0])
        older.execute(f"PRAGMA application_id = {sql.APPLICATION_ID}")
        older.execute("PRAGMA user_version = 1")
    older.close()
    path.chmod(0o600)
    found = check_store(path)
    assert [each for each in found if each.level != "ok"] == []
    assert "brings it up to date" in told(found)["schema"][1]


async def test_a_store_that_others_may_read_is_a_warning(store: SqliteStore, path: Path) -> None:
    path.chmod(0o644)
    finding = next(each for each in check_store(path) if each.check == "permissions")
    assert (finding.level, finding.advice) == ("warn", f"chmod 600 {path}")


# --- backup and restore ---


async def test_a_backup_taken_under_load_is_one_moment_of_the_store(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    await store.commit(jobs_batch(*map(job_row, range(1, 3_001))))
    stop = asyncio.Event()

    async def write() -> int:
        number = 3_001
        while not stop.is_set():
            # A job and the one before its end: a copy that mixes moments would show one without the other.
            await store.commit(jobs_batch(job_row(number), ended_row(number - 1)))
            number += 1
        return number

    writing = asyncio.create_task(write())
    copies = [tmp_path / f"copy-{number}" for number in range(3)]
    try:
        for copy in copies:
            await asyncio.to_thread(backup, path, copy, replace=False, progress=quiet)
    finally:
        stop.set()
        last = await writing
    assert last > 3_001, "nothing was written meanwhile"
    for copy in copies:
        assert told(check_store(copy))["integrity"][0] == "ok"
        with sqlite3.connect(copy) as direct:
            rows = direct.execute(
                "SELECT sequence, is_ended FROM jobs WHERE sequence >= 3000 ORDER BY 1"
            ).fetchall()
        direct.close()
        assert [is_ended for _, is_ended in rows] == [1] * (len(rows) - 1) + [0]


async def test_a_restored_store_has_every_job_and_gives_out_no_lease_number_twice(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    await fill(store)
    before = await store.jobs(JobFilter(limit=10))
    copied = await asyncio.to_thread(backup, path, tmp_path / "copy", replace=False, progress=quiet)
    assert (copied.jobs, copied.jobs_unfinished) == (2, 1)
    elsewhere = tmp_path / "elsewhere" / "queen.sqlite"
    restore(tmp_path / "copy", elsewhere, replace=False)
    restored = SqliteStore(elsewhere)
    found = await restored.open()
    assert found.epoch == 7 + EPOCHS_SKIPPED
    assert list(await restored.jobs(JobFilter(limit=10))) == list(before)
    assert await restored.prompts(["job-1"]) == {"job-1": b"request"}
    assert [row.first_index for row in await restored.tokens("job-2")] == [0, 2]
    await restored.close()


async def test_copies_are_for_their_owner_only_and_leave_nothing_beside(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    await asyncio.to_thread(backup, path, folder / "copy", replace=False, progress=quiet)
    assert [each.name for each in folder.iterdir()] == ["copy"]
    assert (folder / "copy").stat().st_mode & 0o777 == 0o600


async def test_a_file_in_the_way_is_not_replaced_unasked(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.write_text("precious")
    with pytest.raises(StoreRefused, match="--replace"):
        backup(path, copy, replace=False, progress=quiet)
    assert copy.read_text() == "precious"
    backup(path, copy, replace=True, progress=quiet)
    assert check_store(copy)[-1].level == "ok"


async def test_a_store_in_use_is_never_replaced(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    await fill(store)
    await asyncio.to_thread(backup, path, tmp_path / "copy", replace=False, progress=quiet)
    with pytest.raises(StoreRefused, match="in use by another queen"):
        restore(tmp_path / "copy", path, replace=True)
    assert await store.job("job-1") is not None


async def test_a_replaced_store_is_kept_beside(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    await fill(store)
    await asyncio.to_thread(backup, path, tmp_path / "copy", replace=False, progress=quiet)
    await store.commit(jobs_batch(job_row(3)))
    await store.close()
    restore(tmp_path / "copy", path, replace=True)
    assert told(check_store(path))["jobs"] == ("ok", "1 unfinished, 1 ended")
    kept = path.with_name("queen.sqlite.replaced")
    assert told(check_store(kept))["jobs"] == ("ok", "2 unfinished, 1 ended")


@pytest.mark.parametrize("damage", ["text", "missing"])
async def test_a_useless_backup_is_refused_before_anything_is_touched(
    path: Path, tmp_path: Path, damage: str
) -> None:
    copy = tmp_path / "copy"
    if damage == "text":
        copy.write_text("no database at all " * 100)
    with pytest.raises(StoreRefused):
        restore(copy, path, replace=True)
    assert not path.exists()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "beeyard_client.cli", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


async def test_the_commands_tell_people_and_programs(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    await fill(store)
    copied = await asyncio.to_thread(run, "backup", tmp_path / "copy", "--store", path, "--json")
    assert json.loads(copied.stdout)["jobs"] == 2, copied.stderr
    doctor = await asyncio.to_thread(run, "doctor", "--store", path)
    assert doctor.returncode == 0
    assert "every token of every answer is there once" in doctor.stdout
    again = await asyncio.to_thread(run, "backup", tmp_path / "copy", "--store", path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.count("\n") == 1
    assert "--replace" in again.stderr
    await store.close()
    change(path, "DELETE FROM prompts")
    doctor = await asyncio.to_thread(run, "doctor", "--store", path, "--json")
    assert doctor.returncode == 1
    assert json.loads(doctor.stdout)["ok"] is False
