"""What the SQLite store promises beyond the port: durability, erasure, and clear refusals."""

# ruff: noqa: ASYNC240 - the files are the subject

import asyncio
import hashlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
from beeyard_core import limits
from beeyard_queen.store import sql
from beeyard_queen.store.port import Batch, JobFilter, StoreRefused, StoreUnavailable
from beeyard_queen.store.sessions import SessionRow
from beeyard_queen.store.sqlite import SqliteStore
from beeyard_queen.store.sqlite_prompts import unwrap, wrap

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


# --- Durability ---


def acknowledged_until_killed(path: Path, wanted: int) -> list[int]:
    """Kill a process that writes jobs after `wanted` acknowledgements; return all that it gave."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.acknowledging_writer", str(path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        try:
            assert writer.stdout is not None
            acknowledged = [int(writer.stdout.readline()) for _ in range(wanted)]
        finally:
            writer.send_signal(signal.SIGKILL)
        # What was printed before the kill counts as well.
        return acknowledged + [int(line) for line in writer.stdout if line.endswith("\n")]


@pytest.mark.parametrize("wanted", [1, 40])
async def test_no_acknowledged_job_is_lost_when_the_process_is_killed(
    path: Path, wanted: int
) -> None:
    acknowledged = acknowledged_until_killed(path, wanted)
    store = SqliteStore(path)
    restored = await store.open()
    kept = [row.sequence for row in restored.jobs]
    # At most the one commit that was under way is there without having been acknowledged.
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) - len(acknowledged) in (0, 1)
    assert restored.epoch == kept[-1]
    # What a session used is of the very commit that the last job is of: nothing is counted twice or forgotten.
    assert restored.sessions == (SessionRow("ann", "talk", kept[-1], 2 * kept[-1], kept[-1]),)
    last = restored.jobs[-1].job_id
    assert await store.tokens(last) == [tokens_row(last, 0, ["a", "b"])]
    assert await store.prompts([last]) == {last: f"prompt of {last}".encode() * 20}
    await store.close()


async def test_every_commit_is_synced(store: SqliteStore) -> None:
    writer = store._opened(store._writer)
    pragmas = ("journal_mode", "synchronous", "secure_delete")
    values = [writer._connected().pragma(name) for name in pragmas]
    assert values == ["wal", 2, 1]


# --- Erasure ---


def bytes_on_disk(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.glob(path.name + "*"))


async def test_no_byte_of_an_erased_prompt_is_left_after_a_checkpoint(
    store: SqliteStore, path: Path
) -> None:
    small, large = b"a small secret", b"a large secret " * 2_000
    batch = jobs_batch(job_row(1), job_row(2), job_row(3))
    batch.prompts = {"job-1": small, "job-2": large, "job-3": b"still wanted"}
    await store.commit(batch)
    await store.checkpoint()
    assert small in bytes_on_disk(path)
    assert large[:100] in bytes_on_disk(path)
    await store.commit(jobs_batch(ended_row(1), ended_row(2)))
    await store.checkpoint()
    left = bytes_on_disk(path)
    assert small not in left
    assert b"large secret" not in left
    assert b"still wanted" in left


async def test_a_checkpoint_is_due_soon_after_a_job_has_ended(store: SqliteStore) -> None:
    await store.commit(jobs_batch(job_row(1)))
    await store.commit(jobs_batch(ended_row(1)))
    due = store._erasure
    assert due is not None
    assert due.when() - asyncio.get_running_loop().time() <= limits.STORE_ERASURE_DELAY_MS / 1000
    await store.commit(jobs_batch(job_row(2)))
    assert store._erasure is due
    await store.close()
    assert due.cancelled()


# Four histories of which the plain DELETE with `secure_delete` left something behind.
@pytest.mark.parametrize("seed", [13, 33, 34, 37])
async def test_no_prompt_is_left_after_many_came_and_went_in_any_order(
    store: SqliteStore, path: Path, seed: int
) -> None:
    """Pages of the database split, merge and move meanwhile; no copy of a prompt may stay behind."""
    chance = random.Random(seed)
    open_jobs: list[int] = []
    number = 0
    repeats = chance.choice([(1,), (1, 5), (1, 5, 40, 300), (20, 100), (1, 5, 40, 300, 2_000)])
    for _ in range(chance.randrange(20, 100)):
        batch = Batch()
        for _ in range(chance.randrange(30)):
            number += 1
            batch.jobs[f"job-{number}"] = job_row(number)
            prompt = f"<secret-{number:06}>".encode() * chance.choice(repeats)
            batch.prompts[f"job-{number}"] = prompt
            open_jobs.append(number)
        chance.shuffle(open_jobs)
        for _ in range(min(chance.randrange(30), len(open_jobs))):
            ended = open_jobs.pop()
            batch.jobs[f"job-{ended}"] = ended_row(ended)
        await store.commit(batch)
    await store.checkpoint()
    left = bytes_on_disk(path)
    prompts = await store.prompts([f"job-{each}" for each in open_jobs])
    assert len(prompts) == len(open_jobs)
    wanted = set(open_jobs)
    found = {each for each in range(1, number + 1) if f"<secret-{each:06}>".encode() in left}
    assert found == wanted


async def test_a_piece_of_an_answer_is_found_without_walking_what_is_before_it(
    store: SqliteStore, path: Path
) -> None:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        plan = list(connection.execute(f"EXPLAIN QUERY PLAN {sql.TOKENS}", ("job-1", 500, 4)))
    steps = [step[-1] for step in plan]
    assert "SEARCH tokens USING PRIMARY KEY (sequence=? AND first_index>?)" in steps, plan


async def test_the_log_is_cut_off_when_it_is_long(store: SqliteStore, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    large = b"x" * limits.PROMPT_BYTES_MAX
    longest = 0
    for number in range(1, 25):
        batch = jobs_batch(job_row(number))
        batch.prompts[f"job-{number}"] = large
        await store.commit(batch)
        longest = max(longest, log.stat().st_size)
    assert longest < (limits.STORE_LOG_PAGES_MAX * 4096) * 1.2


async def test_closing_leaves_no_log_and_no_thread(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(jobs_batch(job_row(1)))
    await store.job("job-1")
    await store.close()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "queen.sqlite",
        "queen.sqlite.lock",
    ]
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("store-")]


async def test_the_files_are_the_owners_only(store: SqliteStore, path: Path) -> None:
    await store.commit(jobs_batch(job_row(1)))
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_a_wrapped_prompt_leaves_no_rest_for_the_tables_own_page() -> None:
    sizes = (*range(9_000), *range(1_040_000, 1_056_000, 7), limits.PROMPT_BYTES_MAX)
    for size in sizes:
        prompt = b"x" * size
        value = wrap(prompt)
        assert unwrap(value) == prompt
        header = 2 + next(n for n in range(1, 6) if 2 * len(value) + 12 < 1 << (7 * n))
        assert (header + len(value) - 489) % 4_092 == 0
        assert value[:489] == bytes(489)


# --- Faults ---


async def test_a_full_database_takes_nothing_until_something_is_forgotten(path: Path) -> None:
    store = SqliteStore(path, pages_max=200)
    await store.open()
    filler = jobs_batch(ended_row(1))
    filler.tokens = [tokens_row("job-1", n * 10, ["x" * 400] * 10) for n in range(100)]
    await store.commit(filler)
    too_much = jobs_batch(job_row(2), ended_row(3))
    too_much.tokens = [tokens_row("job-3", n * 10, ["y" * 400] * 10) for n in range(100)]
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit(too_much)
        assert await store.job("job-2") is None
        assert await store.tokens("job-3") == []
    # What still fits is still taken.
    await store.commit(jobs_batch(job_row(4)))
    assert await store.forget(ended_before_ms=2**60) == 1
    await store.commit(too_much)
    assert [row.sequence for row in await store.jobs(JobFilter())] == [4, 3, 2]
    await store.close()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: a write past it fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_the_connection_heals_after_a_write_that_the_disk_refused(
    store: SqliteStore, path: Path
) -> None:
    await store.commit(jobs_batch(job_row(1)))
    batch = jobs_batch(job_row(2))
    batch.prompts["job-2"] = b"x" * 100_000
    log = path.with_name(path.name + "-wal")
    with files_end_at(log.stat().st_size + 20_000):
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="IOError"):
                await store.commit(batch)
            assert await store.job("job-2") is None
            assert await store.job("job-1") is not None
        await store.checkpoint()
    await store.commit(batch)
    assert await store.prompts(["job-2"]) == batch.prompts
    await store.close()
    assert [row.sequence for row in (await store.open()).jobs] == [1, 2]


# --- Refused files ---


async def refusal(path: Path) -> str:
    store = SqliteStore(path)
    with pytest.raises(StoreRefused) as refused:
        await store.open()
    await store.close()
    message = str(refused.value)
    assert "\n" not in message
    assert str(path.name) in message
    return message


async def test_a_missing_folder_is_created(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a" / "b" / "queen.sqlite")
    await store.open()
    await store.close()


async def test_a_file_that_is_no_database_is_refused_and_untouched(path: Path) -> None:
    path.write_bytes(b"my diary\n" * 1_000)
    assert "is not a database" in await refusal(path)
    assert path.read_bytes() == b"my diary\n" * 1_000


async def test_another_programs_database_is_refused_and_untouched(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE diary (day)")
    other.close()
    before = path.read_bytes()
    assert "another program" in await refusal(path)
    assert path.read_bytes() == before


async def test_a_newer_schema_is_refused(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert "newer Beeyard (schema 99" in await refusal(path)


# What was released must stay as it is: files out there were made by it.
RELEASED = ("9d9b2933728f",)


@pytest.mark.parametrize("released", range(1, len(sql.MIGRATIONS)))
async def test_a_file_of_an_older_schema_is_brought_up_to_date(path: Path, released: int) -> None:
    with sqlite3.connect(path) as older:
        for script in sql.MIGRATIONS[:released]:
            older.executescript(script)
        older.execute(f"PRAGMA application_id = {sql.APPLICATION_ID}")
        older.execute(f"PRAGMA user_version = {released}")
        values = [getattr(job_row(1, request_id="r"), name) for name in sql.JOB_COLUMNS]
        places = ", ".join("?" * len(values))
        columns = ", ".join(sql.JOB_COLUMNS)
        older.execute(f"INSERT INTO jobs ({columns}) VALUES ({places})", values)  # noqa: S608
        older.execute("INSERT INTO models (model) VALUES ('gemma')")
    older.close()
    store = SqliteStore(path)
    restored = await store.open()
    assert (restored.jobs, restored.models) == ((job_row(1, request_id="r"),), ("gemma",))
    await store.commit(jobs_batch(job_row(2)))
    platform = await store.policies.version(None)
    assert platform is not None
    assert (platform.version, platform.is_active) == (0, True)
    await store.close()
    with sqlite3.connect(path) as migrated:
        (version,) = migrated.execute("PRAGMA user_version").fetchone()
    migrated.close()
    assert version == len(sql.MIGRATIONS)


def test_a_schema_that_was_released_is_never_edited() -> None:
    digests = [hashlib.sha256(script.encode()).hexdigest()[:12] for script in sql.MIGRATIONS]
    assert tuple(digests[: len(RELEASED)]) == RELEASED


@pytest.mark.parametrize("damage", ["cut", "scribbled"])
async def test_a_damaged_store_is_refused(path: Path, damage: str) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(jobs_batch(*map(job_row, range(1, 2_000))))
    await store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "cut":
            file.truncate(size // 2)
        else:
            file.seek(4096)
            file.write(os.urandom(size - 8192))
    assert "damaged" in await refusal(path)


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    store = SqliteStore(path)
    assert (await store.open()).jobs == ()
    await store.close()


async def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder; give --store a file name" in await refusal(tmp_path)


async def test_what_is_neither_file_nor_folder_is_refused(path: Path) -> None:
    os.mkfifo(path)
    assert "not a regular file" in await refusal(path)


async def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in await refusal(tmp_path / "file" / "queen.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_an_unwritable_folder_is_refused(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        assert "cannot be written (Permission denied)" in await refusal(path)
    finally:
        path.parent.chmod(0o700)


async def test_a_folder_that_takes_no_files_is_refused() -> None:
    assert "cannot be written" in await refusal(Path("/proc/queen.sqlite"))


async def test_a_store_in_use_names_its_user_also_under_another_name(
    store: SqliteStore, path: Path
) -> None:
    assert f"in use by another queen (process {os.getpid()})" in await refusal(path)
    alias = path.with_name("alias.sqlite")
    alias.symlink_to(path)
    with pytest.raises(StoreRefused, match="in use"):
        await SqliteStore(alias).open()


async def test_a_killed_queens_lock_ends_with_it(path: Path) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.acknowledging_writer",
        str(path),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert writer.stdout is not None
        await writer.stdout.readline()
        assert f"process {writer.pid}" in await refusal(path)
    finally:
        writer.kill()
        await writer.communicate()
    store = SqliteStore(path)
    await store.open()
    await store.close()
