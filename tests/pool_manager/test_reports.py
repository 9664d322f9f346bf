"""A pool manager process and a queen over real gRPC: what is goes up, what should be comes down."""

from pathlib import Path

import psutil
from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard_core import limits

from tests.support.pool import GIB, is_failed, is_ready, queen_and_pool, worker_in, write_devices
from tests.support.synchronizing_queen import running

Env = dict[str, str]


async def test_the_queen_hears_of_the_host_and_its_wishes_come_true(
    tmp_path: Path, mark: Env
) -> None:
    write_devices(tmp_path / "devices.json", 2 * GIB, 9 * GIB)
    async with queen_and_pool(tmp_path, mark) as (queen, manager):
        first = await queen.until(lambda s: bool(s.devices))
        assert (first.pool_id, first.inventory, first.inventory_fault) == ("pool-1", "scripted", "")
        assert first.address == manager.address
        assert [each.model for each in first.models] == ["syn"]
        assert first.load.memory_total_bytes > 0
        queen.say(running("w1", "syn"))
        ready = await queen.until(worker_in("w1", is_ready))
        # The device with more free memory was chosen.
        assert ready.workers[0].device == "GPU-1"
        assert psutil.Process(ready.workers[0].pid).environ()["CUDA_VISIBLE_DEVICES"] == "GPU-1"
        queen.say(pb.DesiredWorker(worker_id="w1", state=pb.DESIRED_STATE_STOPPED))
        gone = await queen.until(worker_in("w1", is_failed))
        (worker,) = gone.workers
        assert (worker.exit_code, worker.failure) == (0, "")
        await queen.until(lambda s: not s.workers, fresh=True)
        await manager.stop()
        assert manager.exit_code == 0


async def test_a_worker_that_is_not_named_stops_only_once_the_queen_is_authoritative(
    tmp_path: Path, mark: Env
) -> None:
    async with queen_and_pool(tmp_path, mark) as (queen, _):
        queen.say(running("w1", "syn"), running("w2", "syn"))
        await queen.until(worker_in("w1", is_ready))
        await queen.until(worker_in("w2", is_ready))
        queen.say(running("w2", "syn"))
        queen.say(running("w2", "syn"), running("w3", "syn"))
        both = await queen.until(worker_in("w3", is_ready), fresh=True)
        assert worker_in("w1", is_ready)(both)
        queen.say(running("w2", "syn"), authoritative=True)
        last = await queen.until(lambda s: [w.worker_id for w in s.workers] == ["w2"], fresh=True)
        assert is_ready(last.workers[0])


async def test_what_cannot_start_is_told_with_its_reason(tmp_path: Path, mark: Env) -> None:
    async with queen_and_pool(tmp_path, mark) as (queen, _):
        queen.say(running("lost", "no-such-model"), running("off", "syn", "GPU-9"))
        told = await queen.until(
            lambda s: worker_in("lost", is_failed)(s) and worker_in("off", is_failed)(s)
        )
        lost, off = told.workers
        assert "no model no-such-model" in lost.failure
        assert "no device GPU-9" in off.failure
        assert (lost.pid, off.pid) == (0, 0)
        queen.say()
        await queen.until(lambda s: not s.workers, fresh=True)


async def test_nothing_starts_while_the_inventory_is_faulty(tmp_path: Path, mark: Env) -> None:
    devices = tmp_path / "devices.json"
    write_devices(devices, fault="the driver is on strike")
    async with queen_and_pool(tmp_path, mark) as (queen, _):
        queen.say(running("w1", "syn"))
        waiting = await queen.until(worker_in("w1", lambda w: not w.pid))
        assert waiting.inventory_fault == "the driver is on strike"
        assert not waiting.workers[0].failure
        write_devices(devices, 8 * GIB)
        await queen.until(worker_in("w1", is_ready))


async def test_a_crash_loop_waits_between_its_tries(tmp_path: Path, mark: Env) -> None:
    async with queen_and_pool(tmp_path, mark, behaviour=("crash",)) as (queen, _):
        queen.say(running("w1", "syn"))
        crashed = await queen.until(worker_in("w1", lambda w: w.exit_code == 3))
        assert crashed.workers[0].log_tail.endswith("no such device")
        # A queen that gives each try a new id is held back as well.
        queen.say(running("w2", "syn"))
        again = await queen.until(worker_in("w2", lambda w: w.exit_code == 3))
        waited_ms = _started_ms(again, "w2") - _started_ms(crashed, "w1")
        assert waited_ms >= limits.RESTART_BACKOFF_MIN_MS


async def test_a_worker_that_ended_is_tried_again_only_if_the_queen_insists(
    tmp_path: Path, mark: Env
) -> None:
    async with queen_and_pool(tmp_path, mark, behaviour=("crash",)) as (queen, _):
        queen.say(running("w1", "syn"))
        crashed = await queen.until(worker_in("w1", lambda w: w.exit_code == 3))
        (first,) = crashed.workers
        # Word of the crash was sent; the same list once more means that it should be tried again.
        await queen.until(lambda s: s.sequence > crashed.sequence + 1)
        queen.say(running("w1", "syn"))
        again = await queen.until(worker_in("w1", lambda w: w.pid not in {0, first.pid}))
        waited_ms = _started_ms(again, "w1") - first.start_time.ToMilliseconds()
        assert waited_ms >= limits.RESTART_BACKOFF_MIN_MS


async def test_workers_go_on_while_the_queen_is_away(tmp_path: Path, mark: Env) -> None:
    async with queen_and_pool(tmp_path, mark) as (queen, _):
        queen.say(running("w1", "syn"))
        before = await queen.until(worker_in("w1", is_ready))
        queen.break_stream()
        queen.say()
        after = await queen.until(lambda s: queen.streams == 2, fresh=True)
        assert after.workers[0].pid == before.workers[0].pid
        assert after.incarnation == before.incarnation
        assert after.sequence > before.sequence


async def test_the_queen_sets_the_pace(tmp_path: Path, mark: Env) -> None:
    async with queen_and_pool(tmp_path, mark, "--report-interval-ms=60000") as (queen, _):
        await queen.until(lambda s: s.sequence > 0)
        queen.say(running("w1", "syn"), report_interval_ms=1)
        # Changes are told at once, whatever the interval; and the interval itself is bounded below.
        await queen.until(worker_in("w1", is_ready))
        first = queen.snapshots[-1]
        last = await queen.until(lambda s: s.sequence >= first.sequence + 4)
        spent_ms = last.snapshot_time.ToMilliseconds() - first.snapshot_time.ToMilliseconds()
        assert spent_ms >= 3 * limits.REPORT_INTERVAL_MS_MIN


def _started_ms(snapshot: object, worker_id: str) -> int:
    (worker,) = [w for w in snapshot.workers if w.worker_id == worker_id]  # type: ignore[attr-defined]
    return int(worker.start_time.ToMilliseconds())
