"""Workers as real processes: how they start, fail, are stopped and are taken over."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from beeyard_core import limits
from beeyard_core.fleet import WorkerState
from beeyard_pool_manager.workers.launcher import LaunchFailed
from beeyard_pool_manager.workers.records import RecordFolder, file_stem
from beeyard_pool_manager.workers.worker_log import bound, tail
from beeyard_pool_manager.workers.worker_process import RunRecord, WorkerProcess

from tests.support.supervised import spec_of, supervising

Env = dict[str, str]


def is_ready(worker: WorkerProcess) -> bool:
    return worker.state is WorkerState.READY


def has_exited(worker: WorkerProcess) -> bool:
    return worker.has_exited


def reap(pid: int) -> None:
    """Wait for a process of which this one is still the parent, whoever watched it last."""
    os.waitpid(pid, 0)


def records_in(work_dir: Path) -> list[str]:
    return [path.name for path in (work_dir / "workers").glob("*.json")]


async def test_a_worker_starts_serves_and_stops(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "serve") as watched:
        started = await watched.supervisor.start(spec_of("w1"))
        assert (started.state, started.address) == (WorkerState.STARTING, "")
        assert watched.supervisor.reserved_bytes() == {"cpu": 1_000}
        ready = await watched.until("w1", is_ready)
        assert ready.address.startswith("127.0.0.1:")
        assert (ready.load_progress, ready.failure) == (1.0, "")
        assert ready.memory_bytes > 0
        # A worker that has loaded is part of what the driver reports as used.
        assert watched.supervisor.reserved_bytes() == {}
        assert os.getsid(ready.pid) == ready.pid
        stopped = await watched.supervisor.stop("w1", grace_ms=20_000)
        assert stopped is not None
        assert (stopped.exit_code, stopped.failure, stopped.log_tail) == (0, "", "")
        assert records_in(tmp_path) == []
        again = await watched.supervisor.stop("w1", grace_ms=1)
        assert again == stopped
        assert await watched.supervisor.stop("never-was", grace_ms=1) is None


async def test_a_crash_is_told_with_exit_code_and_the_end_of_the_log(
    tmp_path: Path, mark: Env
) -> None:
    async with supervising(tmp_path, mark, "crash") as watched:
        await watched.supervisor.start(spec_of("w1"))
        crashed = await watched.until("w1", has_exited)
        assert (crashed.state, crashed.exit_code) == (WorkerState.FAILED, 3)
        assert crashed.failure == "the process ended by itself with exit code 3"
        assert not crashed.was_killed
        lines = crashed.log_tail.splitlines()
        assert lines[-1] == "no such device"
        assert len(lines) == limits.LOG_TAIL_LINES
        assert records_in(tmp_path) == []


async def test_a_worker_that_says_why_it_cannot_start_is_quoted(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "clear-fault") as watched:
        await watched.supervisor.start(spec_of("w1"))
        failed = await watched.until("w1", has_exited)
        assert (failed.exit_code, failed.failure) == (1, "there is no such engine")
        assert not failed.was_killed


async def test_a_crash_of_a_serving_worker_is_noticed(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "crash-later") as watched:
        await watched.supervisor.start(spec_of("w1"))
        crashed = await watched.until("w1", has_exited)
        assert crashed.exit_code == 7
        assert crashed.log_tail.endswith("the engine caught fire")


async def test_a_killed_worker_takes_along_what_it_started(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "serve", "--with-child") as watched:
        await watched.supervisor.start(spec_of("w1"))
        ready = await watched.until("w1", is_ready)
        (child,) = psutil.Process(ready.pid).children()
        os.kill(ready.pid, signal.SIGKILL)
        killed = await watched.until("w1", has_exited)
        assert killed.exit_code == -signal.SIGKILL
        assert "SIGKILL" in killed.failure
        assert killed.was_killed
        psutil.wait_procs([child], timeout=20)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("number", "exit_code", "was_killed"),
    [(signal.SIGTERM, 0, True), (signal.SIGSEGV, -signal.SIGSEGV, False)],
)
async def test_whoever_is_told_to_end_by_others_is_told_from_who_breaks(
    tmp_path: Path, mark: Env, number: signal.Signals, exit_code: int, was_killed: bool
) -> None:
    async with supervising(tmp_path, mark, "serve") as watched:
        await watched.supervisor.start(spec_of("w1"))
        os.kill((await watched.until("w1", is_ready)).pid, number)
        ended = await watched.until("w1", has_exited)
        assert (ended.exit_code, ended.was_killed) == (exit_code, was_killed)


async def test_an_adopted_worker_that_is_killed_takes_along_what_it_started(
    tmp_path: Path, mark: Env
) -> None:
    async with supervising(tmp_path, mark, "serve", "--with-child") as first:
        await first.supervisor.start(spec_of("w1"))
        pid = (await first.until("w1", is_ready)).pid
    async with supervising(tmp_path, mark, "serve") as second:
        assert await second.supervisor.adopt() == 1
        (child,) = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        killed = await second.until("w1", has_exited)
        assert killed.exit_code is None
        assert "exit code is not known" in killed.failure
        assert killed.was_killed
        psutil.wait_procs([child], timeout=20)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    reap(pid)


async def test_one_that_does_not_obey_is_killed_after_its_grace(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "stubborn") as watched:
        await watched.supervisor.start(spec_of("w1"))
        await watched.until("w1", is_ready)
        watched.supervisor.stop_later("w1", grace_ms=300)
        draining = await watched.until("w1", lambda w: w.state is WorkerState.DRAINING)
        assert not draining.has_exited
        stopped = await watched.until("w1", has_exited)
        assert stopped.exit_code == -signal.SIGKILL
        assert "300 ms" in stopped.failure
        assert not stopped.was_killed


async def test_one_that_never_listens_is_ended(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "mute", start_timeout_ms=300) as watched:
        await watched.supervisor.start(spec_of("w1"))
        failed = await watched.until("w1", has_exited)
        assert failed.failure == "it did not listen within 300 ms of its start"
        # By the pool manager itself: that is the worker's own fault.
        assert not failed.was_killed


async def test_one_whose_engine_failed_is_ended_with_its_reason(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "broken") as watched:
        await watched.supervisor.start(spec_of("w1"))
        failed = await watched.until("w1", has_exited)
        assert failed.failure == "the weights are of wax"


async def test_a_program_that_cannot_be_run_is_a_clear_failure(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, program=["/no/such/program"]) as watched:
        with pytest.raises(LaunchFailed, match="cannot be run: No such file"):
            await watched.supervisor.start(spec_of("w1"))
        assert records_in(tmp_path) == []


async def test_a_successor_adopts_what_runs(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "serve") as first:
        await first.supervisor.start(spec_of("w/1 ünï"))
        before = await first.until("w/1 ünï", is_ready)
    async with supervising(tmp_path, mark, "serve") as second:
        assert await second.supervisor.adopt() == 1
        after = await second.until("w/1 ünï", is_ready)
        assert after.adopted
        assert (after.pid, after.address) == (before.pid, before.address)
        assert after.start_wall_ms == before.start_wall_ms
        stopped = await second.supervisor.stop("w/1 ünï", grace_ms=20_000)
        assert stopped is not None
        assert stopped.has_exited
        assert (stopped.exit_code, stopped.failure) == (None, "")
        assert records_in(tmp_path) == []
        assert not psutil.pid_exists(before.pid) or (
            psutil.Process(before.pid).status() == psutil.STATUS_ZOMBIE
        )


async def test_a_process_that_answers_as_another_is_left_alone(tmp_path: Path, mark: Env) -> None:
    async with supervising(tmp_path, mark, "impostor") as first:
        handle = await first.launcher.start(spec_of("w1"))
        await handle.ready()
        async with supervising(tmp_path, mark, "serve") as second:
            assert await second.supervisor.adopt() == 0
            assert records_in(tmp_path) == []
        assert psutil.Process(handle.record.pid).is_running()
        handle.signal_stop(force=True)
        await handle.exited()


async def test_a_record_of_a_process_that_is_gone_or_another_is_removed(
    tmp_path: Path, mark: Env
) -> None:
    folder = RecordFolder(tmp_path / "workers")
    mine = psutil.Process()
    for worker_id, pid, create_time_s in (
        ("gone", 2**22 + 1, 1.0),
        ("pid-used-again", mine.pid, mine.create_time() - 3_600),
    ):
        record = RunRecord(
            spec=spec_of(worker_id), pid=pid, create_time_s=create_time_s, start_wall_ms=0
        )
        folder.write(record)
    (tmp_path / "workers" / "torn.json").write_text('{"spec": {')
    async with supervising(tmp_path, mark, "serve") as watched:
        assert await watched.supervisor.adopt() == 0
    assert records_in(tmp_path) == []


def test_what_a_killed_predecessor_was_writing_is_removed(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path)
    kept = RunRecord(spec=spec_of("w1"), pid=1, create_time_s=1.0, start_wall_ms=1)
    folder.write(kept)
    (tmp_path / "w2.draft").write_bytes(b'{"spec": {"worker_i')
    assert RecordFolder(tmp_path).read_all() == [kept]
    assert [path.name for path in tmp_path.iterdir()] == ["w1.json"]


def test_a_record_of_a_later_process_survives_the_end_of_the_earlier(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path)
    earlier = RunRecord(spec=spec_of("w"), pid=1, create_time_s=1.0, start_wall_ms=1)
    later = RunRecord(spec=spec_of("w"), pid=2, create_time_s=2.0, start_wall_ms=2)
    folder.write(earlier)
    folder.write(later)
    folder.remove(earlier)
    assert folder.read_all() == [later]


@pytest.mark.parametrize("worker_id", ["../../etc/x", "-rf", ".hidden", "ü" * 60, "a/b", "x" * 128])
def test_no_worker_id_leads_out_of_the_folder(worker_id: str) -> None:
    stem = file_stem(worker_id)
    assert "/" not in stem
    assert not stem.startswith(".")
    assert len(stem.encode()) < 200
    assert stem != file_stem(worker_id + "'")


def test_a_log_is_cut_while_its_writer_holds_it_open(tmp_path: Path) -> None:
    path = tmp_path / "w.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 1_000)
        bound(path, bytes_max=1_000)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "w.log.1").stat().st_size == 500
    assert tail(path) == "new"
    assert tail(tmp_path / "none.log") == ""
